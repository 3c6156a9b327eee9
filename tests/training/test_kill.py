"""kill -9 of real processes, in the middle of training, and the same command again. `make soak` does many more."""

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from isotok.files import read_json
from tests.training.whole_runs import DDP, Run, finish, gone, kill_at, prepare, same_bits, started
from tokenization import StochasTok

pytestmark = pytest.mark.slow


def test_kill_and_resume_gives_the_same_bits(artefacts: dict[str, Path], tmp_path: Path) -> None:
    whole, cut = (prepare(artefacts, tmp_path / name) for name in ("whole", "cut"))
    finish(whole)
    moments = random.Random(7)
    counts = kill_at(cut, ("save", "wait", "validate", "random", "save", "random"), moments)
    assert counts["save"] >= 1 and counts["wait"] >= 1 and counts["validate"] >= 1, counts
    assert "resuming from step" in finish(cut)
    same_bits(cut, whole)


def test_a_kill_during_online_expansion(artefacts: dict[str, Path], tmp_path: Path) -> None:
    """New draws each epoch, at a rate that falls by then: what is expanded after a kill is what would have been."""
    transform = StochasTok(p=0.5, rounding="stochastic", fresh=True, anneal=0.5)
    whole, cut = (prepare(artefacts, tmp_path / name, transform=transform) for name in ("whole", "cut"))
    assert read_json(whole / "run.json")["plan"]["passes"] > 3
    finish(whole)
    for nth in (150, 60):
        with started(cut, SLOW_UNIT_S="0.25", TRACE_UNITS="1") as run:
            run.until(lambda nth=nth: run.noted("expand", "begin") >= nth and _expands(run))
            run.signal(signal.SIGKILL)
            assert run.wait() == -signal.SIGKILL
            assert "expand" in run.at()
    assert "resuming from step" in finish(cut)
    same_bits(cut, whole)
    assert read_json(cut / "train.json")["growth"] > 0.1


def _expands(run: Run) -> bool:
    """Whether a unit is being expanded, and is the one of a moment ago: most take no time."""
    nth = run.noted("expand", "begin")
    time.sleep(0.02)
    return "expand" in run.at() and run.noted("expand", "begin") == nth


def test_a_killed_launcher_or_rank_of_two(artefacts: dict[str, Path], tmp_path: Path) -> None:
    whole, cut = (prepare(artefacts, tmp_path / name, DDP, steps=40) for name in ("whole", "cut"))
    finish(whole, ranks=True)
    with started(cut, ranks=True) as run:
        run.until(lambda: run.noted("save", "begin") == 2)
        run.signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        for pid in run.ranks().values():
            gone(pid)
    with started(cut, ranks=True) as run:
        run.until(lambda: run.noted("save", "end") == 2)
        os.kill(run.ranks()[1], signal.SIGKILL)
        assert run.wait() == 1
        assert re.search(r"rank 1 was killed by SIGKILL.*the checkpoint of step \d+ is kept", run.said())
    assert "resuming from step" in finish(cut, ranks=True)
    same_bits(cut, whole)
