"""Tasks that are not generated: none at all, and a task folder of the user's."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import model_validator

from isotok.errors import ConfigError
from isotok.files import read_json
from isotok.recipe import Field, Impl, recipe

if TYPE_CHECKING:
    from evaluation.subword.questions import TaskData


@recipe
class NoTask:
    """Nothing is asked: runs end with the pretrained model and its report."""

    @property
    def label(self) -> str:
        return "none"

    @property
    def point_questions(self) -> int:
        return 0

    @property
    def fine_tuned(self) -> bool:
        return False

    def data(self, corpus: Path) -> "TaskData":
        raise ConfigError("task=none: there is nothing to ask; choose a task, like task=langgame")


@recipe
class TaskFolder:
    """A task folder that is there (evaluation.subword.questions says what is in one); its checksums are verified.

    The key holds what is in the folder, not where it is. Fine-tuned on its train.jsonl where it has one.
    """

    path: Impl[str]
    point_questions: Impl[Annotated[int, Field(ge=1)]] = 1200

    @property
    def label(self) -> str:
        return "folder"

    @property
    def fine_tuned(self) -> bool:
        return "train" in self.fingerprint()["files"]

    def fingerprint(self) -> dict[str, Any]:
        """sha256 of each file of questions and of what task.json says besides, plain data."""
        from evaluation.subword.questions import TASK_FILE
        from isotok.files import hash_key

        listed = read_json(self._folder() / TASK_FILE)
        files = {name: entry["sha256"] for name, entry in listed.get("files", {}).items()}
        return {"files": files, "task": hash_key(listed, digits=64)}

    def data(self, corpus: Path) -> "TaskData":
        """The folder's task, whatever the corpus. Raises DataError for a file that was edited, naming it."""
        from evaluation.subword.questions import read_task

        return read_task(self._folder())

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.path:
            raise ValueError("path is empty: give a task folder, like task.path=my_task")
        return self

    def _folder(self) -> Path:
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"task.path={self.path}: no such folder (the stage `task` writes one)")
        return folder
