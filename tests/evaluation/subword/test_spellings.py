"""Counting and listing encodings against listing them all."""

from collections.abc import Iterator

import pytest

from evaluation.encoding import TextEncoder
from evaluation.subword.spellings import Spellings
from tests.toys import toy


def every(pieces: list[bytes], text: bytes) -> Iterator[tuple[int, ...]]:
    if not text:
        yield ()
    for index, piece in enumerate(pieces):
        if piece and text.startswith(piece):
            for rest in every(pieces, text[len(piece) :]):
                yield (index, *rest)


@pytest.mark.parametrize("seed", range(6))
def test_count_and_shortest_against_all(seed: int) -> None:
    pieces = TextEncoder(toy("abé ", "none", merges=24, seed=seed)).bytes
    spellings = Spellings(pieces)
    for text in ("a", "ab", " abba", "abéab", "aabbaabb"):
        expected = sorted(every(pieces, text.encode()), key=lambda way: (len(way), way))
        assert spellings.count(text.encode()) == len(expected)
        for most in (1, 3, 10_000):
            assert spellings.shortest(text.encode(), most) == expected[:most]


def test_entries_of_equal_bytes_and_none_at_all() -> None:
    spellings = Spellings([b"a", b"a", b"", b"aa"])
    assert spellings.count(b"aa") == 5
    assert spellings.shortest(b"aa", 2) == [(3,), (0, 0)]
    assert spellings.count(b"ab") == 0
    assert spellings.shortest(b"ab", 9) == []
    assert spellings.knows(b"aa") and not spellings.knows(b"b")
    assert Spellings([b""]).count(b"a") == 0
