"""Gaps in test documents that begin and end inside words: what models give the bytes that are missing.

No model here is trained to fill in. A text is filled in by what P(before + middle + after) says, so a prompt may end
inside a token and what comes after weighs in (`evaluation.bytewise`). Each figure is there twice:

- exact: log P(before + x) - log P(before), P of a text that begins with these bytes; no token boundary is assumed.
- tokens: a prompt of tokens as it stands: log p(E(x) | E(before)), x encoded by itself. It begins inside a word, so no
  text encodes to these tokens; where x ends, a token must end too.

Bits per byte of x = middle + after compares the two over the same bytes. x = middle, which ends inside a word, has the
exact number alone. Choices are four middles of equal length in bytes, so nothing is divided by a length.

Gaps depend on the text, the context in bytes and the seed, never on a model.
"""

import bisect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.bytewise import ByteModel, mixture_nats
from evaluation.documents import bits_per_byte
from evaluation.forward import Window, score_windows
from evaluation.likelihood import Likelihood
from evaluation.stats import Sample, cluster_variance, influence
from isotok.errors import ConfigError, DataError
from isotok.keyed import keyed_rng
from isotok.progress import progress

LEAST_BYTES, MOST_BYTES = 8, 24
AFTER_BYTES, MOST_AFTER_BYTES = 32, 64
LEAST_BEFORE_BYTES = 16
CHOICES = 4
LEAST_CONTEXT_BYTES = 2 * (MOST_BYTES + MOST_AFTER_BYTES)
RULES = ("exact", "tokens")
_TRIES = 400
_WORD = re.compile(r"[^\W\d_]{2,}")
_LETTERS = re.compile(r"[^\W\d_]+")
_BATCH = 16


@dataclass(frozen=True)
class Gap:
    """`before` + `choices[gold]` + `after` stands in document number `document` with the gap at byte `begin`."""

    document: int
    begin: int
    before: str
    after: str
    choices: tuple[str, ...]
    gold: int

    @property
    def middle(self) -> str:
        """What is missing."""
        return self.choices[self.gold]


@dataclass(frozen=True)
class GapScore:
    """Nats under one model. `nats[rule][k]` of choice k, `whole_nats[rule][k]` of choice k and what comes after;
    `byte_nats` of each byte of the true middle, exact."""

    nats: Mapping[str, tuple[float, ...]]
    whole_nats: Mapping[str, tuple[float, ...]]
    byte_nats: np.ndarray


@dataclass
class _Source:
    """A document's text, the byte of each of its characters (one more at the end) and the places inside its words."""

    text: str
    at: np.ndarray
    inside: list[int]
    words: list[tuple[int, int]]

    def cut(self, begin: int, end: int) -> str:
        return self.text[begin:end]

    def size(self, begin: int, end: int) -> int:
        return int(self.at[end] - self.at[begin])


