"""The inner loops of merge learning, compiled by Numba: find the best pair, merge it everywhere, keep the counts.

Layout. All units stand in one int32 array `symbols`, sorted by count: SEP, unit, SEP, unit, ..., SEP. A token over L
slots keeps its id in the first one and has -L in the second and in the last one (in every slot that once held an id,
at least something negative), so both neighbours are found without links: 4 bytes a symbol in all. A position's weight
is that of its class: the units of the k-th distinct count stand between the SEPs at `bounds[k]` and `bounds[k + 1]`.

Pairs. Only pairs with a count of at least `threshold` are tracked. A pair's count never grows after the step that made
it (whichever of its tokens is newer made all of its occurrences), so this changes nothing until the tracked ones run
out; then the caller lowers the threshold and tracks afresh. Each tracked pair owns a slice of `arena` with its
positions, ascending, which gives the library's left-to-right treatment of runs ("aaa").

Order. Highest count first, then the smallest (left id, right id), as the Hugging Face trainer. The heap is lazy: an
entry whose count is out of date goes back with the current one.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import NamedTuple

import numpy as np
from numba import njit

from tokenization.hashing import grown, mix
from tokenization.pair_table import (
    DEAD,
    Heap,
    Pairs,
    add,
    find,
    grow_heap,
    grow_pairs,
    new_heap,
    new_pairs,
    pack_pair,
    push,
    replace_top,
)
from tokenization.token_table import Tokens, append_bytes, register, vetoed

SEP = -1
COUNTER_BITS = 22


class Near(NamedTuple):
    """What happens to the neighbours in one merge, by token on the left and on the right (int64, zero in between).

    weight, n: of its occurrences; slot: where its next position goes in the arena, or -1. lefts, rights: which ones.
    """

    left_weight: np.ndarray
    left_n: np.ndarray
    left_slot: np.ndarray
    lefts: np.ndarray
    right_weight: np.ndarray
    right_n: np.ndarray
    right_slot: np.ndarray
    rights: np.ndarray


class State(NamedTuple):
    """What the learner goes on from. sizes (int64): tokens, pairs, arena slots used, heap entries."""

    pairs: Pairs
    heap: Heap
    tokens: Tokens
    near: Near
    sizes: np.ndarray


TOKENS, PAIRS, ARENA, HEAP = 0, 1, 2, 3


@njit(cache=True, nogil=True)
def lay_out(ids, ends, order, counts):
    """Units (ids joined, int32; their ends) in the given order, counts falling → symbols, bounds, weights.

    Units of fewer than two symbols hold no pair and are left out.
    """
    slots, classes, last = 1, 0, np.int64(-1)
    for unit in order:
        start = ends[unit - 1] if unit else 0
        if ends[unit] - start > 1:
            slots += ends[unit] - start + 1
            if counts[unit] != last:
                classes, last = classes + 1, counts[unit]
    symbols = np.empty(slots, np.int32)
    bounds = np.empty(classes + 1, np.int64)
    weights = np.empty(classes, np.int64)
    symbols[0] = SEP
    slots, classes, last = 1, 0, np.int64(-1)
    for unit in order:
        start = ends[unit - 1] if unit else 0
        if ends[unit] - start < 2:
            continue
        if counts[unit] != last:
            last = counts[unit]
            bounds[classes] = slots - 1
            weights[classes] = last
            classes += 1
        for i in range(start, ends[unit]):
            symbols[slots] = ids[i]
            slots += 1
        symbols[slots] = SEP
        slots += 1
    bounds[classes] = slots - 1
    return symbols, bounds, weights


@njit(cache=True, nogil=True)
def squeeze(symbols, bounds):
    """Move tokens together and drop units of one token, in place; afterwards every slot holds a token or SEP."""
    out = i = 1
    for k in range(len(bounds) - 1):
        last = bounds[k + 1]
        bounds[k] = out - 1
        first = out
        while i <= last:
            token = symbols[i]
            if token == SEP:
                if out - first < 2:
                    out = first
                else:
                    symbols[out] = SEP
                    out += 1
                first = out
                i += 1
            else:
                i = _next(symbols, i)
                symbols[out] = token
                out += 1
    bounds[len(bounds) - 1] = out - 1


@njit(cache=True, nogil=True, forceinline=True)
def _next(symbols, i):
    gap = symbols[i + 1]
    return i - gap if gap < SEP else i + 1


@njit(cache=True, nogil=True, forceinline=True)
def _previous(symbols, i):
    gap = symbols[i - 1]
    return i + gap if gap < SEP else i - 1


@njit(cache=True, nogil=True, forceinline=True)
def _bit(bits, i):
    return (bits[i >> 6] >> np.uint64(i & 63)) & np.uint64(1)


@njit(cache=True, nogil=True)
def count_hashed(symbols, bounds, weights):
    """A count for each hash value of a pair (int64, 2^COUNTER_BITS): never less than the pair's own."""
    counters = np.zeros(1 << COUNTER_BITS, np.int64)
    mask = (1 << COUNTER_BITS) - 1
    for k in range(len(weights)):
        for i in range(bounds[k] + 1, bounds[k + 1]):
            if symbols[i - 1] >= 0 and symbols[i] >= 0:
                counters[mix(pack_pair(symbols[i - 1], symbols[i])) & mask] += weights[k]
    return counters


