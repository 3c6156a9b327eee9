"""Two sources of noise: coverage of intervals, verdicts, and what few seeds allow."""

import math

import numpy as np
import pytest

from evaluation.stats import (
    A_BETTER,
    B_BETTER,
    CANNOT_TELL,
    INTERVAL,
    ONE_SEED,
    TWO_SEEDS,
    Sample,
    cluster_variance,
    compare,
    estimate,
    holm,
    influence,
    minimum_detectable,
    satterthwaite,
)

ITEMS = 120


def make(values: list[float], shift: float = 0.0, items: int = ITEMS, groups: int = 40) -> Sample:
    """An arm whose seeds have exactly these values, with the same items throughout."""
    sizes = np.random.Generator(np.random.PCG64(5)).integers(50, 500, items).astype(float)
    return Sample(
        seeds=tuple(range(len(values))),
        numerators=np.stack([(value + shift) * sizes for value in values]),
        denominators=sizes,
        groups=np.arange(items) % groups,
    )


def draw(
    rng: np.random.Generator, seeds: int, groups: int, seed_sd: float, group_sd: float, bytes_: np.ndarray
) -> Sample:
    """An arm with true value 2 bits per byte: seed effects, group effects of this arm and item noise."""
    items = len(bytes_)
    index = np.arange(items) % groups
    rates = (
        2.0
        + rng.normal(0, seed_sd, (seeds, 1))
        + rng.normal(0, group_sd, groups)[index]
        + rng.normal(0, group_sd, items)
    )
    return Sample(tuple(range(seeds)), rates * bytes_, bytes_, index)


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "group_sd", "groups"),
    [(3, 0.05, 0.005, 40), (3, 0.0005, 0.05, 40), (5, 0.02, 0.05, 40), (3, 0.05, 0.05, 40), (3, 0.05, 0.02, 12)],
)
def test_intervals_cover_the_truth(seeds: int, seed_sd: float, group_sd: float, groups: int) -> None:
    """Nominal 95 % over 400 draws (standard error 1.1 %), with seed noise from .01 to 10 times item noise.

    Two group effects of .05 over 40 groups have a standard error of about .01: far from negligible.
    """
    rng = np.random.Generator(np.random.PCG64(11))
    sets, covered = 400, 0
    bytes_ = rng.integers(200, 1000, 4 * groups).astype(float)
    for _ in range(sets):
        result = compare(
            draw(rng, seeds, groups, seed_sd, group_sd, bytes_), draw(rng, seeds, groups, seed_sd, group_sd, bytes_)
        )
        assert result.interval is not None
        covered += result.interval[0] <= 0 <= result.interval[1]
    assert 0.92 <= covered / sets <= 0.99


def test_items_alone_would_not_cover() -> None:
    """The mistake this module is there to avoid: with noisy seeds, an item-only interval is far too narrow."""
    rng = np.random.Generator(np.random.PCG64(3))
    bytes_ = rng.integers(200, 1000, 160).astype(float)
    covered = 0
    for _ in range(200):
        result = compare(draw(rng, 3, 40, 0.05, 0.01, bytes_), draw(rng, 3, 40, 0.05, 0.01, bytes_))
        covered += abs(result.delta) < 2 * (result.se_items or 0)
    assert covered < 100


def test_power_at_the_minimum_detectable_difference() -> None:
    """The printed difference is found about four times out of five."""
    rng = np.random.Generator(np.random.PCG64(4))
    se, df = 0.02, 4.0
    shift = minimum_detectable(se, df)
    t = (rng.normal(shift, se, 20000)) / (se * np.sqrt(rng.chisquare(df, 20000) / df))
    assert abs((np.abs(t) > 2.776).mean() - 0.8) < 0.01


def test_seeds_decide_what_may_be_said() -> None:
    one = compare(make([2.0]), make([2.5, 2.6, 2.7]))
    assert one.rule == ONE_SEED
    assert one.verdict == CANNOT_TELL
    assert (one.interval, one.p, one.df, one.minimum_detectable) == (None, None, None, None)
    two = compare(make([2.0, 2.1]), make([2.5, 2.6, 2.7]), smallest_difference=10.0)
    assert two.rule == TWO_SEEDS
    assert two.interval is None
    assert two.verdict == CANNOT_TELL
    assert two.range == pytest.approx((-0.7, -0.4))
    three = compare(make([2.0, 2.1, 2.0]), make([2.5, 2.6, 2.7]))
    assert three.rule == INTERVAL
    assert three.interval is not None


def test_verdicts() -> None:
    low, high = [2.00, 2.01, 2.02], [2.50, 2.51, 2.52]
    assert compare(make(low), make(high)).verdict == A_BETTER
    assert compare(make(high), make(low)).verdict == B_BETTER
    assert compare(make(low), make(high), lower_is_better=False).verdict == B_BETTER
    assert compare(make(low), make([1.5, 2.0, 2.6])).verdict == CANNOT_TELL
    # Not different is not equal: only the equivalence test says so.
    assert compare(make(low), make(low)).verdict == CANNOT_TELL
    assert compare(make(low), make(low), smallest_difference=0.001).verdict == CANNOT_TELL
    assert compare(make(low), make(low), smallest_difference=0.1).verdict == "equivalent within ±0.1"
    # Surely different, surely by less than what matters.
    assert compare(make(low), make(low, 0.04), smallest_difference=0.1).verdict == "equivalent within ±0.1"


