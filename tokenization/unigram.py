"""Unigram language model vocabularies (Kudo, 2018) through the Hugging Face library, in byte-level spelling."""

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from isotok.recipe import Field, recipe
from tokenization.bpe import count_superwords, tell_shortfall
from tokenization.chunks import Chunks, chunks_of
from tokenization.merges import ALPHABET
from tokenization.pretokenize import Chunking, Feed, PretokenizerName, pretokenizer
from tokenization.tokenizer import END_OF_TEXT, byte_alphabet, finish
from tokenization.triadic import refuse_variants

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

Scored = tuple[str, float]
"""An entry in byte-level spelling and its log-probability."""

_SCORE_DIGITS = 6  # what is left of a score: the library sums in an order that differs from run to run
_BATCH = 10_000  # words handed to the library at once
_UNSEEN_RANGE = 256 * 1e-4  # the library's scores of bytes that training dropped or never saw: the lowest plus this


@recipe
class Unigram:
    """The segmentation of highest probability under a unigram model; entries come from pruning a large seed.

    Lossless: the 256 bytes are entries, so no text needs an unknown token, and there is none.
    The library's candidates are the substrings that occur twice in its list of distinct words, however often each word
    occurs, so that a frequent word that is part of no other is none, and the vocabulary compresses a tenth worse than
    BPE's. SentencePiece takes its candidates from the text. `seed_words` comes near that: a word that occurs twice is
    fed once more, doubled, which makes it a candidate and hardly weighs.
    vocab_size: entries without specials.
    pretokenizer: name in `tokenization.pretokenize` or `regex:PATTERN`; no entry crosses its pieces.
    feed: `line` (no entry spans a newline) or `document`.
    seed_words: whether words are candidates as they should be; false is the library as it is.
    seed_size: candidates to begin with; max_piece_length: their longest, in bytes; shrinking_factor: what a round of
    pruning leaves; n_sub_iterations: rounds of EM between two prunings.
    """

    exact_byte_scores: ClassVar[bool] = False  # evaluation.scoring=bytes is for BPE

    vocab_size: Annotated[int, Field(ge=257)] = 2048
    pretokenizer: PretokenizerName = "superbpe_stage1"
    feed: Feed = "line"
    seed_words: bool = True
    seed_size: Annotated[int, Field(ge=257)] = 1_000_000
    max_piece_length: Annotated[int, Field(ge=2)] = 16
    shrinking_factor: Annotated[float, Field(gt=0, lt=1)] = 0.75
    n_sub_iterations: Annotated[int, Field(ge=1)] = 2

    def __post_init__(self) -> None:
        refuse_variants(self.pretokenizer, "pretokenizer")

    @property
    def label(self) -> str:
        name = f"unigram-{self.vocab_size}"
        return name if self.pretokenizer == "superbpe_stage1" else f"{name}-{self.chunkings[0].name}"

    @property
    def chunkings(self) -> tuple[Chunking, ...]:
        return (Chunking(pretokenizer=self.pretokenizer, feed=self.feed),)

    def train(self, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
        """Learn `vocab_size` entries, or as many as the text has candidates for, which is said."""
        chunks = chunks_of(texts, self.chunkings[0])
        entries = self._learn(chunks)
        tell_shortfall(self.label, len(entries), self.vocab_size)
        metadata = {
            "algorithm": "unigram",
            "pretokenizer": self.pretokenizer,
            "feed": self.feed,
            "bytes_seen": chunks.text_bytes,
            "unique_chunks": len(chunks),
            "vocab_size_asked": self.vocab_size,
            "seed_words": self.seed_words,
            "seed_size": self.seed_size,
            "max_piece_length": self.max_piece_length,
            "shrinking_factor": self.shrinking_factor,
            "n_sub_iterations": self.n_sub_iterations,
            "superwords": count_superwords(entry for entry, _ in entries),
            "lossless": True,
        }
        return finish(best_segmentation(entries, self.pretokenizer), metadata)

    def _learn(self, chunks: Chunks) -> list[Scored]:
        from tokenizers import Tokenizer, models, trainers

        tokenizer = Tokenizer(models.Unigram())  # no pretokenizer: it is fed with pieces
        trainer = trainers.UnigramTrainer(
            vocab_size=self.vocab_size,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=list(ALPHABET),
            unk_token=None,
            seed_size=self.seed_size,  # type: ignore[call-arg]
            max_piece_length=self.max_piece_length,
            shrinking_factor=self.shrinking_factor,
            n_sub_iterations=self.n_sub_iterations,
        )
        longest = self.max_piece_length if self.seed_words else 0
        tokenizer.train_from_iterator(_fed(chunks, longest), trainer)
        model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
        return in_order([(entry, score) for entry, score in model["vocab"]])


def in_order(entries: Iterable[Scored]) -> list[Scored]:
    """The 256 bytes by code point of their character, then the others by falling score.

    What changes from run to run of the library is taken out: last digits, the order that they make, and which byte of
    those that training has no score for comes first: all of them get the lowest score of all.
    """
    entries = list(entries)
    rank = {char: index for index, char in enumerate(ALPHABET)}
    lowest = min(score for _, score in entries)

    def settled(entry: str, score: float) -> float:
        return round(lowest if entry in rank and score <= lowest + _UNSEEN_RANGE else score, _SCORE_DIGITS)

    scored = [(entry, settled(entry, score)) for entry, score in entries]
    return sorted(scored, key=lambda one: (rank.get(one[0], 256), -one[1], one[0]))


def best_segmentation(entries: list[Scored], pretokenizer_name: str) -> "Tokenizer":
    """A Hugging Face tokenizer from scored entries, all 256 bytes among them: no unknown token."""
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.Unigram(entries, unk_id=None, byte_fallback=False))
    tokenizer.pre_tokenizer = pretokenizer(pretokenizer_name)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _fed(chunks: Chunks, longest: int) -> Iterator[list[str]]:
    """Each chunk in byte-level spelling as often as it occurs, and once doubled if it has at most `longest` bytes."""
    alphabet = byte_alphabet()
    data, start = chunks.data.tobytes(), 0
    for end, count in zip(chunks.ends.tolist(), chunks.counts.tolist()):
        chunk = "".join(alphabet[byte] for byte in data[start:end])
        start = end
        # Cut in the middle of the end-of-text string, so that it cannot become an entry.
        for piece in chunk.replace(END_OF_TEXT, f"{END_OF_TEXT[:5]}\0{END_OF_TEXT[5:]}").split("\0"):
            for first in range(0, count, _BATCH):
                yield [piece] * min(_BATCH, count - first)
            if count > 1 and len(piece) <= longest and END_OF_TEXT not in 2 * piece:
                yield [2 * piece]
