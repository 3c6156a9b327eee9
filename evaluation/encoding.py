"""Text → ids with the bytes that each stands for, checked to lose nothing."""

import codecs
from dataclasses import dataclass
from typing import Any

import numpy as np

from isotok.errors import DataError
from tokenization import encode_text, token_bytes


@dataclass(frozen=True)
class Encoded:
    """One document: `ids` (n,) without separators, `ends` (n,) the byte at which each token ends, `n_bytes` in all."""

    ids: np.ndarray
    ends: np.ndarray
    n_bytes: int


class TextEncoder:
    """Text -> ids and byte offsets, with the check that nothing of the text is lost."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.bytes = token_bytes(tokenizer)
        self.lengths = np.array([len(b) for b in self.bytes], dtype=np.int64)
        if tokenizer.eos_token_id is None:
            raise DataError("tokenizer: no end-of-text token (eos_token), which separates documents")
        self.eos_id = int(tokenizer.eos_token_id)

    def __call__(self, text: str, name: str = "text") -> Encoded:
        """Raises DataError naming `name` where E(text) does not spell the text: bits per byte would be of another."""
        source = text.encode()
        ids = np.asarray(encode_text(self.tokenizer, text), dtype=np.int64)
        if b"".join([self.bytes[i] for i in ids.tolist()]) != source:
            raise DataError(
                f"{name}: the tokenizer does not give the text back (normalising or unknown tokens); "
                "bits per byte need a lossless tokenizer"
            )
        ends = np.cumsum(self.lengths[ids]) if len(ids) else np.zeros(0, dtype=np.int64)
        return Encoded(ids, ends, len(source))


def whole_text(data: bytes) -> str:
    """Decoded; a character cut off at the end is left out, bytes that never were one become U+FFFD."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=False)
