"""What a subword task is made of, and its folder: questions to fine-tune on, questions to ask, checksums of both.

A task folder holds `task.json` (what the task is, and for each file the number of questions and its sha256),
`train.jsonl` where there is something to fine-tune on, and `<split>.jsonl` for each split that is asked. A file that
was edited after it was written is refused by name.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from isotok.errors import DataError
from isotok.files import read_json, read_verified, write_json, write_text

FORMAT = 1
TASK_FILE = "task.json"
TRAIN = "train"
_NAME = re.compile(r"[A-Za-z0-9_-]+")  # goes into file names and YAML
Mode = Literal["choice", "generate"]
"""How a question is asked: the likeliest of its options, or the text that greedy decoding gives."""
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Question:
    """One question: `answer` follows `prompt` directly, so it brings its own space.

    type: its kind within the task; figures are by type. options: of a choice, the answer among them at `gold`; empty
    and -1 where there is nothing to choose. group: what clusters questions for statistics, such as the answer's word.
    aux: the letter or string that is asked for. words: those that it shows. marks: where a META token stands, which is
    no text: before the character of `prompt` at that offset; ascending, each after the first character.
    """

    id: str
    type: str
    prompt: str
    answer: str
    options: tuple[str, ...] = ()
    gold: int = -1
    group: str = ""
    aux: str = ""
    template: str = ""
    words: tuple[str, ...] = ()
    marks: tuple[int, ...] = ()

    @property
    def hash(self) -> str:
        """Of what was asked, to check that arms were asked the same."""
        asked = [self.prompt, self.options, self.answer, *([self.marks] if self.marks else [])]
        return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()[:16]


def parts(question: Question) -> list[str]:
    """The prompt cut at its marks: one part more than there are marks; they join to the prompt."""
    ends = [0, *question.marks, len(question.prompt)]
    return [question.prompt[start:end] for start, end in pairwise(ends)]


def as_fields(question: Question) -> dict[str, Any]:
    """The question as its line of a file has it: a question without marks as before there were any."""
    fields = asdict(question)
    if not question.marks:
        del fields["marks"]
    return fields


@dataclass(frozen=True)
class TaskData:
    """A task: what may be learned from, and what is asked.

    train: in the order of fine-tuning; empty for a task that is asked of the pretrained model itself. splits: by name,
    types interleaved, so that any beginning of a split holds all types about equally. main: the split of the headline.
    matched: a split that leaves the training distribution → the split it is held against. words: those whose share of
    single tokens (after a space) is printed. modes: how it is asked. stop: text that ends a generated answer; empty:
    end-of-text, which is then also learned as part of the answer. about: further figures for task.json and the report,
    `heuristics` among them: {split: {rule: accuracy}}.
    """

    name: str
    train: tuple[Question, ...]
    splits: Mapping[str, tuple[Question, ...]]
    main: str
    modes: tuple[Mode, ...] = ("choice",)
    matched: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    stop: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """What a class must have to be a task (plus the `@recipe` decorator).

    fine_tuned: whether the model is fine-tuned on the task's training questions before it is asked. point_questions:
    how many questions of a split are asked at points before the last.
    """

    point_questions: int

    @property
    def label(self) -> str: ...

    @property
    def fine_tuned(self) -> bool: ...

    def data(self, corpus: Path) -> TaskData:
        """The task from the corpus' folder; a pure function of the recipe and the corpus."""
        ...


