"""Which words are spelled alike and which are used alike, from a word list and the corpus alone.

CUTE's authors took fastText's vectors for meaning. Here it is the company that words keep in the training text:
positive pointwise mutual information with frequent words nearby (contexts smoothed, Levy, Goldberg and Dagan, 2015),
reduced to its first singular vectors. That is a stand-in: it finds words of one kind (gold, silver; mother, father)
rather than synonyms, and it needs some megabytes of text. Where two pairs are as alike as the threshold, another linear
algebra library may choose another one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONTEXTS = 1000  # the list's most frequent words
WINDOW = 4
DIMENSIONS = 100  # after the first, which is frequency
TEXT_BYTES = 50_000_000  # read at most
STOP_WORDS = 150  # the list's most frequent ones are neither asked nor offered: they keep every company
ALIKE = 0.998  # quantile of the cosines of all pairs from which two words are used alike
NOT_ALIKE = 0.7  # and up to which they are not
LEAST_OFTEN = 100  # neighbours in the text that a word must have had
NEAR, FAR = 0.7, 0.3  # Levenshtein ratio above, below which two words are spelled alike, otherwise
_CHUNK_WORDS = 1_000_000
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclass(frozen=True)
class Likeness:
    """For each word of a list: those spelled alike but used otherwise, and those used alike but spelled otherwise."""

    spelled: dict[str, tuple[str, ...]]
    used: dict[str, tuple[str, ...]]
    cosines: tuple[float, float]

    def asked(self) -> tuple[str, ...]:
        """The words that have both, in the list's order."""
        return tuple(word for word, others in self.spelled.items() if others and self.used[word])


def likeness(
    texts: Iterable[str], words: Sequence[str], sides: Sequence[tuple[Sequence[str], Sequence[str]]]
) -> list[Likeness]:
    """For each side (words to ask of, words to offer). words: most frequent first, those of all sides among them."""
    counts = _counts(texts, words)
    cosine = _cosines(counts.astype(np.float64))
    often = counts.sum(1) >= LEAST_OFTEN
    places = {word: i for i, word in enumerate(words)}
    content = np.array([i for i in range(min(STOP_WORDS, len(words) // 5), len(words)) if often[i]], dtype=np.int64)
    sample = cosine[np.ix_(content, content)][np.triu_indices(len(content), 1)]
    low, high = (float(v) for v in np.quantile(sample, [NOT_ALIKE, ALIKE])) if len(sample) else (0.0, 1.0)
    letters = np.array([[word.count(chr(97 + i)) for i in range(26)] for word in words], dtype=np.int16)
    found = []
    kept = set(content.tolist())
    for asked, offered in sides:
        members = np.array(sorted({places[word] for word in offered} & kept), dtype=np.int64)
        spelled, used = {}, {}
        for i in sorted({places[word] for word in asked} & kept):
            word = words[i]
            others = members[members != i]
            close = cosine[i, others]
            bound = 2 * np.minimum(letters[others], letters[i]).sum(1) / (letters[others].sum(1) + letters[i].sum())
            near = others[(bound > NEAR) & (close <= low)]
            spelled[word] = tuple(words[j] for j in near if ratio(word, words[j]) > NEAR)
            used[word] = tuple(words[j] for j in others[close >= high] if ratio(word, words[j]) < FAR)
        found.append(Likeness(spelled, used, (low, high)))
    return found


class Neighbours:
    """The words of a list that have nearly the same letters in nearly the same places as one of them."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        longest = max(map(len, words), default=0)
        self._letters = np.array([[*map(ord, word.ljust(longest))] for word in words], dtype=np.int32)
        self._places = {word: place for place, word in enumerate(words)}

    def of(self, word: str, n: int = 8) -> list[str]:
        """The `n` that differ from it in fewest places, fewest first and then in the list's order."""
        place = self._places[word]
        differ = (self._letters != self._letters[place]).sum(1)
        differ[place] = self._letters.shape[1] + 1
        order = np.argsort(differ, kind="stable")[: min(n, len(self._words) - 1)]
        return [self._words[i] for i in order]


def ratio(a: Sequence[str], b: Sequence[str]) -> float:
    """Levenshtein ratio, as the library of that name has it: 1 - (insertions and deletions) / (letters of both)."""
    row = [0] * (len(b) + 1)  # the longest common subsequence
    for x in a:
        last = 0
        for j, y in enumerate(b):
            last, row[j + 1] = row[j + 1], last + 1 if x == y else max(row[j + 1], row[j])
    return 2 * row[-1] / (len(a) + len(b)) if a or b else 1.0


def _counts(texts: Iterable[str], words: Sequence[str]) -> np.ndarray:
    """How often a word (row) stands within WINDOW words of a frequent one (column)."""
    places = {word: i for i, word in enumerate(words)}
    columns = min(CONTEXTS, len(words))
    counts = np.zeros(len(words) * columns, dtype=np.int64)
    for ids in _chunks(texts, places):
        for distance in range(1, WINDOW + 1):
            for a, b in ((ids[:-distance], ids[distance:]), (ids[distance:], ids[:-distance])):
                both = (a >= 0) & (b >= 0) & (b < columns)
                counts += np.bincount(a[both] * columns + b[both], minlength=len(counts))
    return counts.reshape(len(words), columns)


def _chunks(texts: Iterable[str], places: Mapping[str, int]) -> Iterator[np.ndarray]:
    """Places of many texts' words in the list (-1: not in it); texts do not touch."""
    held: list[int] = []
    read = 0
    for text in texts:
        held += [places.get(word, -1) for word in _WORD.findall(text)] + [-1] * WINDOW
        read += len(text)
        if len(held) >= _CHUNK_WORDS:
            yield np.array(held, dtype=np.int64)
            held = []
        if read >= TEXT_BYTES:
            break
    if held:
        yield np.array(held, dtype=np.int64)


def _cosines(counts: np.ndarray) -> np.ndarray:
    """Of each pair of rows."""
    smoothed = counts.sum(0) ** 0.75
    expected = counts.sum(1, keepdims=True) * (smoothed / max(smoothed.sum(), 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.log(counts / expected)
    values = np.where(np.isfinite(values) & (values > 0), values, 0.0)
    roots, axes = np.linalg.eigh(values.T @ values)
    kept = slice(max(len(roots) - 1 - DIMENSIONS, 0), max(len(roots) - 1, 1))
    vectors = values @ axes[:, kept] / np.maximum(roots[kept], 1e-9) ** 0.25  # columns by the root of their strength
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return vectors @ vectors.T
