"""The wording of the marked tasks, and a corpus of it from which a small vocabulary learns their words whole.

A mark is where a META token stands in a prompt and is no text: this module knows none.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from isotok.keyed import keyed_rng
from isotok.recipe import Field, recipe
from tokenization.documents import Corpus, Document, Tally
from tokenization.word_lists import NAMES, NOUNS, names, nouns

if TYPE_CHECKING:
    import numpy as np

MOST_LISTS, MOST_ITEMS = 6, 8
PARITY_QUESTION = "Question: what is the parity of the bits before the mark? Answer:"
COPYING_QUESTION = "Question: copy the text between the marks. Answer:"


def list_line(name: str, items: Sequence[str]) -> str:
    """A named list on one line."""
    return f"{name}: {', '.join(items)}."


def recall_question(number: int, name: str) -> str:
    """Which item of a list, from 1."""
    return f"Question: what is item {number} of {name}? Answer:"


def counting_question(item: str) -> str:
    """How often an item is in a stretch."""
    return f"Question: how many times does {item} appear between the marks? Answer:"


def bits_line(bits: Sequence[int]) -> str:
    """Bits, a space before each."""
    return "Bits:" + "".join(f" {bit}" for bit in bits)


def words_line(before: Sequence[str], span: Sequence[str], after: Sequence[str]) -> str:
    """Words with a bracketed span among them, a space before each word and bracket."""
    return "Words:" + "".join(f" {word}" for word in (*before, "[", *span, "]", *after))


@recipe
class MarkedCorpus(Corpus):
    """Text in the style of the marked tasks: lists, bits, words in brackets, and questions with answers.

    For a tokenizer in whose vocabulary each of the words is one token; not for learning the tasks: without marks three
    of four questions have no right answer, and theirs are drawn. names, items: the first so many of the word lists.
    texts: how many documents; questions: in each. The fields on duplicates and leaks play no part: all text is of few
    patterns.
    """

    names: Annotated[int, Field(ge=MOST_LISTS, le=NAMES)] = 50
    items: Annotated[int, Field(ge=MOST_ITEMS, le=NOUNS)] = 50
    texts: Annotated[int, Field(ge=10)] = 450
    questions: Annotated[int, Field(ge=1)] = 16
    dedup_threshold: float = Field(default=1.0, gt=0, le=1)
    leak_threshold: float = Field(default=1.0, gt=0, le=1)

    @property
    def label(self) -> str:
        return "marked"

    @property
    def licence(self) -> str:
        return "generated"

    def fingerprint(self) -> dict[str, Any]:
        return {"generated": 1}  # count up when the same keys come to give other text

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        people, things = names()[: self.names], nouns()[: self.items]
        for number in range(self.texts):
            rng = keyed_rng("marked text", self.seed, number)
            asked = [_KINDS[i % len(_KINDS)](people, things, rng) for i in range(self.questions)]
            name = f"text{number}"
            yield Document(name, "\n".join(asked) + "\n", name, "marked")


def _recall(people: Sequence[str], things: Sequence[str], rng: "np.random.Generator") -> str:
    lists, lines = _lists(people, things, rng)
    who = list(lists)[int(rng.integers(len(lists)))]
    which = int(rng.integers(len(lists[who])))
    return f"{lines}\n{recall_question(which + 1, who)} {lists[who][which]}"


def _counting(people: Sequence[str], things: Sequence[str], rng: "np.random.Generator") -> str:
    lists, lines = _lists(people, things, rng)
    item = lists[next(iter(lists))][0]
    return f"{lines}\n{counting_question(item)} {int(rng.integers(10))}"


def _parity(people: Sequence[str], things: Sequence[str], rng: "np.random.Generator") -> str:
    bits = rng.integers(2, size=int(rng.integers(2, 17))).tolist()
    return f"{bits_line(bits)}\n{PARITY_QUESTION} {int(rng.integers(2))}"


def _copying(people: Sequence[str], things: Sequence[str], rng: "np.random.Generator") -> str:
    words = _some(things, 3 * MOST_ITEMS, rng)
    start, size = int(rng.integers(len(words) // 2)), int(rng.integers(1, len(words) // 2))
    span = words[start : start + size]
    return f"{words_line(words[:start], span, words[start + size :])}\n{COPYING_QUESTION} {' '.join(span)}"


_KINDS = (_recall, _counting, _parity, _copying)


def _lists(
    people: Sequence[str], things: Sequence[str], rng: "np.random.Generator"
) -> tuple[dict[str, list[str]], str]:
    """Lists by name, and their lines."""
    size = int(rng.integers(3, MOST_ITEMS + 1))
    chosen = _some(people, int(rng.integers(3, MOST_LISTS + 1)), rng)
    lists = {name: _some(things, size, rng) for name in chosen}
    return lists, "\n".join(list_line(name, items) for name, items in lists.items())


def _some(words: Sequence[str], n: int, rng: "np.random.Generator") -> list[str]:
    """At most n different words in random order."""
    return [words[i] for i in rng.permutation(len(words))[:n]]
