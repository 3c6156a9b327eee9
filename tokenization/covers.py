"""Covers: the token sequences through which a text can begin with given bytes.

P(a text begins with s) under a model of tokens is a sum over *covers*: canonical sequences L + [t] where L spells less
than s and L + [t] spells s and perhaps more. For each byte i at which L can end there is one L for each way in which
the text can fall into pieces, and few i at which some token goes on as s does; t is any token that begins with s[i:]
and keeps the sequence canonical (Phan et al. 2024, arXiv 2410.09303; Hayase et al. 2025, arXiv 2506.14123; here from
the definition, with the look-ahead of pretokenizers).
"""

import itertools
from dataclasses import dataclass

import numpy as np

from tokenization.canonical import Canonical


@dataclass(frozen=True)
class Cover:
    """ids + [t] for each t of `tokens` (int32): they spell a text of which the given one is the beginning."""

    ids: tuple[int, ...]
    tokens: np.ndarray


def covers(canonical: Canonical, text: bytes, ids: np.ndarray) -> list[Cover]:
    """All covers of a text (not empty; it may end inside a character), those of one L together.

    ids: E(text), or, where the text ends inside a character, the encoding of its bytes in the pieces of what is whole.
    """
    size = len(text)
    first = max(0, size - canonical.longest)
    cuts = [i for i in range(first, size) if canonical.has_prefix(text[i:])]
    settled, ways = canonical.piece_patterns(text)
    ends = np.cumsum([len(canonical.tokens[i]) for i in ids.tolist()])
    found: dict[tuple[int, ...], np.ndarray] = {}
    for way in ways:
        # As far as this way goes with that of E(text), so do the ids.
        shared = 0
        while shared < len(way) and shared < len(ways[0]) and way[shared] == ways[0][shared]:
            shared += 1
        split = way[shared] if shared < len(way) else size
        if shared < len(ways[0]):
            split = min(split, ways[0][shared])
        for cut in cuts:
            prefix = _encoded(canonical, text, ids, ends, settled, way, cut, split)
            if prefix not in found:
                found[prefix] = canonical.next_tokens(prefix[-512:], text[cut:])
    return [Cover(prefix, tokens) for prefix, tokens in found.items() if len(tokens)]


def _encoded(
    canonical: Canonical,
    text: bytes,
    ids: np.ndarray,
    ends: np.ndarray,
    settled: np.ndarray,
    way: tuple[int, ...],
    cut: int,
    split: int,
) -> tuple[int, ...]:
    """The ids of text[:cut] in the pieces of this way, which is that of E(text) up to byte `split`, exclusive."""
    k = int(np.searchsorted(ends, cut, side="right"))
    if cut <= split and (cut == 0 or (k > 0 and ends[k - 1] == cut)):
        return tuple(ids[:k].tolist())  # the beginning of an encoding is an encoding
    bounds = [*settled.tolist(), *way]
    known = max((b for b in bounds if b <= cut and b < split), default=0)
    pieces = []
    begin = known
    for bound in [*(b for b in bounds if known < b < cut), cut]:
        if bound > begin:
            pieces.append(text[begin:bound])
            begin = bound
    k = int(np.searchsorted(ends, known, side="right"))
    return (*ids[:k].tolist(), *(i for part in canonical.encode_pieces(pieces) for i in part))


def encode_bytes(canonical: Canonical, data: bytes) -> np.ndarray:
    """Ids (int64) of bytes that may end inside a character: E of the pieces that they fall into if nothing follows."""
    settled, ways = canonical.piece_patterns(data)
    bounds = [0, *settled.tolist(), *ways[0], len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(bounds) if b > a]
    return np.array([i for part in canonical.encode_pieces(pieces) for i in part], np.int64)
