"""Row streams: which ids a step sees, whatever the restarts and ranks."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotok.errors import ConfigError, DataError
from isotok.keyed import keyed_rng
from training.streams import Prefetch, RowStreams, unique_bytes, unit_at, units_between

EOS = 0


class Units:
    """Documents given as lists of ids (without the end-of-text id); id i stands for i % 5 bytes."""

    def __init__(self, documents: list[list[int]], lossless: bool = True) -> None:
        self._ids = [np.array([*ids, EOS], dtype=np.uint16) for ids in documents]
        lengths = np.array([i % 5 for i in range(64)], dtype=np.int32)
        self.n_bytes = np.array([int(lengths[ids].sum()) for ids in self._ids], dtype=np.int64)
        self.id_bytes = lengths if lossless else None
        self.n_tokens = sum(len(ids) for ids in self._ids)
        self.vocab_size, self.eos_id = 64, EOS

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, unit: int) -> np.ndarray:
        return self._ids[unit]


def plain(ids: np.ndarray, epoch: int, unit: int, spent=(0.0, 0.0)) -> np.ndarray:
    return ids


def noisy(ids: np.ndarray, epoch: int, unit: int, spent=(0.0, 0.0)) -> np.ndarray:
    """Repeats some ids, differently for each epoch and unit."""
    repeats = keyed_rng("noisy", epoch, unit).integers(1, 3, len(ids))
    repeats[-1] = 1
    return np.repeat(ids, repeats)


documents = st.lists(st.lists(st.integers(1, 63), max_size=12), min_size=1, max_size=9)
transforms = st.sampled_from([plain, noisy])
shape = st.tuples(st.integers(1, 4), st.integers(1, 7))


def row_ids(data: Units, rows: int, row: int, count: int, transform, seed: int) -> np.ndarray:
    """The definition: the first `count` ids of a row's stream, as the concatenation of its transformed units."""
    parts: list[np.ndarray] = []
    index = row
    while sum(map(len, parts)) < count:
        epoch, unit = unit_at(index, len(data), seed)
        parts.append(transform(data.ids(unit), epoch, unit))
        index += rows
    return np.concatenate(parts)[:count].astype(np.int64)


