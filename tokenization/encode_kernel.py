"""Merges applied to many byte strings: BPE encoding of chunks, each as if on its own.

A merge list gives one segmentation: the earliest merge that applies anywhere comes first, from left to right. To do
this once a word instead of once a line, a chunk is cut at *safe cuts*, between two bytes that stand side by side inside
no token: no merge can ever cross one, so the parts are independent, and the ids of each distinct part are kept.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import NamedTuple

import numpy as np
from numba import njit

from tokenization.token_table import mix

_KEPT_BYTES = 64  # longer parts are rare and not kept
_SHORT = 48  # parts of more symbols go through a heap
MAX_PART_BYTES = 1 << 27  # what a heap over one part may cost: 4 GB
_NONE = np.int32(0x7FFFFFFF)


class MergeTable(NamedTuple):
    """A merge list to look pairs up in.

    slots (int32, a power of two): open addressing by pair, rank or -1; pairs (int32, rows by rank): left, right,
    result; byte_ids (int32, 256); unsafe (bool, 256 x 256): whether two bytes are ever neighbours inside a token.
    """

    slots: np.ndarray
    pairs: np.ndarray
    byte_ids: np.ndarray
    unsafe: np.ndarray


class _Parts(NamedTuple):
    """Ids of parts seen before. slots (int64): hash tag << 32 | part + 1; text, text_ends, ids, id_ends: joined."""

    slots: np.ndarray
    text: np.ndarray
    text_ends: np.ndarray
    ids: np.ndarray
    id_ends: np.ndarray


@njit(cache=True, nogil=True)
def merge_table(pairs, byte_ids, token_data, token_ends):
    """The table of merges (int32 rows left, right, result by rank); tokens' bytes joined, their ends from 0.

    Returns it with the rank of a second merge of the same pair, or -1.
    """
    bits = 4
    while (1 << bits) < 2 * len(pairs):
        bits += 1
    slots = np.full(1 << bits, -1, np.int32)
    table = MergeTable(slots, pairs, byte_ids, np.zeros((256, 256), np.bool_))
    twice = -1
    for rank in range(len(pairs)):
        if _rank(table, pairs[rank, 0], pairs[rank, 1]) != _NONE:
            twice = rank
        i = mix((np.int64(pairs[rank, 0]) << 32) | pairs[rank, 1]) & (len(slots) - 1)
        while slots[i] >= 0:
            i = (i + 1) & (len(slots) - 1)
        slots[i] = rank
    for token in range(len(token_ends) - 1):
        for i in range(token_ends[token] + 1, token_ends[token + 1]):
            table.unsafe[token_data[i - 1], token_data[i]] = True
    return table, twice


@njit(cache=True, nogil=True)
def _rank(table, left, right):
    mask = len(table.slots) - 1
    i = mix((np.int64(left) << 32) | np.int64(right)) & mask
    while table.slots[i] >= 0:
        rank = table.slots[i]
        if table.pairs[rank, 0] == left and table.pairs[rank, 1] == right:
            return rank
        i = (i + 1) & mask
    return _NONE


@njit(cache=True, nogil=True)
def _encode_short(table, ids, ranks, n):
    """Merge ids[:n] in place by scanning for the lowest rank; returns how many are left."""
    for i in range(n - 1):
        ranks[i] = _rank(table, ids[i], ids[i + 1])
    while n > 1:
        best = 0
        for i in range(1, n - 1):
            if ranks[i] < ranks[best]:
                best = i
        if ranks[best] == _NONE:
            break
        ids[best] = table.pairs[ranks[best], 2]
        n -= 1
        for i in range(best + 1, n):
            ids[i] = ids[i + 1]
            ranks[i - 1] = ranks[i]
        if best > 0:
            ranks[best - 1] = _rank(table, ids[best - 1], ids[best])
        if best < n - 1:
            ranks[best] = _rank(table, ids[best], ids[best + 1])
    return n


@njit(cache=True, nogil=True)
def _heap_push(heap, size, key):
    i = size
    heap[i] = key
    while i > 0 and heap[i] < heap[(i - 1) >> 1]:
        heap[i], heap[(i - 1) >> 1] = heap[(i - 1) >> 1], heap[i]
        i = (i - 1) >> 1


@njit(cache=True, nogil=True)
def _heap_pop(heap, size):
    """Take the smallest of heap[:size] away; heap[size - 1] is free afterwards."""
    heap[0] = heap[size - 1]
    size -= 1
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            return
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[i] <= heap[child]:
            return
        heap[i], heap[child] = heap[child], heap[i]
        i = child


@njit(cache=True, nogil=True)
def _encode_long(table, ids, n):
    """Merge ids[:n] in place with a heap of (rank, position), in O(n log n); returns how many are left."""
    after, before = np.arange(1, n + 1).astype(np.int32), np.arange(-1, n - 1).astype(np.int32)
    heap = np.empty(3 * n, np.int64)
    size = 0
    for i in range(n - 1):
        rank = _rank(table, ids[i], ids[i + 1])
        if rank != _NONE:
            _heap_push(heap, size, (np.int64(rank) << 40) | i)
            size += 1
    while size:
        rank, i = heap[0] >> 40, heap[0] & ((np.int64(1) << 40) - 1)
        _heap_pop(heap, size)
        size -= 1
        j = after[i] if ids[i] >= 0 else n
        # Out of date where one of the two has gone into another merge since.
        if j >= n or ids[i] != table.pairs[rank, 0] or ids[j] != table.pairs[rank, 1]:
            continue
        ids[i], ids[j] = table.pairs[rank, 2], -1
        after[i] = after[j]
        if after[j] < n:
            before[after[j]] = i
            rank = _rank(table, ids[i], ids[after[i]])
            if rank != _NONE:
                _heap_push(heap, size, (np.int64(rank) << 40) | i)
                size += 1
        if before[i] >= 0:
            rank = _rank(table, ids[before[i]], ids[i])
            if rank != _NONE:
                _heap_push(heap, size, (np.int64(rank) << 40) | before[i])
                size += 1
    left = 0
    for i in range(n):
        if ids[i] >= 0:
            ids[left] = ids[i]
            left += 1
    return left


@njit(cache=True, nogil=True)
def _new_parts():
    return _Parts(
        np.zeros(1 << 16, np.int64),
        np.empty(1 << 18, np.uint8),
        np.zeros((1 << 15) + 1, np.int64),
        np.empty(1 << 17, np.int32),
        np.zeros((1 << 15) + 1, np.int64),
    )


@njit(cache=True, nogil=True)
def _grow_parts(parts, n):
    """Twice the room; a slot's place comes from its tag, so the texts are not hashed again."""
    slots = np.zeros(2 * len(parts.slots), np.int64)
    mask = len(slots) - 1
    for slot in parts.slots:
        if slot:
            i = (slot >> 32) & mask
            while slots[i]:
                i = (i + 1) & mask
            slots[i] = slot
    text_ends, id_ends = np.zeros(2 * n + 1, np.int64), np.zeros(2 * n + 1, np.int64)
    text_ends[: n + 1], id_ends[: n + 1] = parts.text_ends[: n + 1], parts.id_ends[: n + 1]
    return _Parts(slots, parts.text, text_ends, parts.ids, id_ends)


