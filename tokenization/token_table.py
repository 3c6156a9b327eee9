"""The tokens of a vocabulary that is being learned, by their bytes, and the vetoes on new ones. Compiled by Numba."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import NamedTuple

import numpy as np
from numba import njit

from tokenization.hashing import equal, hash_bytes


class Tokens(NamedTuple):
    """Bytes of all tokens, joined: data[ends[i] : ends[i + 1]]; slots (int32): open addressing by bytes, id or -1."""

    data: np.ndarray
    ends: np.ndarray
    slots: np.ndarray


class Rules(NamedTuple):
    """Vetoes on a result's bytes. forbid, forbid_ends: forbidden strings, joined as in Tokens; -1 is no limit."""

    forbid: np.ndarray
    forbid_ends: np.ndarray
    max_words: int
    max_bytes: int


@njit(cache=True, nogil=True)
def append_bytes(tokens, n, a, b):
    """Write the bytes of a and b behind the n tokens there are; they count only once registered."""
    end = tokens.ends[n]
    for token in (a, b):
        size = tokens.ends[token + 1] - tokens.ends[token]
        if end + size > len(tokens.data):
            data = np.empty(2 * len(tokens.data) + size, np.uint8)
            data[:end] = tokens.data[:end]
            tokens = Tokens(data, tokens.ends, tokens.slots)
        tokens.data[end : end + size] = tokens.data[tokens.ends[token] : tokens.ends[token + 1]]
        end += size
    tokens.ends[n + 1] = end
    return tokens


@njit(cache=True, nogil=True)
def _slot_of(tokens, n):
    """The slot that holds a token of the same bytes as token n, or the empty one where n belongs."""
    start, end = tokens.ends[n], tokens.ends[n + 1]
    mask = len(tokens.slots) - 1
    i = hash_bytes(tokens.data, start, end) & mask
    while tokens.slots[i] >= 0:
        other = tokens.slots[i]
        at = tokens.ends[other]
        if tokens.ends[other + 1] - at == end - start and equal(tokens.data, at, tokens.data, start, end - start):
            return i
        i = (i + 1) & mask
    return i


@njit(cache=True, nogil=True)
def register(tokens, n):
    slot = _slot_of(tokens, n)
    if tokens.slots[slot] < 0:
        tokens.slots[slot] = n


@njit(cache=True, nogil=True)
def token_table(data, ends, n, capacity):
    """Tokens 0..n-1 (bytes joined, n + 1 ends from 0) with room for `capacity` of them."""
    bits = 10
    while (1 << bits) < 2 * capacity:
        bits += 1
    table = Tokens(data, np.empty(capacity + 2, np.int64), np.full(1 << bits, -1, np.int32))
    table.ends[: n + 1] = ends[: n + 1]
    for token in range(n):
        register(table, token)
    return table


@njit(cache=True, nogil=True)
def vetoed(tokens, n, rules):
    """Whether the bytes written behind the n tokens break a rule: tested on the result, not on its parts."""
    start, end = tokens.ends[n], tokens.ends[n + 1]
    if rules.max_bytes >= 0 and end - start > rules.max_bytes:
        return True
    if rules.max_words >= 0:
        words, inside = 0, False
        for i in range(start, end):
            space = tokens.data[i] == 32
            words += not space and not inside
            inside = not space
        if words > rules.max_words:
            return True
    for k in range(len(rules.forbid_ends) - 1):
        first, size = rules.forbid_ends[k], rules.forbid_ends[k + 1] - rules.forbid_ends[k]
        for i in range(start, end - size + 1):
            if equal(rules.forbid, first, tokens.data, i, size):
                return True
    return tokens.slots[_slot_of(tokens, n)] >= 0