def test_welch_and_satterthwaite_against_known_values() -> None:
    """Without item noise the test is Welch's."""
    from scipy.stats import ttest_ind

    a, b = [2.0, 2.1, 2.3, 2.2], [2.2, 2.6, 2.5]
    result, welch = compare(make(a), make(b)), ttest_ind(a, b, equal_var=False)
    assert result.se_items == pytest.approx(0, abs=1e-12)
    assert result.p == pytest.approx(welch.pvalue)
    assert result.df == pytest.approx(welch.df)
    assert result.interval == pytest.approx(tuple(welch.confidence_interval(0.95)))
    assert satterthwaite([(1.0, 4), (1.0, 4)]) == (pytest.approx(math.sqrt(2)), pytest.approx(8.0))


def test_groups_count_not_items() -> None:
    """Copies of an item within its group add nothing: the variance does not shrink."""
    rng = np.random.Generator(np.random.PCG64(6))
    bytes_ = rng.integers(100, 900, 40).astype(float)
    bits = bytes_ * rng.normal(2, 0.2, 40)
    once = Sample((0,), bits[None], bytes_, np.arange(40))
    fivefold = Sample((0,), np.repeat(bits, 5)[None], np.repeat(bytes_, 5), np.repeat(np.arange(40), 5))
    assert cluster_variance(influence(once), once.groups)[0] == pytest.approx(
        cluster_variance(influence(fivefold), fivefold.groups)[0]
    )
    assert compare(make([2.0], groups=29), make([2.1], groups=29)).few_groups
    assert not compare(make([2.0], groups=30), make([2.1], groups=30)).few_groups
    assert cluster_variance(np.ones(4), np.zeros(4)) == (None, 1)


def test_single_group_leaves_the_item_part_out() -> None:
    result = compare(make([2.0, 2.1, 2.2], groups=1), make([2.4, 2.5, 2.6], groups=1))
    assert result.se_items is None
    assert result.interval is not None
    assert result.few_groups


def test_identical_arms() -> None:
    result = compare(make([2.0, 2.0, 2.0]), make([2.0, 2.0, 2.0]))
    assert result.interval == pytest.approx((0.0, 0.0))
    assert result.verdict == CANNOT_TELL


def test_ratio_of_sums_and_one_arm() -> None:
    sample = Sample(
        (0, 1, 2), np.array([[1.0, 9.0], [2.0, 9.0], [3.0, 9.0]]), np.array([1.0, 9.0]), np.array(["a", "b"])
    )
    assert sample.values == pytest.approx([1.0, 1.1, 1.2])
    one = estimate(sample)
    assert one.mean == pytest.approx(1.1)
    assert one.interval == pytest.approx(
        (1.1 - 4.3027 * 0.1 / math.sqrt(3), 1.1 + 4.3027 * 0.1 / math.sqrt(3)), rel=1e-4
    )
    assert estimate(make([2.0, 2.1])).interval is None


def test_different_denominators_are_allowed_different_items_are_not() -> None:
    """Back-off scoring may cover other bytes in each arm; the items must be the same."""
    a, b = make([2.0, 2.1, 2.2]), make([2.0, 2.1, 2.2])
    assert compare(Sample(a.seeds, a.numerators * 2, a.denominators * 2, a.groups), b).delta == pytest.approx(0.0)
    with pytest.raises(ValueError, match="same items"):
        compare(a, make([2.0, 2.1, 2.2], groups=10))


def test_holm() -> None:
    base = [2.5, 2.51, 2.52]
    found = holm([compare(make([2.4, 2.45, 2.43]), make(base)), compare(make(base), make([2.49, 2.53, 2.51]))])
    raw = [c.p for c in found]
    assert raw[0] is not None
    assert found[0].p_holm == pytest.approx(2 * raw[0])
    assert found[1].p_holm == pytest.approx(raw[1])
    borderline = compare(make([2.46, 2.49, 2.475]), make(base))
    assert borderline.verdict == A_BETTER
    assert holm([borderline] * 5)[0].verdict == CANNOT_TELL


def test_family_error_under_no_effect() -> None:
    """Three arms, none different: some arm is called better or worse in about 5 % of sets, at most."""
    rng = np.random.Generator(np.random.PCG64(8))
    bytes_ = rng.integers(200, 1000, 80).astype(float)
    false = 0
    for _ in range(300):
        base, *others = (draw(rng, 3, 40, 0.03, 0.02, bytes_) for _ in range(4))
        false += any(c.verdict != CANNOT_TELL for c in holm([compare(arm, base) for arm in others]))
    assert false / 300 <= 0.075
