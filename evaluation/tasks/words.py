"""Tasks about the letters of words (after CUTE, Edman, Schmid and Fraser, 2024), which a tokenizer hides from a model.

Words are of the documents themselves. Examples stand before each question, the same for every item; their words are
not asked.
"""

import string
from collections.abc import Callable, Iterator

import numpy as np

from evaluation.tasks.items import Item
from evaluation.tasks.sentences import TERMINATOR, Source, placed
from isotok.keyed import keyed_int, keyed_rng

LEAST_COUNT = 3
_SHOWN = ("king", "water", "brother", "heaven")
_NUMBERS = ("none", "one", "two")
_FREQUENT = "etaoinshrdl"


def words(source: Source, seed: int, name: str) -> list[str]:
    """Lower-case words of four to nine letters that the sentences have three times or more, in the order in which
    task `name` takes them."""
    letters = frozenset(string.ascii_lowercase)
    fit = [
        word
        for word, count in source.counts.items()
        if 4 <= len(word) <= 9 and count >= LEAST_COUNT and letters.issuperset(word) and word not in _SHOWN
    ]
    return sorted(fit, key=lambda word: (keyed_int(seed, name, word), word))


def spell(source: Source, seed: int) -> Iterator[Item]:
    """A word spelled letter by letter, among three spellings with letters swapped."""
    yield from _written_out(source, seed, "iso_spell", " ".join)


def reverse(source: Source, seed: int) -> Iterator[Item]:
    """A word from back to front, among three near misses."""
    yield from _written_out(source, seed, "iso_reverse", lambda letters: "".join(reversed(letters)))


def _written_out(source: Source, seed: int, name: str, write: Callable[[str], str]) -> Iterator[Item]:
    shown = "".join(f"{word}: {write(word)}\n" for word in _SHOWN)
    for word in words(source, seed, name):
        rng = keyed_rng(seed, name, "choices", word)
        others = near_misses(word, rng)
        if others:
            gold, *wrong = (f" {write(spelling)}{TERMINATOR}" for spelling in (word, *others))
            choices, place = placed(gold, wrong, rng)
            yield Item(word, "", word, "words", f"{shown}{word}:", choices, place)


def near_misses(word: str, rng: np.random.Generator) -> list[str]:
    """The word with two neighbouring letters swapped, with two others, and with both.

    All have the word's letters, so neither length nor rare letters tell anything, and the word is no nearer to the
    others than any of them: choosing what is most like the rest finds nothing. Empty where there are no two swaps.
    """
    places = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
    pairs = [(a, b) for a in places for b in places if b >= a + 2]
    if not pairs:
        return []
    first, second = pairs[int(rng.integers(len(pairs)))]
    return [_swapped(word, first), _swapped(word, second), _swapped(_swapped(word, first), second)]


def _swapped(word: str, at: int) -> str:
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def charcount(source: Source, seed: int) -> Iterator[Item]:
    """How many times a letter is in a word: none, one or two, each the answer equally often; frequent letters."""
    shown = "".join(
        f"{word}: how many {letter}? {_NUMBERS[word.count(letter)]}\n"
        for word, letter in (("king", "n"), ("water", "s"), ("heaven", "e"), ("brother", "r"))
    )
    waiting: list[list[str]] = [[], [], []]
    for word in words(source, seed, "iso_charcount"):
        counts = {word.count(letter) for letter in word}
        if 2 in counts:
            waiting[2].append(word)
        elif 1 in counts:
            waiting[keyed_int(seed, "iso_charcount", "kind", word) % 2].append(word)
    for group in zip(*waiting):
        for times, word in enumerate(group):
            rng = keyed_rng(seed, "iso_charcount", "choices", word)
            every = [letter for letter in string.ascii_lowercase if word.count(letter) == times]
            letters = [letter for letter in every if letter in _FREQUENT] or every
            letter = letters[int(rng.integers(len(letters)))]
            others = [f" {_NUMBERS[i]}{TERMINATOR}" for i in range(3) if i != times]
            choices, place = placed(f" {_NUMBERS[times]}{TERMINATOR}", others, rng)
            name = f"{word}:{letter}"
            yield Item(name, "", word, "words", f"{shown}{word}: how many {letter}?", choices, place)
