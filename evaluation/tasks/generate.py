"""Small downstream tasks made from held-out documents, the same for every tokenizer.

Each is a choice of one among four by likelihood. Choices end in a newline, which closes the right boundary: without
it a superword model would lose the mass of the words that could follow. Items depend on the documents and the seed
alone. Sentences are taken from single lines, as they stand.
"""

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.tasks.items import Item, json_line
from isotok.errors import ConfigError
from isotok.files import write_text
from isotok.keyed import keyed_int, keyed_rng

if TYPE_CHECKING:
    import numpy as np

CHOICES = 4
CHANCE = 1 / CHOICES
TERMINATOR = "\n"
CLOZE_WORDS = 4
_MIN_WORDS, _MAX_WORDS, _MAX_BYTES = 8, 40, 320
_LETTERS = 0.75  # least share of letters and spaces: keeps tables, numbers and mark-up out
_SENTENCE_END = re.compile(r"(?<=[.!?]) +")


@dataclass(frozen=True)
class Sentence:
    """Words with single spaces, standing in a line of a document; `before` is the line before it, or ""."""

    id: str
    document: Any
    before: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def sentences(documents: Iterable[Any]) -> Iterator[Sentence]:
    """Sentence-like parts of lines: 8 to 40 words, at most 320 bytes, mostly letters, single spaces inside."""
    for document in documents:
        before = ""
        for number, line in enumerate(document.text.split("\n")):
            line = line.strip()
            parts = [line] if len(line.encode()) <= _MAX_BYTES else _SENTENCE_END.split(line)
            for part_number, part in enumerate(parts):
                words = tuple(part.split(" "))
                if "" not in words and _MIN_WORDS <= len(words) <= _MAX_WORDS and _is_prose(part):
                    lead = before if part_number == 0 else ""
                    yield Sentence(f"{document.id}:{number}:{part_number}", document, lead, words)
            before = line if len(line.encode()) <= _MAX_BYTES else ""


def _is_prose(text: str) -> bool:
    good = sum(char.isalpha() or char == " " for char in text)
    return good >= _LETTERS * len(text) and len(text.encode()) <= _MAX_BYTES and "\t" not in text


def generate_tasks(
    documents: Sequence[Any], names: Sequence[str], items: int, seed: int, out: Path
) -> dict[str, list[Item]]:
    """Make `items` items (or as many as the documents yield) of each named task and write `out`/NAME.jsonl.

    `documents` have `id`, `text`, `group`, `domain`. Same documents and seed: same items, byte for byte.
    """
    for name in names:
        if name not in TASKS:
            raise ConfigError(f"task {name!r}: unknown; there are {', '.join(TASKS)}")
    # Equal sentences are one: a refrain must not be asked twice, nor be its own distractor.
    every = sorted(sentences(documents), key=lambda sentence: sentence.id, reverse=True)
    pool = list({sentence.words: sentence for sentence in every}.values())
    made = {}
    for name in names:
        ordered = sorted(pool, key=lambda sentence: (keyed_int(seed, name, sentence.id), sentence.id))
        made[name] = list(_first(TASKS[name](ordered, seed), items))
        lines = [json_line(item) for item in made[name]]
        write_text(out / f"{name}.jsonl", "".join(line + "\n" for line in lines))
    return made


def _first(items: Iterator[Item], n: int) -> Iterator[Item]:
    for item, _ in zip(items, range(n)):
        yield item


def _item(sentence: Sentence, context: str, gold: str, others: Sequence[str], rng: "np.random.Generator") -> Item:
    place = int(rng.integers(CHOICES))
    choices = list(others)
    choices.insert(place, gold)
    document = sentence.document
    return Item(sentence.id, document.id, document.group, document.domain, context, tuple(choices), place)


def cloze(ordered: Sequence[Sentence], seed: int) -> Iterator[Item]:
    """The last four words of a sentence among the last four of three sentences of other documents.

    The context is the line before (where there is one) and the sentence's beginning; choices start with their space.
    """

    def ending(sentence: Sentence) -> str:
        return " " + " ".join(sentence.words[-CLOZE_WORDS:]) + TERMINATOR

    for sentence in ordered:
        rng = keyed_rng(seed, "iso_cloze", "choices", sentence.id)
        chosen = [ending(sentence)]
        for at in rng.permutation(len(ordered))[:64]:
            other = ordered[int(at)]
            if other.document.id != sentence.document.id and ending(other) not in chosen:
                chosen.append(ending(other))
            if len(chosen) == CHOICES:
                break
        if len(chosen) == CHOICES:
            lead = sentence.before + "\n" if sentence.before else ""
            context = lead + " ".join(sentence.words[:-CLOZE_WORDS])
            yield _item(sentence, context, chosen[0], chosen[1:], rng)


def wordorder(ordered: Sequence[Sentence], seed: int) -> Iterator[Item]:
    """A sentence among three shuffles of its words, whole strings scored after the separator."""
    for sentence in ordered:
        rng = keyed_rng(seed, "iso_wordorder", "choices", sentence.id)
        chosen = [sentence.text + TERMINATOR]
        for _ in range(16):
            shuffled = " ".join(sentence.words[int(i)] for i in rng.permutation(len(sentence.words))) + TERMINATOR
            if shuffled not in chosen:
                chosen.append(shuffled)
            if len(chosen) == CHOICES:
                yield _item(sentence, "", chosen[0], chosen[1:], rng)
                break


def typo(ordered: Sequence[Sentence], seed: int) -> Iterator[Item]:
    """A sentence among three copies with one word misspelled: two letters swapped, or one replaced.

    A misspelling is never a word of the documents that the sentences are from.
    """
    texts = {sentence.document.id: sentence.document.text for sentence in ordered}
    known = {bare(word) for text in texts.values() for word in text.split()}
    for sentence in ordered:
        rng = keyed_rng(seed, "iso_typo", "choices", sentence.id)
        places = [i for i, word in enumerate(sentence.words) if word.isascii() and word.isalpha() and len(word) >= 4]
        chosen = [sentence.text + TERMINATOR]
        for _ in range(16 if places else 0):
            place = places[int(rng.integers(len(places)))]
            word = misspelled(sentence.words[place], rng)
            changed = " ".join((*sentence.words[:place], word, *sentence.words[place + 1 :])) + TERMINATOR
            if bare(word) not in known and changed not in chosen:
                chosen.append(changed)
            if len(chosen) == CHOICES:
                yield _item(sentence, "", chosen[0], chosen[1:], rng)
                break


def bare(word: str) -> str:
    """Lower case without punctuation at the ends."""
    return word.strip(string.punctuation).lower()


def misspelled(word: str, rng: "np.random.Generator") -> str:
    """Two neighbouring letters inside the word swapped, or one replaced; by chance it may be the word itself."""
    at = int(rng.integers(1, len(word) - 2))
    if rng.integers(2):
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + string.ascii_lowercase[int(rng.integers(26))] + word[at + 1 :]


TASKS: dict[str, Callable[[Sequence[Sentence], int], Iterator[Item]]] = {
    "iso_cloze": cloze,
    "iso_wordorder": wordorder,
    "iso_typo": typo,
}
