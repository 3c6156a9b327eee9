"""SuperBPE (Liu, Hayase et al., 2025, arXiv 2503.13423): BPE whose last merges may cross spaces.

Stage 1 is plain BPE up to the transition. Stage 2 goes on from its merges with the whitespace pretokenization
removed, under two vetoes: no entry may contain a colon followed by a space, nor more than `max_words` words.
Inference is plain BPE with the one merge list under the stage-2 pretokenizer, so any engine that honours
`tokenizer.json` gets it right.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

from isotok.recipe import Field, recipe
from tokenization.bpe import (
    Merge,
    byte_level_bpe,
    check_vocabulary,
    count_superwords,
    learn_merges,
    merge_vocabulary,
    merges_of,
)
from tokenization.pretokenize import Feed, PretokenizerName, feed_units
from tokenization.tokenizer import finish, reiterable, with_progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_BATCH = 2048
_FIRST_CODE_POINT = 0x10000


@recipe
class SuperBPE:
    """Two-stage BPE with superwords.

    vocab_size: entries without specials: 256 bytes + merges of both stages.
    transition: entries at the hand-over between the stages: a fraction of vocab_size (below 1) or a count.
    stage1, stage2: pretokenizers by name; defaults are the published tokenizers'.
    feed: `line` as published (no entry spans a newline) or `document`.
    max_words: most words an entry learned in stage 2 may hold.
    forbid_colon_space: veto entries with a colon followed by a space, which would swallow `Answer:` prompts.
    """

    vocab_size: Annotated[int, Field(ge=257)] = 2048
    transition: Annotated[float, Field(gt=0)] = 0.75
    stage1: PretokenizerName = "superbpe_stage1"
    stage2: PretokenizerName = "superbpe_stage2"
    feed: Feed = "line"
    max_words: Annotated[int, Field(ge=1)] = 4
    forbid_colon_space: bool = True

    def __post_init__(self) -> None:
        if not 256 <= self.transition_entries <= self.vocab_size:
            raise ValueError(
                f"transition={self.transition:g} is {self.transition_entries} entries at the hand-over; "
                f"allowed: 256 (no merge inherited) to vocab_size={self.vocab_size}"
            )

    @property
    def label(self) -> str:
        return f"superbpe-{self.vocab_size}-t{self.transition_entries}"

    @property
    def transition_entries(self) -> int:
        """Vocabulary entries (bytes included) when stage 2 begins."""
        fraction = self.transition <= 1
        return round(self.transition * self.vocab_size) if fraction else round(self.transition)

    def train(self, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
        """Learn both stages; texts are read twice. Raises DataError when they do not hold enough merges."""
        texts = reiterable(texts)
        inherited = learn_merges(texts, self.transition_entries - 256, self.stage1, self.feed)
        learned, dropped = self._learn_stage2(texts, inherited)
        merges = inherited + learned
        vocab = merge_vocabulary(merges)
        metadata = {
            "algorithm": "superbpe",
            "pretokenizer": self.stage2,
            "stage1_pretokenizer": self.stage1,
            "feed": self.feed,
            "merges": len(merges),
            "merges_inherited": len(inherited),
            "merges_learned": len(learned),
            "vocab_size_at_transition": self.transition_entries,
            "max_words": self.max_words,
            # The library's trainer cannot veto by word count; longer entries are dropped after the fact,
            # which is exact as long as this number is 0.
            "merges_dropped_by_word_cap": dropped,
            "superwords": count_superwords(vocab),
        }
        return finish(byte_level_bpe(vocab, merges, self.stage2), metadata)

    def _learn_stage2(self, texts: Iterable[str], inherited: list[Merge]) -> tuple[list[Merge], int]:
        """Merges learned after `inherited` under the vetoes, and how many the word cap dropped.

        Stage-2 pieces are encoded with the inherited merges, each id becomes one code point (in id order, so that
        ties break alike), and the library's trainer runs on those strings as if they were words.
        """
        from tokenizers import Tokenizer, models, trainers

        vocab = merge_vocabulary(inherited)
        names = list(vocab)
        wanted = self.vocab_size - len(vocab)
        if wanted == 0:
            return [], 0
        encoder = byte_level_bpe(vocab, inherited, self.stage2)
        margin = 32 + wanted // 4  # for entries that the word cap drops and for second spellings of one entry
        trainer = trainers.BpeTrainer(
            vocab_size=len(names) + wanted + margin,
            initial_alphabet=[chr(_FIRST_CODE_POINT + index) for index in range(len(names))],
            show_progress=False,
        )
        tokenizer = Tokenizer(models.BPE())
        tokenizer.train_from_iterator(self._pieces(texts, encoder, names), trainer=trainer)

        def spell(mapped: str) -> str:
            return "".join(names[ord(char) - _FIRST_CODE_POINT] for char in mapped)

        learned: list[Merge] = []
        dropped = 0
        for left, right in ((spell(left), spell(right)) for left, right in merges_of(tokenizer)):
            if len(vocab) == self.vocab_size:
                break
            if _words(left + right) > self.max_words:
                dropped += 1  # whatever is built on it holds as many words, so it is dropped as well
            elif left + right not in vocab:  # a second way to spell an entry adds nothing
                vocab[left + right] = len(vocab)
                learned.append((left, right))
        check_vocabulary(len(vocab), self.vocab_size)
        return learned, dropped

    def _pieces(self, texts: Iterable[str], encoder: "Tokenizer", names: list[str]) -> Iterator[str]:
        symbols = [chr(_FIRST_CODE_POINT + index) for index in range(len(names))]
        ends_in_colon = [name.endswith(":") for name in names]
        starts_with_space = [name.startswith("Ġ") for name in names]
        for batch in _batches(feed_units(with_progress(texts, "learning superwords"), self.feed)):
            for encoding in encoder.encode_batch(batch, add_special_tokens=False):
                piece: list[str] = []
                last_word, last_id = None, -1
                for word, index in zip(encoding.word_ids, encoding.ids):
                    colon_space = (
                        self.forbid_colon_space and last_id >= 0 and ends_in_colon[last_id] and starts_with_space[index]
                    )
                    if piece and (word != last_word or colon_space):
                        yield "".join(piece)
                        piece = []
                    piece.append(symbols[index])
                    last_word, last_id = word, index
                if piece:
                    yield "".join(piece)


def _words(entry: str) -> int:
    return sum(1 for part in entry.split("Ġ") if part)


def _batches(units: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for unit in units:
        batch.append(unit)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
