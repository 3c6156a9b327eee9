"""Sums and differences, written out in digits."""

from collections.abc import Iterator
from itertools import count

from evaluation.tasks.items import Item
from evaluation.tasks.sentences import TERMINATOR, Source
from isotok.keyed import keyed_rng

_SHOWN = ("2 + 3 = 5", "14 - 6 = 8", "40 + 31 = 71", "275 - 120 = 155")
_KINDS = tuple((digits, sign) for digits in (1, 2, 3) for sign in "+-")
_TRIES = 64


def arith(source: Source, seed: int) -> Iterator[Item]:
    """`17 + 25 =` after four examples; one choice, the result. Numbers of one, two and three digits (the larger one),
    added and subtracted in turn; nothing below zero. The documents play no part."""
    lead = "".join(line + TERMINATOR for line in _SHOWN)
    asked = {line.split(" =")[0] for line in _SHOWN}
    for number in count():
        digits, sign = _KINDS[number % len(_KINDS)]
        rng = keyed_rng(seed, "iso_arith", number)
        for _ in range(_TRIES):  # small numbers run out
            large = int(rng.integers(10 ** (digits - 1) if digits > 1 else 0, 10**digits))
            small = int(rng.integers(0, large + 1))
            turned = sign == "+" and rng.integers(2)
            question = f"{small if turned else large} {sign} {large if turned else small}"
            if question not in asked:
                break
        else:
            if digits == 1:
                continue
            return
        asked.add(question)
        result = large + small if sign == "+" else large - small
        group = f"{digits} digits {sign}"
        yield Item(question, "", question, group, f"{lead}{question} =", (f" {result}{TERMINATOR}",), 0)
