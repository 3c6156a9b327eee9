"""Transforms inside row streams: the same ids for any ranks and restarts, and what is spent where they are applied."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toys import toy
from tests.training.test_streams import Units, documents, shape
from tokenization import BPEDropout, StochasTok, encode_text
from training.streams import RowStreams, bytes_before, unique_bytes, unit_at

ROWS = 7


class Texts:
    """Documents of very different lengths in a vocabulary that can be split, each with its end-of-text id."""

    def __init__(self) -> None:
        self.tokenizer = toy("ab", "none", 14)
        rng, sizes = np.random.default_rng(0), [3, 60, 9000, 1, 250, 40, 700, 2, 90, 35, 400, 800, 5, 1300, 77, 600]
        texts = ["".join(rng.choice(["a", "b"], size)) for size in sizes]
        ids = [[*encode_text(self.tokenizer, text), self.tokenizer.eos_token_id] for text in texts]
        self._ids = [np.array(document, np.uint16) for document in ids]
        self.n_bytes = np.array(sizes)
        self.n_tokens = sum(map(len, self._ids))
        self.id_bytes, self.vocab_size, self.eos_id = None, len(self.tokenizer), self.tokenizer.eos_token_id

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, unit: int) -> np.ndarray:
        return self._ids[unit]


@pytest.fixture(scope="module")
def texts() -> Texts:
    return Texts()


def streams_of(texts: Texts, transform, state=None, subset=None, fresh_bytes: float = 60_000) -> RowStreams:
    return RowStreams(texts, ROWS, 50, transform.bind(texts.tokenizer, 3), 3, state, subset, fresh_bytes)


@pytest.mark.parametrize(
    "transform",
    [
        StochasTok(p=0.5, fresh=True),
        StochasTok(p=0.5, rounding="stochastic"),
        StochasTok(p=1.0, fresh=True, anneal=0.8),
        BPEDropout(q=0.3),
    ],
    ids=lambda transform: transform.label,
)
def test_same_output_for_any_ranks_and_after_a_restart_anywhere(texts: Texts, transform) -> None:
    steps = 90
    whole = streams_of(texts, transform)
    batches = [whole.next() for _ in range(steps)]
    epochs = unit_at(int(batches[-1].state_after[:, 0].max()) * ROWS, len(texts), 3)[0]
    assert epochs >= 2, "several epochs are read"
    for ranks in (1, 2, 7):
        cuts = [round(ROWS * rank / ranks) for rank in range(ranks + 1)]
        subsets = [range(a, b) for a, b in pairwise(cuts)]
        parts = [streams_of(texts, transform, subset=subset) for subset in subsets]
        for step in range(steps):
            if step % 11 == 10:  # all of them die, mostly inside documents
                state = batches[step - 1].state_after
                assert (state[:, 1] > 0).any()
                parts = [streams_of(texts, transform, state, subset) for subset in subsets]
            read = [part.next() for part in parts]
            assert np.array_equal(np.concatenate([one.targets for one in read]), batches[step].targets)
            assert np.array_equal(np.concatenate([one.state_after for one in read]), batches[step].state_after)


class Noting:
    """Notes what it is told is spent, by epoch and unit; ids stay."""

    def __init__(self) -> None:
        self.spent: dict[tuple[int, int], tuple[float, float]] = {}

    def __call__(self, ids: np.ndarray, epoch: int, unit: int, spent) -> np.ndarray:
        assert self.spent.setdefault((epoch, unit), spent) == spent
        return ids


@given(documents, shape, st.integers(1, 12), st.integers(0, 12))
@settings(max_examples=100, deadline=None)
def test_what_is_spent_is_a_rows_own_source_bytes(docs, shape, steps, restart) -> None:
    rows, length = shape
    data, noting = Units(docs), Noting()
    streams = RowStreams(data, rows, length, noting, 1, schedule_bytes=rows * 100.0)
    for step in range(steps):
        if step == restart:
            streams = RowStreams(data, rows, length, noting, 1, streams.state, schedule_bytes=rows * 100.0)
        streams.next()
    state = streams.state
    unique_bytes(data, state, streams)
    for row in range(rows):
        passed = 0
        for count in range(int(state[row, 0]) + 1):
            assert bytes_before(data.n_bytes, rows, row, count, 1) == passed
            epoch, unit = unit_at(row + count * rows, len(data), 1)
            size = int(data.n_bytes[unit])
            if (epoch, unit) in noting.spent:
                assert noting.spent[epoch, unit] == (passed / 100, (passed + size) / 100)
            passed += size
        assert state[row, 0] == 0 or (0, row) in noting.spent or row >= len(data)


def test_without_a_schedule_nothing_is_ever_spent() -> None:
    noting = Noting()
    streams = RowStreams(Units([[1, 2], [3]]), 1, 4, noting, 0)
    for _ in range(9):
        streams.next()
    assert set(noting.spent.values()) == {(0.0, 0.0)}


def test_annealing_ends_on_plain_ids(texts: Texts) -> None:
    """Until the last half begins the ids are StochasTok's; then they grow less and less, at the end not at all."""
    data_bytes = float(texts.n_bytes.sum())

    def units(transform) -> list[tuple[tuple[float, float], np.ndarray, np.ndarray]]:
        """(spent, before, after) of what one row reads of a schedule of six epochs."""
        apply, seen = transform.bind(texts.tokenizer, 3), []

        def noting(ids, epoch, unit, spent):
            seen.append((spent, ids, apply(ids, epoch, unit, spent)))
            return seen[-1][2]

        streams = RowStreams(texts, 1, 50, noting, 3, schedule_bytes=6 * data_bytes)
        while not seen or seen[-1][0][0] < 1.1:
            streams.next()
        return seen

    plain, ours = units(StochasTok(p=1.0, fresh=True)), units(StochasTok(p=1.0, fresh=True, anneal=0.5))
    growths: dict[int, list[int]] = {}
    for (spent, before, after), (_, _, as_before) in zip(ours, plain):
        if spent[1] <= 0.5:
            assert np.array_equal(after, as_before)
        elif spent[0] >= 1:
            assert np.array_equal(after, before)
        else:
            tenth = growths.setdefault(int(5 * (spent[0] + spent[1])), [0, 0])
            tenth[0] += len(before)
            tenth[1] += len(after)
    falling = [after / before for _, (before, after) in sorted(growths.items())]
    assert len(falling) >= 4 and falling == sorted(falling, reverse=True) and falling[0] - 1 > 4 * (falling[-1] - 1)


def test_the_rate_falls_inside_a_long_unit(texts: Texts) -> None:
    ids = np.concatenate([texts.ids(2)[:-1]] * 8 + [texts.ids(2)[-1:]])
    out = StochasTok(p=1.0, anneal=1.0).bind(texts.tokenizer, 0)(ids, 0, 0, (0.0, 1.0))
    # Where in the text an id is, by the bytes before it.
    sizes = np.array([len(token) for token in texts.tokenizer.convert_ids_to_tokens(range(256 + 14))] + [0])
    share = np.histogram(np.cumsum(sizes[out]), 4)[0] / np.histogram(np.cumsum(sizes[ids]), 4)[0]
    assert list(share) == sorted(share, reverse=True) and share[0] > 1.3 and share[3] < 1.15
    assert len(StochasTok(p=1.0, anneal=0.25).bind(texts.tokenizer, 0)(ids, 0, 0, (1.0, 1.2))) == len(ids)
