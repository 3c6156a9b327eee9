"""Tasks that are not generated: none, and a folder of one's own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.subword.folder import NoTask, TaskFolder
from evaluation.subword.questions import Question, TaskData, write_task
from isotok.errors import ConfigError, DataError
from isotok.recipe import build, describe


def own_task(train: int = 2) -> TaskData:
    learned = tuple(Question(f"t{i}", "t", f"say {i}:", f" {i}") for i in range(train))
    return TaskData("own", learned, {"test": (Question("q", "t", "say 9:", " 9"),)}, "test", modes=("generate",))


def test_a_folder_is_known_by_its_content(tmp_path: Path) -> None:
    write_task(own_task(), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = (TaskFolder(path=str(tmp_path / name)) for name in "ab")
    assert first.data(tmp_path / "no corpus") == own_task()
    assert first.fingerprint() == second.fingerprint()
    assert set(first.fingerprint()["files"]) == {"train", "test"}
    assert describe(first, with_impl=False) == describe(second, with_impl=False)
    assert first.fine_tuned
    write_task(own_task(train=0), tmp_path / "c")
    bare = TaskFolder(path=str(tmp_path / "c"))
    assert not bare.fine_tuned
    assert bare.fingerprint() != first.fingerprint()


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task.*path is empty"):
        build({"_target_": "evaluation.subword.folder.TaskFolder", "path": ""}, "task")
    with pytest.raises(ConfigError, match="task.path=.*no such folder"):
        TaskFolder(path=str(tmp_path / "nowhere")).data(tmp_path)
    with pytest.raises(DataError, match="task.json: not found"):
        TaskFolder(path=str(tmp_path)).fingerprint()
    write_task(own_task(), tmp_path / "a")
    path = tmp_path / "a" / "train.jsonl"
    path.write_text(path.read_text().replace("say 1", "say 2"))
    with pytest.raises(DataError, match="train.jsonl: its sha256.*was edited"):
        TaskFolder(path=str(tmp_path / "a")).data(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda listed: listed.pop("main"), "task.json: no 'main'"),
        (lambda listed: listed["files"].update({"../evil": listed["files"]["test"]}), "'../evil' is no name"),
        (lambda listed: listed.update(name="a\nb"), "is no name of a task"),
    ],
)
def test_a_folder_from_elsewhere_is_not_trusted(tmp_path: Path, change: Callable[[Any], Any], says: str) -> None:
    write_task(own_task(), tmp_path)
    listed = json.loads((tmp_path / "task.json").read_text())
    change(listed)
    (tmp_path / "task.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match=says):
        TaskFolder(path=str(tmp_path)).data(tmp_path)


def test_what_may_be_left_out_of_a_folder_is(tmp_path: Path) -> None:
    write_task(own_task(), tmp_path)
    listed = json.loads((tmp_path / "task.json").read_text())
    for key in ("words", "matched", "stop", "about"):
        del listed[key]
    (tmp_path / "task.json").write_text(json.dumps(listed))
    assert TaskFolder(path=str(tmp_path)).data(tmp_path) == own_task()


def test_no_task() -> None:
    assert (NoTask().label, NoTask().fine_tuned) == ("none", False)
    with pytest.raises(ConfigError, match="task=none: there is nothing to ask"):
        NoTask().data(Path())
