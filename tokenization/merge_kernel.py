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

from tokenization.token_table import Tokens, append_bytes, mix, register, vetoed

SEP = -1
COUNTER_BITS = 22
_DEAD = -(1 << 62)


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


class State(NamedTuple):
    """What the learner goes on from. sizes (int64): tokens, pairs, arena slots used, heap entries."""

    pairs: Pairs
    heap: Heap
    tokens: Tokens
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


@njit(cache=True, nogil=True)
def _next(symbols, i):
    gap = symbols[i + 1]
    return i - gap if gap < SEP else i + 1


@njit(cache=True, nogil=True)
def _previous(symbols, i):
    gap = symbols[i - 1]
    return i + gap if gap < SEP else i - 1


@njit(cache=True, nogil=True)
def _pack(left, right):
    return (np.int64(left) << 32) | np.int64(right)


@njit(cache=True, nogil=True)
def count_hashed(symbols, bounds, weights):
    """A count for each hash value of a pair (int64, 2^COUNTER_BITS): never less than the pair's own."""
    counters = np.zeros(1 << COUNTER_BITS, np.int64)
    mask = (1 << COUNTER_BITS) - 1
    for k in range(len(weights)):
        for i in range(bounds[k] + 1, bounds[k + 1]):
            if symbols[i - 1] >= 0 and symbols[i] >= 0:
                counters[mix(_pack(symbols[i - 1], symbols[i])) & mask] += weights[k]
    return counters


