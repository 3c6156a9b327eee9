"""The generated tasks about words, grammar, numbers, robustness and cuts, each solved again by a solver of its own."""

import collections
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from evaluation.tasks.generate import TASKS, generate_tasks
from evaluation.tasks.items import Item
from tokenization.sources import Embedded

ITEMS = 120


@dataclass(frozen=True)
class Doc:
    id: str
    text: str
    group: str
    domain: str


@pytest.fixture(scope="module")
def docs() -> list[Doc]:
    """Two plays and a book of the corpus that comes along, a few scenes and chapters of each."""
    kept = collections.Counter[str]()
    found = []
    for document in Embedded().documents():
        if document.group in ("hamlet", "othello", "kjv_luke", "kjv_mark", "tempest") and kept[document.group] < 9:
            kept[document.group] += 1
            found.append(Doc(document.id, document.text, document.group, document.domain))
    assert len(found) > 25
    return found


@pytest.fixture(scope="module")
def made(docs: list[Doc]) -> dict[str, tuple[Item, ...]]:
    return {task.name: task.items for task in generate_tasks(docs, list(TASKS), ITEMS, 1234)}


@pytest.mark.parametrize("name", TASKS)
def test_shape(made: dict[str, tuple[Item, ...]], name: str) -> None:
    items = made[name]
    assert len(items) == ITEMS * {"iso_minpair": 5, "iso_robust": 6, "iso_boundary": 2}.get(name, 1)
    assert len({item.hash for item in items}) == len(items)
    prompts = [(item.context, frozenset(item.choices)) for item in items]
    assert len(set(prompts)) == len(prompts)
    for item in items:
        assert len(set(item.choices)) == len(item.choices)
        assert all(choice.endswith("\n") and choice.count("\n") == 1 for choice in item.choices)
    n_choices = {len(item.choices) for item in items}
    assert n_choices == {{"iso_minpair": 2, "iso_lastword": 1, "iso_arith": 1, "iso_charcount": 3}.get(name, 4)}
    size, (choices,) = len(items), n_choices
    for place in range(choices if choices > 1 else 0):  # within five standard deviations of an even spread
        share = sum(item.gold == place for item in items) / size
        assert abs(share - 1 / choices) < 5 * (1 / choices * (1 - 1 / choices) / (size / 6 + 1)) ** 0.5


def answers(item: Item, right: Callable[[str], bool]) -> None:
    assert [choice for choice in item.choices if right(choice)] == [item.choices[item.gold]]


def test_one_spelling_is_right(made: dict[str, tuple[Item, ...]]) -> None:
    for item in made["iso_spell"]:
        word = item.context.rsplit("\n", 1)[1].removesuffix(":")
        answers(item, lambda choice, word=word: choice.replace(" ", "") == word + "\n")
        assert len({len(choice) for choice in item.choices}) == 1


def test_one_reversal_is_right(made: dict[str, tuple[Item, ...]]) -> None:
    for item in made["iso_reverse"]:
        word = item.context.rsplit("\n", 1)[1].removesuffix(":")
        answers(item, lambda choice, word=word: choice.strip() == word[::-1])
        assert len({len(choice) for choice in item.choices}) == 1


def test_being_most_like_the_others_finds_nothing(made: dict[str, tuple[Item, ...]]) -> None:
    """Every choice is as far from the other three as the gold one is, in letters that differ."""
    for name in ("iso_spell", "iso_reverse"):
        for item in made[name]:
            far = [sum(a != b for other in item.choices for a, b in zip(choice, other)) for choice in item.choices]
            assert len(set(far)) == 1
            assert len({tuple(sorted(choice)) for choice in item.choices}) == 1


