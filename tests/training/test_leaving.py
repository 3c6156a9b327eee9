"""What must hold however a run ends: the save under way, the best checkpoint, and what is said of a bad disk."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from isotok.errors import DataError, IsotokError
from tests.training.test_worker import go, score
from training import checkpoint, writer
from training.checkpoint import load_newest, steps_saved
from training.process import ranks_from_slurm
from training.tracking import read_metrics
from training.writer import CheckpointWriter, read_best


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    real = writer._write_tensors

    def slowly(*arguments: Any) -> str:
        time.sleep(0.2)
        return real(*arguments)

    monkeypatch.setattr(writer, "_write_tensors", slowly)


@pytest.mark.usefixtures("slow_disk")
def test_the_save_under_way_is_finished_when_a_run_ends_by_an_error(artefacts: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"

    def fail(model: Any) -> float:
        if read_metrics(run / "metrics.jsonl")[-1]["step"] == 12:
            raise RuntimeError("a peer is gone")
        return score(model)

    with pytest.raises(RuntimeError, match="a peer is gone"):
        go(artefacts, run, validate=fail)
    assert steps_saved(run / "checkpoints")[-1] == 12
    newest = load_newest(run / "checkpoints")
    assert newest is not None
    assert newest.state["step"] == 12


@pytest.mark.usefixtures("slow_disk")
def test_the_save_under_way_is_finished_when_validation_is_not_finite(
    artefacts: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(DataError, match="validation loss is nan after step 6"):
        go(artefacts, run, validate=lambda model: float("nan"))
    assert steps_saved(run / "checkpoints")[-1] == 6


def test_a_run_that_dies_after_its_best_validation_still_keeps_that_checkpoint(
    artefacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores by step: 12 is best, and the run dies while it is being marked."""
    run = tmp_path / "run"
    by_step = {6: 5.0, 12: 4.0, 18: 6.0, 24: 7.0}

    def validate(model: Any) -> float:
        return by_step[max(row["step"] for row in read_metrics(run / "metrics.jsonl"))]

    real = CheckpointWriter.mark_best

    def die(self: CheckpointWriter, step: int, mark: float) -> None:
        if step == 12:
            raise RuntimeError("killed")
        real(self, step, mark)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(CheckpointWriter, "mark_best", die)
        go(artefacts, run, validate=validate, training={"keep_last": 1})
    go(artefacts, run, validate=validate, training={"keep_last": 1})
    assert read_best(run / "checkpoints") == (12, 4.0)
    assert steps_saved(run / "checkpoints") == [12, 24]
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["validation_bpb"] for row in rows if "validation_bpb" in row] == [5.0, 4.0, 6.0, 7.0]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_disk_that_cannot_be_read_is_no_damage(
    artefacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = tmp_path / "run"
    go(artefacts, run, budget={"stop_at": 0.5})
    folder = run / "checkpoints"
    before = sorted(path.name for path in folder.iterdir())

    def unreadable(path: Path) -> str:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch, pytest.raises(IsotokError, match="cannot be read now.*nothing was changed"):
        patch.setattr(checkpoint, "sha256_file", unreadable)
        load_newest(folder)
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(("visible", "local"), [("3", "0"), ("0,1,2,3,4,5,6,7", "5"), ("", "5")])
def test_a_task_that_slurm_shows_one_gpu_takes_that_one(
    monkeypatch: pytest.MonkeyPatch, visible: str, local: str
) -> None:
    slurm = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "5", "SLURM_STEP_NUM_NODES": "1"}
    environment = {**slurm, "CUDA_VISIBLE_DEVICES": visible}
    monkeypatch.setattr(os, "environ", environment)
    ranks_from_slurm()
    assert environment["LOCAL_RANK"] == local
    assert environment["RANK"] == "5"


GROUPS = """
import torch.distributed as dist
from modeling import Llama
from modeling.init import build_model
from training import Engine, Training
from training.engines import prepare
from training.process_group import started
from training.watchdog import group_timeout_s

engine = Engine(device="cpu", zero=ZERO, timeout_s=77)
with started(engine, Training()) as processes:
    prepare(build_model(Llama(hidden_size=32, layers=1, heads=2, mlp_size=48).config(50, 8, 0), 0), Training(), engine,
            processes)
    import torch
    groups = list(dist.distributed_c10d._world.pg_map)
    found = {group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups}
    assert len(groups) >= 2, groups
    assert found == {group_timeout_s(77)}, found
"""


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 3])
def test_every_group_that_deepspeed_makes_has_the_timeout_of_the_run(zero: int) -> None:
    code = GROUPS.replace("ZERO", str(zero))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
