"""Whole runs of two ranks in which one gets no further: both end, the message says who and where, the rest is kept."""

import re
from pathlib import Path

import pytest

from tests.training.whole_runs import DDP, finish, gone, prepare, same_bits, started
from training import Engine
from training.checkpoint import step_folder, steps_saved, verify

pytestmark = pytest.mark.slow


def test_a_rank_without_data_and_a_stopped_one(artefacts: dict[str, Path], tmp_path: Path) -> None:
    whole = prepare(artefacts, tmp_path / "whole", DDP, steps=40)
    finish(whole, ranks=True)
    engine = Engine(device="cpu", ranks=2, timeout_s=6)
    cut = prepare(artefacts, tmp_path / "cut", engine, steps=40)
    for what, nth, named in [
        ("hang", 70, r"rank 1 \(.*\) is stuck in fetch at step \d+ for \d+ s"),
        ("stop", 70, r"rank 1 \(.*\) has not been heard of for \d+ s, last at step \d+"),
    ]:
        with started(cut, ranks=True, MISBEHAVE=f"{what}:1:{nth}") as run:
            run.until(lambda run=run: len(run.ranks()) == 2)
            pids = run.ranks()
            assert run.wait(90) == 1, run.said()
            last = run.said().splitlines()[-1]
            assert re.search(named, last), run.said()
            assert "engine.timeout_s" in last
            saved = steps_saved(cut / "checkpoints")[-1]
            assert f"the checkpoint of step {saved} is kept, the same command resumes" in last
            verify(step_folder(cut / "checkpoints", saved))
            for pid in pids.values():
                gone(pid)
    assert "resuming from step" in finish(cut, ranks=True)
    same_bits(cut, whole)
