"""The vendored lists of nouns and given names (tokenization/data/README.md says what is in them)."""

import functools
from pathlib import Path

from isotok.errors import DataError

NOUNS, NAMES = 2000, 200
_DATA = Path(__file__).parent / "data"


@functools.cache
def nouns() -> tuple[str, ...]:
    """2,000 lower-case nouns in the list's order."""
    return _read("nouns.txt", NOUNS)


@functools.cache
def names() -> tuple[str, ...]:
    """200 capitalised given names in the list's order."""
    return _read("names.txt", NAMES)


def _read(file: str, n: int) -> tuple[str, ...]:
    path = _DATA / file
    try:
        words = tuple(path.read_text(encoding="utf-8").split())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); install isotok again") from None
    if len(set(words)) != n:
        raise DataError(f"{path}: {len(set(words))} different words instead of {n}; install isotok again")
    return words
