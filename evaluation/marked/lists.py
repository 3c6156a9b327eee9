"""The names and nouns of a marked task, some of them kept for the test alone."""

from dataclasses import dataclass

from evaluation.subword.words import hold_out
from tokenization.word_lists import names, nouns

ONE_IN = 10


@dataclass(frozen=True)
class Words:
    """What questions draw from. names: of lists; items: in lists, or running words."""

    names: tuple[str, ...]
    items: tuple[str, ...]


def sides(n_names: int, n_items: int, seed: int, held_out: bool) -> tuple[Words, Words | None]:
    """(words for training, words for the split `held_out` alone) of the first so many names and nouns.

    About one in ten is held out, by a keyed hash of word and seed alone: with more words, those that were held out
    stay so. Without held_out all are for training and there is no other side.
    """
    people, things = names()[:n_names], nouns()[:n_items]
    if not held_out:
        return Words(people, things), None
    known, new = zip(*(hold_out(words, seed, one_in=ONE_IN) for words in (people, things)))
    return Words(*known), Words(*new)
