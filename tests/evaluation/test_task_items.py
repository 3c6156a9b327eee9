"""Task folders: what is written is what is read, and what was changed is refused by name."""

import hashlib
import json
from pathlib import Path

import pytest

from evaluation.tasks.items import Item, TaskSet, read_items, read_task_folder, write_task_folder
from isotok.errors import DataError


def item(id: str, choices: tuple[str, ...], gold: int = 0, **more: str) -> Item:
    return Item(id, "doc", "g", "d", "Is it so?\u2028\n", choices, gold, **more)


MANY = TaskSet("many", (item("a", (" x\n", " y\n")), item("b", ("1", "2", "3", "4"), 3, variant="v", source="s")), 2)
ONE = TaskSet("one", (item("a", (" é\n",)),), "2024-01", normalization="none")
PMI = TaskSet("pmi", (item("a", ("x", "y")),), normalization="pmi", unconditional="Answer:")
GONE = TaskSet("gone", (), missing="the Hub has it no more")


def test_folder_round_trip(tmp_path: Path) -> None:
    tasks = [MANY, ONE, GONE, PMI]
    write_task_folder(tmp_path, tasks, {"from": "here", "revision": "abc"})
    assert read_task_folder(tmp_path) == tasks
    listed = json.loads((tmp_path / "tasks.json").read_text())
    assert listed["format"] == 1
    assert listed["source"] == {"from": "here", "revision": "abc"}
    assert list(listed["tasks"]) == ["many", "one", "gone", "pmi"]
    assert listed["tasks"]["many"]["chance"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert listed["tasks"]["one"]["chance"] is None
    assert listed["tasks"]["gone"] == {
        "n": 0, "sha256": None, "version": 1, "chance": None, "normalization": "bytes", "unconditional": None,
        "missing": "the Hub has it no more",
    }  # fmt: skip
    for name in ("many", "one", "pmi"):
        content = (tmp_path / f"{name}.jsonl").read_bytes()
        assert listed["tasks"][name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert content.count(b"\n") == listed["tasks"][name]["n"]
    assert not (tmp_path / "gone.jsonl").exists()


def test_changed_folders_are_refused_by_file(tmp_path: Path) -> None:
    write_task_folder(tmp_path, [MANY, ONE], {})
    file = tmp_path / "many.jsonl"
    kept = file.read_text()
    file.write_text(kept.replace('"gold": 3', '"gold": 2'))
    with pytest.raises(DataError, match=r"many\.jsonl: sha256"):
        read_task_folder(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=r"many\.jsonl: not found, though tasks\.json lists 2 items"):
        read_task_folder(tmp_path)
    file.write_text(kept)
    listed = json.loads((tmp_path / "tasks.json").read_text())
    listed["tasks"]["many"]["n"] = 3
    (tmp_path / "tasks.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match=r"many\.jsonl: 2 items, tasks\.json says 3"):
        read_task_folder(tmp_path)
    del listed["tasks"]["many"]["version"]
    (tmp_path / "tasks.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match=r"tasks\.json: task many.*version"):
        read_task_folder(tmp_path)
    (tmp_path / "tasks.json").write_text('{"format": 9}')
    with pytest.raises(DataError, match="not a list of tasks of format 1"):
        read_task_folder(tmp_path)
    with pytest.raises(DataError, match=r"none.tasks\.json: not found"):
        read_task_folder(tmp_path / "none")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a/b"}, "letters, digits"),
        ({"name": "../b"}, "letters, digits"),
        ({"items": ()}, "says why it has none"),
        ({"missing": "why"}, "says why it has none"),
        ({"normalization": "tokens"}, "normalization='tokens'"),
        ({"normalization": "pmi"}, "needs `unconditional`"),
        ({"items": (item("a", ("x", "")),)}, "item 'a' has an empty choice"),
        ({"items": (item("a", ("x",)), item("a", ("y",)))}, "item 'a' comes twice"),
        ({"items": (item("a", ("x", "y"), 2),)}, "2 choices and gold=2"),
        ({"items": (item("a", ()),)}, "0 choices"),
    ],
)
def test_wrong_tasks_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TaskSet(**{"name": "t", "items": (item("a", ("x", "y")),), **fields})


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "not an item"), ('{"id": "a"}', "not an item"), ("[]", "not an item"),
     (json.dumps({**item("a", ("x",)).__dict__, "gold": "0"}), "no place in its choices"),
     (json.dumps({**item("a", ("x",)).__dict__, "choices": ["x", 1]}), "no string")],
)  # fmt: skip
def test_wrong_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    write_task_folder(tmp_path, [ONE], {})
    file = tmp_path / "one.jsonl"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError, match=rf"one\.jsonl:2: .*{message}"):
        read_items(file)
