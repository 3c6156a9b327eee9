"""Copying: the words between two marks, which stand around a bracketed span of running words."""

from typing import TYPE_CHECKING

from evaluation.marked.draft import Draft
from evaluation.marked.levels import Level, draw_length, pieces, up_to
from evaluation.marked.lists import Words
from tokenization.marked import COPYING_QUESTION, words_line

if TYPE_CHECKING:
    import numpy as np

OVERHEAD = pieces(f"{words_line([], [], [])}\n{COPYING_QUESTION}") + 2 + 1
"""Pieces of everything but the words: question, brackets, marks and the end of the answer."""


def draw(level: Level, words: Words, rng: "np.random.Generator", number: int) -> Draft:
    """Running words that come about twice each; each word of the span is also outside of it.

    The first mark stands before the opening bracket with its space, the second right after the closing one.
    """
    if level.length:
        room = draw_length(level, rng) - OVERHEAD  # for the words, those of the span twice: they are the answer as well
        span = int(rng.integers(1, min(level.most_span, room // 3) + 1))
        outside = room - 2 * span
    else:
        span = int(rng.integers(1, level.a + 1))
        outside = level.b - span
    few = [words.items[i] for i in rng.permutation(len(words.items))[: max(2, (span + outside) // 2)]]
    inner = [few[i] for i in rng.integers(len(few), size=span)]
    again = list(dict.fromkeys(inner))
    outer = again + [few[i] for i in rng.integers(len(few), size=outside - len(again))]
    outer = [outer[i] for i in rng.permutation(outside)]
    start = int(rng.integers(outside + 1))
    before, after = outer[:start], outer[start:]

    first = len(words_line(before, [], [])) - len(" [ ]")
    return Draft(
        prompt=f"{words_line(before, inner, after)}\n{COPYING_QUESTION}",
        marks=(first, len(words_line(before, inner, []))),
        answer="".join(f" {word}" for word in inner),
        type=f"span{up_to(span)}",
        group=inner[0],
        rules={
            "the span's first word alone": float(span == 1),
            "as many words from the beginning": float([*before, *inner, *after][:span] == inner),
        },
    )


def problem(level: Level, words: Words) -> str | None:
    """Why the level's questions cannot be drawn from these words."""
    if len(words.items) < 2:
        return f"copying needs two items, there are {len(words.items)}"
    if not level.length and 2 * level.a > level.b:
        return f"spans of up to {level.a} words need {2 * level.a} in all, as each word is outside of its span as well"
    return None
