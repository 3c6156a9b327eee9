"""Segment counting: how often is an item between two marks, in a stretch that may cross lines of lists?"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluation.marked.draft import Draft, draw_shape, lists_problem, lists_type
from evaluation.marked.levels import Level, pieces
from evaluation.marked.lists import Words
from tokenization.marked import counting_question, list_line

if TYPE_CHECKING:
    import numpy as np

OVERHEAD = pieces(counting_question("cat")) + 2 + 1 + 1
"""Pieces of the question, its marks, the answer and its end."""
MOST = 9  # counts are of one digit


def draw(level: Level, words: Words, rng: "np.random.Generator", number: int) -> Draft:
    """N lists of k items, some of which come often. The first mark stands before an item with its space, the second
    right after an item.

    The span is of two items to half of all, uniform; the count is uniform in 0..min(9, span/2), whatever the words; the
    item is at least once outside. The other items are as many different ones as come about as often in the span.
    """
    lists, items = draw_shape(level, len(words.names), len(words.items), OVERHEAD, rng)
    total = lists * items
    span = int(rng.integers(2, total // 2 + 1))
    start = int(rng.integers(total - span + 1))
    count = int(rng.integers(most_counted(span) + 1))
    outside = total - span
    elsewhere = int(rng.integers(1, most_counted(outside) + 1))

    asked, *others = [words.items[i] for i in rng.permutation(len(words.items))[: 1 + _others(span)]]
    inner = _filled(asked, count, span, others, rng)
    outer = _filled(asked, elsewhere, outside, others, rng)
    text = [*outer[:start], *inner, *outer[start:]]

    who = [words.names[i] for i in rng.permutation(len(words.names))[:lists]]
    lines = [list_line(name, text[k * items : (k + 1) * items]) for k, name in enumerate(who)]
    starts = _starts(who, text, items)
    last = start + span - 1
    return Draft(
        prompt="\n".join([*lines, counting_question(asked)]),
        marks=(starts[start] - 1, starts[last] + len(text[last])),
        answer=f" {count}",
        type=lists_type(level, lists),
        aux=asked,
        rules=_rules(text, start, start + span, asked, count),
    )


def problem(level: Level, words: Words) -> str | None:
    """Why the level's questions cannot be drawn from these words."""
    if len(words.items) < 3:
        return f"counting needs three items, there are {len(words.items)}"
    # Items repeat, so that a list may have more of them than there are.
    return lists_problem(level, len(words.names), max(len(words.items), level.items[1]), OVERHEAD)


def most_counted(span: int) -> int:
    """The largest count that a span of so many items may have."""
    return min(MOST, span // 2)


def _others(span: int) -> int:
    return max(2, round(2 * span / most_counted(span)) - 1)


def _filled(asked: str, count: int, size: int, others: Sequence[str], rng: "np.random.Generator") -> list[str]:
    """So many items, `asked` among them `count` times at any places."""
    text = [others[i] for i in rng.integers(len(others), size=size)]
    for place in rng.permutation(size)[:count]:
        text[place] = asked
    return text


def _starts(who: Sequence[str], text: Sequence[str], items: int) -> list[int]:
    """Offset of each item's first letter in the joined lines."""
    found, at = [], 0
    for number, item in enumerate(text):
        if number % items == 0:
            at += len(who[number // items]) + len(": ")
        found.append(at)
        at += len(item) + 2  # ", " or ".\n"
    return found


def _rules(text: Sequence[str], start: int, end: int, asked: str, count: int) -> dict[str, float]:
    often = max(Counter(text[start:end]).values())
    return {
        "any count that the span's length allows": 1 / (most_counted(end - start) + 1),
        "counted up to the second mark": float(text[:end].count(asked) == count),
        "counted outside of the span": float(text.count(asked) - count == count),
        "count of the span's most frequent item": float(often == count),
    }
