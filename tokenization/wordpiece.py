"""WordPiece as the Hugging Face library has it: BPE's vocabulary, encoded by the longest entry first.

The library's `WordPieceTrainer` counts and merges exactly as its `BpeTrainer` does (it does not score pairs by
likelihood, as Schuster and Nakajima, 2012, did). Without a prefix for continuing subwords its vocabulary is BPE's, so
what this arm compares is how a text is cut: greedily from the left, each time the longest entry that fits.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar

from isotok.recipe import Field, recipe
from tokenization.bpe import count_superwords, forbidden, merge_vocabulary, tell_shortfall
from tokenization.chunks import chunks_of
from tokenization.merges import Vetoes, learn_merges
from tokenization.pretokenize import Chunking, Feed, PretokenizerName, pretokenizer
from tokenization.tokenizer import finish
from tokenization.triadic import refuse_variants

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

MAX_PIECE_BYTES = 100


@recipe
class WordPiece:
    """Longest-match-first encoding with a byte-level vocabulary; lossless, as all 256 bytes are entries.

    BERT's `##` before continuing subwords is left out on purpose: with it a byte has two entries, one string of bytes
    has two spellings, and the text `##a` decodes to something else.
    vocab_size: entries without specials: 256 bytes + merges.
    pretokenizer: name in `tokenization.pretokenize` or `regex:PATTERN`. Pieces of over 100 bytes are cut every 100
    bytes when encoding (see `longest_match`), so one without words (`none`, `superbpe_stage2`) makes little sense.
    feed: `line` (no entry spans a newline) or `document`.
    min_frequency: how often a pair must occur to be merged.
    """

    exact_byte_scores: ClassVar[bool] = False  # evaluation.scoring=bytes is for BPE

    vocab_size: Annotated[int, Field(ge=257)] = 2048
    pretokenizer: PretokenizerName = "superbpe_stage1"
    feed: Feed = "line"
    min_frequency: Annotated[int, Field(ge=1)] = 1

    def __post_init__(self) -> None:
        refuse_variants(self.pretokenizer, "pretokenizer")

    @property
    def label(self) -> str:
        name = f"wordpiece-{self.vocab_size}"
        return name if self.pretokenizer == "superbpe_stage1" else f"{name}-{self.chunkings[0].name}"

    @property
    def chunkings(self) -> tuple[Chunking, ...]:
        return (Chunking(pretokenizer=self.pretokenizer, feed=self.feed),)

    def train(self, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
        """Learn `vocab_size - 256` merges, or as many as the text holds, and keep their results, not their order."""
        chunks = chunks_of(texts, self.chunkings[0])
        merges = learn_merges(
            chunks, self.vocab_size - 256, vetoes=Vetoes(forbidden()), min_frequency=self.min_frequency
        )
        vocab = merge_vocabulary(merges)
        tell_shortfall(self.label, len(vocab), self.vocab_size)
        metadata = {
            "algorithm": "wordpiece",
            "pretokenizer": self.pretokenizer,
            "feed": self.feed,
            "bytes_seen": chunks.text_bytes,
            "unique_chunks": len(chunks),
            "vocab_size_asked": self.vocab_size,
            "min_frequency": self.min_frequency,
            "superwords": count_superwords(vocab),
            "lossless": True,
        }
        return finish(longest_match(vocab, self.pretokenizer), metadata)


def longest_match(vocab: dict[str, int], pretokenizer_name: str) -> "Tokenizer":
    """A Hugging Face tokenizer that takes the longest entry from the left; all 256 bytes must be in the vocabulary.

    The library's matching takes the cube of a piece's length (16,000 letters: over a minute), and BERT's setting makes
    one unknown token of a piece of over 100 characters. Here such a piece is cut every 100 bytes. There is no unknown
    token: where one would be needed the library raises, and with all bytes it never is.
    """
    from tokenizers import Regex, Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import Sequence, Split

    model = models.WordPiece(
        vocab,
        unk_token="",
        continuing_subword_prefix="",  # type: ignore[call-arg]
        max_input_chars_per_word=MAX_PIECE_BYTES,
    )
    tokenizer = Tokenizer(model)
    # After the bytes are spelled, a character is a byte, and none of them is a newline.
    cut = Split(Regex(f".{{1,{MAX_PIECE_BYTES}}}"), behavior="isolated")
    tokenizer.pre_tokenizer = Sequence([pretokenizer(pretokenizer_name), cut])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
