"""CUTE: every answer derived again from the question's text, options that differ, nothing shared with training."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, mannwhitneyu

from evaluation.subword.cute import Cute
from evaluation.subword.cute_text import TYPES, sentences
from evaluation.subword.edits import Edit, draw_edit, wrong_results
from evaluation.subword.likeness import ratio
from evaluation.subword.questions import TaskData, as_fields, check_task
from evaluation.subword.words import hold_out, word_list
from isotok.errors import ConfigError, DataError
from isotok.keyed import keyed_rng
from isotok.recipe import build
from tests.evaluation.subword.literary import literary_corpus, write_corpus

SIZES: dict[str, Any] = {"words": 800, "train_words": 2500, "train_questions": 600, "test_questions": 40}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return literary_corpus(tmp_path_factory.mktemp("literary"))


@pytest.fixture(scope="module")
def many(corpus: Path) -> TaskData:
    return Cute(**{**SIZES, "train_questions": 14, "test_questions": 250}).data(corpus)


@pytest.fixture(scope="module")
def made(corpus: Path) -> TaskData:
    return Cute(**SIZES).data(corpus)


def solve(question: str) -> str | None:
    """The answer to a question as it is read; None where it takes more than its text (likeness)."""
    if found := re.fullmatch(r"spell (\w+):", question):
        return " ".join(found[1])
    if found := re.fullmatch(r"join ([\w ]+):", question):
        return found[1].replace(" ", "")
    if found := re.fullmatch(r"is '(\w)' in (\w+)\?", question):
        return "Yes" if found[1] in found[2] else "No"
    if found := re.fullmatch(r"is the word '(\w+)' in: (.+)", question):
        return "Yes" if re.search(rf"\b{found[1]}\b", found[2]) else "No"
    for pattern, change in (
        (r"put (word )?'(?P<x>\w+)' after every '(?P<y>\w+)' of (the words: )?(?P<text>.+)", insert),
        (r"take every (word )?'(?P<y>\w+)' out of (the words: )?(?P<text>.+)", remove),
        (r"put (word )?'(?P<x>\w+)' for every '(?P<y>\w+)' of (the words: )?(?P<text>.+)", replace),
        (r"exchange (word )?'(?P<x>\w+)' and '(?P<y>\w+)' of (the words: )?(?P<text>.+)", exchange),
    ):
        if found := re.fullmatch(pattern, question):
            parts = found.groupdict()
            return change(parts["text"].removesuffix(":"), parts["y"], parts.get("x", ""), bool(found[1]))
    return None


def whole(y: str, words: bool) -> str:
    return rf"\b{y}\b" if words else y


def insert(text: str, y: str, x: str, words: bool) -> str:
    return re.sub(whole(y, words), f"{y} {x}" if words else f"{y}{x}", text)


def remove(text: str, y: str, x: str, words: bool) -> str:
    left = re.sub(whole(y, words), "", text)
    return re.sub(r" ([.!?])$", r"\1", re.sub(" +", " ", left).strip())


def replace(text: str, y: str, x: str, words: bool) -> str:
    return re.sub(whole(y, words), x, text)


def exchange(text: str, y: str, x: str, words: bool) -> str:
    assert len(re.findall(whole(y, words), text)) == len(re.findall(whole(x, words), text)) == 1
    marked = re.sub(whole(x, words), "\1", re.sub(whole(y, words), "\0", text))
    return marked.replace("\0", x).replace("\1", y)


def test_every_answer_can_be_derived_from_its_question(made: TaskData) -> None:
    check_task(made)
    solved: Counter[str] = Counter()
    for q in (*made.train, *made.splits["test"]):
        answer = solve(q.prompt)
        assert (answer is None) == (q.type in ("orth", "sem"))
        if answer is not None:
            assert q.answer == f" {answer}", q
            solved[q.type] += 1
        assert (
            len(set(q.options)) == len(q.options) == (2 if q.type.split("_")[0] in ("contains", "orth", "sem") else 4)
        )
        assert q.options[q.gold] == q.answer
    assert set(solved) == set(TYPES) - {"orth", "sem"}
    assert {q.type for q in made.splits["test"]} == set(TYPES)


def test_what_is_spelled_alike_and_what_is_not(made: TaskData) -> None:
    for q in (*made.train, *made.splits["test"]):
        if q.type not in ("orth", "sem"):
            continue
        found = re.fullmatch(
            rf"in {'spelling' if q.type == 'orth' else 'meaning'}, is (\w+) nearer to (\w+) or (\w+)\?", q.prompt
        )
        assert found
        assert q.words == found.groups()
        assert q.options == (f" {found[2]}", f" {found[3]}")
        near = [option for option in q.options if ratio(found[1], option[1:]) > 0.7]
        far = [option for option in q.options if ratio(found[1], option[1:]) < 0.3]
        assert (near, far) == ([q.answer], [o for o in q.options if o != q.answer]) or q.type == "sem"
        assert len(near) == len(far) == 1
        assert q.type == "orth" or far == [q.answer]


def test_the_ratio_is_that_of_insertions_and_deletions() -> None:
    """Against the published example values of the Levenshtein library and a slow recursion."""

    def common(a: str, b: str) -> int:
        if not a or not b:
            return 0
        return 1 + common(a[1:], b[1:]) if a[0] == b[0] else max(common(a[1:], b), common(a, b[1:]))

    assert ratio("lewenstein", "levenshtein") == pytest.approx(0.857142857)  # 2 * 9 / 21
    for a, b in (("king", "ring"), ("abc", "cab"), ("", "a"), ("heart", "earth")):
        assert ratio(a, b) == pytest.approx(2 * common(a, b) / (len(a) + len(b)))


def test_nothing_of_the_test_is_in_training(made: TaskData, corpus: Path) -> None:
    _, unseen = hold_out(made.words, 0)
    about_words = ("spell", "spell_inverse", "contains_char", "ins_char", "del_char", "sub_char", "swap_char")
    asked = {q.group for q in made.splits["test"] if q.type in about_words}
    assert asked <= set(unseen)
    trained = {word for q in made.train for word in q.words}
    assert not trained & set(unseen)
    lines = {
        side: {q.group for q in qs if q.type.endswith("_word")}
        for side, qs in (("a", made.train), ("b", made.splits["test"]))
    }
    assert lines["a"] and lines["b"] and not lines["a"] & lines["b"]
    assert {q.words[0] for q in made.splits["test"] if q.type in ("orth", "sem")}.isdisjoint(trained)


def test_types_in_turn_and_the_right_option_anywhere(made: TaskData) -> None:
    test = made.splits["test"]
    assert [q.type for q in test[: len(TYPES)]] == list(TYPES)
    assert made.about["questions"]["test"] == dict.fromkeys(TYPES, 40)
    four = [q for q in (*made.train, *test) if len(q.options) == 4]
    assert chisquare([sum(q.gold == place for q in four) for place in range(4)]).pvalue > 1e-3
    yes = Counter(q.answer for q in (*made.train, *test) if q.type.startswith("contains"))
    assert chisquare([yes[" Yes"], yes[" No"]]).pvalue > 1e-3
    by_length = made.about["heuristics"]["test"]
    assert max(by_length[rule] for rule in ("longest", "shortest", "first", "last")) < 0.40


@pytest.mark.slow
def test_no_rule_that_reads_no_question_gets_most_of_a_type(many: TaskData) -> None:
    """The right option is neither in the middle of the others, nor the only word among them."""
    for kind, rules in many.about["heuristics_by_type"]["test"].items():
        limit = 0.6 if kind.split("_")[0] in ("contains", "orth", "sem") else 0.45
        assert max(rules.values()) < limit, (kind, rules)
        assert {"nearest to the others", "is a frequent word", "longest"} <= set(rules)


def test_options_of_spelling_are_words(made: TaskData, corpus: Path) -> None:
    every = set(word_list(corpus, SIZES["train_words"], shortest=3))
    for q in (*made.train, *made.splits["test"]):
        if q.type in ("spell", "spell_inverse"):
            assert {"".join(option.split()) for option in q.options} <= every


@pytest.mark.slow
def test_a_word_that_is_absent_is_as_frequent_as_one_that_is_there(many: TaskData) -> None:
    """Else how rare a word is would answer the question."""
    questions = [q for q in many.splits["test"] if q.type == "contains_word"]
    uses = Counter(word for q in questions for word in set(q.group[:-1].split()))
    there, absent = ([uses[q.aux] for q in questions if q.answer == answer] for answer in (" Yes", " No"))
    likelier = mannwhitneyu(there, absent).statistic / (len(there) * len(absent))
    assert 0.4 < likelier < 0.65


def test_without_training_examples_stand_before_the_question(corpus: Path, made: TaskData) -> None:
    shown = Cute(**{**SIZES, "train_questions": 0, "test_questions": 5}, shots=4).data(corpus)
    assert (shown.train, shown.stop, made.stop) == ((), "\n", "")
    for q in shown.splits["test"]:
        first, *examples, last = q.prompt.split("\n")
        assert first.endswith(".") and len(examples) == 4 and last.endswith(" Answer:")
        for i, line in enumerate(examples, 1):
            found = re.fullmatch(rf"{i}\. Question: (.+) Answer: (.+)", line)
            assert found
            assert solve(found[1]) in (None, found[2])
        assert len({*examples, last}) == 5
        assert solve(last.removeprefix("Question: ").removesuffix(" Answer:")) in (None, q.answer[1:])


def test_the_same_on_every_machine(corpus: Path, made: TaskData) -> None:
    """A golden hash, without likeness (whose pairs hang on the linear algebra library): change it only together with
    the task stage's format number."""
    assert Cute(**SIZES).data(corpus) == made
    text = json.dumps([as_fields(q) for q in made.splits["test"] if q.type not in ("orth", "sem")])
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "81cab483d280f370d53864eb339c56bac8e2698acd49ce99ba846202c3aec325"
    )


