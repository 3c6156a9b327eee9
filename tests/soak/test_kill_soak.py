"""kill -9 of single runs, launchers and ranks, at moments that they note themselves, and the same bits at the end."""

import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.training.conftest import artefacts  # noqa: F401  a fixture
from tests.training.whole_runs import SINGLE, finish, gone, kill_at, landed, prepare, same_bits, started, wait_for
from training import Engine

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]

NEEDED = {"save": 5, "validate": 3, "wait": 3}


def engine(zero: int) -> Engine:
    return Engine(device="cpu", ranks=2, zero=zero, timeout_s=120)  # type: ignore[arg-type]


def kills(count: int, moments: random.Random) -> list[str]:
    """Kinds of moments: enough of each, the rest anywhere, in random order."""
    kinds = [kind for kind, needed in NEEDED.items() for _ in range(needed + 2)]
    kinds += ["random"] * (count - len(kinds))
    moments.shuffle(kinds)
    return kinds


def test_single_runs(artefacts: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    whole, cut = (prepare(artefacts, tmp_path / name, SINGLE, steps=500) for name in ("whole", "cut"))
    finish(whole)
    moments = random.Random(1)
    landings = kill_at(cut, kills(36, moments), moments)
    print(f"36 kills of a single run: {dict(landings)}")
    assert all(landings[kind] >= needed for kind, needed in NEEDED.items()), landings
    finish(cut)
    same_bits(cut, whole)


@pytest.mark.parametrize("zero", [0, 2], ids=["ddp", "zero2"])
def test_two_ranks(artefacts: dict[str, Path], tmp_path: Path, zero: int) -> None:  # noqa: F811
    whole, cut = (prepare(artefacts, tmp_path / name, engine(zero), steps=150) for name in ("whole", "cut"))
    finish(whole, ranks=True, fresh=True)
    moments = random.Random(zero)
    landings: Counter[str] = Counter()
    pairs = [(victim, kind) for victim in ("launcher", 0, 1) for kind in ("save", "validate", "wait", "random")]
    moments.shuffle(pairs)
    for victim, kind in pairs:
        with started(cut, ranks=True, fresh=True, SLOW_UNIT_S="0.7") as run:
            wait_for(run, kind, moments)
            ranks = run.ranks()
            os.kill(run.pid if victim == "launcher" else ranks[int(victim)], signal.SIGKILL)
            assert run.wait() == (-signal.SIGKILL if victim == "launcher" else 1), run.said()
            for pid in ranks.values():
                gone(pid)
            if victim != "launcher":
                assert f"rank {victim} was killed by SIGKILL" in run.said()
            landings.update({f"{victim}"} | landed(run))
        assert not (cut / "train.json").exists()
    print(f"12 kills of two ranks, zero {zero}: {dict(landings)}")
    finish(cut, ranks=True, fresh=True)
    same_bits(cut, whole)
