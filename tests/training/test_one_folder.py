"""Two jobs in one run's folder: the second waits, and goes on where the first ends or dies."""

import os
import signal
import time
from pathlib import Path

import pytest

from isotok.files import lock
from tests.training.whole_runs import finish, gone, prepare, same_bits, started
from training import Engine

pytestmark = pytest.mark.slow


def test_the_second_waits_and_finds_the_run_finished(artefacts: dict[str, Path], tmp_path: Path) -> None:
    run_dir = prepare(artefacts, tmp_path / "run", steps=120)
    with started(run_dir) as first:
        first.until(lambda: first.noted("step", "begin") >= 1)
        with started(run_dir, alias="-second") as second:
            second.until(lambda: "waiting for process" in second.said())
            assert f"waiting for process {first.pid} on {os.uname().nodename}, which trains" in second.said()
            assert first.wait() == 0, first.said()
            assert second.wait() == 0, second.said()
            assert second.noted("step", "begin") == second.noted("save", "begin") == 0
            assert "resuming from step 120 of 120" in second.said()
    assert not (run_dir / ".worker.lock").exists()


@pytest.mark.parametrize("ranks", [1, 2])
def test_waiting_is_not_taken_for_standing_still(artefacts: dict[str, Path], tmp_path: Path, ranks: int) -> None:
    run_dir = prepare(artefacts, tmp_path / "run", Engine(device="cpu", ranks=ranks, timeout_s=2), steps=20)
    with lock(run_dir / ".worker.lock"), started(run_dir, ranks=ranks > 1) as run:
        run.until(lambda: "waiting for process" in run.said())
        time.sleep(8)
        assert not run.ended(), run.said()
        pids = run.ranks()
        run.signal(signal.SIGTERM)
        assert run.wait() == 75, run.said()
        assert "stopped by SIGTERM while another job trains in it; nothing was begun" in run.said()
        for pid in pids.values():
            gone(pid)
    assert not (run_dir / "checkpoints").exists()


def test_the_second_takes_over_from_one_that_was_killed(artefacts: dict[str, Path], tmp_path: Path) -> None:
    whole, cut = (prepare(artefacts, tmp_path / name) for name in ("whole", "cut"))
    finish(whole)
    with started(cut) as first:
        first.until(lambda: first.noted("save", "end") >= 1)
        with started(cut, alias="-second") as second:
            second.until(lambda: "waiting for process" in second.said())
            first.until(lambda: first.noted("save", "begin") > first.noted("save", "end"))
            first.signal(signal.SIGKILL)
            assert first.wait() == -signal.SIGKILL
            assert second.wait() == 0, second.said()
            assert "resuming from step" in second.said()
            assert second.noted("step", "begin") > 10
    same_bits(cut, whole)
