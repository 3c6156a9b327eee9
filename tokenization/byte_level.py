"""Raw bytes as a tokenizer: 256 ids, no merges. The baseline without a vocabulary."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from isotok.recipe import recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@recipe
class ByteLevel:
    """One id a byte, in byte order. Nothing is learned; `train` reads no text."""

    @property
    def label(self) -> str:
        return "bytes"

    def train(self, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
        from tokenization.bpe import byte_level_bpe
        from tokenization.tokenizer import byte_alphabet, finish

        vocab = {char: byte for byte, char in enumerate(byte_alphabet())}
        return finish(byte_level_bpe(vocab, [], "none"), {"algorithm": "byte_level", "merges": 0, "superwords": 0})
