"""Byte-level BPE (Sennrich et al., 2016; Radford et al., 2019) through the Hugging Face trainer."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from isotok.errors import DataError
from isotok.recipe import Field, recipe
from tokenization.pretokenize import Feed, PretokenizerName, feed_units, pretokenizer
from tokenization.tokenizer import byte_alphabet, finish, with_progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

Merge = tuple[str, str]

ALPHABET = sorted(byte_alphabet())
"""The 256 byte characters by code point, as the library orders them: id 0 is `!`."""


@recipe
class BPE:
    """Byte-pair encoding over pretokenized text.

    vocab_size: entries without specials: 256 bytes + merges.
    pretokenizer: name in `tokenization.pretokenize`; the default is SuperBPE's stage 1, so that BPE is its control.
    feed: `line` (as the reference trains from files: no token spans a newline) or `document`.
    """

    vocab_size: Annotated[int, Field(ge=257)] = 2048
    pretokenizer: PretokenizerName = "superbpe_stage1"
    feed: Feed = "line"

    @property
    def label(self) -> str:
        return f"bpe-{self.vocab_size}"

    def train(self, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
        """Learn `vocab_size - 256` merges. Raises DataError when the text does not hold that many."""
        merges = learn_merges(texts, self.vocab_size - 256, self.pretokenizer, self.feed)
        vocab = merge_vocabulary(merges)
        metadata = {"algorithm": "bpe", "pretokenizer": self.pretokenizer, "feed": self.feed, "merges": len(merges)}
        return finish(
            byte_level_bpe(vocab, merges, self.pretokenizer), {**metadata, "superwords": count_superwords(vocab)}
        )


def learn_merges(texts: Iterable[str], count: int, pretokenizer_name: PretokenizerName, feed: Feed) -> list[Merge]:
    """The merges of BPE over texts that add `count` entries to the 256 bytes, in the byte-level spelling.

    Ties as the library breaks them: highest count first, then the smallest pair of ids.
    """
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pretokenizer(pretokenizer_name)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + count,
        initial_alphabet=ALPHABET,  # all 256: bytes unseen in training would vanish from text, silently
        show_progress=False,
    )
    pieces = with_progress(texts, "learning merges")
    tokenizer.train_from_iterator(feed_units(pieces, feed), trainer=trainer)
    check_vocabulary(tokenizer.get_vocab_size(), 256 + count)
    return merges_of(tokenizer)


def check_vocabulary(learned: int, wanted: int) -> None:
    """Raise DataError when the corpus ran out of pairs before the vocabulary was full."""
    if learned < wanted:
        raise DataError(
            f"tokenizer.vocab_size={wanted}: this corpus supports only {learned} entries; "
            "lower tokenizer.vocab_size or give more text"
        )


def byte_level_bpe(vocab: dict[str, int], merges: list[Merge], pretokenizer_name: PretokenizerName) -> "Tokenizer":
    """A Hugging Face tokenizer from a vocabulary and merges: pretokenizer, BPE, byte-level decoder."""
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pretokenizer(pretokenizer_name)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def merge_vocabulary(merges: list[Merge]) -> dict[str, int]:
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
    return sum("Ġ" in entry.strip("Ġ") for entry in vocab)