def choose_gaps(names: Sequence[str], texts: Sequence[str], n: int, context_bytes: int, seed: int) -> list[Gap]:
    """`n` gaps (fewer where the texts have fewer), by document and place; `names` of documents are parts of their keys.

    A gap begins and ends inside words: a letter stands on both sides of each end. The middle has 8 to 24 bytes.
    `before` has half the context at most and begins with a line where it can; `after` ends with a word, about 32 bytes
    on. The other choices stand elsewhere in the texts, in the same form as far as possible (letters against anything
    else), and nowhere in the gap's own text.
    """
    if context_bytes < LEAST_CONTEXT_BYTES:
        raise ConfigError(f"gaps: they need a context of {LEAST_CONTEXT_BYTES} bytes, not {context_bytes}; use gaps=0")
    sources = [_source(text) for text in texts]
    order = []
    for number, (name, source) in enumerate(zip(names, sources)):
        draws = keyed_rng("gaps", seed, name).random(len(source.words))
        order += [(float(draw), number, place) for place, draw in enumerate(draws)]
    gaps: list[Gap] = []
    taken: list[list[tuple[int, int]]] = [[] for _ in sources]
    for _, number, place in sorted(order):
        if len(gaps) == n:
            break
        rng = keyed_rng("gap", seed, names[number], place)
        found = _gap(sources, number, place, context_bytes // 2, rng)
        if found is None:
            continue
        end = found.begin + len(found.middle.encode())
        if any(found.begin < b and a < end for a, b in taken[number]):
            continue
        taken[number].append((found.begin, end))
        gaps.append(found)
    return sorted(gaps, key=lambda gap: (gap.document, gap.begin))


def _source(text: str) -> _Source:
    sizes = np.fromiter((len(char.encode()) for char in text), np.int64, len(text))
    words = [match.span() for match in _WORD.finditer(text)]
    inside = [k for begin, end in words for k in range(begin + 1, end)]
    return _Source(text, np.concatenate([[0], np.cumsum(sizes)]), inside, words)


def _gap(sources: Sequence[_Source], number: int, place: int, half: int, rng: np.random.Generator) -> Gap | None:
    source = sources[number]
    word = source.words[place]
    begin = int(rng.integers(word[0] + 1, word[1]))
    low = bisect.bisect_right(source.inside, begin)
    ends = []
    for end in source.inside[low : low + MOST_BYTES]:
        if LEAST_BYTES <= source.size(begin, end) <= MOST_BYTES:
            ends.append(end)
    if not ends:
        return None
    end = ends[int(rng.integers(len(ends)))]
    stop = _after(source, end)
    start = _before(source, begin, half)
    if stop is None or source.size(start, begin) < LEAST_BEFORE_BYTES:
        return None
    middle, around = source.cut(begin, end), source.cut(start, stop)
    others = _others(sources, middle, around, rng)
    if others is None:
        return None
    gold = int(rng.integers(CHOICES))
    choices = (*others[:gold], middle, *others[gold:])
    return Gap(number, int(source.at[begin]), source.cut(start, begin), source.cut(end, stop), choices, gold)


def _after(source: _Source, end: int) -> int | None:
    """The first end of a word 32 bytes or more after the gap, at most 64."""
    low = int(np.searchsorted(source.at, source.at[end] + AFTER_BYTES))
    for _, stop in source.words[bisect.bisect_left(source.words, low, key=lambda word: word[1]) :]:
        return stop if source.size(end, stop) <= MOST_AFTER_BYTES else None
    return None


def _before(source: _Source, begin: int, half: int) -> int:
    """The first beginning of a line, else of a word, within half the context to the left, else as far as it goes."""
    least = int(np.searchsorted(source.at, source.at[begin] - half)) if source.at[begin] > half else 0
    if least == 0:
        return 0
    line = source.text.find("\n", least - 1, begin)
    if line >= 0 and source.size(line + 1, begin) >= LEAST_BEFORE_BYTES:
        return line + 1
    first = bisect.bisect_left(source.words, (least, 0))
    if first < len(source.words) and source.size(source.words[first][0], begin) >= LEAST_BEFORE_BYTES:
        return source.words[first][0]
    return least


def _others(sources: Sequence[_Source], middle: str, around: str, rng: np.random.Generator) -> list[str] | None:
    """Three other middles of as many bytes, from places drawn in all texts; those of the same form come first."""
    size, form = len(middle.encode()), _form(middle)
    counts = np.cumsum([len(source.inside) for source in sources])
    same: list[str] = []
    rest: list[str] = []
    for place in rng.integers(int(counts[-1]), size=_TRIES).tolist():
        number = int(np.searchsorted(counts, place, side="right"))
        source = sources[number]
        begin = source.inside[place - (int(counts[number - 1]) if number else 0)]
        end = int(np.searchsorted(source.at, source.at[begin] + size))
        inside = bisect.bisect_left(source.inside, end)
        if inside == len(source.inside) or source.inside[inside] != end or source.size(begin, end) != size:
            continue
        other = source.cut(begin, end)
        if other in around or other in same or other in rest:
            continue
        (same if _form(other) == form else rest).append(other)
        if len(same) == CHOICES - 1:
            break
    found = (same + rest)[: CHOICES - 1]
    return found if len(found) == CHOICES - 1 else None


def _form(text: str) -> str:
    """Runs of letters as one letter, which says how they begin; everything else as it is."""
    return _LETTERS.sub(lambda match: "A" if match[0][0].isupper() else "a", text)


def score_gaps(model: ByteModel, gaps: Sequence[Gap], context_bytes: int, advance: Any = None) -> list[GapScore]:
    """One score per gap. `advance(n)` is called as n gaps are done. DataError where the model gives no number."""
    likelihood = Likelihood(model.model, model.encoder.tokenizer, context_bytes=context_bytes)
    scores: list[GapScore] = []
    for begin in range(0, len(gaps), _BATCH):
        part = gaps[begin : begin + _BATCH]
        exact = likelihood.score([(g.before, (*g.choices, *(c + g.after for c in g.choices))) for g in part])
        windows = [window for gap in part for window in _windows(model, gap)]
        tokens, _ = score_windows(model.model, windows)
        for k, (gap, pairs) in enumerate(zip(part, exact)):
            own = [float(nats.sum()) for nats in tokens[2 * CHOICES * k : 2 * CHOICES * (k + 1)]]
            by_rule = {"exact": [pair.nats for pair in pairs], "tokens": own}
            after = model.nats_after(gap.before.encode(), gap.middle.encode())
            if not np.isfinite([*by_rule["exact"], *own, *after]).all():
                raise DataError(
                    f"{model.name}: no probability for a gap in document {gap.document}: a broken checkpoint?"
                )
            scores.append(
                GapScore(
                    {rule: tuple(nats[:CHOICES]) for rule, nats in by_rule.items()},
                    {rule: tuple(nats[CHOICES:]) for rule, nats in by_rule.items()},
                    after,
                )
            )
        if advance is not None:
            advance(len(part))
    return scores


def _windows(model: ByteModel, gap: Gap) -> list[Window]:
    """E(before) and then each choice, and each with what comes after, encoded by itself."""
    before = model.encoder(gap.before, "gap").ids
    windows = []
    for text in (*gap.choices, *(choice + gap.after for choice in gap.choices)):
        ids = model.encoder(text, "gap").ids
        left = before
        if model.limit is not None and len(left) + len(ids) > model.limit:
            left = left[len(left) - max(0, model.limit - len(ids)) :]
        windows.append(Window(np.concatenate([[model.eos_id], left, ids]), 1 + len(left)))
    return windows


@dataclass
class Filling:
    """What `filling` found: `figures` for JSON, `rows` by gap and model."""

    figures: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)


