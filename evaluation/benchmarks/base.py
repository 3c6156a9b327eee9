"""Stage `benchmark`: a recipe's tasks as a folder (evaluation.tasks.items); the recipes `none` and `folder`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import model_validator

from isotok.errors import ConfigError, DataError
from isotok.files import hash_key, read_json
from isotok.progress import say
from isotok.recipe import Impl, recipe

if TYPE_CHECKING:
    from evaluation.tasks.items import TaskSet


class Benchmark(Protocol):
    """What the stage asks of a recipe.

    fingerprint: what else the items depend on (checksums, revisions), plain data; looked up once, part of the key.
    task_sets: (tasks, source) for a fingerprint; a task that cannot be had comes as missing, with its reason.
    """

    @property
    def label(self) -> str: ...

    def fingerprint(self) -> dict[str, Any]: ...

    def task_sets(self, fingerprint: Mapping[str, Any]) -> tuple[list["TaskSet"], dict[str, Any]]: ...


@recipe
class NoBenchmark:
    """No tasks but the generated ones (evaluation.tasks)."""

    @property
    def label(self) -> str:
        return "none"


@recipe
class Folder:
    """A task folder that is there, such as `isotok export-tasks` writes; its checksums are verified.

    The key holds what is in the folder, not where it is.
    """

    path: Impl[str]

    @property
    def label(self) -> str:
        return "folder"

    def fingerprint(self) -> dict[str, Any]:
        from evaluation.tasks.items import read_task_folder

        tasks = read_task_folder(self._folder())
        return {"tasks": {task.name: hash_key(task.described(), digits=64) for task in tasks}}

    def task_sets(self, fingerprint: Mapping[str, Any]) -> tuple[list["TaskSet"], dict[str, Any]]:
        from evaluation.tasks.items import TASKS_FILE, read_task_folder

        if self.fingerprint() != fingerprint:
            raise DataError(f"benchmark.path={self.path}: changed while it was in use; run again")
        source = read_json(self._folder() / TASKS_FILE).get("source", {})
        return read_task_folder(self._folder()), source

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.path:
            raise ValueError("path is empty: give a task folder, like benchmark.path=tasks")
        return self

    def _folder(self) -> Path:
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"benchmark.path={self.path}: no such folder (`isotok export-tasks` writes one)")
        return folder


def build_benchmark(recipe: Benchmark, fingerprint: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write the tasks of `recipe` to the folder `out`; returns figures. Raises DataError where no task can be had."""
    from evaluation.tasks.items import write_task_folder

    tasks, source = recipe.task_sets(fingerprint)
    missing = [task.name for task in tasks if task.missing]
    if len(missing) == len(tasks):
        raise DataError(f"benchmark {recipe.label}: no task can be had; {tasks[0].name}: {tasks[0].missing}")
    write_task_folder(out, tasks, source)
    items = sum(len(task.items) for task in tasks)
    gap = f", {len(missing)} missing" if missing else ""
    say(f"benchmark: {len(tasks) - len(missing)} tasks, {items:,} items{gap}")
    return {"tasks": len(tasks) - len(missing), "items": items, "missing": missing}
