"""LangGame: one right answer each, no leak across its hold-outs, the same on every machine."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.stats import chisquare

from evaluation.subword.langgame import TYPES, LangGame, affix_is_held_out
from evaluation.subword.questions import Question, TaskData, as_fields, check_task, read_task, write_task
from evaluation.subword.words import hold_out, list_sha256, word_list
from isotok.errors import ConfigError, DataError
from isotok.recipe import build
from scripts.compose import CONFIG_DIR
from tests.evaluation.subword.literary import literary_corpus, write_corpus
from tests.evaluation.subword.solver import parse, right_words

ASKED = {
    "most": "most",
    "contains": "contains",
    "starts with": "starts",
    "ends with": "ends",
    "longest": "longest",
    "shortest": "shortest",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return literary_corpus(tmp_path_factory.mktemp("literary"))


RECIPES: dict[str, dict[str, Any]] = {
    "compact": {"even_lengths": True},
    "paper": {"templates": "paper"},
    "sublen": {"holdouts": ("sublen",), "even_lengths": True},
    "type": {"holdouts": ("type",), "held_out_type": "contains", "even_lengths": True},
    "all": {"holdouts": ("words", "affix", "template", "sublen", "type"), "held_out_type": "starts"},
    "none": {"holdouts": ()},
}


@pytest.fixture(scope="module")
def made(corpus: Path) -> dict[str, TaskData]:
    sizes: dict[str, Any] = {"train_questions": 700, "test_questions": 120}
    return {name: LangGame(**sizes, **recipe).data(corpus) for name, recipe in RECIPES.items()}


def every(data: TaskData) -> dict[str, Sequence[Question]]:
    return {"train": data.train, **data.splits}


@pytest.mark.parametrize("name", RECIPES)
def test_each_question_has_one_right_answer(name: str, made: dict[str, TaskData]) -> None:
    check_task(made[name])
    for questions in every(made[name]).values():
        for question in questions:
            asked, aux, words = parse(question.prompt)
            assert (ASKED[asked], aux, tuple(words)) == (question.type, question.aux, question.words)
            assert question.options == tuple(f" {word}" for word in words)
            assert [f" {word}" for word in right_words(question.prompt)] == [question.answer], question
            assert question.group == question.answer.strip()
            assert all(question.prompt.count(option) for option in question.options)
            assert "  " not in question.prompt


@pytest.mark.parametrize("name", ["compact", "paper"])
def test_the_right_answer_stands_anywhere(name: str, made: dict[str, TaskData]) -> None:
    for questions in every(made[name]).values():
        assert chisquare([sum(q.gold == place for q in questions) for place in range(4)]).pvalue > 1e-3
        by_type = Counter((q.type, q.gold) for q in questions)
        for kind in {q.type for q in questions}:
            assert chisquare([by_type[kind, place] for place in range(4)]).pvalue > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["langgame", "langgame_paper", "langgame_sublen", "langgame_type"])
def test_rules_that_do_not_read_the_question_are_poor(name: str, corpus: Path) -> None:
    """At full size, as configured: by length and by place, less than .40 are right.

    The paper's rules give the longest option .38 to .41 by the word list, .395 on the whole shipped corpus.
    """
    limit = 0.42 if name == "langgame_paper" else 0.40
    config = yaml.safe_load((CONFIG_DIR / "task" / f"{name}.yaml").read_text())
    recipe = build({**config, "train_questions": 1}, "task")
    data = recipe.data(corpus)
    for split in {"test", data.main}:
        found = data.about["heuristics"][split]
        assert len(data.splits[split]) >= 5000
        assert max(found[rule] for rule in ("longest", "shortest", "first", "last")) < limit, found
        picked = [
            max(q.options, key=lambda option: (len(option), -q.options.index(option))) for q in data.splits[split]
        ]
        right = [option == q.answer for option, q in zip(picked, data.splits[split])]
        assert sum(right) / len(right) == pytest.approx(
            found["longest"], abs=0.02
        )  # ties go to the first, not in parts


def test_even_lengths_leave_nothing_to_the_longest(made: dict[str, TaskData]) -> None:
    def of_most(name: str) -> float:
        found: float = made[name].about["heuristics_by_type"]["test"]["most"]["longest"]
        return found

    assert of_most("none") > 0.4
    assert of_most("compact") < 0.33


def test_the_rule_of_memory_is_above_chance_where_words_come_again(made: dict[str, TaskData]) -> None:
    found = made["compact"].about["heuristics"]
    assert found["test"]["answer most often before"] > 0.3
    assert abs(found["words"]["answer most often before"] - 0.25) < 0.03  # never seen, never an answer


def test_lengths_tell_the_type_by_the_papers_rules_only(made: dict[str, TaskData]) -> None:
    rule = "odd length, or a letter twice"
    assert made["none"].about["heuristics"]["test"][rule] > 0.45
    for name in ("compact", "sublen"):
        for split, found in made[name].about["heuristics"].items():
            assert found[rule] < 0.40, (name, split)


def test_held_out_words_are_in_no_training_role(made: dict[str, TaskData], corpus: Path) -> None:
    for name in ("compact", "paper", "all"):
        seen, unseen = hold_out(word_list(corpus, 1000), 0)
        assert 150 < len(unseen) < 250
        for split, questions in every(made[name]).items():
            shown = {word for q in questions for word in q.words}
            assert shown <= set(unseen if split == "words" else seen)
            if split != "words":
                assert not {q.aux for q in questions} & set(unseen)
        assert made[name].main == "words"


@pytest.mark.parametrize("name", ["compact", "paper", "all"])
def test_held_out_strings_and_wordings(name: str, made: dict[str, TaskData]) -> None:
    wordings = {split: {q.template for q in questions} for split, questions in every(made[name]).items()}
    for split, questions in every(made[name]).items():
        asked = {q.aux for q in questions if q.aux}
        assert {affix_is_held_out(aux) for aux in asked} == {split == "affix"}
        parts = {part for template in wordings[split] for part in template.split("-")[:2]}
        held = {part for template in wordings["template"] for part in template.split("-")[:2]}
        assert (parts == held) if split == "template" else not parts & held


@pytest.mark.parametrize("name", ["sublen", "all"])
def test_long_strings_are_the_tests(name: str, made: dict[str, TaskData]) -> None:
    for split, questions in every(made[name]).items():
        for q in questions:
            if q.type in ("contains", "starts", "ends"):
                assert (len(q.aux) > len(q.answer.strip()) / 2) == (split == "sublen")
    longest = {len(q.aux) for q in made[name].splits["sublen"]}
    assert max(longest) == 5
    assert {q.type for q in made[name].splits["sublen"]} <= {"contains", "starts", "ends"}


def test_one_type_left_out(made: dict[str, TaskData]) -> None:
    for split, questions in every(made["type"]).items():
        expected = {"contains"} if split == "type" else set(TYPES) - {"contains"}
        assert {q.type for q in questions} == expected
    assert "words" not in made["type"].splits
    assert made["type"].main == "test"


def test_types_are_interleaved_and_even(made: dict[str, TaskData]) -> None:
    for data in made.values():
        for split, questions in data.splits.items():
            kinds = data.about["types"][split]
            assert [q.type for q in questions] == [kinds[i % len(kinds)] for i in range(len(questions))]
            assert len(questions) == 120 * len(kinds)
    drawn = Counter(q.type for q in made["none"].train)
    assert chisquare([drawn[kind] for kind in TYPES]).pvalue > 1e-3


def test_letters_that_few_words_have_are_not_asked(made: dict[str, TaskData]) -> None:
    seen = [word for word in made["compact"].words if word in {w for q in made["compact"].train for w in q.words}]
    letters = {q.aux for q in made["compact"].train if q.type == "most"}
    assert len(letters) >= 5
    for letter in letters:
        assert sum(word.count(letter) >= 2 for word in seen) >= 5
    assert not letters & set("jkqvxyz")


def test_fewer_questions_begin_the_more(corpus: Path, made: dict[str, TaskData]) -> None:
    fewer = LangGame(train_questions=300, test_questions=120, even_lengths=True).data(corpus)
    assert fewer.train == made["compact"].train[:300]
    assert fewer.splits == made["compact"].splits


def test_no_prompt_comes_twice(tmp_path: Path) -> None:
    """Twenty words give 15 * 10 * 24 wordings of `shortest` a template: 2,000 draws would meet some again."""
    words = "aab aac aad aae aaf bcd bce bcf bcg bch bci bcj bck bcl bcm longerb longerc longerd longere longerf"
    corpus = write_corpus(tmp_path / "c", [words])
    data = LangGame(words=20, train_questions=2000, test_questions=2000, holdouts=()).data(corpus)
    prompts = [q.prompt for questions in every(data).values() for q in questions]
    assert len(set(prompts)) == len(prompts)


def test_the_same_on_every_machine(tmp_path: Path) -> None:
    """A golden hash: change it only together with the task stage's format number."""
    names = "able above acorn again alarm allow amber apple arrow asset banana barrel basket battle better bottle"
    words = f"{names} coffee common cotton dinner dragon effort engine fellow finger follow funny garden gallant at "
    words += "go he in is it me my no on or so to up us we and are ask but can day far get had her him his letter "
    words += "little matter middle narrow needle offered pepper puppet rabbit ribbon silver success summer terrible "
    words += "tomorrow umbrella village whether yellow accessible difference excellent happened immediate possible "
    words += "attempted beginning committee different essential full good moon soon tree week wood"
    corpus = write_corpus(tmp_path / "corpus", [words] * 3)
    recipe = LangGame(words=len(words.split()), train_questions=200, test_questions=20)
    first, second = (recipe.data(corpus) for _ in range(2))
    assert first == second
    text = json.dumps([as_fields(q) for questions in every(first).values() for q in questions])
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "a02aebea3023671a12b1ea662740c3e10c0c1967546f3ba02d213ce8e68a3a14"
    )
    write_task(first, tmp_path / "task")
    assert read_task(tmp_path / "task").splits == first.splits


