"""Levels of a curriculum: a fixed shape (`4x3`), or a length (`128`) from which shapes are drawn.

Lengths are counted in pieces: each word, number, sign, newline and mark is one, and so is the end-of-text that ends an
answer. A tokenizer that has every word whole makes of a question as many tokens; others make more.

| kind | `AxB` | a length |
|---|---|---|
| recall, counting | A lists of B items each | B is drawn, A fills the length |
| parity | B bits, of which 1 to A are before the mark | A by the length, B fills it |
| copying | B words, of which 1 to A are in the span | A by the length, B fills it |

A length L is the upper end of what is drawn: a question has more than L/2 and at most L pieces, log-uniform. Items of a
list and the most bits and words are those of the bins that L falls in (up to 128, 256, 512, 1024 and beyond).
"""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SHORTEST = 48
"""Pieces of the shortest length: a question without its content has up to 21."""
_LEVEL = re.compile(r"([1-9][0-9]*)(?:x([1-9][0-9]*))?")
_PIECE = re.compile(r"\w+|[^\w\s]|\n")
_BOUNDS = (128, 256, 512)
_ITEMS = ((3, 5), (5, 10), (10, 20), (20, 40))
_BITS = (4, 8, 16, 32)
_SPANS = (8, 16, 32, 64)


@dataclass(frozen=True)
class Level:
    """One level. a, b: of a fixed shape, 0 of a length; length: in pieces at most, 0 of a fixed shape."""

    name: str
    a: int = 0
    b: int = 0
    length: int = 0

    @property
    def size(self) -> int:
        """What orders levels: pieces, or the content of the shape."""
        return self.length or self.a * self.b

    @property
    def items(self) -> tuple[int, int]:
        """Fewest and most items of a list."""
        return _ITEMS[self._bin] if self.length else (self.b, self.b)

    @property
    def most_bits(self) -> int:
        """Most bits before the mark."""
        return _BITS[self._bin] if self.length else self.a

    @property
    def most_span(self) -> int:
        """Most words in the span to copy."""
        return _SPANS[self._bin] if self.length else self.a

    @property
    def _bin(self) -> int:
        return sum(self.length > bound for bound in _BOUNDS)


def parse_level(text: str) -> Level:
    """Raises ValueError for what is no level."""
    found = _LEVEL.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no level: a shape like 4x3, or a length in pieces like 128")
    if found[2]:
        return Level(text, a=int(found[1]), b=int(found[2]))
    if int(found[1]) < SHORTEST:
        raise ValueError(f"{text!r}: a length is of {SHORTEST} pieces at least")
    return Level(text, length=int(found[1]))


def pieces(text: str) -> int:
    """Words, numbers, signs and newlines of a text."""
    return len(_PIECE.findall(text))


def question_pieces(prompt: str, marks: int, answer: str) -> int:
    """Of a whole question: prompt, marks, answer and the end-of-text after it."""
    return pieces(prompt) + marks + pieces(answer) + 1


def draw_length(level: Level, rng: "np.random.Generator") -> int:
    """A length in (half, whole], log-uniform."""
    half, whole = math.log(level.length / 2), math.log(level.length)
    drawn = math.floor(math.exp(half + (whole - half) * (1 - rng.random())))
    return min(max(drawn, level.length // 2 + 1), level.length)


def fits(level: Level, n_pieces: int) -> bool:
    """Whether a question of so many pieces is one of a length level; any is of a shape."""
    return not level.length or level.length / 2 < n_pieces <= level.length


def up_to(n: int) -> int:
    """The next power of two: the types of a split are few."""
    return 1 << (n - 1).bit_length()