@given(documents, shape, transforms, st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_a_row_is_the_concatenation_of_its_units(docs, shape, transform, steps) -> None:
    rows, length = shape
    streams = RowStreams(Units(docs), rows, length, transform, seed=1)
    batches = [streams.next() for _ in range(steps)]
    for row in range(rows):
        expected = row_ids(Units(docs), rows, row, steps * length, transform, 1)
        assert np.array_equal(np.concatenate([b.targets[row] for b in batches]), expected)
        # Inputs lag by one id, and start from the end-of-text id.
        assert np.array_equal(np.concatenate([b.inputs[row] for b in batches]), np.concatenate([[EOS], expected[:-1]]))
    assert all(b.inputs.shape == b.targets.shape == (rows, length) and b.n_tokens == rows * length for b in batches)


@given(documents, st.integers(1, 4), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_every_unit_once_an_epoch(docs, epochs, seed) -> None:
    n = len(docs)
    for epoch in range(epochs):
        seen = [unit_at(epoch * n + position, n, seed) for position in range(n)]
        assert all(e == epoch for e, _ in seen)
        assert sorted(unit for _, unit in seen) == list(range(n))
    assert [unit_at(i, n, seed)[1] for i in range(n)] == list(range(n)), "epoch 0 is the order of the corpus"


@given(documents)
@settings(max_examples=60, deadline=None)
def test_every_id_is_a_target_exactly_once_an_epoch(docs) -> None:
    data = Units(docs)
    streams = RowStreams(data, 1, 1, plain, seed=0)
    for _ in range(3):
        targets = Counter(int(streams.next().targets[0, 0]) for _ in range(data.n_tokens))
        assert targets == Counter(np.concatenate([data.ids(u) for u in range(len(data))]).tolist())


@given(documents, shape, transforms, st.integers(0, 10), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_resume_from_any_step(docs, shape, transform, kill, more) -> None:
    rows, length = shape
    whole = RowStreams(Units(docs), rows, length, transform, seed=2)
    for _ in range(kill):
        state = whole.next().state_after
    if kill == 0:
        state = whole.state
    resumed = RowStreams(Units(docs), rows, length, transform, seed=2, state=state)
    for _ in range(more):
        a, b = whole.next(), resumed.next()
        assert np.array_equal(a.inputs, b.inputs)
        assert np.array_equal(a.targets, b.targets)
        assert np.array_equal(a.state_after, b.state_after)
        assert a.n_bytes == b.n_bytes


@given(documents, st.integers(1, 5), st.data(), transforms)
@settings(max_examples=100, deadline=None)
def test_any_split_of_rows_over_ranks(docs, rows, draw, transform) -> None:
    order = draw.draw(st.permutations(range(rows)))
    cut = draw.draw(st.integers(0, rows))
    whole = RowStreams(Units(docs), rows, 3, transform, seed=0)
    first = [whole.next() for _ in range(2)][-1].state_after
    ranks = [
        RowStreams(Units(docs), rows, 3, transform, 0, first, subset) for subset in (order[:cut], order[cut:]) if subset
    ]
    for _ in range(4):
        batch, parts = whole.next(), [rank.next() for rank in ranks]
        assert np.array_equal(batch.inputs[order], np.concatenate([p.inputs for p in parts]))
        assert np.array_equal(batch.targets[order], np.concatenate([p.targets for p in parts]))
        assert np.array_equal(batch.state_after[order], np.concatenate([p.state_after for p in parts]))
        assert batch.n_bytes == sum(p.n_bytes for p in parts)


@given(documents, shape, st.booleans())
@settings(max_examples=100, deadline=None)
def test_bytes_are_exact(docs, shape, lossless) -> None:
    """With bytes per id each batch counts its targets; without, a unit's bytes come with its last id."""
    rows, length = shape
    data = Units(docs, lossless)
    streams = RowStreams(data, rows, length, plain, seed=0)
    for _ in range(8):
        batch = streams.next()
        if lossless:
            assert batch.n_bytes == int(data.id_bytes[batch.targets].sum())
        else:
            ended = [
                unit_at(row + count * rows, len(data), 0)[1]
                for row in range(rows)
                for count in range(batch.state[row, 0], batch.state_after[row, 0])
            ]
            assert batch.n_bytes == sum(int(data.n_bytes[unit]) for unit in ended)


def test_bytes_of_an_epoch_are_those_of_the_text() -> None:
    data = Units([[1, 2, 3], [], [9] * 20, [7, 4]])
    streams = RowStreams(data, 1, 1, plain, seed=0)
    assert sum(streams.next().n_bytes for _ in range(data.n_tokens)) == int(data.n_bytes.sum())


@given(documents, shape, st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_unique_bytes_and_units_between(docs, shape, steps) -> None:
    rows, length = shape
    data = Units(docs)
    streams = RowStreams(data, rows, length, plain, seed=3)
    read: dict[int, int] = {}  # unit -> the largest prefix of ids read
    state = streams.state
    for _ in range(steps):
        batch = streams.next()
        state = batch.state_after
        units: set[int] = set()
        for row in range(rows):
            for count in range(batch.state[row, 0], state[row, 0] + 1):
                unit = unit_at(row + count * rows, len(data), 3)[1]
                upto = len(data.ids(unit)) if count < state[row, 0] else int(state[row, 1])
                if upto:
                    units.add(unit)
                    read[unit] = max(read.get(unit, 0), upto)
        assert units_between(batch.state, state, len(data), 3) == sorted(units)
    expected = sum(int(data.id_bytes[data.ids(unit)[:upto]].sum()) for unit, upto in read.items())
    assert unique_bytes(data, state, streams) == expected


def test_rows_of_a_checkpoint_may_not_change() -> None:
    with pytest.raises(ConfigError, match=r"budget\.rows=3"):
        RowStreams(Units([[1]]), 3, 2, plain, 0, np.zeros((2, 2), dtype=np.int64))


@pytest.mark.parametrize(
    ("transform", "match"),
    [
        (lambda ids, *where: ids[:-1], "document 0: its ids do not end"),
        (lambda ids, *where: ids[:0], "document 0: its ids do not end"),
        (lambda ids, *where: np.array([99, EOS]), "document 0: id 99 outside"),
    ],
)
def test_ids_that_cannot_be_are_named(transform, match) -> None:
    with pytest.raises(DataError, match=match):
        RowStreams(Units([[1, 2]]), 1, 2, transform, 0).next()


def test_no_documents() -> None:
    with pytest.raises(DataError, match="no documents"):
        RowStreams(Units([]), 1, 2, plain, 0)


def test_prefetch_gives_the_same_batches_and_ends() -> None:
    docs = [[i % 60 + 1] * (i % 7) for i in range(20)]
    direct = RowStreams(Units(docs), 2, 5, noisy, 0)
    with Prefetch(RowStreams(Units(docs), 2, 5, noisy, 0)) as ahead:
        for _ in range(50):
            a, b = direct.next(), ahead.next()
            assert np.array_equal(a.targets, b.targets)
            assert np.array_equal(a.state_after, b.state_after)
    assert not ahead._thread.is_alive()


def test_prefetch_passes_errors_on() -> None:
    def fail(ids: np.ndarray, epoch: int, unit: int, spent) -> np.ndarray:
        if unit == 3:
            raise DataError("document 3 is broken")
        return ids

    start = time.monotonic()
    with (
        pytest.raises(DataError, match="document 3"),
        Prefetch(RowStreams(Units([[1]] * 10), 1, 1, fail, 0)) as batches,
    ):
        for _ in range(100):
            batches.next()
    assert time.monotonic() - start < 5