@njit(cache=True, nogil=True)
def track(symbols, bounds, weights, counters, threshold, arena_type, tokens, n_tokens):
    """Track every pair of at least `threshold` in squeezed symbols: exact counts, positions, heap."""
    mask = (1 << COUNTER_BITS) - 1
    likely = 0
    for counter in counters:
        likely += counter >= threshold
    pairs = _new_pairs(max(1024, 2 * likely), np.empty(0, arena_type.dtype))
    n = 0
    for k in range(len(weights)):
        for i in range(bounds[k] + 1, bounds[k + 1]):
            if symbols[i - 1] < 0 or symbols[i] < 0:
                continue
            key = _pack(symbols[i - 1], symbols[i])
            if counters[mix(key) & mask] < threshold:
                continue
            pair = _find(pairs, key)
            if pair < 0:
                if n == len(pairs.keys):
                    pairs = _grow_pairs(pairs, n, n + 1)
                pair = n
                _add(pairs, n, key, 0, 0, 0)
                n += 1
            pairs.counts[pair] += weights[k]
            pairs.lengths[pair] += 1
    used = 0
    size = 0
    for pair in range(n):
        if pairs.counts[pair] >= threshold:
            used += pairs.lengths[pair]
            size += 1
    arena = np.empty(used + used // 4 + 1024, arena_type.dtype)
    heap = Heap(np.empty(size + 1024, np.int64), np.empty(size + 1024, np.int64), np.empty(size + 1024, np.int32))
    used = 0
    size = 0
    for pair in range(n):
        if pairs.counts[pair] < threshold:
            pairs.counts[pair] = _DEAD
            continue
        pairs.starts[pair] = used
        used += pairs.lengths[pair]
        pairs.lengths[pair] = 0
        _push(heap, size, pairs.counts[pair], pairs.keys[pair], pair)
        size += 1
    for i in range(1, bounds[len(weights)]):
        if symbols[i - 1] < 0 or symbols[i] < 0:
            continue
        key = _pack(symbols[i - 1], symbols[i])
        if counters[mix(key) & mask] < threshold:
            continue
        pair = _find(pairs, key)
        if pairs.counts[pair] > 0:
            arena[pairs.starts[pair] + pairs.lengths[pair]] = i - 1
            pairs.lengths[pair] += 1
    pairs = Pairs(pairs.slots, pairs.keys, pairs.counts, pairs.starts, pairs.lengths, arena)
    return State(pairs, heap, tokens, np.array([n_tokens, n, used, size]))


@njit(cache=True, nogil=True)
def merge(symbols, bounds, weights, state, threshold, rules, until, merges):
    """Learn until there are `until` tokens or no tracked pair is left: fills merges (int32, rows by id) → State."""
    pairs, heap, tokens, sizes = state
    n_tokens, n_pairs, used, n_heap = sizes[TOKENS], sizes[PAIRS], sizes[ARENA], sizes[HEAP]
    capacity = len(merges) + 1
    # By neighbour: weight, occurrences and where in the arena the next one goes.
    left_weight, left_n = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
    right_weight, right_n = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
    left_slot, right_slot = np.full(capacity, -1, np.int64), np.full(capacity, -1, np.int64)
    lefts, rights = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    merged = np.empty(1024, pairs.arena.dtype)

    while n_tokens < until and n_heap > 0:
        pair = heap.pairs[0]
        count = pairs.counts[pair]
        if count != heap.counts[0]:
            if count >= threshold:
                heap.counts[0] = count
            else:
                n_heap -= 1
                _move(heap, n_heap, 0)
            _sift_down(heap, n_heap)
            continue
        n_heap -= 1
        _move(heap, n_heap, 0)
        _sift_down(heap, n_heap)
        pairs.counts[pair] = _DEAD
        a, b = np.int32(pairs.keys[pair] >> 32), np.int32(pairs.keys[pair] & 0xFFFFFFFF)
        tokens = append_bytes(tokens, n_tokens, a, b)
        if vetoed(tokens, n_tokens, rules):
            continue
        z = np.int32(n_tokens)
        register(tokens, n_tokens)
        merges[z, 0], merges[z, 1] = a, b
        n_tokens += 1

        # Merge from left to right, gathering what happens to the neighbours.
        first, length = pairs.starts[pair], pairs.lengths[pair]
        if length > len(merged):
            merged = np.empty(length + length // 4, pairs.arena.dtype)
        n_merged = n_lefts = n_rights = 0
        k = 0
        for j in range(first, first + length):
            p = np.int64(pairs.arena[j])
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

        # A left neighbour may be this step's own token: what was counted as (z, a) a moment ago is (z, z).
        if left_n[z]:
            right_weight[a] -= left_weight[z]
            right_n[a] -= left_n[z]
        needed = 0
        for i in range(n_lefts):
            left = lefts[i]
            if left != z:
                old = _find(pairs, _pack(left, a))
                if old >= 0:
                    pairs.counts[old] -= left_weight[left]
            if left_weight[left] >= threshold:
                needed += left_n[left]
        for i in range(n_rights):
            right = rights[i]
            old = _find(pairs, _pack(b, right))
            if old >= 0:
                pairs.counts[old] -= right_weight[right]
                if right == a and left_n[z]:
                    pairs.counts[old] -= left_weight[z]
            if right_weight[right] >= threshold:
                needed += right_n[right]

        if used + needed > len(pairs.arena):
            used = _compact(symbols, pairs, n_pairs, threshold)
            if used + needed > len(pairs.arena) - len(pairs.arena) // 8:
                arena = np.empty(used + needed + (used + needed) // 3, pairs.arena.dtype)
                arena[:used] = pairs.arena[:used]
                pairs = Pairs(pairs.slots, pairs.keys, pairs.counts, pairs.starts, pairs.lengths, arena)
        if n_pairs + n_lefts + n_rights > len(pairs.keys):
            pairs = _grow_pairs(pairs, n_pairs, n_pairs + n_lefts + n_rights)
        if n_heap + n_lefts + n_rights > len(heap.counts):
            heap = _grow_heap(heap, n_heap, n_heap + n_lefts + n_rights)
        for i in range(n_lefts):
            left = lefts[i]
            weight = left_weight[left]
            if weight >= threshold:
                key = _pack(left, z)
                _add(pairs, n_pairs, key, weight, used, left_n[left])
                _push(heap, n_heap, weight, key, n_pairs)
                left_slot[left] = used
                used += left_n[left]
                n_pairs, n_heap = n_pairs + 1, n_heap + 1
        for i in range(n_rights):
            right = rights[i]
            weight = right_weight[right]
            if weight >= threshold:
                key = _pack(z, right)
                _add(pairs, n_pairs, key, weight, used, right_n[right])
                _push(heap, n_heap, weight, key, n_pairs)
                right_slot[right] = used
                used += right_n[right]
                n_pairs, n_heap = n_pairs + 1, n_heap + 1
        if needed:
            for i in range(n_merged):
                p = np.int64(merged[i])
                before = _previous(symbols, p)
                left, right = symbols[before], symbols[_next(symbols, p)]
                if left >= 0 and left_slot[left] >= 0:
                    pairs.arena[left_slot[left]] = before
                    left_slot[left] += 1
                if right >= 0 and right_slot[right] >= 0:
                    pairs.arena[right_slot[right]] = p
                    right_slot[right] += 1
        for i in range(n_lefts):
            left_weight[lefts[i]] = left_n[lefts[i]] = 0
            left_slot[lefts[i]] = -1
        for i in range(n_rights):
            right_weight[rights[i]] = right_n[rights[i]] = 0
            right_slot[rights[i]] = -1
    return State(pairs, heap, tokens, np.array([n_tokens, n_pairs, used, n_heap]))


@njit(cache=True, nogil=True)
def _compact(symbols, pairs, n_pairs, threshold):
    """Close the gaps in the arena, in place, keeping only positions that still hold their pair; slots used."""
    used = 0
    for pair in range(n_pairs):
        start, length = pairs.starts[pair], pairs.lengths[pair]
        pairs.starts[pair], pairs.lengths[pair] = used, 0
        if pairs.counts[pair] < threshold:
            continue
        a, b = np.int32(pairs.keys[pair] >> 32), np.int32(pairs.keys[pair] & 0xFFFFFFFF)
        for j in range(start, start + length):
            p = np.int64(pairs.arena[j])
            if symbols[p] == a and symbols[_next(symbols, p)] == b:
                pairs.arena[used] = p
                used += 1
        pairs.lengths[pair] = used - pairs.starts[pair]
    return used


@njit(cache=True, nogil=True)
def _new_pairs(capacity, arena):
    bits = 10
    while (1 << bits) < 2 * capacity:
        bits += 1
    return Pairs(
        np.full(1 << bits, -1, np.int32),
        np.empty(capacity, np.int64),
        np.empty(capacity, np.int64),
        np.empty(capacity, np.int64),
        np.empty(capacity, np.int64),
        arena,
    )


@njit(cache=True, nogil=True)
def _grow_pairs(pairs, n, needed):
    grown = _new_pairs(needed + needed // 2, pairs.arena)
    for i in range(n):
        _add(grown, i, pairs.keys[i], pairs.counts[i], pairs.starts[i], pairs.lengths[i])
    return grown


@njit(cache=True, nogil=True)
def _find(pairs, key):
    mask = len(pairs.slots) - 1
    i = mix(key) & mask
    while pairs.slots[i] >= 0:
        if pairs.keys[pairs.slots[i]] == key:
            return np.int64(pairs.slots[i])
        i = (i + 1) & mask
    return np.int64(-1)


@njit(cache=True, nogil=True)
def _add(pairs, index, key, count, start, length):
    mask = len(pairs.slots) - 1
    i = mix(key) & mask
    while pairs.slots[i] >= 0:
        i = (i + 1) & mask
    pairs.slots[i] = index
    pairs.keys[index] = key
    pairs.counts[index] = count
    pairs.starts[index] = start
    pairs.lengths[index] = length


@njit(cache=True, nogil=True)
def _before(heap, i, j):
    return heap.counts[i] > heap.counts[j] or (heap.counts[i] == heap.counts[j] and heap.keys[i] < heap.keys[j])


@njit(cache=True, nogil=True)
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
def _push(heap, size, count, key, pair):
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
def _grow_heap(heap, size, needed):
    capacity = needed + needed // 2
    grown = Heap(np.empty(capacity, np.int64), np.empty(capacity, np.int64), np.empty(capacity, np.int32))
    grown.counts[:size] = heap.counts[:size]
    grown.keys[:size] = heap.keys[:size]
    grown.pairs[:size] = heap.pairs[:size]
    return grown
