"""All the ways to spell a byte string in the tokens of a vocabulary: how many there are, and the shortest of them."""

from collections.abc import Sequence


class Spellings:
    """pieces: the bytes of each id; ids that stand for none spell nothing."""

    def __init__(self, pieces: Sequence[bytes]):
        self._by_bytes: dict[bytes, list[int]] = {}
        for index, piece in enumerate(pieces):
            if piece:
                self._by_bytes.setdefault(piece, []).append(index)
        self._longest = max(map(len, self._by_bytes), default=0)

    def knows(self, piece: bytes) -> bool:
        """Whether the string is one token."""
        return piece in self._by_bytes

    def count(self, source: bytes) -> int:
        """How many sequences of ids spell the string, exactly."""
        ways = [0] * len(source) + [1]
        for at in range(len(source) - 1, -1, -1):
            ways[at] = sum(len(ids) * ways[at + size] for size, ids in self._starting(source, at))
        return ways[0]

    def shortest(self, source: bytes, most: int) -> list[tuple[int, ...]]:
        """The `most` spellings of fewest ids, fewest first and then by their ids; all where there are no more."""
        ways: list[list[tuple[int, ...]]] = [[] for _ in source] + [[()]]
        for at in range(len(source) - 1, -1, -1):
            found = [
                (index, *rest) for size, ids in self._starting(source, at) for index in ids for rest in ways[at + size]
            ]
            ways[at] = sorted(found, key=lambda way: (len(way), way))[:most]
        return ways[0]

    def _starting(self, source: bytes, at: int) -> list[tuple[int, list[int]]]:
        """(size, ids) of the tokens that source[at:] begins with."""
        sizes = range(1, min(self._longest, len(source) - at) + 1)
        return [(size, ids) for size in sizes if (ids := self._by_bytes.get(source[at : at + size]))]
