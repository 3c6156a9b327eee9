"""Which neighbours a BPE encoding can have: compiled checks of pairs of tokens and of pieces against tokens.

BPE is local: a sequence of tokens, each of which encodes to itself, is the encoding of its bytes within one piece
exactly if no merge crosses any boundary between two neighbours, and a merge crosses the boundary between two tokens in
a sequence exactly if it does in the two alone. (Up to the first crossing merge the parts left and right of each
boundary grow as they would alone.)
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

import numpy as np
from numba import njit

from tokenization.encode_kernel import NO_MERGE, rank_of

BOUNDARY, INSIDE = 1, 2


@njit(cache=True, nogil=True)
def _crosses(table, made_by, left, right):
    """Whether a merge crosses the boundary between two tokens.

    The left token's last part and the right token's first part at any moment are on two chains, from the token down to
    a byte; a part is there until the merge that swallows it. Equal merges go from left to right.
    """
    u, u_until = left, np.int64(NO_MERGE)
    while True:
        v, v_until = right, np.int64(NO_MERGE)
        while True:
            rank = np.int64(rank_of(table, u, v))
            if rank < u_until and rank <= v_until and rank != NO_MERGE:
                return True
            v_until = np.int64(made_by[v])
            if v_until < 0:
                break
            v = table.pairs[v_until, 0]
        u_until = np.int64(made_by[u])
        if u_until < 0:
            return False
        u = table.pairs[u_until, 1]


@njit(cache=True, nogil=True)
def crossed(table, made_by, left, rights):
    """For each token of `rights` (int32) whether a merge crosses its boundary with `left` before it (bool)."""
    out = np.zeros(len(rights), np.bool_)
    for k in range(len(rights)):
        out[k] = _crosses(table, made_by, left, rights[k])
    return out


@njit(cache=True, nogil=True)
def fits(ends, text_starts, tails, sizes, marks, out):
    """Set bits in out[k] (uint8) by how the pieces of text k lie to its tokens.

    ends: piece ends (int64) of all texts joined; text_starts (int64): where text k begins, one more at the end.
    Text k begins with tails[k] bytes of tokens that are there already and one token of sizes[k] bytes.
    marks (uint8, the tail's length): at byte j of a tail: 0 no token ends there, 1 one does, 2 one does that a merge
    would join with the next. Pieces must end nowhere inside a token, and must end where a mark is 2.
    The bit is BOUNDARY where a piece ends between the tail and the token, else INSIDE.
    """
    at = 0
    for k in range(len(out)):
        start = text_starts[k]
        while at < len(ends) and ends[at] <= start:
            at += 1
        middle, stop = start + tails[k], start + tails[k] + sizes[k]
        i = at
        good = True
        bit = INSIDE
        seen = start
        while i < len(ends) and ends[i] < stop:
            end = ends[i]
            if end < middle:
                if marks[end - start] == 0:
                    good = False
                    break
                for j in range(seen + 1, end):
                    if marks[j - start] == 2:
                        good = False
                seen = end
            elif end == middle:
                bit = BOUNDARY
            else:
                good = False
                break
            i += 1
        if good:
            for j in range(seen + 1, middle):
                if marks[j - start] == 2:
                    good = False
        if good and tails[k] == 0:
            bit = BOUNDARY
        if good:
            out[k] |= bit
