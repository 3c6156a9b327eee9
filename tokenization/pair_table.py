"""The pairs that the merge learner tracks, by their ids, and the heap that gives the best one. Compiled by Numba."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import NamedTuple

import numpy as np
from numba import njit

from tokenization.hashing import mix

DEAD = -(1 << 62)
"""The count of a pair that will not be merged (again)."""


class Pairs(NamedTuple):
    """Tracked pairs. slots (int32, a power of two): open addressing, index or -1; keys (int64): left << 32 | right;
    counts (int64); starts, lengths (int64): slices of `arena` (int32, int64 from 2^31 symbols on)."""

    slots: np.ndarray
    keys: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    arena: np.ndarray


class Heap(NamedTuple):
    """A binary heap, best first. counts, keys (int64); pairs (int32): index into Pairs."""

    counts: np.ndarray
    keys: np.ndarray
    pairs: np.ndarray


@njit(cache=True, nogil=True, forceinline=True)
def pack_pair(left, right):
    return (np.int64(left) << 32) | np.int64(right)


@njit(cache=True, nogil=True)
def new_pairs(capacity, arena):
    bits = 10
    while (1 << bits) < 2 * capacity:
        bits += 1
    return Pairs(
        np.full(1 << bits, -1, np.int32),
        np.empty(capacity, np.int64),
        np.zeros(capacity, np.int64),
        np.zeros(capacity, np.int64),
        np.zeros(capacity, np.int64),
        arena,
    )


@njit(cache=True, nogil=True)
def grow_pairs(pairs, n, needed):
    grown = new_pairs(needed + needed // 2, pairs.arena)
    for i in range(n):
        add(grown.slots, grown.keys, i, pairs.keys[i])
    grown.counts[:n], grown.starts[:n], grown.lengths[:n] = pairs.counts[:n], pairs.starts[:n], pairs.lengths[:n]
    return grown


@njit(cache=True, nogil=True, forceinline=True)
def find(slots, keys, key):
    """The index of a pair, or -1."""
    mask = len(slots) - 1
    i = mix(key) & mask
    while slots[i] >= 0:
        if keys[slots[i]] == key:
            return np.int64(slots[i])
        i = (i + 1) & mask
    return np.int64(-1)


@njit(cache=True, nogil=True)
def add(slots, keys, index, key):
    """Enter a pair that is not there yet."""
    mask = len(slots) - 1
    i = mix(key) & mask
    while slots[i] >= 0:
        i = (i + 1) & mask
    slots[i] = index
    keys[index] = key


@njit(cache=True, nogil=True)
def new_heap(capacity):
    return Heap(np.empty(capacity, np.int64), np.empty(capacity, np.int64), np.empty(capacity, np.int32))


@njit(cache=True, nogil=True, forceinline=True)
def _before(heap, i, j):
    return heap.counts[i] > heap.counts[j] or (heap.counts[i] == heap.counts[j] and heap.keys[i] < heap.keys[j])


@njit(cache=True, nogil=True, forceinline=True)
def _move(heap, source, target):
    heap.counts[target] = heap.counts[source]
    heap.keys[target] = heap.keys[source]
    heap.pairs[target] = heap.pairs[source]


@njit(cache=True, nogil=True)
def _swap(heap, i, j):
    heap.counts[i], heap.counts[j] = heap.counts[j], heap.counts[i]
    heap.keys[i], heap.keys[j] = heap.keys[j], heap.keys[i]
    heap.pairs[i], heap.pairs[j] = heap.pairs[j], heap.pairs[i]


@njit(cache=True, nogil=True)
def push(heap, size, count, key, pair):
    heap.counts[size] = count
    heap.keys[size] = key
    heap.pairs[size] = pair
    i = size
    while i > 0 and _before(heap, i, (i - 1) >> 1):
        _swap(heap, i, (i - 1) >> 1)
        i = (i - 1) >> 1


@njit(cache=True, nogil=True)
def _sift_down(heap, size):
    i = 0
    while True:
        best = 2 * i + 1
        if best >= size:
            return
        if best + 1 < size and _before(heap, best + 1, best):
            best += 1
        if not _before(heap, best, i):
            return
        _swap(heap, i, best)
        i = best


@njit(cache=True, nogil=True)
def grow_heap(heap, size, needed):
    grown = new_heap(needed + needed // 2)
    grown.counts[:size] = heap.counts[:size]
    grown.keys[:size] = heap.keys[:size]
    grown.pairs[:size] = heap.pairs[:size]
    return grown


@njit(cache=True, nogil=True)
def replace_top(heap, size, count, threshold):
    """Give the top its count of now and let it sink, or take it away when that is below the threshold; the new size."""
    if count >= threshold:
        heap.counts[0] = count
    else:
        size -= 1
        _move(heap, size, 0)
    _sift_down(heap, size)
    return size
