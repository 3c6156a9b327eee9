"""List recall: which is item j of a named list? The mark stands right after that list's line."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluation.marked.draft import Draft, draw_shape, lists_problem, lists_type
from evaluation.marked.levels import Level, pieces
from evaluation.marked.lists import Words
from tokenization.marked import list_line, recall_question

if TYPE_CHECKING:
    import numpy as np

OVERHEAD = pieces(recall_question(1, "Anna")) + 1 + 1 + 1
"""Pieces of the question, its mark, the answer and its end."""


def draw(level: Level, words: Words, rng: "np.random.Generator", number: int) -> Draft:
    """N lists of k different items, an item in several lists or none; the list and j are uniform."""
    lists, items = draw_shape(level, len(words.names), len(words.items), OVERHEAD, rng)
    who = [words.names[i] for i in rng.permutation(len(words.names))[:lists]]
    made = [[words.items[i] for i in rng.permutation(len(words.items))[:items]] for _ in who]
    asked, place = int(rng.integers(lists)), int(rng.integers(items))
    lines = [list_line(name, own) for name, own in zip(who, made)]
    answer = made[asked][place]
    return Draft(
        prompt="\n".join([*lines, recall_question(place + 1, who[asked])]),
        marks=(len("\n".join(lines[: asked + 1])),),
        answer=f" {answer}",
        type=lists_type(level, lists),
        group=answer,
        aux=who[asked],
        rules=_rules(made, asked, place),
    )


def problem(level: Level, words: Words) -> str | None:
    """Why the level's questions cannot be drawn from these words."""
    return lists_problem(level, len(words.names), len(words.items), OVERHEAD)


def _rules(made: Sequence[Sequence[str]], asked: int, place: int) -> dict[str, float]:
    answer = made[asked][place]
    return {
        "first item of the queried list": float(made[asked][0] == answer),
        "any item of the queried list": 1 / len(made[asked]),
        "that item of any list": sum(own[place] == answer for own in made) / len(made),
        "any item": sum(own.count(answer) for own in made) / sum(map(len, made)),
    }
