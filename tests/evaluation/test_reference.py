import lzma
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from evaluation.reference import markov_bits, reference


def brute_force_bits(train: list[bytes], test: list[bytes], order: int) -> float:
    """Witten-Bell from dictionaries, one byte at a time."""
    counts: dict[bytes, Counter[int]] = defaultdict(Counter)
    for document in train:
        for i, byte in enumerate(document):
            for k in range(min(i, order) + 1):
                counts[document[i - k : i]][byte] += 1

    def p(byte: int, context: bytes) -> float:
        below = p(byte, context[1:]) if context else 1 / 256
        seen = counts.get(context)
        if not seen:
            return below
        n, t = sum(seen.values()), len(seen)
        return (seen[byte] + t * below) / (n + t)

    return -sum(math.log2(p(d[i], d[max(0, i - order) : i])) for d in test for i in range(len(d)))


TRAIN = ["abracadabra, abracadabra", "the cat sat on the mat", "é漢é漢 the cat", ""]
TEST = ["abra the cat", "zzz é", "", "a"]


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_markov_against_brute_force(order: int) -> None:
    train, test = [t.encode() for t in TRAIN], [t.encode() for t in TEST]
    assert markov_bits(train, test, [order])[order] == pytest.approx(brute_force_bits(train, test, order), rel=1e-12)


def test_markov_is_a_distribution() -> None:
    train = [t.encode() for t in TRAIN]
    base = markov_bits(train, [b"the"], [3])[3]
    total = sum(2 ** -(markov_bits(train, [b"the" + bytes([b])], [3])[3] - base) for b in range(256))
    assert total == pytest.approx(1.0, rel=1e-9)


def test_without_training_text_it_is_uniform() -> None:
    assert markov_bits([], [b"abcd"], [0, 3]) == {0: pytest.approx(32.0), 3: pytest.approx(32.0)}


def test_reference_figures() -> None:
    rng = np.random.default_rng(0)
    noise = "".join(chr(97 + int(i)) for i in rng.integers(0, 26, 4000))
    figures = reference([noise, "other text"], [noise[:2000], noise[2000:]])
    assert figures["test_bytes"] == 4000
    assert figures["train_bytes"] == 4010
    assert figures["byte_unigram"] == pytest.approx(math.log2(26), abs=0.05)
    assert figures["xz"] < 0.2  # the test text stands in the training text: a few references
    plain = len(lzma.compress(noise.encode())) * 8 / 4000
    assert reference(["x"], [noise])["xz"] == pytest.approx(plain, abs=0.3)
    assert figures["markov_3"] < figures["markov_2"] < figures["byte_unigram"]


def test_training_text_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.reference.MAX_TRAIN_BYTES", 1500)
    assert reference(["a" * 1000, "b" * 400, "c" * 400], ["b"])["train_bytes"] == 1400
