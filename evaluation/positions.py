"""Nats by how far into its document a byte stands: what a model gains from more text before it.

A token's nats are spread evenly over its bytes, so every tokenizer has the same bytes in a bin and the bins add up to
the document's nats.
"""

import itertools
from collections.abc import Sequence

import numpy as np

EDGES = (0, 64, 256, 1024, 4096, 16384)
"""Bytes before the first byte of each bin; the last bin has no end."""


def labels() -> list[str]:
    """`0-64`, `64-256`, ..., `16k+`."""
    names = [f"{edge // 1024}k" if edge >= 1024 else str(edge) for edge in EDGES]
    return [f"{a}-{b}" for a, b in itertools.pairwise(names)] + [f"{names[-1]}+"]


def bytes_in_bins(n_bytes: int) -> np.ndarray:
    """(bins,) how many bytes of a document of so many bytes fall into each bin."""
    return np.diff(np.minimum([*EDGES, n_bytes], n_bytes))


def nats_in_bins(nats: np.ndarray, ends: np.ndarray, n_bytes: int) -> np.ndarray:
    """(bins,) nats of a document's bytes. `nats` of its tokens in order, `ends` the byte at which each one ends."""
    # The running sum of nats is linear within a token; its values at the edges differ by the bins' nats.
    at = np.concatenate([[0], ends])
    running = np.concatenate([[0.0], np.cumsum(nats)])
    return np.diff(np.interp(np.minimum([*EDGES, n_bytes], n_bytes), at, running))


def pool(bins: Sequence[Sequence[float]], n_bytes: Sequence[int]) -> list[dict[str, float | int | str]]:
    """Nats and bytes by bin over documents; bins without a byte are left out."""
    sizes = np.sum([bytes_in_bins(n) for n in n_bytes], axis=0)
    sums = np.sum(np.asarray(bins, dtype=np.float64), axis=0)
    return [
        {
            "position": name,
            "bits_per_byte": float(total / np.log(2) / size),
            "nats": float(total),
            "bytes": int(size),
        }
        for name, total, size in zip(labels(), sums, sizes)
        if size
    ]
