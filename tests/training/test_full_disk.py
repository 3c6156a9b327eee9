"""Runs on a real disk that is full before they are done: what they say, what they keep, how they go on."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.training.whole_runs import DDP, SINGLE, finish, gone, prepare, same_bits, started
from training import Engine
from training.checkpoint import step_folder, steps_saved, verify

pytestmark = pytest.mark.slow

Disk = Callable[[int], Path]
NATIVE = Engine(device="cpu", ranks=2, zero=1, checkpoint="native", timeout_s=60)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of so many bytes, made or made larger."""
    at = tmp_path / "run"
    at.mkdir()

    def resize(n_bytes: int) -> Path:
        how = ["-o", f"remount,size={n_bytes}"] if at.is_mount() else ["-t", "tmpfs", "-o", f"size={n_bytes}"]
        done = subprocess.run(["mount", *how, "tmpfs", str(at)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"needs root, to mount a small disk: {done.stderr.strip()}")
        return at

    yield resize
    subprocess.run(["umount", "-l", str(at)], check=False, capture_output=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def said_of(run_dir: Path, ranks: bool = False, **environment: str) -> str:
    """The last line of a run that has to fail with exit code 1; no process of it is left."""
    with started(run_dir, ranks=ranks, **environment) as run:
        code = run.wait()
        assert code == 1, f"{code}: {run.said()}"
        assert "Traceback" not in run.said()
        for pid in run.ranks().values():
            gone(pid)
        return run.said().splitlines()[-1]


def check_what_is_left(run_dir: Path, step: int) -> None:
    """The checkpoints up to a step, whole, and nothing half-written."""
    folder = run_dir / "checkpoints"
    assert steps_saved(folder)[-1] == step
    for saved in steps_saved(folder):
        verify(step_folder(folder, saved))
    assert {path.name for path in folder.iterdir()} <= {*(f"step-{s:08d}" for s in steps_saved(folder)), "best.json"}


@pytest.mark.parametrize(
    ("engine", "foreseen"),
    [(SINGLE, True), (SINGLE, False), (DDP, False), (NATIVE, True), (NATIVE, False)],
    ids=["single-foreseen", "single", "ddp", "native-foreseen", "native"],
)
def test_no_space_for_a_checkpoint(
    artefacts: dict[str, Path], tmp_path: Path, disk: Disk, engine: Engine, foreseen: bool
) -> None:
    ranks = engine.ranks > 1
    whole = prepare(artefacts, tmp_path / "whole", engine, steps=30)
    finish(whole, ranks=ranks)
    one = size_of(step_folder(whole / "checkpoints", 30))
    cut = prepare(artefacts, disk(int(2.5 * one)), engine, steps=30)
    # The checkpoints of steps 7 and 10 fit; that of step 14 does not, or is the one at which something else takes it.
    if foreseen:
        line = said_of(cut, ranks)
        assert f"{cut}/checkpoints: " in line and "a checkpoint needs about" in line
    else:
        disk(10 * one)
        # A rank of its own writes one file of a native checkpoint, another process three of one that is whole.
        nth = 3 if engine is NATIVE else 8
        line = said_of(cut, ranks, FILL=f"file:{nth}:{cut}/filler")
        assert f"{cut}/checkpoints: no space left on the disk for the checkpoint of step 14" in line
    assert "the checkpoint of step 10 is kept" in line
    check_what_is_left(cut, 10)
    (cut / "filler").unlink(missing_ok=True)
    disk(10 * one)
    assert "resuming from step 10 of 30" in finish(cut, ranks=ranks)
    same_bits(cut, whole)


@pytest.mark.parametrize("engine", [SINGLE, DDP], ids=["single", "ddp"])
def test_no_space_for_metrics(artefacts: dict[str, Path], tmp_path: Path, disk: Disk, engine: Engine) -> None:
    ranks = engine.ranks > 1
    settings = {"steps": 60, "save_every_steps": 30, "validations": 0}
    whole = prepare(artefacts, tmp_path / "whole", engine, **settings)
    finish(whole, ranks=ranks)
    one = size_of(step_folder(whole / "checkpoints", 60))
    cut = prepare(artefacts, disk(10 * one), engine, **settings)
    line = said_of(cut, ranks, FILL=f"step:36:{cut}/filler")
    steps = (tmp_path / "run.trace").read_text().count("step end")
    assert 36 <= steps < 60, "it stops soon, not at the next checkpoint"
    assert f"{cut}/metrics.jsonl: cannot be written (no space left on the disk)" in line
    assert "the checkpoint of step 30 is kept" in line
    check_what_is_left(cut, 30)
    # The same command while the disk is still full leaves nothing that is in the way of a later one.
    line = said_of(cut, ranks)
    assert f"{cut}/" in line and "no space left on the disk" in line
    assert not (cut / ".worker.lock").exists()
    check_what_is_left(cut, 30)
    (cut / "filler").unlink()
    assert "resuming from step 30 of 60" in finish(cut, ranks=ranks)
    same_bits(cut, whole)
