"""What a task is made of, and its files: one JSON object a line, and a folder of tasks with its list.

A *task folder* holds `tasks.json` and a `NAME.jsonl` for each task that has items. `tasks.json` says where the tasks
are from and, for each: items, sha256 of its file, version, chance, normalization, or why the task is missing.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from isotok.errors import DataError
from isotok.files import hash_key, read_json, write_text

FORMAT = 1
TASKS_FILE = "tasks.json"
Normalization = Literal["none", "bytes", "pmi"]
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+:-]*")  # a file name on every system


@dataclass(frozen=True)
class Item:
    """One question. `id` is unique within its task; `choices` follow `context` directly.

    With one choice there is nothing to choose: it is scored for bits per byte, and whether greedy decoding yields it.
    `variant` names a form of the same question, for tasks that ask in several (figures are then also by variant);
    `source` is common to the forms of one question.
    """

    id: str
    document: str
    group: str
    domain: str
    context: str
    choices: tuple[str, ...]
    gold: int
    variant: str = ""
    source: str = ""

    @property
    def hash(self) -> str:
        """What was asked, to check that arms were asked the same."""
        return hash_key([self.context, self.choices, self.gold], digits=16)


@dataclass(frozen=True)
class TaskSet:
    """A task with its items, from wherever.

    chance: what guessing gets, the mean over items of 1 / number of choices; None where every item has one choice.
        Worked out from the items unless given.
    normalization: how the headline accuracy compares choices: `none` by the sum of log-probabilities, `bytes` per
        byte, `pmi` by log P(choice | context) - log P(choice | unconditional).
    unconditional: the context of PMI's second score, such as "Answer:".
    missing: why the task has no items, where it has none; it is shown as missing, never left out.
    """

    name: str
    items: tuple[Item, ...]
    version: int | str = 1
    chance: float | None = None
    normalization: Normalization = "bytes"
    unconditional: str | None = None
    missing: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        self._check()
        if self.chance is None:
            object.__setattr__(self, "chance", chance_of(self.items))

    def _check(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DataError(f"task {self.name!r}: a name has letters, digits and _ . + : - only")
        if self.normalization not in get_args(Normalization):
            raise DataError(f"task {self.name}: normalization={self.normalization!r}: none, bytes or pmi")
        if self.normalization == "pmi" and self.unconditional is None:
            raise DataError(f'task {self.name}: normalization=pmi needs `unconditional`, a context such as "Answer:"')
        if bool(self.items) == bool(self.missing):
            raise DataError(
                f"task {self.name}: {len(self.items)} items and missing={self.missing!r}; "
                "a task has items, or says why it has none"
            )
        seen: set[str] = set()
        for item in self.items:
            problem = _problem(item) or ("comes twice" if item.id in seen else None)
            if problem:
                raise DataError(f"task {self.name}: item {item.id!r} {problem}")
            seen.add(item.id)

    @property
    def text(self) -> str:
        """Its file: one JSON line an item."""
        return "".join(json_line(item) + "\n" for item in self.items)

    @property
    def sha256(self) -> str | None:
        """Of its file; None for a missing task."""
        return hashlib.sha256(self.text.encode()).hexdigest() if self.items else None

    def described(self) -> dict[str, Any]:
        """Its entry in tasks.json."""
        return {
            "n": len(self.items),
            "sha256": self.sha256,
            "version": self.version,
            "chance": self.chance,
            "normalization": self.normalization,
            "unconditional": self.unconditional,
            "missing": self.missing,
        }


def chance_of(items: Sequence[Item]) -> float | None:
    """The mean over items of 1 / number of choices; None without items and where every item has one choice."""
    if all(len(item.choices) == 1 for item in items):
        return None
    return math.fsum(1 / len(item.choices) for item in items) / len(items)


def json_line(item: Item) -> str:
    """One JSONL line of an item."""
    return json.dumps(asdict(item), ensure_ascii=False, sort_keys=True)


def read_items(path: Path) -> list[Item]:
    """The items of a file. Raises DataError naming file and line for one that is none."""
    items = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 is text
        if not line:
            continue
        try:
            fields = json.loads(line)
            item = Item(**{**fields, "choices": tuple(fields["choices"])})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}:{number}: not an item ({error})") from error
        problem = _problem(item)
        if problem:
            raise DataError(f"{path}:{number}: item {item.id!r} {problem}")
        items.append(item)
    return items


def write_task_folder(folder: Path, tasks: Sequence[TaskSet], source: Mapping[str, Any]) -> None:
    """Write `NAME.jsonl` for each task that has items, then `tasks.json`. `source`: where they are from, free JSON."""
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise DataError(f"{folder}: two tasks are called {next(n for n in names if names.count(n) > 1)}")
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        if task.items:
            write_text(folder / f"{task.name}.jsonl", task.text)
    listed = {task.name: task.described() for task in tasks}
    # Not by write_json: its sorted keys would lose the order of the tasks, which is the order they are shown in.
    content = {"format": FORMAT, "source": dict(source), "tasks": listed}
    write_text(folder / TASKS_FILE, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_task_folder(folder: Path) -> list[TaskSet]:
    """The tasks of a folder in the order of its list. Raises DataError naming the file that is missing or changed."""
    path = folder / TASKS_FILE
    listed = read_json(path)
    if not isinstance(listed, dict) or listed.get("format") != FORMAT or not isinstance(listed.get("tasks"), dict):
        raise DataError(f"{path}: not a list of tasks of format {FORMAT}; make the folder again")
    tasks = []
    for name, entry in listed["tasks"].items():
        file = folder / f"{name}.jsonl"
        try:
            keys = {key: entry[key] for key in ("version", "chance", "normalization", "unconditional", "missing")}
            n, sha256 = int(entry["n"]), entry["sha256"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: task {name}: entry without {error}; make the folder again") from None
        items: list[Item] = []
        if keys["missing"] is None:
            if not _NAME.fullmatch(name):
                raise DataError(f"{path}: task {name!r}: a name has letters, digits and _ . + : - only")
            if not file.exists():
                raise DataError(f"{file}: not found, though {TASKS_FILE} lists {n} items; make the folder again")
            found = hashlib.sha256(file.read_bytes()).hexdigest()
            if found != sha256:
                raise DataError(f"{file}: sha256 {found[:12]}…, {TASKS_FILE} says {str(sha256)[:12]}…; it was changed")
            items = read_items(file)
        if len(items) != n:
            raise DataError(f"{file}: {len(items)} items, {TASKS_FILE} says {n}")
        tasks.append(TaskSet(name, tuple(items), **keys))
    return tasks


def _problem(item: Item) -> str | None:
    """What is wrong with an item, or None."""
    texts = (item.id, item.document, item.group, item.domain, item.context, item.variant, item.source)
    if not all(isinstance(text, str) for text in (*texts, *item.choices)):
        return "has a text field that is no string"
    if not isinstance(item.gold, int) or isinstance(item.gold, bool):
        return f"has gold={item.gold!r}, which is no place in its choices"
    if not item.choices or not 0 <= item.gold < len(item.choices):
        return f"has {len(item.choices)} choices and gold={item.gold}"
    if "" in item.choices:
        return "has an empty choice: there is nothing to score"
    return None
