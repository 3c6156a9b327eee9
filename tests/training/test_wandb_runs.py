"""wandb over the life of a run: one id through stops and moves, nothing where it is disabled, never worth a run."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from isotok.errors import InterruptedRun
from isotok.files import read_json
from modeling import Llama
from training import Budget, Engine, Training, pretrain
from training.checkpoint import step_folder, steps_saved
from training.tracking import read_metrics

pytestmark = pytest.mark.slow


def go(artefacts: dict[str, Path], out: Path, wandb: str = "offline", stop: bool = False) -> None:
    """12 steps, validated at 4, 8 and 12; stopped by a signal in the first validation."""

    def validate(model: Any) -> float:
        if stop:
            signal.raise_signal(signal.SIGTERM)
        return 1.0

    pretrain(
        model=Llama(hidden_size=32, layers=1, heads=2, mlp_size=64),
        tokens=artefacts["tokens"],
        tokenizer=artefacts["tokenizer"],
        budget=Budget(amount=12, unit="steps", context_bytes=128, rows=4),
        training=Training(save_every_steps=5, validations=3, wandb=wandb),  # type: ignore[arg-type]
        engine=Engine(device="cpu"),
        out=out,
        validate=validate,
    )


def ids(run_dir: Path) -> list[str]:
    """The id of each start of wandb, from its folders."""
    # wandb adds a number to the folder of a second start within the same second.
    return [path.name.split("-")[3] for path in sorted((run_dir / "wandb").glob("offline-run-*"))]


def test_a_resumed_run_keeps_its_id_wherever_it_lies(artefacts: dict[str, Path], tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "elsewhere/moved"
    with pytest.raises(InterruptedRun):
        go(artefacts, run, stop=True)
    first = ids(run)
    saved = step_folder(run / "checkpoints", steps_saved(run / "checkpoints")[-1])
    assert first == [read_json(saved / "state.json")["state"]["wandb_id"]]
    moved.parent.mkdir()
    run.rename(moved)
    go(artefacts, moved)
    assert len(set(ids(moved))) == 1 and len(ids(moved)) == 2
    other = tmp_path / "other"
    go(artefacts, other)
    assert ids(other) != first, "the same recipe in another folder is another run"
    for run_dir, starts in ((moved, 2), (other, 1)):
        logs = list((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
        assert len(logs) == starts and all(path.stat().st_size > 1000 for path in logs), "metrics are in there"
    assert (moved / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def test_disabled_writes_nothing(artefacts: dict[str, Path], tmp_path: Path) -> None:
    go(artefacts, tmp_path / "run", wandb="disabled")
    assert not (tmp_path / "run/wandb").exists()


class _Breaks:
    """A wandb run that takes three lines."""

    def __init__(self) -> None:
        self.lines = 0

    def log(self, row: dict[str, Any], step: int) -> None:
        self.lines += 1
        if self.lines > 3:
            raise OSError("disk\nfull")

    def finish(self) -> None:
        raise AssertionError("was given up")


@pytest.mark.parametrize("how", ["no start", "breaks", "no folder"])
def test_a_broken_wandb_stops_no_run(
    artefacts: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: str,
) -> None:
    import wandb

    run = tmp_path / "run"
    if how == "no start":
        monkeypatch.setattr(wandb, "init", lambda **settings: (_ for _ in ()).throw(RuntimeError("no service")))
    elif how == "breaks":
        monkeypatch.setattr(wandb, "init", lambda **settings: _Breaks())
    else:
        run.mkdir()
        (run / "wandb").write_text("not a folder")
    go(artefacts, run)
    assert len(read_metrics(run / "metrics.jsonl")) == 15
    assert (run / "train.json").exists()
    said = capsys.readouterr().err
    if how != "no folder":  # wandb then takes a folder of its own
        assert re.search(r"warning: wandb (did not start \(no service\)|stopped \(disk full\))", said)
        assert said.count("warning: wandb") == 1