def test_one_count_is_right(made: dict[str, tuple[Item, ...]]) -> None:
    golds = collections.Counter()
    for item in made["iso_charcount"]:
        word, letter = re.fullmatch(r"(\w+): how many (\w)\?", item.context.rsplit("\n", 1)[1]).groups()  # type: ignore[union-attr]
        number = ["none", "one", "two"][len(re.findall(letter, word))]
        answers(item, lambda choice, number=number: choice == f" {number}\n")
        golds[item.choices[item.gold]] += 1
    assert set(golds.values()) == {ITEMS // 3}


def test_examples_before_the_question_are_right_and_not_asked(made: dict[str, tuple[Item, ...]]) -> None:
    for name in ("iso_spell", "iso_reverse", "iso_charcount", "iso_arith"):
        leads = {item.context.rsplit("\n", 1)[0] for item in made[name]}
        assert len(leads) == 1
        shown = leads.pop().split("\n")
        for line in shown:
            if name == "iso_arith":
                question, answer = line.split(" = ")
                assert solve(question) == int(answer)
                assert question not in {item.id for item in made[name]}
            else:
                word, answer = line.split(": ")
                assert word not in {item.id.split(":")[0] for item in made[name]}
                if name == "iso_spell":
                    assert answer.split(" ") == list(word)
                elif name == "iso_reverse":
                    assert answer == word[::-1]
                else:
                    letter, number = re.fullmatch(r"how many (\w)\? (\w+)", answer).groups()  # type: ignore[union-attr]
                    assert ["none", "one", "two"][word.count(letter)] == number


def solve(question: str) -> int:
    a, sign, b = question.split(" ")
    return int(a) + int(b) if sign == "+" else int(a) - int(b)


def test_sums_and_differences(made: dict[str, tuple[Item, ...]]) -> None:
    kinds = collections.Counter()
    for item in made["iso_arith"]:
        question = item.context.rsplit("\n", 1)[1].removesuffix(" =")
        assert item.choices == (f" {solve(question)}\n",)
        assert solve(question) >= 0
        kinds[max(len(n) for n in question.split(" ")[::2]), question.split(" ")[1]] += 1
    assert len(kinds) == 6
    assert max(kinds.values()) - min(kinds.values()) <= 1


def test_last_words_were_said_before(made: dict[str, tuple[Item, ...]], docs: list[Doc]) -> None:
    texts = {d.id: "\n".join(line.strip() for line in d.text.split("\n")) for d in docs}
    for item in made["iso_lastword"]:
        word = re.fullmatch(r" ([^\W\d_]{4,})[.,;:!?]*\n", item.choices[0])[1]  # type: ignore[index]
        assert re.search(rf"\b{word}\b", item.context)
        assert item.context + item.choices[0] in texts[item.document] + "\n"
        assert len(item.context.encode()) <= 320 + 320


PLURAL_S = re.compile(r"The (\w+?)(s?) (?:near the \w+ )?(is|are|hath|have)\b")


def is_good(paradigm: str, text: str) -> bool:
    """Whether a sentence of a paradigm is grammatical, by rules written without a look at the templates."""
    text = text.removesuffix(".\n")
    words = text.split(" ")
    women = {"queen", "lady", "princess", "mother", "sister", "daughter", "woman", "wife", "widow", "maid"}
    if paradigm in ("agreement", "agreement-at-distance"):
        _, plural, verb = PLURAL_S.match(text).groups()  # type: ignore[union-attr]
        return (verb in ("are", "have")) == bool(plural)
    if paradigm == "reflexive-gender":
        return ("herself" in words) == (words[1] in women)
    if paradigm == "reflexive-number":
        return ("themselves" in words) == (words[1].endswith("s") or words[1] == "men")
    if paradigm == "demonstrative":
        return (words[-2] in ("these", "those")) == words[-1].endswith("s")
    if paradigm == "pronoun-case":
        first, last = words[0].lower(), words[-1]
        return first in ("he", "she", "they", "we", "i") or last in ("him", "her", "them", "us", "me")
    if paradigm == "second-person":
        lower = [word.lower() for word in words]
        at = lower.index("thou") if "thou" in lower else lower.index("you")
        return (lower[at] == "thou") == (lower[at + 1] in ("art", "hast", "wilt", "shalt"))
    if paradigm == "word-order":
        return bool(re.fullmatch(r"The \w+ \w+ (to|from|in|upon|by) the \w+", text))
    if paradigm == "verb-after-modal":
        return words[3] in ("give", "come", "see", "know", "draw", "hold", "write", "speak", "bear", "take")
    assert paradigm == "article"
    at = max(i for i, word in enumerate(words) if word in ("a", "an"))
    return (words[at] == "an") == (words[at + 1][0] in "aeiou")


def test_one_sentence_of_a_pair_is_good(made: dict[str, tuple[Item, ...]]) -> None:
    for item in made["iso_minpair"]:
        answers(item, lambda choice, paradigm=item.group: is_good(paradigm, choice))
    assert set(collections.Counter(item.group for item in made["iso_minpair"]).values()) == {ITEMS // 2}
    assert len({item.group for item in made["iso_minpair"]}) == 10


@pytest.mark.parametrize("name", ["iso_minpair", "iso_spell", "iso_charcount", "iso_reverse"])
@pytest.mark.parametrize("pick", [min, max])
def test_length_tells_nothing(made: dict[str, tuple[Item, ...]], name: str, pick: Callable[..., int]) -> None:
    """Always taking the longest choice, or the shortest, gets what guessing gets."""
    right = 0.0
    for item in made[name]:
        sizes = [len(choice.encode()) for choice in item.choices]
        best = [i for i, size in enumerate(sizes) if size == pick(sizes)]
        right += (item.gold in best) / len(best)
    assert right / len(made[name]) == pytest.approx(1 / len(made[name][0].choices), abs=0.03)


def test_variants_ask_the_same(made: dict[str, tuple[Item, ...]]) -> None:
    cloze = {item.id: item for item in made["iso_cloze"]}
    forms: dict[str, dict[str, Item]] = {}
    for item in made["iso_robust"]:
        forms.setdefault(item.source, {})[item.variant] = item
    names = {"plain", "typos", "upper", "lower", "spaces", "unicode"}
    assert sum(source in cloze for source in forms) > 0.8 * len(forms)  # a few questions have no other form
    for source, own in forms.items():
        assert set(own) == names
        assert len({item.gold for item in own.values()}) == 1
        plain = own["plain"]
        if source in cloze:
            assert (plain.context, plain.choices) == (cloze[source].context, cloze[source].choices)
        for same in ("upper", "lower"):
            assert own[same].context.casefold() == plain.context.casefold()
            assert [c.casefold() for c in own[same].choices] == [c.casefold() for c in plain.choices]
        assert own["upper"].context == plain.context.upper()
        assert own["spaces"].context.replace("  ", " ") == plain.context
        assert own["spaces"].context.count(" ") == 2 * plain.context.count(" ")
        for same in ("typos", "unicode"):
            assert own[same].choices == plain.choices
            assert len(own[same].context) == len(plain.context)
        assert own["typos"].context.isascii() == plain.context.isascii()
        changed = [(a, b) for a, b in zip(plain.context, own["unicode"].context) if a != b]
        pairs = dict(zip("aceopxyi'\"", "асеорхуі’”"))
        assert changed
        assert all(pairs[a] == b for a, b in changed)


def test_cuts_inside_words_and_phrases(made: dict[str, tuple[Item, ...]], docs: list[Doc]) -> None:
    texts = {d.id: d.text for d in docs}
    for item in made["iso_boundary"]:
        line = item.context.split("\n")[-1]
        answers(item, lambda choice, line=line, text=texts[item.document]: line + choice.rstrip("\n") in text)
        firsts = {choice.split(" ")[1 if item.variant == "mid-phrase" else 0] for choice in item.choices}
        assert len(firsts) == 1  # what crosses the cut is the same in all choices
        assert len({len(choice.split(" ")) for choice in item.choices}) == 1
        if item.variant == "mid-word":
            assert line[-1].isalpha()
            assert firsts.pop().isalpha()
        else:
            assert not line.endswith(" ")
            assert all(choice.startswith(" ") for choice in item.choices)
            pair = f"{line.split(' ')[-1]} {firsts.pop()}"
            assert sum(text.count(pair) for text in texts.values()) >= 2
