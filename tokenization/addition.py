"""Addition: a corpus of sums, and the vocabulary that reads numbers three digits at a time.

The text is `$a+b=` and the sum from its last digit to its first, problem after problem without anything between:
`$47+8=55$60+71=131`. `a` has a fixed number of digits, `b` at most as many and no zeros in front (StochasTok's task:
a in 100..999, b in 0..999). A problem stands in one split alone, and so does the same pair in the other order.
"""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import model_validator

from isotok.errors import DataError
from isotok.keyed import keyed_rng
from isotok.recipe import Field, recipe
from tokenization.documents import Corpus, Document, Tally

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerFast

MAX_DIGITS = 3
ADDITION_ENTRIES = 256 + 100 + 1000
_PROBLEM = re.compile(r"\$(\d+)\+(\d+)=(\d+)")


def prompt_of(a: int, b: int) -> str:
    """A problem as the text asks it."""
    return f"${a}+{b}="


def answer_of(a: int, b: int) -> str:
    """The sum as the text gives it: last digit first."""
    return str(a + b)[::-1]


def read_problems(text: str, where: str) -> list[tuple[int, int]]:
    """The problems (a, b) of a text in order. Raises DataError where it is not addition text, or a sum is wrong."""
    problems, at = [], 0
    while at < len(text):
        found = _PROBLEM.match(text, at)
        if found is None:
            raise DataError(
                f"{where}: not addition text at character {at} ({text[at : at + 20]!r}); the corpus has to be "
                "corpus=addition"
            )
        a, b = int(found[1]), int(found[2])
        if found[0] != prompt_of(a, b) + answer_of(a, b):
            raise DataError(f"{where}: {found[0]!r} is not how {a} + {b} is written or what it gives")
        problems.append((a, b))
        at = found.end()
    return problems


@recipe
class Addition(Corpus):
    """All sums of two numbers of so many digits, some of them held out.

    digits: of a; b has at most as many (2: 9,000 problems, 3: 900,000). problems: how many a document holds, 160 being
    about 1,000 subword tokens. Fractions are of the problems, exact to one; a pair is held out in both orders. Training
    text holds each training problem once. The fields on duplicates and leaks play no part: no two documents are alike.
    """

    digits: Annotated[int, Field(ge=1, le=MAX_DIGITS)] = 2
    problems: Annotated[int, Field(ge=1)] = 160
    validation_fraction: float = Field(default=0.02, gt=0, lt=0.5)
    test_fraction: float = Field(default=0.08, gt=0, lt=0.5)
    dedup_threshold: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _whole_documents(self) -> Self:
        largest = self.problems * (3 * self.digits + 4)
        if largest > self.max_document_bytes:
            raise ValueError(
                f"problems={self.problems}: documents of up to {largest:,} bytes would be cut inside a number; lower "
                f"problems or raise max_document_bytes={self.max_document_bytes:,}"
            )
        total = 9 * 10 ** (2 * self.digits - 1)
        for name in ("validation_fraction", "test_fraction"):
            if round(getattr(self, name) * total) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: no problem of {total:,} is left for that split")
        return self

    @property
    def label(self) -> str:
        return f"addition-{self.digits}"

    @property
    def licence(self) -> str:
        return "generated"

    def fingerprint(self) -> dict[str, Any]:
        return {"generated": 1}  # count up when the same keys come to give other text

    def split_of(self, group: str) -> str:
        return group.partition("/")[0]

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        # Held-out problems first: max_bytes then shortens the training text alone.
        splits = split_problems(self.digits, self.seed, self.validation_fraction, self.test_fraction)
        for split in ("test", "validation", "train"):
            pairs = splits[split].tolist()
            for i in range(0, len(pairs), self.problems):
                text = "".join(prompt_of(a, b) + answer_of(a, b) for a, b in pairs[i : i + self.problems])
                name = f"{split}/{i // self.problems}"
                yield Document(name, text, name, "addition")


def split_problems(digits: int, seed: int, validation_fraction: float, test_fraction: float) -> "dict[str, np.ndarray]":
    """{split: int64 of (problems, 2)} of all problems, in the order of the text.

    Pairs without regard to order get a keyed rank each; the first problems by rank are the test split, the next
    validation. A split's end moves by one where it would part a pair from its other order.
    """
    import numpy as np

    size = 10**digits
    a, b = (axis.ravel() for axis in np.meshgrid(np.arange(size // 10, size), np.arange(size), indexing="ij"))
    ranks = keyed_rng("addition problems", seed, digits).permutation(size * size)
    rank = ranks[np.minimum(a, b) * size + np.maximum(a, b)]
    order = np.argsort(rank, kind="stable")
    problems, rank = np.stack([a, b], axis=1)[order], rank[order]

    ends = [round(test_fraction * len(problems)), round((test_fraction + validation_fraction) * len(problems))]
    ends = [end + int(rank[end] == rank[end - 1]) for end in ends]
    parts = zip(("test", "validation", "train"), np.split(problems, ends))
    return {split: keyed_rng("addition order", seed, digits, split).permutation(part, axis=0) for split, part in parts}


@recipe
class AdditionBPE:
    """BPE whose entries are the 256 bytes and every string of two or three digits: 1,356, whatever the corpus.

    Digits fall into threes from the left, signs stand alone (the pieces of `llama3`). It learns from all sums of three
    digits and from each string of digits, because sums of two digits hold few strings of three; it sees no other text,
    so that all corpora of sums share one vocabulary. That held-out problems are among those sums tells it nothing: it
    has every string in any case.
    """

    @property
    def label(self) -> str:
        return f"addition-{ADDITION_ENTRIES}"

    def train(self, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
        """Reads none of the texts. Raises DataError if a string of digits did not become a single token."""
        from tokenization.bpe import BPE
        from tokenization.tokenizer import encode_texts

        bpe = BPE(vocab_size=ADDITION_ENTRIES, pretokenizer="llama3", feed="document")
        tokenizer = bpe.train(_vocabulary_text())
        strings = digit_strings()
        torn = [text for text, ids in zip(strings, encode_texts(tokenizer, strings)) if len(ids) != 1]
        if torn:
            raise DataError(f"tokenizer {self.label}: {len(torn)} strings of digits, such as {torn[0]}, have no entry")
        return tokenizer


def digit_strings() -> list[str]:
    """All strings of one to three digits."""
    return [f"{i:0{n}d}" for n in (1, 2, 3) for i in range(10**n)]


def _vocabulary_text() -> Iterator[str]:
    for a in range(100, 1000):
        yield "".join(prompt_of(a, b) + answer_of(a, b) for b in range(1000))
    yield from digit_strings()
