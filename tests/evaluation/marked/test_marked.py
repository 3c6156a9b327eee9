"""Marked tasks: answers found again from the text alone, sizes, balance, marks, and what is kept apart."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest, chisquare, kstest

from evaluation.marked.lists import sides
from evaluation.marked.task import MAJORITY, MarkedTask
from evaluation.subword.questions import Question, TaskData, as_fields, check_task, read_task, write_task
from tests.evaluation.marked.solver import MARK, length, shown, solve

MARKS = {"recall": 1, "counting": 2, "parity": 1, "copying": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "recall": {"levels": ("3x3", "4x4", "6x4"), "test_levels": ("9x4", "24x4")},
    "counting": {"levels": ("3x3", "4x4", "6x4"), "test_levels": ("9x4", "24x4")},
    "parity": {"levels": ("2x32", "4x32", "8x32"), "test_levels": ("12x32", "16x64")},
    "copying": {"levels": ("2x8", "4x16", "8x24"), "test_levels": ("12x36", "32x96")},
}
LENGTHS: dict[str, Any] = {
    "levels": (64, 128, 256, 512, 1024),
    "test_levels": (2048,),
    "names": 200,
    "items": 2000,
    "train_questions": 50,
}
FORMS = ["shapes", pytest.param("lengths", marks=pytest.mark.slow)]
BINS = {  # fewest and most items of a list, most bits, most words of a span
    64: (3, 5, 4, 8),
    128: (3, 5, 4, 8),
    256: (5, 10, 8, 16),
    512: (10, 20, 16, 32),
    1024: (20, 40, 32, 64),
    2048: (20, 40, 32, 64),
}


def every(data: TaskData) -> dict[str, Sequence[Question]]:
    return {"train": data.train, **data.splits}


def made(kind: str, **keys: Any) -> TaskData:
    return MarkedTask(kind=kind, **keys).data(Path("no corpus"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shapes() -> dict[str, TaskData]:
    return {kind: made(kind, **keys, train_questions=3000) for kind, keys in SHAPES.items()}


@pytest.fixture(scope="module")
def lengths() -> dict[str, TaskData]:
    return {kind: made(kind, **LENGTHS) for kind in SHAPES}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_the_solver_agrees_and_marks_are_where_they_should_be(
    kind: str, form: str, request: pytest.FixtureRequest
) -> None:
    data: TaskData = request.getfixturevalue(form)[kind]
    check_task(data)
    for split, questions in every(data).items():
        assert split == "train" or len(questions) == 1000
        for question in questions:
            text = shown(question)
            assert solve(text) == question.answer, text
            assert text.count(MARK) == len(question.marks) == MARKS[kind]
            assert question.prompt.endswith(" Answer:") and question.answer[0] == " "
            check_marks(kind, text, question)


def check_marks(kind: str, text: str, question: Question) -> None:
    lines = text.split("\n")
    if kind == "recall":
        asked = question.prompt.split(" of ")[-1].split("?")[0]
        assert [line for line in lines if MARK in line] == [line for line in lines if line.startswith(f"{asked}: ")]
        assert f".{MARK}\nQuestion" in text or re.search(rf"\.{MARK}\n[A-Z][a-z]+: ", text)
    elif kind == "counting":
        assert re.search(rf"[:,]{MARK} [a-z]+.*[a-z]{MARK}[,.]", text, re.DOTALL)
    elif kind == "parity":
        assert re.fullmatch(rf"Bits:( [01])+{MARK}( [01])+", lines[0])
    else:
        assert re.fullmatch(rf"Words:( [a-z]+)*{MARK} \[( [a-z]+)+ \]{MARK}( [a-z]+)*", lines[0])


def content(kind: str, question: Question) -> tuple[Any, ...]:
    """(lists, items of each), (bits before, bits), (words of the span, words)."""
    lines = shown(question).split("\n")
    if kind in ("recall", "counting"):
        sizes = {line.count(",") + 1 for line in lines[:-1]}
        assert len(sizes) == 1 and len({line.split(":")[0] for line in lines[:-1]}) == len(lines) - 1
        return len(lines) - 1, sizes.pop()
    if kind == "parity":
        return lines[0].split(MARK)[0].count(" "), lines[0].count(" ")
    return len(question.answer.split()), lines[0].count(" ") - 2


@pytest.mark.parametrize("kind", SHAPES)
def test_questions_have_the_shape_of_their_level(kind: str, shapes: dict[str, TaskData]) -> None:
    for split, questions in shapes[kind].splits.items():
        a, b = map(int, split.removeprefix("level").split("x"))
        found = Counter(content(kind, question) for question in questions)
        if kind in ("recall", "counting"):
            assert set(found) == {(a, b)}
            assert {question.type for question in questions} == {f"lists{a}x{b}"}
        else:
            assert set(found) == {(n, b) for n in range(1, a + 1)}
            assert chisquare([found[n, b] for n in range(1, a + 1)]).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHAPES)
def test_lengths_are_inside_their_level(kind: str, lengths: dict[str, TaskData]) -> None:
    for split, questions in lengths[kind].splits.items():
        level = int(split.removeprefix("level"))
        sizes = [length(question, MARKS[kind]) for question in questions]
        assert level / 2 < min(sizes) and max(sizes) <= level
        if kind in ("parity", "copying") or level >= 256:  # a few short lists come in few lengths
            assert kstest([2 * size / level for size in sizes], _log_uniform).statistic < 0.1
        fewest, most, bits, span = BINS[level]
        found = [content(kind, question) for question in questions]
        if kind in ("recall", "counting"):
            assert {k for _, k in found} == set(range(fewest, most + 1))
        else:
            assert max(a for a, _ in found) == {"parity": bits, "copying": span}[kind]
        assert len({question.type for question in questions}) <= 7


def _log_uniform(x: Any) -> Any:
    import numpy as np

    return np.clip(np.log2(x), 0, 1)


def test_recall_asks_every_place_of_every_list_alike(shapes: dict[str, TaskData]) -> None:
    found: Counter[tuple[int, int]] = Counter()
    for question in shapes["recall"].splits["level6x4"]:
        lines = [line[:-1].split(": ") for line in question.prompt.split("\n")[:-1]]
        assert all(len(set(items.split(", "))) == 4 for _, items in lines)
        (number, name) = re.findall(r"item (\d) of ([A-Z][a-z]+)", question.prompt)[0]
        found[[who for who, _ in lines].index(name), int(number) - 1] += 1
        assert (question.group, question.aux) == (question.answer.strip(), name)
    assert chisquare([found[i, j] for i in range(6) for j in range(4)]).pvalue > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_counts_are_uniform_and_the_item_is_outside_as_well(form: str, request: pytest.FixtureRequest) -> None:
    counts: dict[int, Counter[int]] = {}
    for questions in request.getfixturevalue(form)["counting"].splits.values():
        for question in questions:
            before, inside, after = shown(question).rsplit("\n", 1)[0].split(MARK)
            span, count = len(re.findall(r"\b[a-z]+", inside)), int(question.answer)
            assert 2 <= span <= len(re.findall(r"\b[a-z]+\b", before + inside + after)) // 2
            counts.setdefault(min(9, span // 2), Counter())[count] += 1
            assert re.search(rf"\b{question.aux}\b", before + "|" + after)
    for most, found in counts.items():
        assert max(found) <= most
        if sum(found.values()) > 20 * (most + 1):
            assert chisquare([found[i] for i in range(most + 1)]).pvalue > 1e-3, most


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_parity_are_even_and_bits_are_coins(form: str, request: pytest.FixtureRequest) -> None:
    for questions in every(request.getfixturevalue(form)["parity"]).values():
        odd = sum(question.answer == " 1" for question in questions)
        assert abs(2 * odd - len(questions)) <= 6
        bits = [bit for question in questions for bit in question.prompt.split("\n")[0].split()[1:]]
        assert binomtest(bits.count("1"), len(bits)).pvalue > 1e-3
    first = [question.answer for question in questions[::2]]
    assert binomtest(first.count(" 1"), len(first)).pvalue > 1e-3  # no turn-taking that a place would tell


@pytest.mark.parametrize("form", FORMS)
def test_words_of_a_span_are_outside_as_well(form: str, request: pytest.FixtureRequest) -> None:
    for questions in every(request.getfixturevalue(form)["copying"]).values():
        for question in questions:
            before, _, after = shown(question).rsplit("\n", 1)[0].split(MARK)
            assert set(question.answer.split()) <= {*before.split(), *after.split()}


def position(kind: str, question: Question) -> tuple[Any, ...]:
    """All that marks tell without the text around them: how many lines, items, bits or words are before each."""
    *before, _ = shown(question).split(MARK)
    if kind == "recall":
        return content(kind, question)[0], before[0].count("\n")
    return tuple(part.count(" ") for part in before)


@pytest.mark.parametrize("kind", SHAPES)
def test_the_place_of_the_marks_does_not_tell_the_answer(kind: str) -> None:
    """The most common training answer at the same places, asked of other questions, does no better than guessing."""
    levels = {"recall": "4x4", "counting": "3x4", "parity": "4x16", "copying": "2x8"}
    data = made(kind, levels=(levels[kind],), train_questions=6000, test_questions=2000)
    answers: dict[tuple[Any, ...], Counter[str]] = {}
    for question in data.train:
        answers.setdefault(position(kind, question), Counter())[question.answer] += 1
    table = {place: found.most_common(1)[0][0] for place, found in answers.items()}
    test = data.splits[data.main]
    right = sum(table.get(position(kind, question)) == question.answer for question in test)
    chance = {"recall": 1 / 50, "parity": 1 / 2, "copying": 1 / 50}
    if kind == "counting":
        chance["counting"] = data.about["heuristics"][data.main]["any count that the span's length allows"]
    assert binomtest(right, len(test), chance[kind], alternative="greater").pvalue > 1e-3, right / len(test)


def test_marks_of_another_question_give_its_parity_by_chance() -> None:
    data = made("parity", levels=("8x32",), train_questions=1, test_questions=3000)
    test = data.splits[data.main]
    mixed = [
        solve(other.prompt[: own.marks[0]] + MARK + other.prompt[own.marks[0] :]) == own.answer
        for own, other in zip(test, (*test[1500:], *test[:1500]))
    ]
    assert binomtest(sum(mixed), len(mixed)).pvalue > 1e-3


@pytest.mark.parametrize("kind", SHAPES)
def test_no_question_comes_twice(kind: str, shapes: dict[str, TaskData]) -> None:
    hashes = [question.hash for questions in every(shapes[kind]).values() for question in questions]
    assert len(set(hashes)) == len(hashes)


def test_no_question_comes_twice_where_there_are_few() -> None:
    """Three bits, a mark after the first or second: 16 questions."""
    data = made("parity", levels=("2x3",), train_questions=10, test_questions=4)
    asked = {(q.prompt, q.marks) for questions in every(data).values() for q in questions}
    assert len(asked) == 14


@pytest.mark.parametrize("kind", SHAPES)
def test_training_goes_through_the_levels_with_replay(kind: str, shapes: dict[str, TaskData]) -> None:
    order = [tuple(map(int, level.split("x"))) for level in SHAPES[kind]["levels"]]
    phases = [shapes[kind].train[i * 1000 : (i + 1) * 1000] for i in range(3)]
    for phase, questions in enumerate(phases):
        assert {question.id.rsplit("-", 1)[0] for question in questions} == {f"train-{SHAPES[kind]['levels'][phase]}"}
        if kind not in ("recall", "counting", "copying"):
            continue  # all levels of parity have the same number of bits
        at = 1 if kind == "copying" else slice(2)
        found = Counter(content(kind, question)[at] for question in questions)
        known = [level[at] for level in order]
        assert set(found) == set(known[: phase + 1])
        earlier = sum(found[level] for level in known[:phase])
        assert binomtest(earlier, 1000, 0.2 if phase else 0.0).pvalue > 1e-3
        if phase == 2:
            assert binomtest(found[known[0]], earlier).pvalue > 1e-3
    assert {q.id.rsplit("-", 1)[0] for q in made(kind, **SHAPES[kind], train_questions=30, replay=0.0).train} == {
        f"train-{level}" for level in SHAPES[kind]["levels"]
    }


def test_without_replay_a_phase_is_its_level() -> None:
    data = made("recall", **SHAPES["recall"], train_questions=300, test_questions=5, replay=0.0)
    assert [content("recall", q) for q in data.train] == [(3, 3)] * 100 + [(4, 4)] * 100 + [(6, 4)] * 100


@pytest.mark.parametrize("kind", SHAPES)
def test_fewer_training_questions_begin_each_phase(kind: str, shapes: dict[str, TaskData]) -> None:
    fewer = made(kind, **SHAPES[kind], train_questions=1000)
    assert fewer.splits == shapes[kind].splits
    sizes = [334, 333, 333]
    starts = [0, 334, 667]
    for phase, (start, size) in enumerate(zip(starts, sizes)):
        whole = shapes[kind].train[1000 * phase :]
        assert fewer.train[start : start + size] == whole[:size]


def test_fewer_begin_each_phase_where_prompts_would_come_twice() -> None:
    keys: dict[str, Any] = {"levels": ("2x3", "2x5"), "replay": 0.6, "test_questions": 2}
    fewer, more = (made("parity", **keys, train_questions=n) for n in (10, 14))
    assert (*more.train[:5], *more.train[7:12]) == fewer.train


@pytest.mark.parametrize("kind", ["recall", "counting", "copying"])
def test_held_out_words_are_in_their_split_alone(kind: str) -> None:
    keys = {**SHAPES[kind], "names": 200, "items": 400}
    data = made(kind, **keys, held_out=True, train_questions=2000, test_questions=300)
    known, new = sides(200, 400, 0, True)
    assert new is not None and 8 <= len(new.names) <= 32 and 20 <= len(new.items) <= 60
    assert not {*known.names, *known.items} & {*new.names, *new.items}
    wanted = {True: {*new.names, *new.items}, False: {*known.names, *known.items}}
    for split, questions in every(data).items():
        words = {
            word
            for q in questions
            for word in re.findall(r"[A-Za-z]+", q.prompt.rsplit("\n", 1)[0] + q.answer)
            if word != "Words"
        }
        assert words <= wanted[split == "held_out"]
        assert len(words) > 0.9 * len([w for w in wanted[split == "held_out"] if kind != "copying" or w.islower()])
    assert data.matched == {"held_out": data.main, **{f"level{level}": data.main for level in keys["test_levels"]}}
    for question in data.splits["held_out"]:
        assert solve(shown(question)) == question.answer
    assert sides(100, 100, 0, True)[1] != sides(100, 100, 1, True)[1]
    assert set(sides(100, 100, 0, True)[1].names) == set(names_of(new.names, 100))  # type: ignore[union-attr]


def names_of(held: Sequence[str], n: int) -> list[str]:
    from tokenization.word_lists import names

    return [name for name in names()[:n] if name in held]


def test_recall_without_a_mark_asks_the_same(shapes: dict[str, TaskData]) -> None:
    bare = made("recall", **SHAPES["recall"], train_questions=300, placement="none")
    for split, questions in bare.splits.items():
        marked = shapes["recall"].splits[split]
        assert [(q.prompt, q.answer) for q in questions] == [(q.prompt, q.answer) for q in marked]
        assert not any(q.marks for q in questions) and {q.hash for q in questions} & {q.hash for q in marked} == set()
    assert all(solve(q.prompt) == q.answer for q in bare.train)


def test_rules_without_a_model_are_counted(shapes: dict[str, TaskData]) -> None:
    for kind, data in shapes.items():
        assert set(data.about["heuristics"]) == set(data.splits)
        for split, questions in data.splits.items():
            rules = data.about["heuristics"][split]
            common = Counter(q.answer for q in data.train).most_common(1)[0][0]
            assert rules[MAJORITY] == pytest.approx(sum(q.answer == common for q in questions) / 1000)
            assert set(data.about["heuristics_by_type"][split]) == {q.type for q in questions}
            if kind == "recall":
                first = [q.prompt.split(f"{q.aux}: ")[1].split(",")[0] for q in questions]
                assert rules["first item of the queried list"] == pytest.approx(
                    sum(f" {word}" == q.answer for word, q in zip(first, questions)) / 1000
                )
            if kind == "parity":
                assert rules["either answer"] == 0.5 and abs(rules["parity of all bits"] - 0.5) < 0.06


@pytest.mark.parametrize("kind", SHAPES)
def test_the_folder_gives_it_back(kind: str, tmp_path: Path) -> None:
    data = made(kind, **SHAPES[kind], train_questions=30, test_questions=10)
    assert made(kind, **SHAPES[kind], train_questions=30, test_questions=10) == data
    assert made(kind, **SHAPES[kind], train_questions=30, test_questions=10, seed=1).train != data.train
    written = write_task(data, tmp_path)
    assert (written["modes"], written["stop"], written["name"]) == (["generate"], "", kind)
    assert read_task(tmp_path) == data


def test_the_same_on_every_machine() -> None:
    """A golden hash: change it only together with the task stage's format number."""
    tasks = [made(kind, **SHAPES[kind], train_questions=60, test_questions=10) for kind in SHAPES]
    tasks += [made(kind, **{**LENGTHS, "test_questions": 5}) for kind in SHAPES]
    text = json.dumps([as_fields(q) for task in tasks for questions in every(task).values() for q in questions])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "34625732b057ec3b"
