"""Meta tokens in rows of text: exact counts, slots that hang on nothing but their key, each id a target once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.nn import functional

from modeling.meta_injection import IGNORED, LOSSES, PLACEMENTS, inject, slots_of

META = 1000


@st.composite
def rows_of_text(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    length = draw(st.integers(3, 24))
    count = draw(st.integers(0, length - 2))
    rows, seed = draw(st.integers(1, 4)), draw(st.integers(0, 99))
    placement = draw(st.sampled_from(PLACEMENTS[:2]))
    slots = np.stack([slots_of(placement, count, length, seed, 3, row) for row in range(rows)])
    text = np.random.default_rng(seed).integers(0, META, size=(rows, length - count + 1))
    return text, slots


@given(rows_of_text())
def test_without_its_meta_tokens_a_row_is_its_text(made: tuple[np.ndarray, np.ndarray]) -> None:
    text, slots = made
    for loss in LOSSES:
        inputs, targets = inject(text, slots, META, loss)
        count = slots.shape[1]
        assert inputs.shape == targets.shape == (len(text), text.shape[1] - 1 + count)
        for row, one in enumerate(inputs):
            assert np.flatnonzero(one == META).tolist() == slots[row].tolist()
            assert one[one != META].tolist() == text[row, :-1].tolist()
            assert one[0] != META
            assert targets[row][targets[row] != IGNORED].tolist() == text[row, 1:].tolist()


@given(rows_of_text())
def test_targets_against_a_loop_over_positions(made: tuple[np.ndarray, np.ndarray]) -> None:
    text, slots = made
    masked, skipped = (inject(text, slots, META, loss)[1] for loss in LOSSES)
    for row in range(len(text)):
        whole: list[int] = []
        rest = text[row].tolist()
        for at in range(text.shape[1] + slots.shape[1]):
            whole.append(META if at in slots[row] else rest.pop(0))
        n = len(whole) - 1
        assert masked[row].tolist() == [IGNORED if whole[at + 1] == META else whole[at + 1] for at in range(n)]
        assert skipped[row].tolist() == [
            IGNORED if whole[at] == META else next(one for one in whole[at + 1 :] if one != META) for at in range(n)
        ]


def test_every_slot_is_as_likely_and_two_of_them_do_not_avoid_each_other() -> None:
    length, count, draws = 12, 3, 6000
    slots = np.stack(
        [slots_of("random", count, length, 7, step, row) for step in range(draws // 4) for row in range(4)]
    )
    assert (np.diff(slots, axis=1) > 0).all() and slots.min() == 1 and slots.max() == length - 1
    assert chisquare(np.bincount(slots.ravel(), minlength=length)[1:]).pvalue > 1e-3
    neighbours = (np.diff(slots, axis=1) == 1).any(axis=1).mean()
    assert neighbours == pytest.approx(1 - 84 / 165, abs=0.03)  # of 165 triples of 11 slots 84 have no neighbours


def test_slots_hang_on_seed_step_and_row_alone() -> None:
    one = slots_of("random", 5, 64, 1, 2, 3)
    assert np.array_equal(one, slots_of("random", 5, 64, 1, 2, 3))
    others = [slots_of("random", 5, 64, *key) for key in ((0, 2, 3), (1, 3, 3), (1, 2, 4))]
    assert all(not np.array_equal(one, other) for other in others)
    periodic = slots_of("periodic", 4, 21, 0, 0, 0)
    assert periodic.tolist() == [1, 6, 11, 16]
    assert np.array_equal(periodic, slots_of("periodic", 4, 21, 9, 9, 9))
    assert slots_of("random", 0, 21, 0, 0, 0).tolist() == []


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_predicted_where_no_target_is_does_not_matter(loss: str) -> None:
    text = np.arange(1, 18).reshape(1, 17)
    slots = slots_of("random", 4, 20, 0, 0, 0)[None]
    targets = torch.from_numpy(inject(text, slots, 30, loss)[1])
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 20, 31, dtype=torch.float64, generator=generator, requires_grad=True)

    def nats(values: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(values.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORED)

    total = nats(logits)
    (gradient,) = torch.autograd.grad(total, logits)
    log_p = torch.log_softmax(logits, -1)
    expected = [-log_p[0, at, int(goal)] for at, goal in enumerate(targets[0]) if int(goal) != IGNORED]
    assert len(expected) == 16
    torch.testing.assert_close(total, torch.stack(expected).sum())
    unscored = targets == IGNORED
    assert torch.equal(gradient[unscored], torch.zeros_like(gradient[unscored]))
    other = logits.detach().clone()
    other[unscored] += 100 * torch.randn(other[unscored].shape, dtype=torch.float64, generator=generator)
    assert torch.equal(nats(other), total.detach())
