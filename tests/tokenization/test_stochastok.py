"""StochasTok against the enumerated distribution of the paper's rule."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from isotok.errors import DataError
from isotok.keyed import keyed_rng
from tokenization import BPE, StochasTok, encode_text
from tokenization.stochastok import WINDOW_IDS, cut_table, expand, pack_cuts


@pytest.fixture(scope="module")
def bpe():
    return BPE(vocab_size=280).train(["the thing that they thought through the night, that other thing\n"] * 50)


def by_lists(ids: list[int], attempts: int, cuts: list[list[tuple[int, int]]], rng: np.random.Generator) -> list[int]:
    """The paper's procedure word for word: a list that grows."""
    ids = list(ids)
    for where, which in rng.random((attempts, 2)).tolist():
        position = int(where * len(ids))
        if options := cuts[ids[position]]:
            ids[position : position + 1] = options[int(which * len(options))]
    return ids


lists_of_cuts = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3), min_size=10, max_size=10
)


@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(st.integers(0, 9), min_size=1, max_size=70),
    attempts=st.integers(0, 300),
    cuts=lists_of_cuts,
    key=st.integers(0, 99),
)
def test_the_kernel_gives_what_a_growing_list_gives(ids, attempts, cuts, key):
    """Whatever the cuts, such as could go on for ever too, and whatever the length."""
    ours = expand(np.array(ids, np.uint16), attempts, pack_cuts(cuts), keyed_rng("test", key))
    assert ours.tolist() == by_lists(ids, attempts, cuts, keyed_rng("test", key))


def test_windows_of_a_long_unit(bpe):
    """Each window of WINDOW_IDS ids has its own floor and positions, and draws on from the one before."""
    ids = np.random.default_rng(0).integers(0, 279, WINDOW_IDS + 1005).astype(np.uint16)
    cuts = cuts_as_lists(bpe)
    rng = keyed_rng("stochastok", 3, 0, 5)
    expected = by_lists(ids[:WINDOW_IDS].tolist(), int(WINDOW_IDS * 0.1), cuts, rng)
    expected += by_lists(ids[WINDOW_IDS:].tolist(), 100, cuts, rng)
    assert StochasTok().bind(bpe, 3)(ids, 7, 5).tolist() == expected


def test_an_id_outside_the_vocabulary_is_named(bpe):
    with pytest.raises(DataError, match="document 4: id 60000 outside a vocabulary of 281"):
        StochasTok(p=1.0).bind(bpe, 0)(np.array([5, 60000], np.uint16), 0, 4)


def cuts_as_lists(tokenizer) -> list[list[tuple[int, int]]]:
    starts, pairs = cut_table(tokenizer)
    return [[(left, right) for left, right in pairs[a:b].tolist()] for a, b in itertools.pairwise(starts)]


def test_distribution_equals_the_enumerated_one():
    # Entries: 0 = "abc" (cuts a|bc, ab|c), 1 = "ab" (a|b), 2 = "bc" (b|c), 3..5 = bytes without cuts.
    cuts = [[(3, 2), (1, 5)], [(3, 4)], [(4, 5)], [], [], []]

    def enumerate_all(ids: tuple[int, ...], attempts: int, mass: float, into: dict[tuple[int, ...], float]) -> None:
        if attempts == 0:
            into[ids] = into.get(ids, 0.0) + mass
            return
        for position, index in enumerate(ids):
            options = cuts[index] or [None]
            for option in options:
                after = ids if option is None else (*ids[:position], *option, *ids[position + 1 :])
                enumerate_all(after, attempts - 1, mass / len(ids) / len(options), into)

    expected: dict[tuple[int, ...], float] = {}
    enumerate_all((0, 1), 3, 1.0, expected)
    draws = 20_000
    start, packed = np.array([0, 1]), pack_cuts(cuts)
    seen = collections.Counter(tuple(expand(start, 3, packed, keyed_rng("test", i)).tolist()) for i in range(draws))
    assert set(seen) <= set(expected)
    statistic = chisquare([seen[k] for k in expected], [expected[k] * draws for k in expected])
    assert statistic.pvalue > 1e-3


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200), p=st.sampled_from([0.0, 0.1, 0.5, 1.0]), unit=st.integers(0, 9))
def test_spells_the_same_text(bpe, text, p, unit):
    ids = np.array([*encode_text(bpe, text), bpe.eos_token_id], dtype=np.uint16)
    out = StochasTok(p=p).bind(bpe, 0)(ids, 0, unit)
    assert out[-1] == bpe.eos_token_id
    assert list(out).count(bpe.eos_token_id) == 1
    assert bpe.decode(out[:-1]) == text
    assert out.dtype == ids.dtype
    if p == 0:
        assert list(out) == list(ids)


def test_keyed_by_seed_epoch_and_unit(bpe):
    ids = np.array(encode_text(bpe, "the thing that they thought through the night " * 20), dtype=np.uint16)

    def draw(seed: int, epoch: int, unit: int, fresh: bool) -> list[int]:
        return list(StochasTok(fresh=fresh, p=0.5).bind(bpe, seed)(ids, epoch, unit))

    assert draw(0, 0, 0, True) == draw(0, 0, 0, True)
    assert draw(0, 0, 0, True) != draw(1, 0, 0, True)
    assert draw(0, 0, 0, True) != draw(0, 0, 1, True)
    assert draw(0, 0, 0, True) != draw(0, 1, 0, True)
    assert draw(0, 0, 0, False) == draw(0, 1, 0, False)


def test_attempts_floor_and_stochastic(bpe):
    ids = np.array(encode_text(bpe, "thing"), dtype=np.uint16)[:1]
    floor = [len(StochasTok(p=0.5).bind(bpe, 0)(ids, 0, u)) for u in range(200)]
    assert set(floor) == {1}  # int(1 * 0.5) = 0 attempts
    stochastic = [len(StochasTok(p=0.5, rounding="stochastic").bind(bpe, 0)(ids, 0, u)) for u in range(200)]
    assert 60 <= sum(n == 2 for n in stochastic) <= 140


def test_cut_table_holds_every_binary_cut_and_no_other(bpe):
    vocab = bpe.get_vocab()
    cuts = cuts_as_lists(bpe)
    for token, index in vocab.items():
        found = {
            (vocab[token[:i]], vocab[token[i:]])
            for i in range(1, len(token))
            if token[:i] in vocab and token[i:] in vocab
        }
        assert set(cuts[index]) == (set() if index == bpe.eos_token_id else found)
        assert not cuts[index] or len(token) > 1
