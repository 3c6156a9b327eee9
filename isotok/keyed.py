"""Keyed random streams: what is drawn depends on a key such as (seed, epoch, index), never on global state."""

import functools
import hashlib
from typing import TYPE_CHECKING, Any

from isotok.files import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


def keyed_int(*key: str | int, bits: int = 64) -> int:
    """An integer in [0, 2**bits) that depends on the key alone."""
    digest = hashlib.blake2b(canonical_json(list(key)).encode(), digest_size=16).digest()
    return int.from_bytes(digest, "big") >> (128 - bits)


def keyed_rng(*key: str | int) -> "np.random.Generator":
    """A numpy generator (Philox, counter-based) that depends on the key alone."""
    import numpy as np

    number = keyed_int(*key, bits=128)
    words = np.array([number & (2**64 - 1), number >> 64], np.uint64)
    return np.random.Generator(np.random.Philox(_philox_key()(words)))


@functools.cache
def _philox_key() -> "Callable[[np.ndarray], Any]":
    """What gives Philox its key, as `Philox(key=...)` does, which asks the system for entropy too: thrice the time."""
    from numpy.random.bit_generator import ISeedSequence

    class Key(ISeedSequence):
        def __init__(self, words: "np.ndarray") -> None:
            self.words = words

        def generate_state(self, n_words: int, dtype: object = None) -> "np.ndarray":
            return self.words

    return Key


def permuted(index: int, size: int, *key: str | int) -> int:
    """Where `index` goes under a keyed permutation of range(size), without a table.

    A four-round Feistel network over the next even power of two, with cycle walking
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    if not 0 <= index < size:
        raise IndexError(f"index {index} outside range({size})")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = [keyed_int("feistel", r, *key) for r in range(4)]
    while True:
        left, right = index >> half, index & mask
        for k in keys:
            left, right = right, left ^ (_mix(right ^ k) & mask)
        index = (left << half) | right
        if index < size:
            return index


def permuted_all(indices: "np.ndarray", size: int, *key: str | int) -> "np.ndarray":
    """`permuted` of many indices at once: int64 in, int64 out."""
    import numpy as np

    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    keys = [np.uint64(keyed_int("feistel", r, *key)) for r in range(4)]
    found = np.asarray(indices).astype(np.uint64)
    walking = np.arange(len(found))
    while len(walking):
        left, right = found[walking] >> shift, found[walking] & mask
        for k in keys:
            left, right = right, left ^ (_mix_all(right ^ k) & mask)
        found[walking] = (left << shift) | right
        walking = walking[found[walking] >= size]
    return found.astype(np.int64)


def _mix_all(x: "np.ndarray") -> "np.ndarray":
    """`_mix` of an array of uint64, which wraps around by itself."""
    import numpy as np

    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix(x: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    x &= (1 << 64) - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & ((1 << 64) - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & ((1 << 64) - 1)
    return x ^ (x >> 31)