def write_task(data: TaskData, out: Path) -> dict[str, Any]:
    """Write a task folder; returns the content of task.json. Raises DataError for a task that is not sound."""
    check_task(data)
    out.mkdir(parents=True, exist_ok=True)
    files = {TRAIN: data.train, **data.splits} if data.train else dict(data.splits)
    listed = {}
    for split, questions in files.items():
        text = "".join(json.dumps(as_fields(question), ensure_ascii=False) + "\n" for question in questions)
        write_text(out / f"{split}.jsonl", text)
        listed[split] = {"n": len(questions), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    content = {
        "format": FORMAT,
        "name": data.name,
        "files": listed,
        "main": data.main,
        "modes": list(data.modes),
        "matched": dict(data.matched),
        "words": list(data.words),
        "stop": data.stop,
        "about": dict(data.about),
    }
    write_json(out / TASK_FILE, content)
    return content


def read_task(folder: Path, *, train: bool = True) -> TaskData:
    """A task from its folder, with or without what is learned from.

    Raises DataError naming the file that is missing, damaged or was edited.
    """
    listed = read_json(folder / TASK_FILE)
    if listed.get("format") != FORMAT:
        raise DataError(f"{folder / TASK_FILE}: format {listed.get('format')}, this version reads {FORMAT}")
    needed = ("name", "files", "main")
    lacks = [key for key in needed if key not in listed]
    if lacks:
        raise DataError(f"{folder / TASK_FILE}: no {lacks[0]!r}; it needs format, {', '.join(needed)}")
    _check_names([listed["name"], *listed["files"]], str(folder / TASK_FILE))
    files = {
        split: tuple(_read(folder / f"{split}.jsonl", entry["sha256"]))
        for split, entry in listed["files"].items()
        if train or split != TRAIN
    }
    return TaskData(
        name=listed["name"],
        train=files.pop(TRAIN, ()),
        splits=files,
        main=listed["main"],
        modes=tuple(listed.get("modes", ("choice",))),
        matched=listed.get("matched", {}),
        words=tuple(listed.get("words", ())),
        stop=listed.get("stop", ""),
        about=listed.get("about", {}),
    )


def check_task(data: TaskData) -> None:
    """Raise DataError where a prompt with its marks stands in two splits, an id comes twice, an answer is not what it
    says, or marks are not where a prompt can have them."""
    _check_names([data.name, *data.splits], f"task {data.name!r}")
    if data.main not in data.splits:
        raise DataError(f"task {data.name}: main split {data.main!r} is none of {', '.join(data.splits)}")
    seen: dict[tuple[str, tuple[int, ...]], str] = {}
    for split, questions in {TRAIN: data.train, **data.splits}.items():
        ids: set[str] = set()
        for question in questions:
            problem = _problem(question, data.modes)
            if question.id in ids:
                problem = "its id comes twice"
            other = seen.setdefault((question.prompt, question.marks), split)
            if other != split:
                problem = f"its prompt is in {other} as well"
            if problem:
                raise DataError(f"task {data.name}: {split} question {question.id!r}: {problem}")
            ids.add(question.id)


def _check_names(names: Sequence[str], where: str) -> None:
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise DataError(f"{where}: {name!r} is no name of a task or split; letters, digits, _ and - only")


def chance(questions: Sequence[Question]) -> float | None:
    """The mean over questions of 1 / options; None where there is nothing to choose."""
    counts = [len(question.options) for question in questions]
    return sum(1 / n for n in counts) / len(counts) if counts and all(counts) else None


def _problem(question: Question, modes: Sequence[str]) -> str | None:
    if not question.prompt or not question.answer:
        return "no prompt or no answer"
    if any(low >= high for low, high in pairwise((0, *question.marks, len(question.prompt) + 1))):
        return f"marks {list(question.marks)} do not ascend from 1 to the prompt's {len(question.prompt)} characters"
    if not question.options:
        return "no options to choose from" if "choice" in modes and len(modes) == 1 else None
    if len(set(question.options)) < len(question.options):
        return "two options are the same"
    if not 0 <= question.gold < len(question.options) or question.options[question.gold] != question.answer:
        return "its answer is not the option it names"
    return None


def _read(path: Path, sha256: str) -> Iterator[Question]:
    for number, line in enumerate(read_verified(path, sha256, TASK_FILE).split("\n"), 1):
        if not line:
            continue
        try:
            fields = json.loads(line)
            fields["options"], fields["words"] = tuple(fields["options"]), tuple(fields["words"])
            fields["marks"] = tuple(fields.get("marks", ()))
            if not all(type(mark) is int for mark in fields["marks"]):
                raise ValueError("marks are offsets")
            yield Question(**fields)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}:{number}: not a question ({error})") from None