def test_the_word_list(tmp_path: Path) -> None:
    text = "The the the of of don't to-day a Moses bb bb aa thirteenlettr naïve x1 cc. cc, (cc) thirteenlette\n"
    corpus = write_corpus(tmp_path / "c", [text, "of of naïve Of\n"])
    assert word_list(corpus, 5) == ("of", "cc", "bb", "the", "aa")
    assert word_list(corpus, 1, shortest=3) == ("the",)
    with pytest.raises(DataError, match="has 5 different lower-case words.*needs 6.*larger corpus.*task.words=5"):
        word_list(corpus, 6)
    assert list_sha256(("a", "b")) == hashlib.sha256(b"a\nb\n").hexdigest()


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("aa bb cc dd ee ff gg hh ii jj kk ll mm nn oo pp qq rr ss tt uu vv ww xx yy zz", "most"),
        ("aab aac aad aae aaf aag aah aai aaj aak aal aam aan aao aap aaq aar aas aat aau aav", "longest"),
    ],
)
def test_a_list_too_short_for_a_type(words: str, kind: str, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", [words])
    with pytest.raises(DataError, match=f"too few for the type '{kind}'.*task.words"):
        LangGame(words=len(words.split()), train_questions=10, test_questions=2, holdouts=()).data(corpus)


def test_more_questions_than_there_are(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.subword.langgame._ATTEMPTS", 1)  # as if each question were drawn for the last time
    with pytest.raises(DataError, match="no further question of type '.*for test: raise task.words, or ask for fewer"):
        LangGame(train_questions=1, test_questions=100, holdouts=("affix",)).data(corpus)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"holdouts": ["words", "words"]}, "comes twice"),
        ({"holdouts": ["type"]}, "held_out_type names it"),
        ({"held_out_type": "most"}, "held_out_type names it"),
        ({"holdouts": ["letters"]}, "task.holdouts"),
        ({"words": 3}, "task.words=3"),
    ],
)
def test_bad_keys_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": "evaluation.subword.langgame.LangGame", **keys}, "task")
