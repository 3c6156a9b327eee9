"""What the compiled tables share: hashes, and short byte strings as two numbers. Compiled by Numba."""

# mypy: allow-untyped-defs, no-check-untyped-defs

import numpy as np
from numba import njit

PACKED_BYTES = 15
"""Byte strings of up to so many bytes fit into two int64, so that a table holds them in place."""


@njit(cache=True, nogil=True, forceinline=True)
def mix(key):
    """A hash of an int64, 40 bits, never negative."""
    x = np.uint64(key)
    x = (x ^ (x >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.int64(x >> np.uint64(24))


@njit(cache=True, nogil=True, forceinline=True)
def pack(data, start, end):
    """data[start:end] (1 to PACKED_BYTES bytes) as (low, high), its length in the top byte of high: never (x, 0)."""
    low, high = np.uint64(0), np.uint64(end - start) << np.uint64(56)
    size = np.uint64(end - start)
    at = np.uint64(start)
    for i in range(min(size, np.uint64(8))):
        low |= np.uint64(data[at + np.uint64(i)]) << np.uint64(8 * i)
    for i in range(8, size):
        high |= np.uint64(data[at + np.uint64(i)]) << np.uint64(8 * i - 64)
    return np.int64(low), np.int64(high)


@njit(cache=True, nogil=True, forceinline=True)
def mix_packed(low, high):
    """A hash of a packed string, 40 bits, never negative."""
    return mix(np.uint64(low) ^ (np.uint64(high) * np.uint64(0xD6E8FEB86659FD93)))


@njit(cache=True, nogil=True, forceinline=True)
def hash_bytes(data, start, end):
    """A hash of data[start:end], 40 bits, never negative."""
    x = np.uint64(14695981039346656037)
    for i in range(np.uint64(start), np.uint64(end)):
        x = (x ^ np.uint64(data[i])) * np.uint64(1099511628211)
    return mix(x)


@njit(cache=True, nogil=True, forceinline=True)
def equal(one, at, other, start, size):
    """Whether one[at : at + size] and other[start : start + size] are the same bytes."""
    i = np.uint64(0)
    a, b, n = np.uint64(at), np.uint64(start), np.uint64(size)
    while i < n and one[a + i] == other[b + i]:
        i += np.uint64(1)
    return i == n


@njit(cache=True, nogil=True)
def grow_short(short):
    """Twice the slots. Column 1 of a slot in use is never 0."""
    larger = np.zeros((2 * len(short), 4), np.int64)
    mask = len(larger) - 1
    for i in range(len(short)):
        if short[i, 1]:
            slot = mix_packed(short[i, 0], short[i, 1]) & mask
            while larger[slot, 1]:
                slot = (slot + 1) & mask
            for j in range(4):
                larger[slot, j] = short[i, j]
    return larger


@njit(cache=True, nogil=True)
def grow_slots(slots):
    """Twice the slots of `tag << 32 | n`, 0 is free: a slot's place comes from its tag, nothing is hashed again."""
    larger = np.zeros(2 * len(slots), np.int64)
    mask = len(larger) - 1
    for slot in slots:
        if slot:
            i = (slot >> 32) & mask
            while larger[i]:
                i = (i + 1) & mask
            larger[i] = slot
    return larger


@njit(cache=True, nogil=True)
def grown(array, used, needed):
    """A copy of array[:used] with room for half as much again as needed."""
    larger = np.empty(needed + needed // 2, array.dtype)
    larger[:used] = array[:used]
    return larger
