"""Long runs of what the other tests do briefly: `make soak`."""

import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from evaluation.stats import Sample, compare
from tests.scripts.smoke import arguments, isotok, start

pytestmark = pytest.mark.soak


def test_twenty_kills_at_random_moments_cost_nothing(tiny_files: Path, tmp_path: Path) -> None:
    """kill -9 of a whole experiment, anywhere from its first second on, until it ends; then the same results."""
    options = [*arguments(tiny_files), "budget.amount=300", "budget.max_epochs=200", "training.save_every_steps=20"]
    whole = tmp_path / "whole"
    cut = tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    report = whole / isotok(whole, "run", *options).stdout.splitlines()[-1]
    moments = random.Random(0)
    landed = 0
    for _ in range(20):
        process = start(cut, "run", *options)
        time.sleep(moments.uniform(1, 12))
        landed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(1.5)  # its children notice within half a second
    assert landed >= 5, "the kills must land in running experiments"
    again = cut / isotok(cut, "run", *options).stdout.splitlines()[-1]
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (report, again))
    for key in set(first) - {"provenance", "timing"}:
        assert first[key] == second[key], key


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("groups", [10, 100])
@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0])
def test_intervals_cover_in_two_thousand_sets(seeds: int, groups: int, ratio: float) -> None:
    rng = np.random.default_rng([seeds, groups, int(10 * ratio)])
    items = 5 * groups
    index = np.repeat(np.arange(groups), 5)
    covered = 0
    for _ in range(2000):
        common = rng.normal(0, 1, groups)[index] + rng.normal(0, 1, items)
        arms = []
        for _arm in range(2):
            own = rng.normal(0, 1, groups)[index]
            noise = ratio * np.sqrt(2 / groups) * rng.normal(0, 1, (seeds, 1))
            arms.append(Sample(tuple(range(seeds)), 3 + common + own + noise, np.ones(items), index))
        low, high = compare(*arms).interval or (0.0, 0.0)
        covered += low <= 0 <= high
    assert covered / 2000 >= 0.935