def test_too_little_text(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b + c for a in letters[:5] for b in letters[:5] for c in letters[:5]]
    corpus = write_corpus(tmp_path / "c", [" ".join(words)])
    keys = {"words": 100, "train_words": 120, "train_questions": 10, "test_questions": 2}
    with pytest.raises(DataError, match="0 sentences .* for train that fit the type 'contains_word'.*larger corpus"):
        Cute(**keys).data(corpus)
    with pytest.raises(DataError, match=r"needs 5,000: .*task.train_words=125"):
        Cute().data(corpus)


def test_likeness_that_cannot_be_had_is_missing_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b + c for a in letters[:5] for b in letters[:5] for c in letters[:5]]
    rng = keyed_rng("lines")
    lines = [" ".join(words[int(i)] for i in rng.integers(0, len(words), 6)) + "." for _ in range(400)]
    corpus = write_corpus(tmp_path / "c", [" ".join(words), *(line.capitalize() for line in lines)])
    keys = {"words": 120, "train_words": 120, "train_questions": 300, "test_questions": 20}
    data = Cute(**keys).data(corpus)
    assert set(data.about["missing"]) == {"orth", "sem"}
    assert "it needs 20" in data.about["missing"]["sem"]
    assert {q.type for q in data.train} == set(TYPES) - {"orth", "sem"}
    few = data.about["questions"]["test"]["spell"]
    assert 5 < few == min(20, len({q.group for q in data.splits["test"] if q.type == "spell"}))
    monkeypatch.setattr("evaluation.subword.cute.TYPES", ("spell", "spell_inverse"))
    with pytest.raises(DataError, match=r"the training words give 176 questions, task.train_questions=177"):
        Cute(**{**keys, "train_questions": 177}).data(corpus)


