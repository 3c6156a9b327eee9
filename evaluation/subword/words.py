"""Word lists of the subword tasks: the most frequent words of the training text, some of them kept for the test."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isotok.errors import DataError
from isotok.keyed import keyed_int

LONGEST = 12
TEXT_BYTES = 1_000_000_000  # read at most
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")  # "don't" and "to-day" are one word each, not "don", "to" and "day"
_PLAIN = re.compile(r"[a-z]+")


def word_list(corpus: Path, n: int, *, shortest: int = 2, key: str = "task.words") -> tuple[str, ...]:
    """The `n` most frequent words of the training split (its first gigabyte), most frequent first, ties by word.

    Words are of letters a to z as they stand in the text (one that is always capitalised is no word), of `shortest`
    to 12 letters. Raises DataError where the text has fewer; key: what asked for so many.
    """
    from tokenization.corpus import read_documents

    counts: Counter[str] = Counter()
    read = 0
    for document in read_documents(corpus, "train"):
        counts.update(_WORD.findall(document.text))
        read += document.n_bytes
        if read >= TEXT_BYTES:
            break
    fit = [word for word in counts if shortest <= len(word) <= LONGEST and _PLAIN.fullmatch(word)]
    if len(fit) < n:
        raise DataError(
            f"{corpus}: the training text has {len(fit):,} different lower-case words of {shortest} to {LONGEST} "
            f"letters, the task's list needs {n:,}: take a larger corpus, or {key}={max(len(fit), 1)} or fewer"
        )
    return tuple(sorted(fit, key=lambda word: (-counts[word], word))[:n])


def hold_out(words: Sequence[str], seed: int, *, one_in: int = 5) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(words for training, words for the test alone), about one in `one_in` held out.

    A word's side depends on the word and the seed alone, so it is the same in every list that has it.
    """
    held = [keyed_int("held-out word", seed, word) % one_in == 0 for word in words]
    return (
        tuple(word for word, out in zip(words, held) if not out),
        tuple(word for word, out in zip(words, held) if out),
    )


def list_sha256(words: Sequence[str]) -> str:
    """sha256 of the words in order, a line each."""
    return hashlib.sha256("".join(f"{word}\n" for word in words).encode()).hexdigest()


def describe_list(words: Sequence[str], held: Sequence[str]) -> dict[str, Any]:
    """What a task says about its word list in `about`."""
    return {"n": len(words), "held_out": len(held), "sha256": list_sha256(words), "held_out_sha256": list_sha256(held)}
