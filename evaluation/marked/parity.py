"""Parity: is the sum of the bits before the mark odd?"""

from typing import TYPE_CHECKING

from evaluation.marked.draft import Draft
from evaluation.marked.levels import Level, draw_length, pieces, up_to
from evaluation.marked.lists import Words
from tokenization.marked import PARITY_QUESTION, bits_line

if TYPE_CHECKING:
    import numpy as np

OVERHEAD = pieces(f"{bits_line([])}\n{PARITY_QUESTION}") + 1 + 1 + 1
"""Pieces of everything but the bits: question, mark, answer and its end."""


def draw(level: Level, words: Words, rng: "np.random.Generator", number: int) -> Draft:
    """Bits with one mark inside, right after a bit; how many are before it is uniform from 1.

    Questions of odd and even parity take turns within pairs of numbers, in either order: one bit before the mark is
    flipped where the drawn ones have the other parity.
    """
    total = draw_length(level, rng) - OVERHEAD if level.length else level.b
    before = int(rng.integers(1, min(level.most_bits, total - 1) + 1))
    bits = rng.integers(2, size=total).tolist()
    flipped = int(rng.integers(before))
    parity = _label(number)
    if sum(bits[:before]) % 2 != parity:
        bits[flipped] = 1 - bits[flipped]
    return Draft(
        prompt=f"{bits_line(bits)}\n{PARITY_QUESTION}",
        marks=(len(bits_line(bits[:before])),),
        answer=f" {parity}",
        type=f"bits{up_to(before)}",
        rules={
            "either answer": 0.5,
            "parity of all bits": float(sum(bits) % 2 == parity),
            "last bit before the mark": float(bits[before - 1] == parity),
        },
    )


def problem(level: Level, words: Words) -> str | None:
    """Why the level's questions cannot be drawn."""
    if not level.length and level.a >= level.b:
        return f"at least one of {level.b} bits has to be after the mark: {level.b - 1} or fewer before it"
    return None


def _label(number: int) -> int:
    from isotok.keyed import keyed_int

    return (number + keyed_int("parity", number // 2)) % 2