def test_sentences() -> None:
    text = (
        'He came. And THE end. "No," said he. Go on now!\nWhat is\nthis thing? One two. a b c d e f g h i j k.\n\nA b c'
    )
    assert sentences([text, "go on now!"]) == ("go on now!", "what is this thing?")


UNITS = st.lists(st.sampled_from("abcd"), min_size=2, max_size=9).map(tuple)


@given(UNITS, st.sampled_from(["ins", "del", "sub", "swap"]), st.integers(0, 10**6))
def test_edits_and_near_misses(units: tuple[str, ...], operation: Any, seed: int) -> None:
    edit = draw_edit(operation, units, "abcdefgh", keyed_rng("edit", seed))
    if edit is None:
        return
    made = edit.apply(units)
    assert made != units and made
    text, y, x = "".join(units), edit.old, edit.new
    if operation == "ins":
        assert "".join(made) == text.replace(y, y + x)
    elif operation == "del":
        assert "".join(made) == text.replace(y, "")
    elif operation == "sub":
        assert "".join(made) == text.replace(y, x)
    else:
        assert text.count(x) == text.count(y) == 1
        assert edit.apply(made) == units
        assert sorted(made) == sorted(units)
        assert sum(a != b for a, b in zip(made, units)) == 2
    wrong = wrong_results(edit, units, "abcdefgh", keyed_rng("wrong", seed))
    assert len(wrong) == len(set(wrong)) == 3
    assert made not in wrong and wrong[0] == units


def test_near_misses_come_in_the_order_of_the_rules() -> None:
    rng = np.random.default_rng(0)
    wrong = wrong_results(Edit("ins", "a", "x"), tuple("aab"), "q", rng, 4)
    assert ["".join(w) for w in wrong] == ["aab", "aabx", "axab", "xaxab"]
    wrong = wrong_results(Edit("sub", "a", "b"), tuple("abab"), "q", rng, 3)  # no other unit than the two
    assert ["".join(w) for w in wrong] == ["abab", "bbab", "aaaa"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train_questions": 0}, "cannot know what is asked; set shots=4"),
        ({"words": 6000}, "train_words=5000 is less than words=6000"),
        ({"shots": -1}, "task.shots=-1"),
    ],
)
def test_bad_keys_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": "evaluation.subword.cute.Cute", **keys}, "task")
