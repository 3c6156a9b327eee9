"""Checkpoints: whole or absent, checked, pruned."""

import errno
import shutil
from pathlib import Path

import pytest
import torch

from isotok.errors import IsotokError
from training import checkpoint
from training.checkpoint import load_newest, save_checkpoint, steps_saved


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {kind: {"a.weight": torch.full((3, 2), value)} for kind in ("weights", "exp_avg", "exp_avg_sq")}


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(folder, {"step": step, "rows": [[step, 0]]}, tensors(step))


def test_newest_is_loaded_and_older_ones_pruned(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    for step in (3, 9, 10, 200):
        save(tmp_path, step)
    assert steps_saved(tmp_path) == [10, 200]
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.state == {"step": 200, "rows": [[200, 0]]}
    assert torch.equal(newest.tensors("exp_avg")["a.weight"], torch.full((3, 2), 200.0))


@pytest.mark.parametrize("name", ["weights.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_one_is_named_and_passed_over(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    data = path.read_bytes()
    if damage == "flip":
        at = len(data) * 2 // 3
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    found = load_newest(tmp_path)
    assert found is not None
    assert found.state["step"] == 1
    err = capsys.readouterr().err
    assert "step-00000002 is damaged" in err
    assert name in err
    # Training comes past that step again, and saves over the damaged one.
    save(tmp_path, 2)
    again = load_newest(tmp_path)
    assert again is not None
    assert again.state["step"] == 2


def test_all_damaged_starts_over_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (save(tmp_path, 1) / "state.json").write_text("{")
    assert load_newest(tmp_path) is None
    assert "starting from step 0" in capsys.readouterr().err


def test_full_disk_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(named: dict, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(IsotokError, match="no space left.*of step 2; that of step 1 is kept"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_newest(tmp_path) is not None


def test_too_little_space_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(IsotokError, match="a checkpoint needs about"):
        save(tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_crash_are_swept(tmp_path: Path) -> None:
    save(tmp_path, 1)
    torn = tmp_path / ".step-00000002.tmp"
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes(b"half")
    found = load_newest(tmp_path)
    assert found is not None
    assert found.state["step"] == 1
    assert not torn.exists()


def test_damaged_ones_neither_stand_in_the_way_nor_push_out_a_valid_one(tmp_path: Path) -> None:
    for step in (200, 400, 600):
        save(tmp_path, step)
    for step in (400, 600):
        (tmp_path / f"step-{step:08d}" / "weights.safetensors").write_bytes(b"torn")
    assert load_newest(tmp_path) is None
    save(tmp_path, 200)
    assert steps_saved(tmp_path) == [200]
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.state["step"] == 200
    (tmp_path / "step-00000400.bak").mkdir()
    assert steps_saved(tmp_path) == [200]
