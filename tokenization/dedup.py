"""Duplicates and leaks: what appears twice, and what held-out text shares with training text."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tokenization.documents import Document

GRAM_WORDS = 13
PERMUTATIONS = 128
SHINGLE_BYTES = 50
MAX_SHINGLES = 4_000_000
_BLOCK = 1 << 16
_MULTIPLIER = 0x9E3779B97F4A7C15 | 1
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Duplicate:
    """`dropped` is a copy of `kept` (ids), which came first; `similarity`: estimated Jaccard index of their grams."""

    dropped: str
    kept: str
    n_bytes: int
    across_groups: bool
    similarity: float


class DuplicateFinder:
    """Exact and near duplicates among documents given one after the other; the first of its kind is kept.

    Exact means equal up to case and whitespace. Near means that the MinHash estimate (Broder, 1997) of the Jaccard
    index of the two sets of 13-word grams reaches `threshold`, among the candidates of the library's banded LSH.
    A threshold of 1 looks for exact duplicates only.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._kept: list[Document] = []
        self._exact: dict[bytes, int] = {}
        self._index = None
        if threshold < 1:
            from datasketch import MinHash, MinHashLSH

            self._index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
            self._empty = MinHash(num_perm=PERMUTATIONS, hashfunc=_identity)
            self._sketches: list[MinHash] = []

    def add(self, document: Document) -> Duplicate | None:
        """The duplicate that this document is, or None after remembering it."""
        words = document.text.lower().split()
        normal = " ".join(words).encode()
        digest = hashlib.blake2b(normal, digest_size=16).digest()
        if digest in self._exact:
            return _duplicate(document, self._kept[self._exact[digest]], 1.0)
        if self._index is not None:
            sketch = self._empty.copy()
            grams = word_grams(normal)
            for start in range(0, len(grams), _BLOCK):
                sketch.update_batch(grams[start : start + _BLOCK].tolist())
            close = [(sketch.jaccard(self._sketches[i]), -i) for i in self._index.query(sketch)]
            similarity, i = max(close, default=(0.0, 0))
            if similarity >= self.threshold:
                return _duplicate(document, self._kept[-i], float(similarity))
            self._index.insert(len(self._kept), sketch, check_duplication=False)
            self._sketches.append(sketch)
        self._exact[digest] = len(self._kept)
        self._kept.append(document)
        return None


def _duplicate(dropped: Document, kept: Document, similarity: float) -> Duplicate:
    return Duplicate(dropped.id, kept.id, dropped.n_bytes, dropped.group != kept.group, similarity)


def word_grams(normal: bytes) -> np.ndarray:
    """The distinct 32-bit hashes (uint64 array, sorted) of all runs of GRAM_WORDS words in single-spaced text.

    A text of fewer words is one gram.
    """
    data = np.frombuffer(normal, dtype=np.uint8)
    if not len(data):
        return np.zeros(0, dtype=np.uint64)
    spaces = np.flatnonzero(data == 0x20)
    starts = np.concatenate([[0], spaces + 1])
    lengths = np.diff(np.concatenate([starts, [len(data) + 1]]))
    place = np.arange(len(data)) - np.repeat(starts, lengths)[: len(data)]
    powers, table = _powers(_MULTIPLIER, 4096), _byte_table()
    letters = table[data] * powers[place & 4095]
    letters[spaces] = 0  # the space after a word belongs to its slice
    words = _mix(np.add.reduceat(letters, starts))
    size = min(GRAM_WORDS, len(words))
    count = len(words) - size + 1
    grams = np.zeros(count, dtype=np.uint64)
    for k in range(size):
        grams += words[k : k + count] * powers[k + 1]
    return np.unique(_mix(grams) >> np.uint64(32))


@dataclass(frozen=True)
class Leak:
    """How much of each held-out document stands in the training text, in shingles of SHINGLE_BYTES bytes.

    totals, leaked: (documents,) shingles read, and those of them that occur in the training text.
    """

    stride: int
    totals: np.ndarray
    leaked: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """(documents,)"""
        return self.leaked / np.maximum(self.totals, 1)

    @property
    def share(self) -> float:
        return float(self.leaked.sum() / max(self.totals.sum(), 1))

    def of(self, documents: np.ndarray) -> "Leak":
        """The same for some of the documents, by index or mask."""
        return Leak(self.stride, self.totals[documents], self.leaked[documents])


def leak(
    train: Iterable[Document],
    held_out: list[Document],
    advance: Callable[[float], None] = lambda n_bytes: None,
) -> Leak:
    """How many shingles of each held-out document occur anywhere in the training text.

    Every position of the training text is looked up. Held-out text is read at every position too, or at every
    `stride`-th where it has more than MAX_SHINGLES of them, which bounds the memory. Hashes have 64 bits.
    """
    stride = -(-sum(document.n_bytes for document in held_out) // MAX_SHINGLES) or 1
    hashes, owners = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
    for i, document in enumerate(held_out):
        found = np.concatenate([np.zeros(0, dtype=np.uint64), *shingles(document.text.encode())])[::stride]
        hashes.append(found)
        owners.append(np.full(len(found), i))
    wanted, place = np.unique(np.concatenate(hashes), return_inverse=True)
    if not len(wanted):
        return Leak(stride, np.zeros(len(held_out)), np.zeros(len(held_out)))
    # Most training shingles occur nowhere else: a table of 24-bit remainders rejects them without a search.
    near = np.zeros(1 << 24, dtype=bool)
    near[_low(wanted)] = True
    seen = np.zeros(len(wanted), dtype=bool)
    for document in train:
        for block in shingles(document.text.encode()):
            likely = block[near[_low(block)]]
            at = np.minimum(np.searchsorted(wanted, likely), len(wanted) - 1)
            seen[at[wanted[at] == likely]] = True
        advance(document.n_bytes)
    owner = np.concatenate(owners)
    count = len(held_out)
    return Leak(stride, np.bincount(owner, minlength=count), np.bincount(owner, weights=seen[place], minlength=count))


def shingles(data: bytes) -> Iterator[np.ndarray]:
    """Hashes (uint64) of all runs of SHINGLE_BYTES bytes, block by block.

    With prefix sums S[i] of table[byte j] * m**j modulo 2**64, a run's hash is (S[i + 50] - S[i]) * m**-i.
    """
    powers = _powers(_MULTIPLIER, _BLOCK + SHINGLE_BYTES)
    inverses = _powers(pow(_MULTIPLIER, -1, 1 << 64), _BLOCK + SHINGLE_BYTES)
    table = _byte_table()
    for start in range(0, len(data) - SHINGLE_BYTES + 1, _BLOCK):
        block = np.frombuffer(data, np.uint8, min(_BLOCK + SHINGLE_BYTES - 1, len(data) - start), start)
        sums = np.zeros(len(block) + 1, dtype=np.uint64)
        np.cumsum(table[block] * powers[: len(block)], out=sums[1:])
        count = len(block) - SHINGLE_BYTES + 1
        yield _mix((sums[SHINGLE_BYTES:] - sums[:count]) * inverses[:count])


def _low(hashes: np.ndarray) -> np.ndarray:
    return hashes & np.uint64((1 << 24) - 1)


def _identity(value: int) -> int:
    return value


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@functools.cache
def _powers(base: int, count: int) -> np.ndarray:
    powers, value = np.empty(count, dtype=np.uint64), 1
    for i in range(count):
        powers[i] = value
        value = value * base & _MASK
    return powers


@functools.cache
def _byte_table() -> np.ndarray:
    return _mix(np.arange(1, 257, dtype=np.uint64) * np.uint64(_MULTIPLIER))
