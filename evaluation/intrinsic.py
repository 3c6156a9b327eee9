"""What a tokenizer does to a text, without a model. Special tokens count nowhere."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

_INNER_BOUNDARY = re.compile(rb"\S\s+\S")


def is_superword(token: bytes) -> bool:
    """Whether white space stands between two other bytes of the token: it spans a word boundary."""
    return _INNER_BOUNDARY.search(token) is not None


def intrinsic(tokens_of_documents: Sequence[np.ndarray], n_bytes: int, token_bytes: Sequence[bytes]) -> dict[str, Any]:
    """Figures over documents given as ids. `token_bytes`: the bytes of each id, empty for specials.

    `vocabulary_size` and `vocabulary_used` count entries that stand for bytes; `superword_share` is by count of tokens.
    """
    counts = np.zeros(len(token_bytes), dtype=np.int64)
    for ids in tokens_of_documents:
        counts += np.bincount(ids, minlength=len(token_bytes))
    plain = np.array([len(b) > 0 for b in token_bytes])
    superword = np.array([is_superword(b) for b in token_bytes])
    tokens = int(counts[plain].sum())
    return {
        "bytes": int(n_bytes),
        "tokens": tokens,
        "bytes_per_token": n_bytes / tokens if tokens else None,
        "vocabulary_size": int(plain.sum()),
        "vocabulary_used": int(((counts > 0) & plain).sum()),
        "superword_share": float(counts[superword].sum() / tokens) if tokens else None,
    }
