from typing import Any

import numpy as np
import pytest

from evaluation.intrinsic import intrinsic, is_superword
from evaluation.likelihood import TextEncoder


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (b"of the", True),
        (b" sea", False),
        (b" of the", True),
        (b"king ", False),
        (b"  ", False),
        (b".\n\nThe", True),
        (b"", False),
    ],
)
def test_superword(token: bytes, expected: bool) -> None:
    assert is_superword(token) is expected


def test_figures(superword_tokenizer: Any) -> None:
    encoder = TextEncoder(superword_tokenizer)
    texts = ["of the king", "é of the sea"]
    encoded = [encoder(t) for t in texts]
    figures = intrinsic([e.ids for e in encoded], sum(e.n_bytes for e in encoded), encoder.bytes)
    # of the|" "|king ; é is two bytes|" "|of the|" sea"
    assert figures == {
        "bytes": 24,
        "tokens": 8,
        "bytes_per_token": 3.0,
        "vocabulary_size": len(superword_tokenizer) - 1,
        "vocabulary_used": 6,
        "superword_share": 0.25,
    }


def test_no_text() -> None:
    assert intrinsic([np.zeros(0, dtype=np.int64)], 0, [b"a", b""])["bytes_per_token"] is None
