"""BPE-dropout piece by piece: merges from a heap, some dropped by a counter-based draw. Compiled by Numba."""

# mypy: allow-untyped-defs, no-check-untyped-defs

import numpy as np
from numba import njit

from tokenization.encode_kernel import NO_MERGE, close_up, heap_pop, heap_push, merge_at, rank_of

_POSITION = (np.int64(1) << 32) - 1
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@njit(cache=True, nogil=True, forceinline=True)
def _scramble(x):
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True, forceinline=True)
def _uniform(stream, draw):
    """Draw number `draw` of a stream, in [0, 1)."""
    return np.float64(_scramble(stream + np.uint64(draw) * _GAMMA) >> np.uint64(11)) * 2.0**-53


@njit(cache=True, nogil=True)
def _merge(table, ids, after, before, heap, skipped, n, q, queue, stream):
    """Merge ids[:n] in place with dropout; returns how many are left.

    Both procedures take candidates in the order of (rank, position), drop each with probability q, and put those that
    were dropped back once one survives. In the reference procedure only candidates that still apply are drawn for, so
    that this is the same as drawing for all of them at every step and applying the best that survives; it ends when
    none does. In the library's queue those out of date are drawn for as well, and a survivor out of date also brings
    the dropped ones back; one is out of date if its place now merges into another token.
    """
    size, held, draw = 0, 0, 0
    for i in range(n):
        after[i], before[i] = i + 1, i - 1
        if i + 1 < n:
            rank = rank_of(table, ids[i], ids[i + 1])
            if rank != NO_MERGE:
                heap_push(heap, size, (np.int64(rank) << 32) | i)
                size += 1
    while size:
        key = heap[0]
        heap_pop(heap, size)
        size -= 1
        rank, i = key >> 32, key & _POSITION
        j = after[i] if ids[i] >= 0 else n
        applies = False
        if j < n:
            if queue:
                other = rank_of(table, ids[i], ids[j])
                applies = other != NO_MERGE and table.pairs[other, 2] == table.pairs[rank, 2]
            else:
                applies = ids[i] == table.pairs[rank, 0] and ids[j] == table.pairs[rank, 1]
        if applies or queue:
            draw += 1
            if _uniform(stream, draw) < q:
                skipped[held] = key
                held += 1
                continue
            for k in range(held):
                heap_push(heap, size, skipped[k])
                size += 1
            held = 0
        if not applies:
            continue
        size = merge_at(table, ids, after, before, n, i, j, rank, heap, size)
    return close_up(ids, n)


@njit(cache=True, nogil=True)
def drop_merges(table, data, ends, q, queue, key):
    """Ids (int32) of pieces (bytes joined, their ends), each merged with dropout q; piece k draws from stream (key, k).

    queue: the library's procedure instead of the reference's. key: uint64.
    """
    out = np.empty(len(data), np.int32)
    longest, start = 0, 0
    for k in range(len(ends)):
        longest, start = max(longest, ends[k] - start), ends[k]
    after, before = np.empty(longest, np.int32), np.empty(longest, np.int32)
    # A piece of n bytes has n - 1 candidates, and each of its merges, n - 1 at most, adds two.
    heap, skipped = np.empty(3 * longest, np.int64), np.empty(3 * longest, np.int64)
    used, start = 0, 0
    for k in range(len(ends)):
        n = ends[k] - start
        for i in range(n):
            out[used + i] = table.byte_ids[data[start + i]]
        stream = _scramble(key + np.uint64(k) * _GAMMA)
        used += _merge(table, out[used:], after, before, heap, skipped, n, q, queue, stream)
        start = ends[k]
    return out[:used].copy()
