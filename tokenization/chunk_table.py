"""A hash table from byte strings to counts, compiled by Numba: what each counting thread fills."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import NamedTuple

import numpy as np
from numba import njit

ENTRIES = 0
_ONCE = np.empty(0, np.int64)


class Table(NamedTuple):
    """slots (int64, a power of two): hash tag << 32 | entry + 1, 0 is free; data (uint8): the strings joined;
    ends, counts (int64): by entry, in order of first sight; sizes (int64): number of entries."""

    slots: np.ndarray
    data: np.ndarray
    ends: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray


def new_table() -> Table:
    return Table(
        np.zeros(1 << 16, np.int64),
        np.empty(1 << 18, np.uint8),
        np.empty(1 << 15, np.int64),
        np.empty(1 << 15, np.int64),
        np.zeros(1, np.int64),
    )


def count(table: Table, data: np.ndarray, ends: np.ndarray) -> Table:
    """Count strings (uint8 joined, their int64 ends); use the table that comes back, it may have grown."""
    return _add(table, data, ends, _ONCE)


def add_table(table: Table, other: Table) -> Table:
    """Add another table's counts; use the table that comes back."""
    return _add(table, *entries(other))


def entries(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the table holds: strings joined (uint8), their ends (int64), their counts (int64)."""
    n = int(table.sizes[ENTRIES])
    return table.data[: table.ends[n - 1] if n else 0], table.ends[:n], table.counts[:n]


@njit(cache=True, nogil=True)
def _add(table, data, ends, amounts):
    n = table.sizes[ENTRIES]
    used = table.ends[n - 1] if n else np.int64(0)
    start = np.int64(0)
    for k in range(len(ends)):
        end = ends[k]
        amount = amounts[k] if len(amounts) else 1
        x = np.uint64(14695981039346656037)
        for i in range(start, end):
            x = (x ^ np.uint64(data[i])) * np.uint64(1099511628211)
        x = (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        tag = np.int64(x >> np.uint64(33))  # 31 bits, so that a slot is never negative
        mask = len(table.slots) - 1
        slot = tag & mask
        entry = np.int64(-1)
        while table.slots[slot]:
            if table.slots[slot] >> 32 == tag:
                other = (table.slots[slot] & 0xFFFFFFFF) - 1
                at = table.ends[other - 1] if other else np.int64(0)
                if table.ends[other] - at == end - start:
                    i = start
                    while i < end and table.data[at] == data[i]:
                        i += 1
                        at += 1
                    if i == end:
                        entry = other
                        break
            slot = (slot + 1) & mask
        if entry >= 0:
            table.counts[entry] += amount
        else:
            if n == len(table.ends) or used + end - start > len(table.data):
                table = _grow(table, n, used, used + end - start)
            for i in range(start, end):
                table.data[used + i - start] = data[i]
            used += end - start
            table.ends[n] = used
            table.counts[n] = amount
            n += 1
            table.slots[slot] = (tag << 32) | n
            if 2 * n >= len(table.slots):
                table = _rehash(table)
        start = end
    table.sizes[ENTRIES] = n
    return table


@njit(cache=True, nogil=True)
def _grow(table, n, used, needed):
    data, ends, counts = table.data, table.ends, table.counts
    if needed > len(data):
        data = np.empty(needed + needed // 2, np.uint8)
        data[:used] = table.data[:used]
    if n == len(ends):
        ends, counts = np.empty(n + n // 2, np.int64), np.empty(n + n // 2, np.int64)
        ends[:n], counts[:n] = table.ends[:n], table.counts[:n]
    return Table(table.slots, data, ends, counts, table.sizes)


@njit(cache=True, nogil=True)
def _rehash(table):
    slots = np.zeros(2 * len(table.slots), np.int64)
    mask = len(slots) - 1
    for slot in table.slots:
        if slot:
            i = (slot >> 32) & mask
            while slots[i]:
                i = (i + 1) & mask
            slots[i] = slot
    return Table(slots, table.data, table.ends, table.counts, table.sizes)
