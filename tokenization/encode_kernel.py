"""Merges applied to many byte strings: BPE encoding of chunks, each as if on its own.

A merge list gives one segmentation: the earliest merge that applies anywhere comes first, from left to right. To do
this once a word instead of once a line, a chunk is cut at *safe cuts*, between two bytes that stand side by side inside
no token: no merge can ever cross one, so the parts are independent, and the ids of each distinct part are kept.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import NamedTuple

import numpy as np
from numba import njit

from tokenization.hashing import PACKED_BYTES, equal, grow_short, grow_slots, grown, hash_bytes, mix, mix_packed, pack

_KEPT_BYTES = 64  # longer parts are rare and not kept
_SHORT = 48  # parts of more symbols go through a heap
MAX_PARTS = 4_000_000
MAX_PART_BYTES = 1 << 27  # what a heap over one part may cost: 4 GB
_TAG = 0x7FFFFFFF  # 31 bits, so that a slot is never negative
NO_MERGE = np.int32(0x7FFFFFFF)


class MergeTable(NamedTuple):
    """A merge list to look pairs up in.

    slots (int32, a power of two): open addressing by pair, rank or -1; pairs (int32, rows by rank): left, right,
    result; byte_ids (int32, 256); unsafe (bool, 256 x 256): whether two bytes are ever neighbours inside a token.
    """

    slots: np.ndarray
    pairs: np.ndarray
    byte_ids: np.ndarray
    unsafe: np.ndarray


class Parts(NamedTuple):
    """Ids of parts seen before, numbered as they came: ids[id_ends[k] : id_ends[k + 1]].

    short (int64, a power of two x 4): low, high of up to 15 bytes (high 0 is free) and their one id, or -1 - k. Longer
    parts: slots (int64, a power of two): hash tag << 32 | k + 1, 0 is free; text, text_ends: joined. sizes (int64):
    parts numbered, short and long ones.
    """

    short: np.ndarray
    slots: np.ndarray
    text: np.ndarray
    text_ends: np.ndarray
    ids: np.ndarray
    id_ends: np.ndarray
    sizes: np.ndarray


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
        if rank_of(table, pairs[rank, 0], pairs[rank, 1]) != NO_MERGE:
            twice = rank
        i = mix((np.int64(pairs[rank, 0]) << 32) | pairs[rank, 1]) & (len(slots) - 1)
        while slots[i] >= 0:
            i = (i + 1) & (len(slots) - 1)
        slots[i] = rank
    for token in range(len(token_ends) - 1):
        for i in range(token_ends[token] + 1, token_ends[token + 1]):
            table.unsafe[token_data[i - 1], token_data[i]] = True
    return table, twice


@njit(cache=True, nogil=True, forceinline=True)
def rank_of(table, left, right):
    mask = len(table.slots) - 1
    i = mix((np.int64(left) << 32) | np.int64(right)) & mask
    while table.slots[i] >= 0:
        rank = table.slots[i]
        if table.pairs[rank, 0] == left and table.pairs[rank, 1] == right:
            return rank
        i = (i + 1) & mask
    return NO_MERGE


@njit(cache=True, nogil=True)
def encode_short(table, ids, ranks, n):
    """Merge ids[:n] in place by scanning for the lowest rank; returns how many are left."""
    for i in range(n - 1):
        ranks[i] = rank_of(table, ids[i], ids[i + 1])
    while n > 1:
        best = 0
        for i in range(1, n - 1):
            if ranks[i] < ranks[best]:
                best = i
        if ranks[best] == NO_MERGE:
            break
        ids[best] = table.pairs[ranks[best], 2]
        n -= 1
        for i in range(best + 1, n):
            ids[i] = ids[i + 1]
            ranks[i - 1] = ranks[i]
        if best > 0:
            ranks[best - 1] = rank_of(table, ids[best - 1], ids[best])
        if best < n - 1:
            ranks[best] = rank_of(table, ids[best], ids[best + 1])
    return n


@njit(cache=True, nogil=True)
def heap_push(heap, size, key):
    i = size
    heap[i] = key
    while i > 0 and heap[i] < heap[(i - 1) >> 1]:
        heap[i], heap[(i - 1) >> 1] = heap[(i - 1) >> 1], heap[i]
        i = (i - 1) >> 1


@njit(cache=True, nogil=True)
def heap_pop(heap, size):
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


@njit(cache=True, nogil=True, forceinline=True)
def merge_at(table, ids, after, before, n, i, j, rank, heap, size):
    """Make one id of those at i and j, its right neighbour, and queue the merges that this allows; the heap's size.

    The heap holds rank << 32 | position; ids[j] becomes -1.
    """
    ids[i], ids[j] = table.pairs[rank, 2], -1
    after[i] = after[j]
    if after[j] < n:
        before[after[j]] = i
        rank = rank_of(table, ids[i], ids[after[i]])
        if rank != NO_MERGE:
            heap_push(heap, size, (np.int64(rank) << 32) | i)
            size += 1
    if before[i] >= 0:
        rank = rank_of(table, ids[before[i]], ids[i])
        if rank != NO_MERGE:
            heap_push(heap, size, (np.int64(rank) << 32) | before[i])
            size += 1
    return size


@njit(cache=True, nogil=True)
def close_up(ids, n):
    """Move the ids that are left (not -1) together, in place; returns how many."""
    left = 0
    for i in range(n):
        if ids[i] >= 0:
            ids[left] = ids[i]
            left += 1
    return left


@njit(cache=True, nogil=True)
def encode_long(table, ids, n):
    """Merge ids[:n] in place with a heap of (rank, position), in O(n log n); returns how many are left."""
    after, before = np.arange(1, n + 1).astype(np.int32), np.arange(-1, n - 1).astype(np.int32)
    heap = np.empty(3 * n, np.int64)
    size = 0
    for i in range(n - 1):
        rank = rank_of(table, ids[i], ids[i + 1])
        if rank != NO_MERGE:
            heap_push(heap, size, (np.int64(rank) << 32) | i)
            size += 1
    while size:
        rank, i = heap[0] >> 32, heap[0] & 0xFFFFFFFF
        heap_pop(heap, size)
        size -= 1
        j = after[i] if ids[i] >= 0 else n
        # Out of date where one of the two has gone into another merge since.
        if j >= n or ids[i] != table.pairs[rank, 0] or ids[j] != table.pairs[rank, 1]:
            continue
        size = merge_at(table, ids, after, before, n, i, j, rank, heap, size)
    return close_up(ids, n)


@njit(cache=True, nogil=True, forceinline=True)
def _slot_of_short(short, low, high):
    mask = len(short) - 1
    slot = mix_packed(low, high) & mask
    while short[slot, 1] and (short[slot, 0] != low or short[slot, 1] != high):
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True, forceinline=True)
def _slot_of_long(slots, text, text_ends, data, start, size, tag):
    mask = len(slots) - 1
    slot = tag & mask
    while slots[slot]:
        if slots[slot] >> 32 == tag:
            k = (slots[slot] & 0xFFFFFFFF) - 1
            if text_ends[k + 1] - text_ends[k] == size and equal(text, text_ends[k], data, start, size):
                break
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def _copy_known(unsafe, data, ends, last, short, slots, text, text_ends, ids, id_ends, out, out_ends, cursor):
    """Go on from the cursor (chunk, start, used) while parts are known and fit; returns the end of the one that is not.

    No array is replaced in here: that would count references in the innermost loop. Returns 0 at the end of the data.
    """
    chunk, start, used = cursor[0], cursor[1], cursor[2]
    while chunk < last:
        end = ends[chunk]
        while start < end:
            stop = start + 1
            while stop < end and unsafe[data[stop - 1], data[stop]]:
                stop += 1
            size = stop - start
            part = np.int64(-1)
            one = np.int64(-1)
            if size <= PACKED_BYTES:
                low, high = pack(data, start, stop)
                slot = _slot_of_short(short, low, high)
                if short[slot, 1]:
                    one = short[slot, 2]
                    part = -1 - one
            elif size <= _KEPT_BYTES:
                tag = hash_bytes(data, start, stop) & _TAG
                part = (slots[_slot_of_long(slots, text, text_ends, data, start, size, tag)] & 0xFFFFFFFF) - 1
            if used + size > len(out) or (one < 0 and part < 0):
                cursor[0], cursor[1], cursor[2] = chunk, start, used
                return stop
            if one >= 0:
                out[used] = one
                used += 1
            else:
                for j in range(id_ends[part], id_ends[part + 1]):
                    out[used] = ids[j]
                    used += 1
            start = stop
        out_ends[chunk] = used
        chunk += 1
    cursor[0], cursor[1], cursor[2] = chunk, start, used
    return np.int64(0)


def new_parts() -> Parts:
    return Parts(
        np.zeros((1 << 14, 4), np.int64),
        np.zeros(1 << 12, np.int64),
        np.empty(1 << 16, np.uint8),
        np.zeros(1 << 12, np.int64),
        np.empty(1 << 14, np.int32),
        np.zeros(1 << 12, np.int64),
        np.zeros(3, np.int64),
    )


@njit(cache=True, nogil=True)
def encode_chunks(table, parts, data, ends, max_parts):
    """Ids of chunks (bytes joined, their ends) → ids (int32, joined), their ends (int64), parts for the next call.

    At most `max_parts` distinct parts are kept, for memory; the result does not depend on it. A part of more than
    MAX_PART_BYTES is not encoded: its chunk's end is -1, and the rest is left undone.
    """
    short, slots, text, text_ends, ids, id_ends, sizes = parts
    n_parts, n_short, n_long = sizes[0], sizes[1], sizes[2]
    out = np.empty(1024 + len(data) // 3, np.int32)
    out_ends = np.full(len(ends), -1, np.int64)
    ranks = np.empty(_SHORT, np.int32)
    cursor = np.zeros(3, np.int64)
    while True:
        stop = _copy_known(
            table.unsafe, data, ends, len(ends), short, slots, text, text_ends, ids, id_ends, out, out_ends, cursor
        )
        start, used = cursor[1], cursor[2]
        size = stop - start
        if stop == 0 or size > MAX_PART_BYTES:
            break
        if used + size > len(out):
            out = grown(out, used, used + size)
        for j in range(size):
            out[used + j] = table.byte_ids[data[start + j]]
        new = out[used : used + size]
        n = encode_short(table, new, ranks, size) if size <= _SHORT else encode_long(table, new, size)
        cursor[1], cursor[2] = stop, used + n
        if size > _KEPT_BYTES or n_short + n_long >= max_parts:
            continue
        if size <= PACKED_BYTES:
            low, high = pack(data, start, stop)
            slot = _slot_of_short(short, low, high)
            short[slot, 0], short[slot, 1] = low, high
            short[slot, 2] = new[0] if n == 1 else -1 - n_parts
            n_short += 1
            if 2 * n_short > len(short):
                short = grow_short(short)
        else:
            tag = hash_bytes(data, start, stop) & _TAG
            slots[_slot_of_long(slots, text, text_ends, data, start, size, tag)] = (tag << 32) | (n_parts + 1)
            n_long += 1
            if 2 * n_long > len(slots):
                slots = grow_slots(slots)
        if n > 1 or size > PACKED_BYTES:
            at, id_at = text_ends[n_parts], id_ends[n_parts]
            if n_parts + 2 > len(id_ends):
                text_ends = grown(text_ends, n_parts + 1, n_parts + 2)
                id_ends = grown(id_ends, n_parts + 1, n_parts + 2)
            if at + size > len(text):
                text = grown(text, at, at + size)
            if id_at + n > len(ids):
                ids = grown(ids, id_at, id_at + n)
            if size > PACKED_BYTES:
                text[at : at + size] = data[start:stop]
                at += size
            ids[id_at : id_at + n] = new[:n]
            n_parts += 1
            text_ends[n_parts], id_ends[n_parts] = at, id_at + n
    sizes[0], sizes[1], sizes[2] = n_parts, n_short, n_long
    if 4 * cursor[2] < 3 * len(out):
        out = out[: cursor[2]].copy()
    return out[: cursor[2]], out_ends, Parts(short, slots, text, text_ends, ids, id_ends, sizes)
