"""`isotok export`: which run its name means, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest

from isotok.errors import ConfigError, DataError, IsotokError
from scripts.export import export_command, find_run
from tests.scripts.smoke import isotok


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    return folder


def test_a_run_is_found_by_folder_name_or_key_half_built_or_not(tmp_path: Path) -> None:
    done = make_run(tmp_path / "pretrain" / "bpe-s0-aaa111")
    half = make_run(tmp_path / "pretrain" / "bpe-s1-bbb222.partial")
    (tmp_path / "pretrain" / "bpe-s2-ccc333").mkdir()
    for name, folder in (
        (str(half), half),
        ("bpe-s0-aaa111", done),
        ("aaa111", done),
        ("bpe-s1-bbb222", half),
        ("bpe-s1-bbb222.partial", half),
        ("bbb222", half),
    ):
        assert find_run(name, tmp_path) == folder
    for name in ("ccc333", "bpe", "bpe-s0-aaa11"):
        with pytest.raises(ConfigError, match=f"export: {name} is no folder and no run in"):
            find_run(name, tmp_path)
    with pytest.raises(ConfigError, match=r"bpe-s2-ccc333 is no run: it has no run\.json"):
        find_run(str(tmp_path / "pretrain" / "bpe-s2-ccc333"), tmp_path)
    make_run(tmp_path / "pretrain" / "superbpe-s0-aaa111")
    with pytest.raises(ConfigError, match="aaa111 names .*bpe-s0-aaa111, .*superbpe-s0-aaa111; give one"):
        find_run("aaa111", tmp_path)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    run = str(make_run(tmp_path / "run"))
    for arguments, message in (
        ([], "name one run and a new folder"),
        ([run], "name one run and a new folder"),
        ([run, "out="], "name one run and a new folder"),
        ([run, run, "out=new"], "name one run and a new folder"),
        ([run, f"out={tmp_path}"], "is there already"),
        ([run, "out=new", "steps=3"], "no such key; did you mean step"),
        ([run, "out=new"], "no checkpoint yet|not found"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            export_command(arguments)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "/root/out")

    monkeypatch.setattr("training.export.export_checkpoint", fail)
    with pytest.raises(IsotokError, match="/root/out: Permission denied; name another out=FOLDER"):
        export_command([str(make_run(tmp_path / "run")), f"out={tmp_path / 'new'}"])


@pytest.mark.slow
def test_a_finished_run_gives_its_own_model_again(first: tuple[Path, Path], tmp_path: Path) -> None:
    cwd, _ = first
    run = min((cwd / "runs" / "pretrain").glob("*-*"))
    out = tmp_path / "exported"
    assert export_command([run.name, f"out={out}", f"store={cwd / 'runs'}"]) == out
    theirs = run / "model"
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in theirs.iterdir()}
    again = isotok(cwd, "show", str(out), "limit=0")
    assert "algorithm" in again.stdout
