"""What a kind of marked task draws, and the shapes of named lists, which recall and counting share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evaluation.marked.levels import Level, draw_length

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Draft:
    """A question as its kind draws it; the fields are those of Question.

    rules: rule without a model → the share of this question that it gets right, the same rules in each.
    """

    prompt: str
    marks: tuple[int, ...]
    answer: str
    type: str
    group: str = ""
    aux: str = ""
    rules: Mapping[str, float] = field(default_factory=dict)


def line_pieces(items: int) -> int:
    """Of a list's line with its newline: name, colon, items, commas and full stop."""
    return 2 * items + 3


def shapes(level: Level, n_names: int, n_items: int, overhead: int) -> dict[int, tuple[int, int]]:
    """{items of a list: (fewest, most lists)} of a length level: two lists or more, whose pieces with `overhead` for
    the question are in the level; names and items of a list are all different."""
    found = {}
    for items in range(level.items[0], min(level.items[1], n_items) + 1):
        fewest = max(2, (level.length // 2 + 1 - overhead + line_pieces(items) - 1) // line_pieces(items))
        most = min(n_names, (level.length - overhead) // line_pieces(items))
        if fewest <= most:
            found[items] = fewest, most
    return found


def draw_shape(level: Level, n_names: int, n_items: int, overhead: int, rng: "np.random.Generator") -> tuple[int, int]:
    """(lists, items of each): of a length level the items uniform among those with a shape, the lists those that come
    nearest to a drawn length."""
    if not level.length:
        return level.a, level.b
    possible = shapes(level, n_names, n_items, overhead)
    items = list(possible)[int(rng.integers(len(possible)))]
    fewest, most = possible[items]
    wanted = math.floor((draw_length(level, rng) - overhead) / line_pieces(items) + 0.5)
    return min(max(wanted, fewest), most), items


def lists_problem(level: Level, n_names: int, n_items: int, overhead: int) -> str | None:
    """Why no lists of a level can be drawn from so many names and items."""
    if level.length:
        possible = shapes(level, n_names, n_items, overhead)
        return None if possible else f"{n_names} names and {n_items} items fill no lists of that length"
    if level.a < 2 or level.b < 2:
        return "at least two lists of two items"
    if level.a > n_names:
        return f"{level.a} lists need as many names, there are {n_names}"
    if level.b > n_items:
        return f"lists of {level.b} need as many different items, there are {n_items}"
    return None


def lists_type(level: Level, lists: int) -> str:
    """The shape itself, or of a length level the number of lists up to a power of two."""
    return f"lists{1 << (lists - 1).bit_length()}" if level.length else f"lists{level.name}"