@njit(cache=True, nogil=True)
def encode_chunks(table, data, ends, first, last, max_parts):
    """Ids of chunks first..last-1 (bytes joined, their ends) → ids (int32, joined), id_ends (int64, from 0).

    At most `max_parts` distinct parts are kept, for memory; the result does not depend on it. A part of more than
    MAX_PART_BYTES is not encoded: its chunk's end is -1 and the rest is left undone.
    """
    begin = ends[first - 1] if first else 0
    out = np.empty(1024 + (ends[last - 1] - begin) // 3 if last > first else 1, np.int32)
    out_ends = np.empty(last - first, np.int64)
    parts, n_parts = _new_parts(), 0
    ranks = np.empty(_SHORT, np.int32)
    used = 0
    for chunk in range(first, last):
        end = ends[chunk]
        start = begin
        while start < end:
            stop = start + 1
            x = np.int64(-3750763034362895579) ^ np.int64(data[start])
            while stop < end and table.unsafe[data[stop - 1], data[stop]]:
                x = (x * np.int64(1099511628211)) ^ np.int64(data[stop])
                stop += 1
            size = stop - start
            if size > MAX_PART_BYTES:
                out_ends[chunk - first :] = -1
                return out[:used].copy(), out_ends
            if used + size > len(out):
                grown = np.empty(len(out) + len(out) // 2 + size, np.int32)
                grown[:used] = out[:used]
                out = grown
            slot = np.int64(-1)
            if size <= _KEPT_BYTES:
                mask = len(parts.slots) - 1
                tag = mix(x) & 0x7FFFFFFF  # 31 bits, so that a slot is never negative
                slot = tag & mask
                found = -1
                while parts.slots[slot]:
                    if parts.slots[slot] >> 32 == tag:
                        part = (parts.slots[slot] & 0xFFFFFFFF) - 1
                        at = parts.text_ends[part]
                        if parts.text_ends[part + 1] - at == size:
                            j = 0
                            while j < size and parts.text[at + j] == data[start + j]:
                                j += 1
                            if j == size:
                                found = part
                                break
                    slot = (slot + 1) & mask
                if found >= 0:
                    for j in range(parts.id_ends[found], parts.id_ends[found + 1]):
                        out[used] = parts.ids[j]
                        used += 1
                    start = stop
                    continue
            ids = out[used : used + size]
            for j in range(size):
                ids[j] = table.byte_ids[data[start + j]]
            n = _encode_short(table, ids, ranks, size) if size <= _SHORT else _encode_long(table, ids, size)
            used += n
            if slot >= 0 and n_parts < max_parts:
                at, id_at = parts.text_ends[n_parts], parts.id_ends[n_parts]
                text, kept = parts.text, parts.ids
                if at + size > len(text):
                    text = np.empty(2 * len(text), np.uint8)
                    text[:at] = parts.text[:at]
                if id_at + n > len(kept):
                    kept = np.empty(2 * len(kept), np.int32)
                    kept[:id_at] = parts.ids[:id_at]
                parts = _Parts(parts.slots, text, parts.text_ends, kept, parts.id_ends)
                parts.text[at : at + size] = data[start:stop]
                parts.ids[id_at : id_at + n] = ids[:n]
                n_parts += 1
                parts.text_ends[n_parts], parts.id_ends[n_parts] = at + size, id_at + n
                parts.slots[slot] = (tag << 32) | n_parts
                if 2 * n_parts >= len(parts.slots):
                    parts = _grow_parts(parts, n_parts)
            start = stop
        begin = end
        out_ends[chunk - first] = used
    return out[:used].copy(), out_ends