@njit(cache=True, nogil=True)
def unit_weights(symbols, bounds, weights):
    """The count of every unit (int64)."""
    n = 0
    for symbol in symbols:
        n += symbol == SEP
    counts = np.empty(n - 1, np.int64)
    n = 0
    for k in range(len(weights)):
        for i in range(bounds[k], bounds[k + 1]):
            if symbols[i] == SEP:
                counts[n] = weights[k]
                n += 1
    return counts


@njit(cache=True, nogil=True)
def nth_largest(counts, n):
    """The n-th largest of counts (n from 1), 0 where there are fewer: by bisection, so that nothing is copied."""
    low, high = np.int64(0), np.int64(0)
    for count in counts:
        high = max(high, count)
    while low < high:
        middle = (low + high + 1) // 2
        reached = 0
        for count in counts:
            reached += count >= middle
        if reached >= n:
            low = middle
        else:
            high = middle - 1
    return low


@njit(cache=True, nogil=True)
def likely(counters, threshold):
    """One bit a counter: whether it reaches the threshold (uint64, small enough for a processor's cache)."""
    bits = np.zeros(len(counters) >> 6, np.uint64)
    for i in range(len(counters)):
        if counters[i] >= threshold:
            bits[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
    return bits


@njit(cache=True, nogil=True)
def track(symbols, bounds, weights, bits, threshold, arena_type, tokens, n_tokens, max_tokens):
    """Track every pair of at least `threshold` in squeezed symbols: exact counts, positions, heap → State."""
    capacity = 1 << 14
    while True:
        pairs = new_pairs(capacity, np.empty(0, arena_type.dtype))
        n = _count_likely(symbols, bounds, weights, bits, pairs.slots, pairs.keys, pairs.counts, pairs.lengths)
        if n >= 0:
            break
        capacity *= 2
    used = size = 0
    for pair in range(n):
        if pairs.counts[pair] >= threshold:
            pairs.starts[pair] = used
            used += pairs.lengths[pair]
            size += 1
        else:
            pairs.counts[pair] = DEAD
        pairs.lengths[pair] = 0
    arena = np.empty(used + used // 4 + 1024, arena_type.dtype)
    end = bounds[len(weights)]
    _place_likely(symbols, end, bits, pairs.slots, pairs.keys, pairs.counts, pairs.starts, pairs.lengths, arena)
    heap = new_heap(size + 1024)
    size = 0
    for pair in range(n):
        if pairs.counts[pair] >= threshold:
            push(heap, size, pairs.counts[pair], pairs.keys[pair], pair)
            size += 1
    near = Near(
        np.zeros(max_tokens, np.int64),
        np.zeros(max_tokens, np.int64),
        np.full(max_tokens, -1, np.int64),
        np.empty(max_tokens, np.int32),
        np.zeros(max_tokens, np.int64),
        np.zeros(max_tokens, np.int64),
        np.full(max_tokens, -1, np.int64),
        np.empty(max_tokens, np.int32),
    )
    pairs = Pairs(pairs.slots, pairs.keys, pairs.counts, pairs.starts, pairs.lengths, arena)
    return State(pairs, heap, tokens, near, np.array([n_tokens, n, used, size]))


@njit(cache=True, nogil=True)
def _count_likely(symbols, bounds, weights, bits, slots, keys, counts, lengths):
    """Count pairs whose bit is set and enter them into an empty table; how many, or -1 where it is too small.

    Like all inner loops here it replaces no array: that would count references at each step.
    """
    mask = (1 << COUNTER_BITS) - 1
    n = 0
    for k in range(len(weights)):
        weight = weights[k]
        for i in range(bounds[k] + 1, bounds[k + 1]):
            if symbols[i - 1] < 0 or symbols[i] < 0:
                continue
            key = pack_pair(symbols[i - 1], symbols[i])
            if not _bit(bits, mix(key) & mask):
                continue
            pair = find(slots, keys, key)
            if pair < 0:
                if n == len(keys):
                    return -1
                pair = n
                add(slots, keys, n, key)
                n += 1
            counts[pair] += weight
            lengths[pair] += 1
    return n


@njit(cache=True, nogil=True)
def _place_likely(symbols, end, bits, slots, keys, counts, starts, lengths, arena):
    mask = (1 << COUNTER_BITS) - 1
    for i in range(1, end):
        if symbols[i - 1] < 0 or symbols[i] < 0:
            continue
        key = pack_pair(symbols[i - 1], symbols[i])
        if not _bit(bits, mix(key) & mask):
            continue
        pair = find(slots, keys, key)
        if counts[pair] > 0:
            arena[starts[pair] + lengths[pair]] = i - 1
            lengths[pair] += 1


@njit(cache=True, nogil=True)
def merge(symbols, bounds, weights, state, threshold, rules, until, merges):
    """Learn until there are `until` tokens or no tracked pair is left: fills merges (int32, rows by id) → State."""
    pairs, heap, tokens, near, sizes = state
    n_tokens, n_pairs, used, n_heap = sizes[TOKENS], sizes[PAIRS], sizes[ARENA], sizes[HEAP]
    merged = np.empty(1024, pairs.arena.dtype)
    while n_tokens < until and n_heap > 0:
        pair = heap.pairs[0]
        count = pairs.counts[pair]
        if count != heap.counts[0]:
            n_heap = replace_top(heap, n_heap, count, threshold)
            continue
        n_heap = replace_top(heap, n_heap, DEAD, threshold)
        pairs.counts[pair] = DEAD
        a, b = np.int32(pairs.keys[pair] >> 32), np.int32(pairs.keys[pair] & 0xFFFFFFFF)
        tokens = append_bytes(tokens, n_tokens, a, b)
        if vetoed(tokens, n_tokens, rules):
            continue
        z = np.int32(n_tokens)
        register(tokens, n_tokens)
        merges[z, 0], merges[z, 1] = a, b
        n_tokens += 1

        length = pairs.lengths[pair]
        if length > len(merged):
            merged = np.empty(length + length // 4, pairs.arena.dtype)
        positions = pairs.arena[pairs.starts[pair] : pairs.starts[pair] + length]
        n_merged, n_lefts, n_rights = _merge_at(symbols, bounds, weights, positions, a, b, z, merged, near)
        needed = _lower_counts(pairs.slots, pairs.keys, pairs.counts, a, b, z, near, n_lefts, n_rights, threshold)
        if used + needed > len(pairs.arena):
            used = _compact(symbols, pairs, n_pairs, threshold)
            if used + needed > len(pairs.arena) - len(pairs.arena) // 8:
                arena = grown(pairs.arena, used, used + needed)
                pairs = Pairs(pairs.slots, pairs.keys, pairs.counts, pairs.starts, pairs.lengths, arena)
        if n_pairs + n_lefts + n_rights > len(pairs.keys):
            pairs = grow_pairs(pairs, n_pairs, n_pairs + n_lefts + n_rights)
        if n_heap + n_lefts + n_rights > len(heap.counts):
            heap = grow_heap(heap, n_heap, n_heap + n_lefts + n_rights)
        first = n_pairs
        n_pairs, used = _add_new(pairs, n_pairs, used, z, near, n_lefts, n_rights, threshold)
        for new in range(first, n_pairs):
            push(heap, n_heap, pairs.counts[new], pairs.keys[new], new)
            n_heap += 1
        if needed:
            _place_new(symbols, pairs.arena, merged, n_merged, near)
        _clear(near, n_lefts, n_rights)
    return State(pairs, heap, tokens, near, np.array([n_tokens, n_pairs, used, n_heap]))


@njit(cache=True, nogil=True)
def _merge_at(symbols, bounds, weights, positions, a, b, z, merged, near):
    """Make z of every (a, b) at the positions, from left to right; gathers what happens to the neighbours.

    Returns how many there were (their positions in merged), and how many different left and right neighbours.
    """
    left_weight, left_n, _, lefts, right_weight, right_n, _, rights = near
    n_merged = n_lefts = n_rights = 0
    k = 0
    for j in range(len(positions)):
        p = np.int64(positions[j])
        if symbols[p] != a:
            continue
        q = _next(symbols, p)
        if symbols[q] != b:
            continue
        if p < bounds[k] or p >= bounds[k + 1]:
            k = np.searchsorted(bounds, p, side="right") - 1
        weight = weights[k]
        r = _next(symbols, q)
        left, right = symbols[_previous(symbols, p)], symbols[r]
        gap = np.int32(p - r)
        symbols[p] = z
        symbols[q] = symbols[p + 1] = symbols[r - 1] = gap
        merged[n_merged] = p
        n_merged += 1
        if left >= 0:
            if left_n[left] == 0:
                lefts[n_lefts] = left
                n_lefts += 1
            left_weight[left] += weight
            left_n[left] += 1
        if right >= 0:
            if right_n[right] == 0:
                rights[n_rights] = right
                n_rights += 1
            right_weight[right] += weight
            right_n[right] += 1
    return n_merged, n_lefts, n_rights


@njit(cache=True, nogil=True)
def _lower_counts(slots, keys, counts, a, b, z, near, n_lefts, n_rights, threshold):
    """Take what was merged off the pairs (left, a) and (b, right); returns the arena slots that new pairs need."""
    left_weight, left_n, _, lefts, right_weight, right_n, _, rights = near
    needed = 0
    for i in range(n_rights):
        old = find(slots, keys, pack_pair(b, rights[i]))
        if old >= 0:
            counts[old] -= right_weight[rights[i]]
    # A left neighbour may be this step's own token: what was counted as (z, a) a moment ago is (z, z).
    if left_n[z]:
        right_weight[a] -= left_weight[z]
        right_n[a] -= left_n[z]
    for i in range(n_lefts):
        left = lefts[i]
        if left != z:
            old = find(slots, keys, pack_pair(left, a))
            if old >= 0:
                counts[old] -= left_weight[left]
        if left_weight[left] >= threshold:
            needed += left_n[left]
    for i in range(n_rights):
        if right_weight[rights[i]] >= threshold:
            needed += right_n[rights[i]]
    return needed


@njit(cache=True, nogil=True)
def _add_new(pairs, n_pairs, used, z, near, n_lefts, n_rights, threshold):
    """Enter the pairs (left, z) and (z, right) that reach the threshold; returns the pairs and arena slots in use."""
    slots, keys, counts, starts, lengths, _ = pairs
    for side in range(2):
        for i in range(n_rights if side else n_lefts):
            other = near.rights[i] if side else near.lefts[i]
            weight = near.right_weight[other] if side else near.left_weight[other]
            if weight < threshold:
                continue
            add(slots, keys, n_pairs, pack_pair(z, other) if side else pack_pair(other, z))
            counts[n_pairs], starts[n_pairs] = weight, used
            lengths[n_pairs] = near.right_n[other] if side else near.left_n[other]
            if side:
                near.right_slot[other] = used
            else:
                near.left_slot[other] = used
            used += lengths[n_pairs]
            n_pairs += 1
    return n_pairs, used


@njit(cache=True, nogil=True)
def _place_new(symbols, arena, merged, n_merged, near):
    """Write the positions of the new pairs, ascending, into the slices that they were given."""
    left_slot, right_slot = near.left_slot, near.right_slot
    for i in range(n_merged):
        p = np.int64(merged[i])
        before = _previous(symbols, p)
        left, right = symbols[before], symbols[_next(symbols, p)]
        if left >= 0 and left_slot[left] >= 0:
            arena[left_slot[left]] = before
            left_slot[left] += 1
        if right >= 0 and right_slot[right] >= 0:
            arena[right_slot[right]] = p
            right_slot[right] += 1


@njit(cache=True, nogil=True)
def _clear(near, n_lefts, n_rights):
    for left in near.lefts[:n_lefts]:
        near.left_weight[left] = near.left_n[left] = 0
        near.left_slot[left] = -1
    for right in near.rights[:n_rights]:
        near.right_weight[right] = near.right_n[right] = 0
        near.right_slot[right] = -1


@njit(cache=True, nogil=True)
def _compact(symbols, pairs, n_pairs, threshold):
    """Close the gaps in the arena, in place, keeping only positions that still hold their pair; slots used."""
    _, keys, counts, starts, lengths, arena = pairs
    used = 0
    for pair in range(n_pairs):
        start, length = starts[pair], lengths[pair]
        starts[pair], lengths[pair] = used, 0
        if counts[pair] < threshold:
            continue
        a, b = np.int32(keys[pair] >> 32), np.int32(keys[pair] & 0xFFFFFFFF)
        for j in range(start, start + length):
            p = np.int64(arena[j])
            if symbols[p] == a and symbols[_next(symbols, p)] == b:
                arena[used] = p
                used += 1
        lengths[pair] = used - starts[pair]
    return used
