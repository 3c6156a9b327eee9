"""StochasTok's expansion of one window of ids. Compiled by Numba."""

# mypy: allow-untyped-defs, no-check-untyped-defs

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def expand(ids, draws, starts, pairs):
    """Ids (int64) after an attempt for each row of draws (float64 in [0, 1): where, which cut).

    The cuts of id i are pairs[starts[i] : starts[i + 1]] (int32 rows left, right). What an id of the window has become
    is a linked list of entries, and a Fenwick tree over the lists' lengths finds the entry at a position of the whole:
    an attempt costs the logarithm of the window, where a list of all entries would be moved for each split.
    """
    n = len(ids)
    entries, following = np.empty(n + len(draws), np.int64), np.empty(n + len(draws), np.int64)
    entries[:n] = ids
    following[:n] = -1
    lengths = np.empty(n + 1, np.int64)
    for i in range(n + 1):
        lengths[i] = i & -i
    top = 1
    while 2 * top <= n:
        top *= 2
    size = n
    for k in range(len(draws)):
        left = np.int64(draws[k, 0] * size)
        at, step = 0, top
        while step:
            if at + step <= n and lengths[at + step] <= left:
                at += step
                left -= lengths[at]
            step >>= 1
        entry = at
        for _ in range(left):
            entry = following[entry]
        first = starts[entries[entry]]
        options = starts[entries[entry] + 1] - first
        if options == 0:
            continue
        cut = first + np.int64(draws[k, 1] * options)
        entries[entry], entries[size] = pairs[cut, 0], pairs[cut, 1]
        following[size] = following[entry]
        following[entry] = size
        size += 1
        at += 1
        while at <= n:
            lengths[at] += 1
            at += at & -at
    out = np.empty(size, np.int64)
    used = 0
    for i in range(n):
        entry = i
        while entry >= 0:
            out[used] = entries[entry]
            used += 1
            entry = following[entry]
    return out
