"""SuperBPE (Liu, Hayase et al., 2025, arXiv 2503.13423): BPE whose last merges may cross spaces.

Stage 1 is plain BPE up to the transition. Stage 2 goes on from its merges with the whitespace pretokenization
removed, under two vetoes: no entry may contain a colon followed by a space, nor more than `max_words` words.
Inference is plain BPE with the one merge list under the stage-2 pretokenizer, so any engine that honours
`tokenizer.json` gets it right.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from isotok.recipe import Field, recipe
from tokenization.bpe import byte_level_bpe, count_superwords, forbidden, merge_vocabulary, tell_shortfall
from tokenization.chunks import chunks_of
from tokenization.merges import Vetoes, learn_merges
from tokenization.pretokenize import Chunking, Feed, PretokenizerName
from tokenization.tokenizer import finish, reiterable
from tokenization.triadic import refuse_variants

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@recipe
class SuperBPE:
    """Two-stage BPE with superwords.

    vocab_size: entries without specials: 256 bytes + merges of both stages.
    transition: entries at the hand-over between the stages: a fraction of vocab_size (up to 1) or a count.
    stage1, stage2: pretokenizers by name or `regex:PATTERN`; defaults are the published tokenizers'.
    feed: `line` as published (no entry spans a newline) or `document`.
    min_frequency: how often a pair must occur to be merged.
    forbid, max_words, max_bytes: vetoes on entries of stage 2: strings that none may hold (a colon and a space would
    swallow `Answer:` prompts), most words between spaces, most bytes.
    """

    vocab_size: Annotated[int, Field(ge=257, lt=1 << 31)] = 2048
    transition: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.75
    stage1: PretokenizerName = "superbpe_stage1"
    stage2: PretokenizerName = "superbpe_stage2"
    feed: Feed = "line"
    min_frequency: Annotated[int, Field(ge=1, le=1 << 62)] = 1
    forbid: tuple[Annotated[str, Field(min_length=1)], ...] = (": ",)
    max_words: Annotated[int, Field(ge=1, le=1 << 31)] | None = 4
    max_bytes: Annotated[int, Field(ge=2, le=1 << 31)] | None = None

    def __post_init__(self) -> None:
        refuse_variants(self.stage1, "stage1")
        refuse_variants(self.stage2, "stage2")
        if not 256 <= self.transition_entries <= self.vocab_size:
            raise ValueError(
                f"transition={self.transition:g} is {self.transition_entries} entries at the hand-over; "
                f"allowed: 256 (no merge inherited) to vocab_size={self.vocab_size}"
            )

    @property
    def label(self) -> str:
        name = f"superbpe-{self.vocab_size}-t{self.transition_entries}"
        return name if self.stage2 == "superbpe_stage2" else f"{name}-{self.chunkings[1].name}"

    @property
    def transition_entries(self) -> int:
        """Vocabulary entries (bytes included) when stage 2 begins."""
        fraction = self.transition <= 1
        return round(self.transition * self.vocab_size) if fraction else round(self.transition)

    @property
    def chunkings(self) -> tuple[Chunking, ...]:
        return (
            Chunking(pretokenizer=self.stage1, feed=self.feed),
            Chunking(pretokenizer=self.stage2, feed=self.feed),
        )

    def train(self, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
        """Learn both stages, as far as the text goes (which is said); texts are read twice."""
        texts = reiterable(texts)
        words, lines = self.chunkings
        inherited = learn_merges(
            chunks_of(texts, words),
            self.transition_entries - 256,
            vetoes=Vetoes(forbidden()),
            min_frequency=self.min_frequency,
        )
        chunks = chunks_of(texts, lines)
        learned = learn_merges(
            chunks,
            self.vocab_size - 256 - len(inherited),
            inherited=inherited,
            vetoes=Vetoes(forbidden(self.forbid), self.max_words, self.max_bytes),
            min_frequency=self.min_frequency,
        )
        merges = inherited + learned
        vocab = merge_vocabulary(merges)
        tell_shortfall(self.label, len(vocab), self.vocab_size)
        metadata = {
            "algorithm": "superbpe",
            "pretokenizer": self.stage2,
            "stage1_pretokenizer": self.stage1,
            "feed": self.feed,
            "bytes_seen": chunks.text_bytes,
            "unique_chunks": len(chunks),
            "merges": len(merges),
            "merges_inherited": len(inherited),
            "merges_learned": len(learned),
            "vocab_size_at_transition": 256 + len(inherited),
            "vocab_size_at_transition_asked": self.transition_entries,
            "vocab_size_asked": self.vocab_size,
            "min_frequency": self.min_frequency,
            "forbid": list(self.forbid),
            "max_words": self.max_words,
            "max_bytes": self.max_bytes,
            "superwords": count_superwords(vocab),
        }
        return finish(byte_level_bpe(vocab, merges, self.stage2), metadata)
