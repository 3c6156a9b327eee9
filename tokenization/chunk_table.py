"""A hash table from byte strings to counts, compiled by Numba: what each counting thread fills.

Words make up most of the work and lines most of the memory, so short strings stand in the slots of one table, with
their counts (one access to memory each), and long ones are joined up beside another.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import NamedTuple

import numpy as np
from numba import njit

from tokenization.hashing import PACKED_BYTES, equal, grow_short, grow_slots, grown, hash_bytes, mix_packed, pack

_ONCE = np.empty(0, np.int64)
_SHORT, _LONG = 0, 1
_TAG = 0x7FFFFFFF  # 31 bits, so that a slot is never negative


class Table(NamedTuple):
    """short (int64, a power of two x 4): low, high, count of strings of up to 15 bytes, count 0 is free.

    Longer ones: slots (int64, a power of two): hash tag << 32 | entry + 1, 0 is free; data (uint8): joined; ends,
    counts (int64) by entry. sizes (int64): short and long entries.
    """

    short: np.ndarray
    slots: np.ndarray
    data: np.ndarray
    ends: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray


def new_table() -> Table:
    return Table(
        np.zeros((1 << 14, 4), np.int64),
        np.zeros(1 << 14, np.int64),
        np.empty(1 << 18, np.uint8),
        np.empty(1 << 13, np.int64),
        np.empty(1 << 13, np.int64),
        np.zeros(2, np.int64),
    )


def count(table: Table, data: np.ndarray, ends: np.ndarray) -> Table:
    """Count strings (uint8 joined, their int64 ends); use the table that comes back, it may have grown."""
    return _add(table, data, ends, _ONCE)


def add_table(table: Table, other: Table) -> Table:
    """Add another table's counts; use the table that comes back."""
    data, ends, counts = _short_entries(other)
    table = _add(table, data, ends, counts)
    n = other.sizes[_LONG]
    return _add(table, other.data, other.ends[:n], other.counts[:n])


def entries(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the table holds: strings joined (uint8), their ends (int64), their counts (int64); long ones first.

    The table's own arrays go into it, so it is used up.
    """
    n = int(table.sizes[_LONG])
    used = int(table.ends[n - 1]) if n else 0
    data, ends, counts = _short_entries(table)
    return _extended(table.data, used, data), _extended(table.ends, n, ends + used), _extended(table.counts, n, counts)


def _extended(array: np.ndarray, used: int, more: np.ndarray) -> np.ndarray:
    total = used + len(more)
    if total > len(array):
        array = grown(array, used, total)
    array[used:total] = more
    return array[:total]


@njit(cache=True, nogil=True)
def _add(table, data, ends, amounts):
    # Arrays as locals: taking one out of the table counts a reference, which costs more than the work on a string.
    short, slots, joined, joined_ends, counts, sizes = table
    n_short, n = sizes[_SHORT], sizes[_LONG]
    used = joined_ends[n - 1] if n else np.int64(0)
    start = np.int64(0)
    for k in range(len(ends)):
        end = ends[k]
        amount = amounts[k] if len(amounts) else np.int64(1)
        if end - start <= PACKED_BYTES:
            low, high = pack(data, start, end)
            mask = len(short) - 1
            slot = mix_packed(low, high) & mask
            while short[slot, 2] and (short[slot, 0] != low or short[slot, 1] != high):
                slot = (slot + 1) & mask
            if not short[slot, 2]:
                short[slot, 0], short[slot, 1] = low, high
                n_short += 1
            short[slot, 2] += amount
            if 2 * n_short > mask:
                short = grow_short(short)
        else:
            tag = hash_bytes(data, start, end) & _TAG
            mask = len(slots) - 1
            slot = tag & mask
            entry = np.int64(-1)
            while slots[slot]:
                if slots[slot] >> 32 == tag:
                    other = (slots[slot] & 0xFFFFFFFF) - 1
                    at = joined_ends[other - 1] if other else np.int64(0)
                    if joined_ends[other] - at == end - start and equal(joined, at, data, start, end - start):
                        entry = other
                        break
                slot = (slot + 1) & mask
            if entry >= 0:
                counts[entry] += amount
            else:
                if used + end - start > len(joined):
                    joined = grown(joined, used, used + end - start)
                if n == len(joined_ends):
                    joined_ends, counts = grown(joined_ends, n, n + 1), grown(counts, n, n + 1)
                for i in range(start, end):
                    joined[used] = data[i]
                    used += 1
                joined_ends[n] = used
                counts[n] = amount
                n += 1
                slots[slot] = (tag << 32) | n
                if 2 * n > mask:
                    slots = grow_slots(slots)
        start = end
    sizes[_SHORT], sizes[_LONG] = n_short, n
    return Table(short, slots, joined, joined_ends, counts, sizes)


@njit(cache=True, nogil=True)
def _short_entries(table):
    n = table.sizes[_SHORT]
    data, ends, counts = np.empty(PACKED_BYTES * n, np.uint8), np.empty(n, np.int64), np.empty(n, np.int64)
    used = k = 0
    for slot in range(len(table.short)):
        if table.short[slot, 2]:
            low, high = np.uint64(table.short[slot, 0]), np.uint64(table.short[slot, 1])
            for i in range(high >> np.uint64(56)):
                word = low >> np.uint64(8 * i) if i < 8 else high >> np.uint64(8 * i - 64)
                data[used] = np.uint8(word & np.uint64(255))
                used += 1
            ends[k], counts[k] = used, table.short[slot, 2]
            k += 1
    return data[:used], ends, counts
