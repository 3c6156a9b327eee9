"""Which questions a step sees and how they lie in its rows: each once, only answers as targets, whatever the ranks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotok.errors import ConfigError, DataError
from tests.training.questions import write_questions
from tokenization import load_tokenizer
from tokenization.tokenizer import encode_text
from training.examples import Examples, ExampleStreams, questions_of, read_examples
from training.streams import IGNORED, unit_at, units_between

EOS = 0


@st.composite
def example_sets(draw: st.DrawFn) -> Examples:
    """Questions of made-up ids: prompt ids are 1000 + question, answer ids 2000 + question."""
    sizes = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), min_size=1, max_size=12))
    ids: list[int] = []
    starts, answers = [0], []
    for number, (prompt, answer) in enumerate(sizes):
        ids += [EOS, *[1000 + number] * prompt]
        answers.append(len(ids))
        ids += [2000 + number] * answer
        starts.append(len(ids))
    return Examples(
        ids=np.array(ids, dtype=np.int32),
        starts=np.array(starts),
        answers=np.array(answers),
        answer_bytes=np.array([7 * answer for _, answer in sizes]),
        names=tuple(f"q{i}" for i in range(len(sizes))),
        eos_id=EOS,
        ends=draw(st.booleans()),
    )


@given(example_sets(), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(0, 5))
def test_a_step_holds_each_of_its_questions_once_and_nothing_else(
    examples: Examples, rows_of_rank: int, ranks: int, a_row: int, seed: int
) -> None:
    rows = rows_of_rank * ranks
    batch, per_step = rows * a_row, []
    streams = [
        ExampleStreams(examples, rows, batch, seed, subset=range(r * rows_of_rank, (r + 1) * rows_of_rank))
        for r in range(ranks)
    ]
    for step in range(3):
        parts = [stream.next() for stream in streams]
        found = []
        n_targets = n_inputs = 0
        assert len({part.inputs.shape for part in parts}) == 1, "rows of all ranks are padded alike"
        assert parts[0].inputs.shape[1] % 8 == 0
        for part in parts:
            assert part.segments is not None
            n_targets += int((part.targets != IGNORED).sum())
            n_inputs += int((part.segments != 0).sum())
            for inputs, targets, segments in zip(part.inputs, part.targets, part.segments, strict=True):
                assert (targets[segments == 0] == IGNORED).all()
                numbers = [int(n) for n in dict.fromkeys(segments.tolist()) if n]
                assert numbers == list(range(1, a_row + 1))
                for number in numbers:
                    at = np.flatnonzero(segments == number)
                    assert (np.diff(at) == 1).all()
                    found.append(check_block(examples, inputs[at], targets[at]))
        expected = [unit_at(index, len(examples), seed)[1] for index in range(step * batch, (step + 1) * batch)]
        assert sorted(found) == sorted(expected)
        assert sum(part.n_bytes for part in parts) == sum(int(examples.answer_bytes[q]) for q in expected)
        assert {part.n_tokens for part in parts} == {n_targets / ranks}, "the mean over all targets of the step"
        assert {part.step_tokens for part in parts} == {n_inputs}
        before, after = (np.concatenate([getattr(p, key) for p in parts]) for key in ("state", "state_after"))
        assert units_between(before, after, len(examples), seed) == sorted(set(expected))
        per_step.append((after, parts))
    # A checkpoint's state gives the next step again.
    again = ExampleStreams(examples, rows, batch, seed, per_step[0][0], range(rows_of_rank)).next()
    assert (again.inputs == per_step[1][1][0].inputs).all() and (again.state == per_step[1][1][0].state).all()


def check_block(examples: Examples, inputs: np.ndarray, targets: np.ndarray) -> int:
    """That a block is a question as the format says; which one."""
    answered = targets[targets != IGNORED]
    question = int(answered[0]) - 2000
    start, answer, end = examples.starts[question], examples.answers[question], examples.starts[question + 1]
    own = [2000 + question] * int(end - answer)
    assert inputs[0] == EOS and (inputs[1 : answer - start] == 1000 + question).all()
    assert answered.tolist() == [*own, *([EOS] if examples.ends else [])]
    whole = [EOS, *[1000 + question] * int(answer - start - 1), *own, *([EOS] if examples.ends else [])]
    assert [*inputs.tolist(), targets[-1]] == whole
    assert (targets[: answer - start - 1] == IGNORED).all() and (targets[answer - start - 1 :] != IGNORED).all()
    return question


@given(st.integers(0, 200), st.integers(1, 60), st.integers(1, 40), st.integers(0, 3))
def test_the_order_is_that_of_row_streams(first: int, count: int, available: int, seed: int) -> None:
    found = questions_of(first, count, available, seed)
    assert found.tolist() == [unit_at(index, available, seed)[1] for index in range(first, first + count)]


def test_state_of_other_rows_is_refused(artefacts: dict[str, Path], tmp_path: Path) -> None:
    examples = read_examples(write_questions(tmp_path / "task"), load_tokenizer(artefacts["tokenizer"]))
    with pytest.raises(ConfigError, match=r"finetuning\.rows=4: the checkpoint was made with 2 rows"):
        ExampleStreams(examples, 4, 8, 0, np.zeros((2, 2), dtype=np.int64))


@pytest.mark.parametrize("stop", ["", '"'])
def test_prompt_and_answer_are_encoded_apart(artefacts: dict[str, Path], tmp_path: Path, stop: str) -> None:
    tokenizer = load_tokenizer(artefacts["tokenizer"])
    folder = write_questions(tmp_path / "task", 40, stop)
    examples = read_examples(folder, tokenizer)
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    eos = tokenizer.eos_token_id
    assert len(examples) == len(lines) == 40
    for i, line in enumerate(lines):
        prompt, answer = (encode_text(tokenizer, line[key]) for key in ("prompt", "answer"))
        block = [eos, *prompt, *answer, *([] if stop else [eos])]
        inputs, targets = examples.block(i)
        assert inputs.tolist() == block[:-1] and inputs.dtype == np.int64
        assert targets.tolist() == [IGNORED] * len(prompt) + block[len(prompt) + 1 :]
        text = tokenizer.decode([t for t in targets if t not in (IGNORED, eos)])
        assert text == line["answer"]
        assert examples.answer_bytes[i] == len(line["answer"].encode())
        assert examples.lengths[i] == len(inputs) and examples.targets[i] == (targets != IGNORED).sum()


def test_an_edited_file_is_refused(artefacts: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(artefacts["tokenizer"])
    folder = write_questions(tmp_path / "task")
    path = folder / "train.jsonl"
    path.write_text(path.read_text().replace(" sea", " sky", 1))
    with pytest.raises(DataError, match=r"train\.jsonl: its sha256 is not the one in task\.json: it was edited"):
        read_examples(folder, tokenizer)
    path.unlink()
    with pytest.raises(DataError, match=r"train\.jsonl: cannot be read"):
        read_examples(folder, tokenizer)


def test_what_is_no_question_is_named(artefacts: dict[str, Path], tmp_path: Path) -> None:
    import hashlib

    tokenizer = load_tokenizer(artefacts["tokenizer"])
    folder = write_questions(tmp_path / "task", 3)

    def rewritten(text: str) -> Path:
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "other")
        (tmp_path / "other" / "train.jsonl").write_text(text)
        task = json.loads((folder / "task.json").read_text())
        task["files"]["train"]["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        (tmp_path / "other" / "task.json").write_text(json.dumps(task))
        return tmp_path / "other"

    good = (folder / "train.jsonl").read_text().splitlines()[0]
    for bad in ("not json", "[1]", '{"prompt": "x"}'):
        with pytest.raises(DataError, match=r"train\.jsonl:2: not a question"):
            read_examples(rewritten(f"{good}\n{bad}\n"), tokenizer)
    with pytest.raises(DataError, match=r"train\.jsonl: question 'e': its answer '' has no ids"):
        read_examples(rewritten(good + '\n{"id": "e", "prompt": "x", "answer": ""}\n'), tokenizer)
    task = json.loads((folder / "task.json").read_text())
    del task["files"]["train"]
    (folder / "task.json").write_text(json.dumps(task))
    with pytest.raises(DataError, match="the task has no training questions"):
        read_examples(folder, tokenizer)