def filling(
    models: Sequence[ByteModel], documents: Sequence[Any], context_bytes: int, n: int, seed: int, mixture: str = ""
) -> Filling:
    """Figures of models on `n` gaps in documents, and of their mixture where it has a name.

    Raises DataError where the documents have no gap.
    """
    gaps = choose_gaps([d.id for d in documents], [d.text for d in documents], n, context_bytes, seed)
    if not gaps:
        raise DataError("gaps: the test documents have no two long enough words in a row to cut; use gaps=0")
    with progress("gaps", len(models) * len(gaps), "gaps") as advance:
        scores = {model.name: score_gaps(model, gaps, context_bytes, advance) for model in models}
    groups = np.array([documents[gap.document].group for gap in gaps])
    sizes = np.array([len(gap.middle.encode()) for gap in gaps])
    wholes = sizes + np.array([len(gap.after.encode()) for gap in gaps])
    figures: dict[str, Any] = {
        "gaps": len(gaps),
        "asked": n,
        "seed": seed,
        "choices": CHOICES,
        "middle_bytes": int(sizes.sum()),
        "whole_bytes": int(wholes.sum()),
        "same_form": float(np.mean([_form(c) == _form(g.middle) for g in gaps for c in g.choices])),
        "models": {name: _figures(gaps, own, sizes, wholes, groups) for name, own in scores.items()},
    }
    if mixture:
        nats = [mixture_nats([own[k].byte_nats for own in scores.values()]).sum() for k in range(len(gaps))]
        figures["mixture"] = {"middle_bits_per_byte": bits_per_byte(float(np.sum(nats)), int(sizes.sum()))}
    rows = [
        {
            "item": documents[gap.document].id,
            "group": documents[gap.document].group,
            "begin": gap.begin,
            "before": gap.before,
            "after": gap.after,
            "choices": list(gap.choices),
            "gold": gap.gold,
            "model": name,
            "middle_nats": float(score.byte_nats.sum()),
            **{f"{rule}_nats": list(score.nats[rule]) for rule in RULES},
            **{f"{rule}_whole_nats": list(score.whole_nats[rule]) for rule in RULES},
        }
        for name, own in scores.items()
        for gap, score in zip(gaps, own)
    ]
    return Filling(figures, rows)


def _figures(
    gaps: Sequence[Gap], scores: Sequence[GapScore], sizes: np.ndarray, wholes: np.ndarray, groups: np.ndarray
) -> dict[str, Any]:
    middle = sum(score.nats["exact"][gap.gold] for gap, score in zip(gaps, scores))
    made: dict[str, Any] = {"middle_bits_per_byte": bits_per_byte(middle, int(sizes.sum()))}
    for rule in RULES:
        whole = sum(score.whole_nats[rule][gap.gold] for gap, score in zip(gaps, scores))
        made[rule] = {
            "whole_bits_per_byte": bits_per_byte(whole, int(wholes.sum())),
            "chosen_before": _share([s.nats[rule] for s in scores], gaps, groups),
            "chosen_both": _share([s.whole_nats[rule] for s in scores], gaps, groups),
        }
    return made


def _share(nats: Sequence[Sequence[float]], gaps: Sequence[Gap], groups: np.ndarray) -> dict[str, float | None]:
    """Share of gaps whose true middle has the highest probability, and its standard error over groups."""
    right = np.array([float(np.argmin(own) == gap.gold) for own, gap in zip(nats, gaps)])
    variance, _ = cluster_variance(influence(Sample((0,), right[None], np.ones(len(right)), groups)), groups)
    return {"share": float(right.mean()), "se": None if variance is None else float(np.sqrt(variance))}
