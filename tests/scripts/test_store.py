"""The store: whole or absent, locked, resumable only where the stage is."""

import pytest

from isotok.errors import DataError, IsotokError
from isotok.files import lock, read_json
from scripts.store import Node, Store


def node(name: str = "thing", *, resumable: bool = False, inputs: dict[str, Node] | None = None) -> Node:
    return Node(
        stage="corpus", name=name, key="abc", format=1, inputs=inputs or {}, config={"x": 1}, resumable=resumable
    )


def test_published_with_a_manifest(tmp_path):
    store, made = Store(tmp_path), node(inputs={"corpus": node("before")})
    with store.building(made) as (folder, figures):
        assert not store.has(made)
        (folder / "data").write_text("1")
        figures["documents"] = 3
    manifest = read_json(store.folder(made) / "manifest.json")
    assert store.has(made)
    assert manifest["figures"] == {"documents": 3}
    assert manifest["inputs"] == {"corpus": "corpus/before-abc"}
    assert manifest["provenance"]["isotok"]
    with store.building(made) as place:
        assert place is None
    assert [p.name for p in (tmp_path / "corpus").iterdir()] == ["thing-abc"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("resumable", [False, True])
def test_an_error_leaves_nothing_or_what_can_be_resumed(tmp_path, error, resumable):
    store, made = Store(tmp_path), node(resumable=resumable)
    with pytest.raises(error), store.building(made) as (folder, _):
        (folder / "half").write_text("1")
        raise error
    assert not store.has(made)
    left = [p.name for p in (tmp_path / "corpus").iterdir()]
    assert left == (["thing-abc.partial"] if resumable else [])
    with store.building(made) as (folder, _):
        assert (folder / "half").exists() == resumable


def test_a_leftover_of_a_kill_is_cleared_unless_resumable(tmp_path):
    store, made = Store(tmp_path), node()
    partial = tmp_path / "corpus" / "thing-abc.partial"
    partial.mkdir(parents=True)
    (partial / "torn").write_text("1")
    with store.building(made) as (folder, _):
        assert not (folder / "torn").exists()


def test_folder_without_manifest_is_refused(tmp_path):
    store, made = Store(tmp_path), node()
    store.folder(made).mkdir(parents=True)
    with pytest.raises(DataError, match="without a manifest"), store.building(made):
        pass


def test_entries_and_remove(tmp_path):
    store, made = Store(tmp_path), node()
    with store.building(made) as (folder, _):
        (folder / "data").write_text("12345")
    (tmp_path / "pretrain" / "x-def.partial").mkdir(parents=True)
    entries = store.entries()
    assert [(e.stage, e.path.name, e.complete) for e in entries] == [
        ("corpus", "thing-abc", True),
        ("pretrain", "x-def.partial", False),
    ]
    assert entries[0].n_bytes > 5
    with lock(tmp_path / "pretrain" / "x-def.lock"), pytest.raises(IsotokError, match="running process"):
        store.remove(entries[1])
    for entry in entries:
        store.remove(entry)
    assert store.entries() == []


def test_store_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IsotokError, match="store="), Store(tmp_path / "file" / "runs").building(node()):
        pass
