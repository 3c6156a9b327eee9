"""Stop signals to whole runs, at any moment: a checkpoint, an exit code that says what to do, and the same bits."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.forked import PLUGGED, PLUGIN, ROOT
from tests.training.whole_runs import DDP, SINGLE, Run, finish, gone, prepare, same_bits, started
from training import Engine
from training.checkpoint import steps_saved

pytestmark = pytest.mark.slow

MOMENTS = {
    "start-up": ("bound", "at", 1),
    "first step": ("step", "begin", 1),
    "step": ("step", "begin", 4),
    "validation": ("validate", "begin", 1),
    "save": ("file", "begin", 2),
}


def come_to(run: Run, moment: str) -> None:
    what, state, nth = MOMENTS[moment]
    run.until(lambda: run.noted(what, state) >= nth)


def check_stopped(run: Run, name: str) -> int:
    """That a run ended as a signal asks, with a checkpoint of the step it says; that step."""
    assert run.wait() == (130 if name == "SIGINT" else 75), run.said()
    assert "Traceback" not in run.said()
    line = run.said().splitlines()[-1]
    told = re.fullmatch(
        rf"isotok: {run.run_dir}: stopped by {name} at step (\d+) of \d+, checkpoint saved; the same command resumes",
        line,
    )
    assert told is not None, run.said()
    step = int(told[1])
    assert steps_saved(run.run_dir / "checkpoints")[-1] == step
    assert not list((run.run_dir / "checkpoints").glob(".*"))
    assert not (run.run_dir / "train.json").exists()
    return step


@pytest.fixture(scope="module")
def whole_of_two(artefacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two ranks."""
    whole = prepare(artefacts, tmp_path_factory.mktemp("two") / "whole", DDP, steps=40)
    finish(whole, ranks=True)
    return whole


def test_signals_to_a_worker(artefacts: dict[str, Path], tmp_path: Path) -> None:
    whole, cut = (prepare(artefacts, tmp_path / name) for name in ("whole", "cut"))
    finish(whole)
    steps = []
    for name, moment in [
        ("SIGTERM", "start-up"),
        ("SIGUSR1", "first step"),
        ("SIGINT", "step"),
        ("SIGTERM", "validation"),
        ("SIGUSR1", "save"),
    ]:
        with started(cut) as run:
            come_to(run, moment)
            run.signal(signal.Signals[name])
            steps.append(check_stopped(run, name))
            assert run.noted("step", "end") <= MOMENTS[moment][2] + 12
    assert steps == sorted(steps) and steps[:2] == [0, 1] and steps[-1] > steps[2] > 1
    finish(cut)
    same_bits(cut, whole)


def test_signals_to_the_launcher_of_two_ranks(artefacts: dict[str, Path], tmp_path: Path, whole_of_two: Path) -> None:
    cut = prepare(artefacts, tmp_path / "cut", DDP, steps=40)
    for name, moment in [("SIGTERM", "start-up"), ("SIGUSR1", "validation"), ("SIGINT", "save")]:
        with started(cut, ranks=True) as run:
            come_to(run, moment)
            ranks = run.ranks()
            run.signal(signal.Signals[name])
            check_stopped(run, name)
            for pid in ranks.values():
                gone(pid)
    finish(cut, ranks=True)
    same_bits(cut, whole_of_two)


@pytest.mark.parametrize("engine", [SINGLE, DDP], ids=["single", "ddp"])
def test_a_second_signal_ends_at_once_and_tears_nothing(
    artefacts: dict[str, Path], tmp_path: Path, whole_of_two: Path, engine: Engine
) -> None:
    ranks, whole = engine.ranks > 1, whole_of_two
    if not ranks:
        whole = prepare(artefacts, tmp_path / "whole", engine, steps=40)
        finish(whole)
    cut = prepare(artefacts, tmp_path / "cut", engine, steps=40)
    # Data that never comes: there is no next step, after which the first signal would be seen to.
    with started(cut, ranks=ranks, MISBEHAVE="hang:0:50") as run:
        run.until(lambda: run.noted("hang", "at"))
        run.until(lambda: run.at() == ["wait"])
        time.sleep(0.5)
        assert run.at() == ["wait"]
        pids = run.ranks()
        run.signal(signal.SIGTERM)
        time.sleep(1.5)  # what comes sooner counts as the same signal
        assert not run.ended()
        run.signal(signal.SIGTERM)
        assert run.wait(20) == 75, run.said()
        assert "Traceback" not in run.said()
        for pid in pids.values():
            gone(pid)
    finish(cut, ranks=ranks)
    same_bits(cut, whole)


def test_a_signal_to_one_rank_under_torchrun_stops_all(
    artefacts: dict[str, Path], tmp_path: Path, whole_of_two: Path
) -> None:
    cut = prepare(artefacts, tmp_path / "cut", DDP, steps=40)
    worker = ["-m", "scripts.cli", "worker", str(cut), *PLUGGED]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *worker]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRACE": str(tmp_path / "trace")}

    def torchrun() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    process = torchrun()
    run = Run(cut, None, process.pid, tmp_path, tmp_path / "trace")
    try:
        deadline = time.monotonic() + 120
        while run.noted("step", "end") < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(run.ranks()[1], signal.SIGUSR1)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        for pid in run.ranks().values():
            gone(pid, 60)
    assert process.returncode == 1, "torchrun has no other code for workers that stopped"
    assert out == ""
    told = set(re.findall(rf"{cut}: stopped by SIGUSR1 at step (\d+) of 40, checkpoint saved", err))
    assert told == {str(steps_saved(cut / "checkpoints")[-1])}, err
    process = torchrun()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out.strip() == str(cut)
    same_bits(cut, whole_of_two)


@pytest.mark.soak
def test_signals_to_the_command_that_pretrains_with_two_ranks(tiny_files: Path, tmp_path: Path) -> None:
    arguments = [
        *("experiment=smoke", "corpus=local", f"corpus.paths=[{tiny_files}/*.txt]", "tokenizer.vocab_size=380"),
        *("transform=stochastok", "transform._target_=traced_runs.Traced", f"plugins=[{PLUGIN}]"),
        *("engine=ddp", "engine.device=cpu", "training.wandb=disabled", "training.save_every_steps=7"),
    ]
    stores = [tmp_path / name for name in ("whole", "cut")]

    def isotok(command: str, store: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.cli", command, *arguments, f"store={store}"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TRACE": str(tmp_path / "trace")},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def finished(command: str, store: Path) -> Path:
        out, err = isotok(command, store).communicate(timeout=200)
        assert len(out.splitlines()) == 1, err
        return Path(out.strip())

    finished("encode", stores[0])
    shutil.copytree(*stores)
    whole = finished("pretrain", stores[0])
    for number, code in ((signal.SIGUSR1, 75), (signal.SIGINT, 130)):
        (tmp_path / "trace").unlink()
        process = isotok("pretrain", stores[1])
        run = Run(tmp_path, None, process.pid, tmp_path, tmp_path / "trace")
        deadline = time.monotonic() + 120
        while run.noted("step", "end") < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (code, ""), err
        assert re.fullmatch(
            rf"isotok: .*partial: stopped by {number.name} at step \d+ of \d+, checkpoint saved; .*resumes",
            err.splitlines()[-1],
        ), err
    cut = finished("pretrain", stores[1])
    same_bits(cut, whole)
