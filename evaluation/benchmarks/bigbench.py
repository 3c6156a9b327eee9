"""BIG-bench's multiple-choice tasks, from the source package `bigbench` that pip fetches: no Hub, nothing shipped.

Srivastava et al., "Beyond the Imitation Game", 2022 (arXiv 2206.04615). The package holds the tasks as
bigbench/benchmark_tasks/TASK/task.json; prompts are put together as its own json_task.py does. Tasks carry a canary
string that asks to keep them out of training text: it is no part of any item.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import model_validator

from evaluation.benchmarks.boundary import move_space
from evaluation.benchmarks.sdist import pick_members
from evaluation.tasks.items import Item, TaskSet
from isotok.errors import DataError
from isotok.files import sha256_file
from isotok.keyed import keyed_int, keyed_rng
from isotok.progress import say
from isotok.recipe import Field, Impl, recipe

PACKAGE = "bigbench"
VERSION = "1.0.0"
SHA256 = "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2"  # of bigbench-1.0.0.tar.gz, 358 MB
_MEMBER = re.compile(r"bigbench/benchmark_tasks/(.+)/task\.json")
_CHOICE_METRICS = {
    "multiple_choice_grade",
    "calibration_multiple_choice_brier_score",
    "expected_calibration_error",
    "weighted_log_probabilities",
    "weighted_probabilities",
    "macro_f1",
}
_ORDER_SEED = 42  # BIG-bench's, of the order in which choices are listed in a prompt


@recipe
class BigBench:
    """Tasks of BIG-bench as likelihood items, at most `items` of each, picked by `seed` and task.

    tasks: folders below benchmark_tasks, such as `snarks` or `logical_deduction/three_objects`.
    shots: solved examples before each question, drawn by `seed` and question.
    archive: a copy of the source package; without it pip fetches 358 MB, by its own configuration, and keeps nothing.
    sha256: of the package, checked in either case; null takes `archive` as it is (its hash is then part of the key).

    A task without multiple choice is scored by its target alone (bits per byte and greedy match). Choices are listed
    in the prompt only where the task says so. A space at the end of a prompt is moved to the choices.
    """

    tasks: tuple[str, ...]
    items: Annotated[int, Field(ge=1)] = 200
    shots: Annotated[int, Field(ge=0)] = 0
    seed: int = 1234
    sha256: str | None = SHA256
    archive: Impl[str | None] = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.tasks:
            raise ValueError("tasks is empty: name at least one, like snarks")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks: named twice")
        if self.sha256 is None and self.archive is None:
            raise ValueError("sha256=null takes an archive as it is, so it needs benchmark.archive=PATH")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256={self.sha256!r}: 64 hex digits, or null")
        return self

    @property
    def label(self) -> str:
        return "bigbench"

    def fingerprint(self) -> dict[str, Any]:
        return {"package": PACKAGE, "version": VERSION, "sha256": self.sha256 or sha256_file(self._archive())}

    def task_sets(self, fingerprint: Mapping[str, Any]) -> tuple[list[TaskSet], dict[str, Any]]:
        """(the tasks in the order of `tasks`, where they are from)."""
        made: dict[str, TaskSet] = {}
        notes: dict[str, Any] = {}
        seen: set[str] = set()

        def wanted(path: str) -> bool:
            match = _MEMBER.fullmatch(path)
            if match:
                seen.add(match[1])
            return match is not None and match[1] in self.tasks

        def take(path: str, content: bytes) -> None:
            task = path.split("/", 2)[2].removesuffix("/task.json")
            made[task], notes[task] = self._task_set(task, path, content)

        archive = self._archive() if self.archive else None
        pick_members(
            PACKAGE, VERSION, archive, fingerprint["sha256"], wanted, take, lambda: len(made) == len(self.tasks)
        )
        for task in self.tasks:
            if task in made and made[task].missing:
                parts = sorted(name for name in seen if name.startswith(f"{task}/"))
                if parts:
                    reason = f"it has parts only: {', '.join(parts[:4])}{' …' if len(parts) > 4 else ''}; name one"
                    made[task] = _missing(task, reason)
            elif task not in made:
                made[task] = _missing(task, f"{PACKAGE} {VERSION} has no {task}/task.json")
            if made[task].missing:
                say(f"benchmark: {task} is missing: {made[task].missing}")
        if all(made[task].missing for task in self.tasks):
            raise DataError(f"benchmark.tasks: none can be had; {self.tasks[0]}: {made[self.tasks[0]].missing}")
        source = {"benchmark": self.label, **fingerprint, "shots": self.shots, "tasks": notes}
        return [made[task] for task in self.tasks], source

    def _archive(self) -> Path:
        path = Path(self.archive or "").expanduser()
        if not path.is_file():
            raise DataError(f"benchmark.archive={self.archive}: no such file (the .tar.gz of {PACKAGE} {VERSION})")
        return path

    def _task_set(self, task: str, path: str, content: bytes) -> tuple[TaskSet, dict[str, Any]]:
        data = _parsed(path, content)
        examples = _distinct(data.get("examples", []))
        choices = any(metric in _CHOICE_METRICS for metric in data.get("metrics", [])) or "metrics" not in data
        kept = [
            (i, example)
            for i, example in enumerate(examples)
            if answer(example, f"{path}: example {i}", choices=choices) is not None
        ]
        note = {
            "preferred_score": data.get("preferred_score"),
            "examples": len(examples),
            # No choice is best or several are, or there is neither choice nor target.
            "left_out": len(examples) - len(kept),
        }
        if not kept:
            return _missing(task, "its examples have neither one best choice nor a target"), note
        if len(kept) <= self.shots:
            return _missing(task, f"{len(kept)} examples are too few for {self.shots} shots"), note
        order = sorted(kept, key=lambda pair: (keyed_int(self.seed, task, pair[0]), pair[0]))
        picked = sorted(order[: self.items])
        items = []
        for i, example in picked:
            shots = self._shots(task, i, [other for j, other in kept if j != i]) if self.shots else []
            context, texts, gold = question(data, example, shots, choices=choices)
            name = f"{task}:{i}"
            items.append(Item(str(i), name, name, PACKAGE, context, texts, gold))
        return TaskSet(_name(task), tuple(items), version=VERSION, normalization="none"), note

    def _shots(self, task: str, i: int, others: Sequence[Any]) -> list[Any]:
        rng = keyed_rng(self.seed, task, i, "shots")
        return [others[int(j)] for j in rng.choice(len(others), self.shots, replace=False)]


def question(
    data: Mapping[str, Any],
    example: Mapping[str, Any],
    shots: Sequence[Mapping[str, Any]] = (),
    *,
    choices: bool = True,
) -> tuple[str, tuple[str, ...], int]:
    """(context, choices, index of the right one) of an example, in the words that BIG-bench puts together."""
    before = [_prompt(data, shot) + str(_first(_target(shot))) for shot in shots]
    separator = data.get("few_shot_example_separator", "\n")
    context = str(data.get("task_prefix", "")) + separator.join([*before, _prompt(data, example)])
    found = answer(example, "example", choices=choices)
    assert found is not None
    texts, gold = found
    return (*move_space(context, texts), gold)


def answer(example: Mapping[str, Any], where: str, *, choices: bool) -> tuple[tuple[str, ...], int] | None:
    """(choices, index of the one best), or (the target, 0) without multiple choice; None where there is neither."""
    if not isinstance(example, dict) or not isinstance(example.get("input"), str):
        raise DataError(f"{where}: not an example with an `input`")
    scores = example.get("target_scores")
    if choices and scores:
        best = max(scores.values())
        found = [i for i, score in enumerate(scores.values()) if score == best]
        if len(found) == 1 and len(scores) > 1 and all(scores):
            return tuple(scores), found[0]
        return None
    text = _first(example.get("target"))
    return ((text,), 0) if isinstance(text, str) and text else None


def _prompt(data: Mapping[str, Any], example: Mapping[str, Any]) -> str:
    text: str = example["input"]
    if example.get("target_scores") and data.get("append_choices_to_input", True):
        import numpy as np

        prefix = data.get("choice_prefix", "\n  choice: ")
        order = np.random.RandomState(_ORDER_SEED).permutation(sorted(example["target_scores"]))
        text = text + prefix + prefix.join(order)
    return str(data.get("example_input_prefix", "\nQ: ") + text + data.get("example_output_prefix", "\nA: "))


def _target(example: Mapping[str, Any]) -> Any:
    if "target" in example:
        return example["target"]
    scores = example["target_scores"]
    return max(scores, key=scores.__getitem__)


def _first(target: Any) -> Any:
    return target[0] if isinstance(target, list) and target else target


def _parsed(path: str, content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path}: broken JSON ({error})") from None
    if not isinstance(data, dict) or not isinstance(data.get("examples", []), list):
        raise DataError(f"{path}: not a task of BIG-bench (an object with a list of `examples`)")
    return data


def _distinct(examples: Sequence[Any]) -> list[Any]:
    """Each example once, where it comes first."""
    first: dict[str, Any] = {}
    for example in examples:
        first.setdefault(json.dumps(example), example)
    return list(first.values())


def _name(task: str) -> str:
    return "bb_" + task.replace("/", "-")


def _missing(task: str, reason: str) -> TaskSet:
    return TaskSet(_name(task), (), version=VERSION, normalization="none", missing=reason)
