"""Questions to fine-tune on: which of them a step sees, and how they lie in its rows.

A question is the block [end-of-text] + prompt + answer + [end-of-text], prompt and answer encoded apart; where the task
stops an answer with a text of its own the last id is left out. Only the answer's ids, and the end-of-text id after it,
are targets. Blocks follow each other in a row and do not see each other; positions are not reset. A row is padded on
the right to the longest row of the step, over all ranks, in multiples of 8.

Row b of R takes the questions b, b + R, b + 2R … of an endless order (see `training.streams.unit_at`), so a step of B
questions reads the next B of that order, whatever the tokenizer. The state is (questions taken, 0) a row.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from isotok.errors import ConfigError, DataError
from isotok.files import read_json, read_verified
from isotok.keyed import permuted_all
from tokenization.tokenizer import encode_marked, encode_texts
from training.streams import IGNORED, Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PADDED_TO = 8
_AT_ONCE = 10_000
_FILE = "train.jsonl"


@dataclass(frozen=True, eq=False)
class Examples:
    """A task's training questions as ids, one after the other.

    ids: int32, of each question the end-of-text id, its prompt and its answer. starts: int64 of (questions + 1,), where
    a question begins in ids. answers: int64 of (questions,), where its answer begins. answer_bytes: int64 of
    (questions,). names: their ids in the task. ends: whether the end-of-text id after an answer is learned. marked: how
    many meta tokens they have together.
    """

    ids: np.ndarray
    starts: np.ndarray
    answers: np.ndarray
    answer_bytes: np.ndarray
    names: tuple[str, ...]
    eos_id: int
    ends: bool
    marked: int = 0

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> np.ndarray:
        """Inputs of each question: what it takes of a row."""
        return np.diff(self.starts) - (0 if self.ends else 1)

    @property
    def targets(self) -> np.ndarray:
        """Targets of each question."""
        return self.starts[1:] - self.answers + (1 if self.ends else 0)

    def block(self, question: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, targets) of a question, int64."""
        start, end, answer = int(self.starts[question]), int(self.starts[question + 1]), int(self.answers[question])
        ids = self.ids[start:end].astype(np.int64)
        if self.ends:
            ids = np.append(ids, self.eos_id)
        targets = ids[1:].copy()
        targets[: answer - start - 1] = IGNORED
        return ids[:-1], targets


def questions_sha256(folder: Path) -> str:
    """The sha256 of a task's training questions, as task.json names it; DataError where there are none."""
    files = _task(folder)["files"]
    if "train" not in files:
        raise DataError(f"{folder}: the task has no training questions ({_FILE}): there is nothing to fine-tune on")
    return str(files["train"]["sha256"])


