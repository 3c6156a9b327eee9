"""The last merges of a vocabulary applied to ids: words to superwords. Compiled by Numba.

Two ids are joined by some merge only if they stand side by side inside a token that one of these merges makes. So ids
are cut wherever two neighbours never do, and what is between two cuts is short.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

import numpy as np
from numba import njit

from tokenization.encode_kernel import encode_long, encode_short
from tokenization.hashing import mix

_SHORT = 32


@njit(cache=True, nogil=True)
def neighbour_set(pairs, first_ids, last_ids):
    """The pairs of ids that merges bring together (int64, left << 32 | right; open addressing, -1 is free).

    pairs: int32 rows by rank, left, right, result. first_ids, last_ids (int32): outermost ids of each token, by id;
    those of results are filled in.
    """
    bits = 4
    while (1 << bits) < 2 * len(pairs) + 1:
        bits += 1
    joined = np.full(1 << bits, -1, np.int64)
    for rank in range(len(pairs)):
        left, right, result = pairs[rank, 0], pairs[rank, 1], pairs[rank, 2]
        first_ids[result], last_ids[result] = first_ids[left], last_ids[right]
        key = (np.int64(last_ids[left]) << 32) | np.int64(first_ids[right])
        i = mix(key) & (len(joined) - 1)
        while joined[i] >= 0 and joined[i] != key:
            i = (i + 1) & (len(joined) - 1)
        joined[i] = key
    return joined


@njit(cache=True, nogil=True)
def merge_ids(table, joined, ids, ends):
    """Apply a table of merges to sequences of ids (int32 joined, their ends), in place; returns the ids in use.

    ends (int64) are moved to where the sequences end afterwards.
    """
    mask = len(joined) - 1
    ranks = np.empty(_SHORT, np.int32)
    out = np.int64(0)
    start = np.int64(0)
    for k in range(len(ends)):
        end = ends[k]
        while start < end:
            stop = start + 1
            while stop < end:
                key = (np.int64(ids[stop - 1]) << 32) | np.int64(ids[stop])
                i = mix(key) & mask
                while joined[i] >= 0 and joined[i] != key:
                    i = (i + 1) & mask
                if joined[i] < 0:
                    break
                stop += 1
            n = stop - start
            if n > _SHORT:
                n = encode_long(table, ids[start:stop], n)
            elif n > 1:
                n = encode_short(table, ids[start:stop], ranks, n)
            for i in range(start, start + n):
                ids[out] = ids[i]
                out += 1
            start = stop
        ends[k] = out
    return out
