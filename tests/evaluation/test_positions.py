import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evaluation.documents import score_documents
from evaluation.encoding import TextEncoder
from evaluation.positions import EDGES, bytes_in_bins, labels, nats_in_bins, pool


def test_bins_by_a_loop_over_bytes() -> None:
    rng = np.random.default_rng(3)
    for total in (1, 63, 64, 65, 300, 5000, 20_000):
        lengths: list[int] = []
        while sum(lengths) < total:
            lengths.append(min(int(rng.integers(1, 40)), total - sum(lengths)))
        nats = rng.random(len(lengths)) * 9
        expected = np.zeros(len(EDGES))
        sizes = np.zeros(len(EDGES), dtype=int)
        place = 0
        for length, value in zip(lengths, nats):
            for _ in range(length):
                this = max(i for i, edge in enumerate(EDGES) if edge <= place)
                expected[this] += value / length
                sizes[this] += 1
                place += 1
        np.testing.assert_allclose(nats_in_bins(nats, np.cumsum(lengths), total), expected, atol=1e-9)
        assert bytes_in_bins(total).tolist() == sizes.tolist()
    assert nats_in_bins(np.zeros(0), np.zeros(0, dtype=int), 0).tolist() == [0.0] * len(EDGES)
    assert len(labels()) == len(EDGES)
    assert labels()[:4] == ["0-64", "64-256", "256-1k", "1k-4k"]


def test_bins_add_up_and_hold_the_same_bytes_for_every_tokenizer(
    byte_tokenizer: Any, superword_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    texts = ["the king of the sea saw naïve é " * 12, "a king: A queen\n", ""]
    pooled = []
    for tokenizer in (byte_tokenizer, superword_tokenizer):
        encoder = TextEncoder(tokenizer)
        scores = score_documents(make_model(tokenizer), [encoder(t) for t in texts], 64, encoder.eos_id)
        for score in scores:
            assert math.fsum(score.position_nats) == pytest.approx(score.nats, rel=1e-12)
        pooled.append(pool([s.position_nats for s in scores], [s.bytes for s in scores]))
        assert math.fsum(b["nats"] for b in pooled[-1]) == pytest.approx(sum(s.nats for s in scores), rel=1e-12)  # type: ignore[misc]
    assert [(b["position"], b["bytes"]) for b in pooled[0]] == [(b["position"], b["bytes"]) for b in pooled[1]]
    assert sum(b["bytes"] for b in pooled[0]) == sum(len(t.encode()) for t in texts)  # type: ignore[misc]
    assert [b["position"] for b in pooled[0]] == ["0-64", "64-256", "256-1k"]
