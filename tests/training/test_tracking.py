"""Metrics files, wandb that may fail."""

import contextlib
import json
from pathlib import Path

import pytest

from isotok.errors import IsotokError
from training.tracking import Tracker, bits_per_byte, read_metrics


def line(step: int, **more: object) -> str:
    return json.dumps({"step": step, **more}) + "\n"


@pytest.mark.parametrize("torn", ['{"step":4,"train_na', '{"step":4}', "[]\n", "\x00\x00\n"])
def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = line(1, train_nats=2.0) + line(2, train_nats=2.0) + line(2, validation_bpb=1.5)
    path.write_text(kept + line(3, train_nats=1.0) + torn)
    tracker = Tracker(tmp_path, 2, "disabled", "id", "label")
    assert tracker.validated == {2}
    tracker.write({"step": 3, "train_nats": 0.5})
    tracker.close()
    assert [(row["step"], row.get("train_nats")) for row in read_metrics(path)] == [
        (1, 2.0),
        (2, 2.0),
        (2, None),
        (3, 0.5),
    ]


def test_missing_steps_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Tracker(tmp_path, 5, "disabled", "id", "label").close()
    assert "holds 0 of the 5 steps" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, Linux's file that takes nothing")
@pytest.mark.parametrize("name", ["metrics", "timing"])
def test_a_full_disk_is_named_when_asked(tmp_path: Path, name: str) -> None:
    tracker = Tracker(tmp_path, 0, "disabled", "id", "label")
    write = {"metrics": tracker.write, "timing": tracker.write_timing}[name]
    tracker.write({"step": 1, "train_nats": 1.0})
    tracker.sync()
    full = open("/dev/full", "a")  # noqa: SIM115  closed by close()
    real = getattr(tracker, f"_{name}")
    setattr(tracker, f"_{name}", full)
    assert not tracker.failed
    write({"step": 2, "train_nats": 1.0})
    assert tracker.failed
    setattr(tracker, f"_{name}", real)
    write({"step": 3, "train_nats": 1.0})
    for ask in (tracker.check, tracker.sync):
        with pytest.raises(IsotokError, match=r"/dev/full: cannot.*no space left on the disk.*there is no checkpoint"):
            ask()
    tracker.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1], "no line after one that is missing"
    with contextlib.suppress(OSError):
        full.close()


def test_wandb_that_does_not_start_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def fail(**settings: object) -> None:
        raise wandb.errors.CommError("no\nnetwork")

    monkeypatch.setattr(wandb, "init", fail)
    tracker = Tracker(tmp_path, 0, "online", "id", "label")
    tracker.write({"step": 1, "train_nats": 1.0})
    tracker.close()
    assert "warning: wandb did not start (no network); going on without it" in capsys.readouterr().err


def test_wandb_that_breaks_on_the_way_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def log(self, row: dict, step: int) -> None:
            raise OSError("disk")

    tracker = Tracker(tmp_path, 0, "disabled", "id", "label")
    tracker._wandb = Broken()
    for step in (1, 2):
        tracker.write({"step": step, "train_nats": 1.0})
    tracker.close()
    assert capsys.readouterr().err.count("wandb stopped (disk)") == 1
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_wandb_offline_writes_into_the_run(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0, "offline", "abc123", "label")
    tracker.write({"step": 1, "train_nats": 1.0})
    tracker.close()
    (log,) = (tmp_path / "wandb").glob("offline-run-*-abc123/run-abc123.wandb")
    assert b"train_nats" in log.read_bytes()


def test_bits_per_byte() -> None:
    assert bits_per_byte(2.0794415416798357, 3) == pytest.approx(1.0)
    assert bits_per_byte(1.0, 0) is None
