"""Cloze items again, in writing that differs: what a model loses when its text is not as it was in training.

Questions and gold choices stay what they were, so figures of a variant are compared with those of `plain` item by item
(after TokSuite, arXiv:2512.20757).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from evaluation.tasks.items import Item
from evaluation.tasks.prose import cloze
from evaluation.tasks.sentences import Source, is_plain, misspelled
from isotok.keyed import keyed_rng

TYPO_SHARE = 0.3
_LOOKALIKES = str.maketrans("aceopxyi", "асеорхуі")  # Latin to Cyrillic
_CURLY = str.maketrans({"'": "’", '"': "”"})


def robust(source: Source, seed: int) -> Iterator[Item]:
    """Each question of iso_cloze in every variant; questions that a variant would leave as they are are left out."""
    for item in cloze(source, seed):
        made = []
        for variant, write in VARIANTS.items():
            rng = keyed_rng(seed, "iso_robust", variant, item.id)
            context, choices = write(item.context, item.choices, rng)
            named = f"{item.id}:{variant}"
            made.append(replace(item, id=named, context=context, choices=choices, variant=variant, source=item.id))
        if len({(other.context, other.choices) for other in made}) == len(made):
            yield from made


Written = tuple[str, tuple[str, ...]]


def _plain(context: str, choices: tuple[str, ...], rng: np.random.Generator) -> Written:
    return context, choices


def _typos(context: str, choices: tuple[str, ...], rng: np.random.Generator) -> Written:
    """About three in ten longer words of the context misspelled, one at least."""
    words = context.split(" ")
    places = [i for i, word in enumerate(words) if is_plain(word)]
    hit = [i for i in places if rng.random() < TYPO_SHARE] or places[-1:]
    for i in hit:
        words[i] = misspelled(words[i], rng)
    return " ".join(words), choices


def _upper(context: str, choices: tuple[str, ...], rng: np.random.Generator) -> Written:
    return context.upper(), tuple(choice.upper() for choice in choices)


def _lower(context: str, choices: tuple[str, ...], rng: np.random.Generator) -> Written:
    return context.lower(), tuple(choice.lower() for choice in choices)


def _spaces(context: str, choices: tuple[str, ...], rng: np.random.Generator) -> Written:
    """Every space of context and choices doubled."""
    return context.replace(" ", "  "), tuple(choice.replace(" ", "  ") for choice in choices)


def _unicode(context: str, choices: tuple[str, ...], rng: np.random.Generator) -> Written:
    """Quotes of the context curly, and about three in ten of its longer words in letters that only look alike."""
    words = context.translate(_CURLY).split(" ")
    places = [i for i, word in enumerate(words) if is_plain(word) and word != word.translate(_LOOKALIKES)]
    hit = [i for i in places if rng.random() < TYPO_SHARE] or places[-1:]
    for i in hit:
        words[i] = words[i].translate(_LOOKALIKES)
    return " ".join(words), choices


VARIANTS: dict[str, Callable[[str, tuple[str, ...], np.random.Generator], Written]] = {
    "plain": _plain,
    "typos": _typos,
    "upper": _upper,
    "lower": _lower,
    "spaces": _spaces,
    "unicode": _unicode,
}