def read_examples(folder: Path, tokenizer: "PreTrainedTokenizerFast", meta_id: int | None = None) -> Examples:
    """The training questions of a task folder. meta_id: of the token that stands at their marks.

    Raises DataError for a file that was edited, naming file and line; ConfigError for marks without a meta_id.
    """
    path, expected = folder / _FILE, questions_sha256(folder)
    names, prompts, answers, marks = [], [], [], []
    for number, line in enumerate(read_verified(path, expected, "task.json").split("\n"), 1):
        if not line:
            continue
        try:
            question = json.loads(line)
            names.append(str(question.get("id", number)))
            prompts.append(str(question["prompt"]))
            answers.append(str(question["answer"]))
            marks.append([int(mark) for mark in question.get("marks", ())])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path}:{number}: not a question with prompt and answer ({error!r})") from None
    try:
        return encode_examples(
            prompts, answers, tokenizer, names=names, ends=not _task(folder)["stop"], marks=marks, meta_id=meta_id
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def encode_examples(
    prompts: Sequence[str],
    answers: Sequence[str],
    tokenizer: "PreTrainedTokenizerFast",
    *,
    names: Sequence[str],
    ends: bool,
    marks: Sequence[Sequence[int]] | None = None,
    meta_id: int | None = None,
) -> Examples:
    """Prompts, cut at their marks, and their answers as ids.

    Raises DataError for an answer that the tokenizer makes nothing of.
    """
    eos_id = int(tokenizer.eos_token_id)
    parts, lengths = [np.zeros(0, dtype=np.int32)], [np.zeros((0, 2), dtype=np.int64)]
    for first in range(0, len(prompts), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        cut = marks[part] if marks is not None else [()] * len(prompts[part])
        encoded = encode_marked(tokenizer, prompts[part], cut, meta_id), encode_texts(tokenizer, answers[part])
        pieces = [ids for prompt, answer in zip(*encoded, strict=True) for ids in ([eos_id, *prompt], answer)]
        lengths.append(np.array([len(ids) for ids in pieces], dtype=np.int64).reshape(-1, 2))
        parts.append(np.fromiter(itertools.chain.from_iterable(pieces), dtype=np.int32))
    sizes = np.concatenate(lengths)
    empty = np.flatnonzero(sizes[:, 1] == 0)
    if len(empty):
        raise DataError(f"question {names[int(empty[0])]!r}: its answer {answers[int(empty[0])]!r} has no ids")
    starts = np.concatenate([[0], np.cumsum(sizes.sum(axis=1))]).astype(np.int64)
    return Examples(
        ids=np.concatenate(parts),
        starts=starts,
        answers=starts[:-1] + sizes[:, 0],
        answer_bytes=np.array([len(answer.encode()) for answer in answers], dtype=np.int64),
        names=tuple(names),
        eos_id=eos_id,
        ends=ends,
        marked=sum(map(len, marks or ())),
    )


class ExampleStreams:
    """Batches of `batch` questions packed into `rows` rows; `.next()` never ends.

    state: of all rows, from a checkpoint. subset: the rows this rank reads.
    """

    units: ClassVar[str] = "questions"

    def __init__(
        self,
        examples: Examples,
        rows: int,
        batch: int,
        seed: int,
        state: np.ndarray | None = None,
        subset: Sequence[int] | None = None,
    ) -> None:
        full = np.zeros((rows, 2), dtype=np.int64) if state is None else np.asarray(state, dtype=np.int64)
        if full.shape != (rows, 2) or len(np.unique(full[:, 0])) > 1:
            raise ConfigError(
                f"finetuning.rows={rows}: the checkpoint was made with {len(full)} rows; keep them or start a new run"
            )
        self.data, self.rows, self.batch = examples, rows, batch
        self._seed, self._lengths, self._targets = seed, examples.lengths, examples.targets
        self._subset = np.arange(rows) if subset is None else np.asarray(subset, dtype=np.int64)
        self._state = full[self._subset].copy()

    @property
    def state(self) -> np.ndarray:
        """(rows read here, 2): questions taken and 0, after the last batch."""
        return self._state.copy()

    def next(self) -> Batch:
        before = self._state.copy()
        questions = questions_of(int(before[0, 0]) * self.rows, self.batch, len(self.data), self._seed)
        questions = questions.reshape(-1, self.rows)
        length = row_tokens(self._lengths[questions])
        shape = (len(self._subset), length)
        inputs = np.full(shape, self.data.eos_id, dtype=np.int64)
        targets, segments = np.full(shape, IGNORED, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for i, row in enumerate(self._subset):
            at = 0
            for number, question in enumerate(questions[:, row], 1):
                ids, after = self.data.block(int(question))
                part = slice(at, at + len(ids))
                inputs[i, part], targets[i, part], segments[i, part] = ids, after, number
                at = part.stop
        self._state[:, 0] += len(questions)
        return Batch(
            inputs=inputs,
            targets=targets,
            n_bytes=int(self.data.answer_bytes[questions[:, self._subset]].sum()),
            n_tokens=int(self._targets[questions].sum()) * len(self._subset) / self.rows,
            state=before,
            state_after=self._state.copy(),
            step_tokens=int(self._lengths[questions].sum()),
            segments=segments,
        )


def questions_of(first: int, count: int, available: int, seed: int) -> np.ndarray:
    """The questions at `count` indices of the endless order, from `first` on: `unit_at` of each."""
    epochs, positions = np.divmod(np.arange(first, first + count, dtype=np.int64), available)
    for epoch in np.unique(epochs):
        if epoch:
            here = epochs == epoch
            positions[here] = permuted_all(positions[here], available, "data order", seed, int(epoch))
    return positions


def row_tokens(lengths: np.ndarray) -> int:
    """The length of a step's rows, of the lengths of its questions (questions a row, rows)."""
    return -(-int(lengths.sum(axis=0).max()) // PADDED_TO) * PADDED_TO


def _task(folder: Path) -> dict[str, Any]:
    content = read_json(folder / "task.json")
    if content.get("format") != 1:
        raise DataError(f"{folder / 'task.json'}: format {content.get('format')}, this version reads 1")
    return dict(content)
