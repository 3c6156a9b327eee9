"""What generated tasks are made from: sentences of held-out documents, and the words in them."""

import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evaluation.tasks.items import Item
from isotok.keyed import keyed_int

if TYPE_CHECKING:
    import numpy as np

TERMINATOR = "\n"
"""Ends every choice. It closes the right boundary: without it a superword model would lose the mass of the words that
could follow."""
PASSAGE_BYTES = 320
_MIN_WORDS, _MAX_WORDS, _MAX_BYTES = 8, 40, 320
_LETTERS = 0.75  # least share of letters and spaces: keeps tables, numbers and mark-up out
_SENTENCE_END = re.compile(r"(?<=[.!?]) +")


@dataclass(frozen=True)
class Sentence:
    """Words with single spaces, standing in a line of a document.

    before: the line before it, or "". passage: the text before it up to 320 bytes, whole lines and sentences.
    ends_line: whether it ends where its line does.
    """

    id: str
    document: Any
    before: str
    words: tuple[str, ...]
    passage: str = ""
    ends_line: bool = True

    @property
    def text(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True)
class Source:
    """Sentences in an order that depends on them alone, no two of the same words."""

    sentences: tuple[Sentence, ...]

    def ordered(self, seed: int, name: str) -> list[Sentence]:
        """In the order in which task `name` takes them."""
        return sorted(self.sentences, key=lambda sentence: (keyed_int(seed, name, sentence.id), sentence.id))

    @cached_property
    def known(self) -> frozenset[str]:
        """Every word of the documents, bare."""
        texts = {sentence.document.id: sentence.document.text for sentence in self.sentences}
        return frozenset(bare(word) for text in texts.values() for word in text.split())

    @cached_property
    def counts(self) -> Counter[str]:
        """How often the sentences have a word, without punctuation at its ends, as it is written."""
        return Counter(word.strip(string.punctuation) for sentence in self.sentences for word in sentence.words)

    @cached_property
    def pairs(self) -> Counter[tuple[str, str]]:
        """How often two words stand side by side."""
        return Counter(pair for sentence in self.sentences for pair in zip(sentence.words, sentence.words[1:]))


def source(documents: Iterable[Any]) -> Source:
    """The sentences of documents (`id`, `text`, `group`, `domain`), whatever their order."""
    # Equal sentences are one: a refrain must not be asked twice, nor be its own distractor.
    every = sorted(sentences(documents), key=lambda sentence: sentence.id, reverse=True)
    return Source(tuple({sentence.words: sentence for sentence in every}.values()))


def sentences(documents: Iterable[Any]) -> Iterator[Sentence]:
    """Sentence-like parts of lines: 8 to 40 words, at most 320 bytes, mostly letters, single spaces inside."""
    for document in documents:
        before = ""
        passed: list[str] = []
        for number, line in enumerate(document.text.split("\n")):
            line = line.strip()
            parts = [line] if len(line.encode()) <= _MAX_BYTES else _SENTENCE_END.split(line)
            for part_number, part in enumerate(parts):
                words = tuple(part.split(" "))
                last = part_number == len(parts) - 1
                if "" not in words and _MIN_WORDS <= len(words) <= _MAX_WORDS and _is_prose(part):
                    lead = before if part_number == 0 else ""
                    name = f"{document.id}:{number}:{part_number}"
                    yield Sentence(name, document, lead, words, _end(passed), last)
                passed.append(part + ("\n" if last else " "))
                del passed[:-PASSAGE_BYTES]  # every part has a byte at least
            before = line if len(line.encode()) <= _MAX_BYTES else ""


def _is_prose(text: str) -> bool:
    good = sum(char.isalpha() or char == " " for char in text)
    return good >= _LETTERS * len(text) and len(text.encode()) <= _MAX_BYTES and "\t" not in text


def _end(parts: Sequence[str]) -> str:
    """As many of the last parts as fit into a passage."""
    size, first = 0, len(parts)
    while first and (size := size + len(parts[first - 1].encode())) <= PASSAGE_BYTES:
        first -= 1
    return "".join(parts[first:]).lstrip("\n")


def choice_item(
    sentence: Sentence,
    context: str,
    gold: str,
    others: Sequence[str],
    rng: "np.random.Generator",
    **more: str,
) -> Item:
    """An item about a sentence, with the gold choice at a place drawn from `rng`. `id` may be given in `more`."""
    choices, place = placed(gold, others, rng)
    document = sentence.document
    name = more.pop("id", sentence.id)
    return Item(name, document.id, document.group, document.domain, context, choices, place, **more)


def placed(gold: str, others: Sequence[str], rng: "np.random.Generator") -> tuple[tuple[str, ...], int]:
    """The choices with `gold` among the others at a place drawn from `rng`, and that place."""
    place = int(rng.integers(len(others) + 1))
    choices = list(others)
    choices.insert(place, gold)
    return tuple(choices), place


def bare(word: str) -> str:
    """Lower case without punctuation at the ends."""
    return word.strip(string.punctuation).lower()


def is_plain(word: str, least: int = 4) -> bool:
    """Letters a to z alone, `least` of them or more."""
    return word.isascii() and word.isalpha() and len(word) >= least


def misspelled(word: str, rng: "np.random.Generator") -> str:
    """Two neighbouring letters inside the word swapped, or one replaced; by chance it may be the word itself."""
    at = int(rng.integers(1, len(word) - 2))
    if rng.integers(2):
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + string.ascii_lowercase[int(rng.integers(26))] + word[at + 1 :]
