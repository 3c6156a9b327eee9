"""Byte-level BPE (Sennrich et al., 2016; Radford et al., 2019): merges of the most frequent pairs inside pieces."""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from isotok.progress import say
from isotok.recipe import Field, recipe
from tokenization.chunks import chunks_of
from tokenization.merges import ALPHABET, Merge, Vetoes, learn_merges
from tokenization.pretokenize import Chunking, Feed, PretokenizerName, pretokenizer
from tokenization.tokenizer import END_OF_TEXT, finish
from tokenization.triadic import VARIANTS as TRIADIC
from tokenization.triadic import dress, number_entries

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


@recipe
class BPE:
    """Byte-pair encoding over pretokenized text, equal to the Hugging Face trainer's.

    vocab_size: entries without specials: 256 bytes + merges.
    pretokenizer: name in `tokenization.pretokenize` or `regex:PATTERN`; the default is SuperBPE's stage 1, so that BPE
    is its control. `none` is BPE without pretokenization.
    feed: `line` (as the reference trains from files: no entry spans a newline) or `document`.
    min_frequency: how often a pair must occur to be merged.
    forbid, max_words, max_bytes: vetoes on entries: strings that none may hold, most words between spaces, most bytes.
    """

    vocab_size: Annotated[int, Field(ge=257, lt=1 << 31)] = 2048
    pretokenizer: PretokenizerName = "superbpe_stage1"
    feed: Feed = "line"
    min_frequency: Annotated[int, Field(ge=1, le=1 << 62)] = 1
    forbid: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    max_words: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
    max_bytes: Annotated[int, Field(ge=2, le=1 << 31)] | None = None

    def __post_init__(self) -> None:
        numbers = len(number_entries(self.pretokenizer))
        if self.vocab_size < 256 + numbers:
            raise ValueError(
                f"vocab_size={self.vocab_size}: pretokenizer={self.pretokenizer} alone has {numbers} entries; "
                f"allowed: at least {256 + numbers}"
            )

    @property
    def label(self) -> str:
        name = f"bpe-{self.vocab_size}"
        return name if self.pretokenizer == "superbpe_stage1" else f"{name}-{self.chunkings[0].name}"

    @property
    def chunkings(self) -> tuple[Chunking, ...]:
        return (Chunking(pretokenizer=self.pretokenizer, feed=self.feed),)

    def train(self, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
        """Learn `vocab_size - 256` merges, or as many as the text holds, which is said and kept in the metadata."""
        chunks = chunks_of(texts, self.chunkings[0])
        vetoes = Vetoes(forbidden(self.forbid), self.max_words, self.max_bytes)
        numbers = number_entries(self.pretokenizer)
        merges = learn_merges(
            chunks, self.vocab_size - 256 - len(numbers), vetoes=vetoes, min_frequency=self.min_frequency
        )
        vocab = merge_vocabulary(merges)
        vocab.update({entry: len(vocab) + i for i, entry in enumerate(numbers)})
        tell_shortfall(self.label, len(vocab), self.vocab_size)
        metadata = {
            "algorithm": "bpe",
            "pretokenizer": self.pretokenizer,
            "feed": self.feed,
            "bytes_seen": chunks.text_bytes,
            "unique_chunks": len(chunks),
            "merges": len(merges),
            "vocab_size_asked": self.vocab_size,
            "min_frequency": self.min_frequency,
            "forbid": list(self.forbid),
            "max_words": self.max_words,
            "max_bytes": self.max_bytes,
            "superwords": count_superwords(vocab),
        }
        return finish(byte_level_bpe(vocab, merges, self.pretokenizer), metadata)


def forbidden(texts: Iterable[str] = ()) -> tuple[bytes, ...]:
    """The texts as bytes, and the end-of-text string: where it stands in a corpus, it must not become an entry."""
    return (*(text.encode() for text in texts), END_OF_TEXT.encode())


def tell_shortfall(label: str, learned: int, asked: int) -> None:
    """Say so when the corpus ran out of pairs before the vocabulary was full."""
    if learned < asked:
        say(
            f"tokenizer {label}: tokenizer.vocab_size={asked}, but this text holds only {learned} entries; "
            "the vocabulary has those (lower tokenizer.vocab_size or tokenizer.min_frequency, or give more text)"
        )


def byte_level_bpe(vocab: dict[str, int], merges: Sequence[Merge], pretokenizer_name: str) -> "Tokenizer":
    """A Hugging Face tokenizer from a vocabulary and merges: pretokenizer, BPE, byte-level decoder."""
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.pre_tokenizer = pretokenizer(pretokenizer_name)
    tokenizer.decoder = decoders.ByteLevel()
    if pretokenizer_name in TRIADIC:
        dress(tokenizer, pretokenizer_name)
    return tokenizer


def merge_vocabulary(merges: Iterable[Merge]) -> dict[str, int]:
    """Ids: the 256 byte characters in code-point order, then the result of each merge in order."""
    vocab = {char: index for index, char in enumerate(ALPHABET)}
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    return vocab


def merges_of(tokenizer: "Tokenizer") -> list[Merge]:
    """The merge list of a trained BPE model, as pairs of strings."""
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return [(left, right) for left, right in model["merges"]]


def count_superwords(vocab: Iterable[str]) -> int:
    """Entries that hold a space between two words: what plain BPE cannot learn."""
    return sum(is_superword(entry) for entry in vocab)


def is_superword(entry: str) -> bool:
    return "Ġ" in entry.strip("Ġ")
