"""Does a tokenizer cut alike what is nearly alike: prefixes of a text, and a text with a small change in it?

Both are sampled from passages that are the same for every tokenizer.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.intrinsic import ratio
from isotok.keyed import keyed_int, keyed_rng

if TYPE_CHECKING:
    from evaluation.tokenized import Reader

KINDS = ("word_end", "character")
EDITS = ("typo", "capitals", "doubled_space")
ByDomain = Callable[[str | None], dict[str, Any]]
"""Figures of one domain, or of all (None)."""


@dataclass(frozen=True)
class Passage:
    """A stretch of a document, from the start of a word where there is one near."""

    number: int
    text: str
    domain: str


def sample_passages(documents: Sequence[tuple[str, str]], n: int, characters: int, seed: int) -> list[Passage]:
    """At most n passages of `characters` (fewer at a document's end), at even distances through all documents.

    Their order is keyed, so that the first k of them are a sample as well.
    """
    total = sum(len(text) for text, _ in documents)
    shift = keyed_int(seed, "passages", bits=32) / 2**32
    starts = [int((k + shift) * total / n) for k in range(n)]
    found, seen, before, k = [], set(), 0, 0
    for place, (text, domain) in enumerate(documents):
        while k < n and starts[k] < before + len(text):
            start = _word_start(text, starts[k] - before)
            piece = text[start : start + characters]
            if (place, start) not in seen and len(piece) >= 2:
                seen.add((place, start))
                found.append(Passage(k, piece, domain))
            k += 1
        before += len(text)
    return sorted(found, key=lambda passage: keyed_int(seed, "passage", passage.number))


def prefix_stability(reader: "Reader", passages: Sequence[Passage], cuts: int, seed: int) -> ByDomain:
    """Share of cut points i of a passage x at which E(x[:i]) is a prefix of E(x), by kind of cut point.

    word_end: after a word and before white space; character: between any two characters.
    """
    tried: list[tuple[Passage, str, str]] = []
    for passage in passages:
        text = passage.text
        ends = [i for i in range(1, len(text)) if text[i].isspace() and not text[i - 1].isspace()]
        for kind, places in (("word_end", ends), ("character", list(range(1, len(text))))):
            rng = keyed_rng(seed, "prefix", kind, passage.number)
            chosen = sorted(rng.permutation(len(places))[:cuts].tolist())
            tried.extend((passage, kind, text[: places[i]]) for i in chosen)
    whole = dict(zip((p.number for p in passages), reader.ids([p.text for p in passages])))
    kept = [
        whole[passage.number][: len(ids)] == ids
        for (passage, _, _), ids in zip(tried, reader.ids([text for _, _, text in tried]))
    ]

    def figures(domain: str | None) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for kind in KINDS:
            values = [ok for (p, k, _), ok in zip(tried, kept) if k == kind and domain in (None, p.domain)]
            result[kind] = ratio(sum(values), len(values))
            result[f"{kind}_cuts"] = len(values)
        return result

    return figures


def perturbations(reader: "Reader", passages: Sequence[Passage], seed: int) -> ByDomain:
    """What one small change in a passage does to its tokens.

    typo: two neighbouring letters inside one word swapped, or one replaced; capitals: one word in capitals;
    doubled_space: one space between words doubled. `token_change`: mean of tokens after minus before;
    `edit_distance`: mean Levenshtein distance between the two rows of ids; `passages`: how many could be changed so.
    """
    changed: list[tuple[Passage, str, str]] = []
    for passage in passages:
        for kind in EDITS:
            text = perturbed(passage.text, kind, seed, passage.number)
            if text is not None:
                changed.append((passage, kind, text))
    before = dict(zip((p.number for p in passages), reader.ids([p.text for p in passages])))
    after = reader.ids([text for _, _, text in changed])
    rows = [
        (passage.domain, kind, len(ids) - len(before[passage.number]), edit_distance(before[passage.number], ids))
        for (passage, kind, _), ids in zip(changed, after)
    ]

    def figures(domain: str | None) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for kind in EDITS:
            chosen = [(change, far) for d, k, change, far in rows if k == kind and domain in (None, d)]
            result[kind] = {
                "passages": len(chosen),
                "token_change": ratio(sum(change for change, _ in chosen), len(chosen)),
                "edit_distance": ratio(sum(far for _, far in chosen), len(chosen)),
            }
        return result

    return figures


def perturbed(text: str, kind: str, seed: int, number: int) -> str | None:
    """The text with one change of that kind at a keyed place, or None where it has no such place."""
    rng = keyed_rng(seed, "perturbed", kind, number)
    if kind == "doubled_space":
        places = [
            i
            for i in range(1, len(text) - 1)
            if text[i] == " " and not text[i - 1].isspace() and not text[i + 1].isspace()
        ]
        if not places:
            return None
        at = places[int(rng.integers(len(places)))]
        return text[:at] + " " + text[at:]
    words = [(a, b) for a, b in _plain_words(text) if kind == "typo" or not text[a:b].isupper()]
    if not words:
        return None
    start, end = words[int(rng.integers(len(words)))]
    word = text[start:end]
    return text[:start] + (word.upper() if kind == "capitals" else _misspelled(word, rng)) + text[end:]


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Levenshtein distance: fewest insertions, deletions and replacements of one id."""
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and a[len(a) - 1 - end] == b[len(b) - 1 - end]:
        end += 1
    a, b = a[start : len(a) - end], b[start : len(b) - end]
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def _word_start(text: str, near: int) -> int:
    """The first word's start after a space that follows `near` within 60 characters, else `near` itself."""
    space = next((i for i in range(near, min(near + 60, len(text))) if text[i].isspace()), None)
    if space is None:
        return near
    while space < len(text) and text[space].isspace():
        space += 1
    return space


def _plain_words(text: str) -> list[tuple[int, int]]:
    """Runs of at least four ASCII letters that nothing but other characters than letters and digits borders on."""
    words, start = [], 0
    while start < len(text):
        end = start
        while end < len(text) and text[end].isalnum():
            end += 1
        word = text[start:end]
        if len(word) >= 4 and word.isascii() and word.isalpha():
            words.append((start, end))
        start = end + 1
    return words


def _misspelled(word: str, rng: np.random.Generator) -> str:
    """Two neighbouring letters inside the word swapped, or one replaced by another; never the word itself."""
    at = int(rng.integers(1, len(word) - 2))
    if rng.integers(2) and word[at] != word[at + 1]:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    others = [letter for letter in string.ascii_lowercase if letter != word[at].lower()]
    return word[:at] + others[int(rng.integers(len(others)))] + word[at + 1 :]
