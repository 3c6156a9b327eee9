"""CUTE's four edits of a list of units (letters of a word, words of a sentence), and near misses of their results."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Units = tuple[str, ...]
Operation = Literal["ins", "del", "sub", "swap"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Edit:
    """ins: `new` after every `old`. del: no `old`. sub: `new` for every `old`. swap: `old` and `new` change places."""

    operation: Operation
    old: str
    new: str = ""

    def apply(self, units: Units) -> Units:
        return _applied(self, units, len(units))

    def first(self, units: Units) -> Units:
        """Applied where `old` comes first, only."""
        return _applied(self, units, 1)

    def other_way(self, units: Units) -> Units | None:
        """ins: before instead of after; sub: in the reverse direction; None for the others."""
        if self.operation == "ins":
            return tuple(unit for u in units for unit in ((self.new, u) if u == self.old else (u,)))
        return Edit("sub", self.new, self.old).apply(units) if self.operation == "sub" else None


def _applied(edit: Edit, units: Units, times: int) -> Units:
    if edit.operation == "swap":
        exchanged = {edit.old: edit.new, edit.new: edit.old}
        return tuple(exchanged.get(unit, unit) for unit in units)
    into = {"ins": (edit.old, edit.new), "del": (), "sub": (edit.new,)}[edit.operation]
    made: list[str] = []
    for unit in units:
        hit = unit == edit.old and times > 0
        times -= hit
        made += into if hit else (unit,)
    return tuple(made)


def draw_edit(operation: Operation, units: Units, vocabulary: Sequence[str], rng: "np.random.Generator") -> Edit | None:
    """An edit that changes the units and leaves some; the new unit from the vocabulary. None: draw again."""
    different = sorted(set(units))
    old = different[int(rng.integers(len(different)))]
    if operation == "swap":
        once = [unit for unit in different if units.count(unit) == 1]
        if len(once) < 2:
            return None
        old, new = (once[int(i)] for i in rng.permutation(len(once))[:2])
        return Edit("swap", old, new)
    if operation == "del":
        return Edit("del", old) if len(different) > 1 else None
    new = vocabulary[int(rng.integers(len(vocabulary)))]
    return None if new == old else Edit(operation, old, new)


def wrong_results(
    edit: Edit, units: Units, vocabulary: Sequence[str], rng: "np.random.Generator", n: int = 3
) -> list[Units]:
    """`n` different results that are not the right one.

    In this order until there are enough: the units unchanged; the edit of another unit of theirs; of the first
    occurrence only; the edit the other way (`Edit.other_way`); a random edit of any of these or of the right result,
    drawn, again and again: were it always of the right one, that would be the one in the middle.
    """
    right = edit.apply(units)
    results = [right]
    misses = _misses(edit, units, rng)
    while len(results) <= n:
        made = next(misses, None) or random_edit(results[int(rng.integers(len(results)))], vocabulary, rng)
        if made and made not in results:
            results.append(made)
    return results[1:]


def _misses(edit: Edit, units: Units, rng: "np.random.Generator") -> Iterator[Units]:
    yield units
    others = [unit for unit in sorted(set(units)) if unit not in (edit.old, edit.new)]
    if edit.operation == "swap":
        others = [unit for unit in others if units.count(unit) == 1]
    if others:
        other = others[int(rng.integers(len(others)))]
        yield (
            Edit("swap", edit.old, other) if edit.operation == "swap" else Edit(edit.operation, other, edit.new)
        ).apply(units)
    if units.count(edit.old) > 1:
        yield edit.first(units)
    turned = edit.other_way(units)
    if turned is not None:
        yield turned


def random_edit(units: Units, vocabulary: Sequence[str], rng: "np.random.Generator") -> Units:
    """Two neighbours swapped, a unit left out, doubled or replaced; the result may be no different."""
    changes: tuple[Callable[[int], Units], ...] = (
        lambda i: units[:i] + units[i : i + 2][::-1] + units[i + 2 :],
        lambda i: units[:i] + units[i + 1 :],
        lambda i: units[: i + 1] + units[i:],
        lambda i: (*units[:i], vocabulary[int(rng.integers(len(vocabulary)))], *units[i + 1 :]),
    )
    return changes[int(rng.integers(len(changes)))](int(rng.integers(len(units))))
