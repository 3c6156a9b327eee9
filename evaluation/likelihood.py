"""log P(continuation | context) of byte strings under a causal LM, by a named method.

- `backoff`: score from the longest token prefix that E(context) and the E(context + choice) of all choices of one
  item share. Every choice is then charged for the same bytes: the tail of the context and the choice.
- `naive`: lm-eval's cut of `E(context + continuation)` at `len(E(context))`, kept to show by how much it is off. A
  superword across that boundary makes it drop or double bytes, or leaves nothing to score; where it would stop the
  run, E(continuation) is scored.

Every row starts with the end-of-text separator, as in training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from evaluation.encoding import TextEncoder
from evaluation.forward import Window, max_positions, score_windows
from isotok.errors import ConfigError, DataError

Scoring = Literal["backoff", "naive"]


@dataclass(frozen=True)
class Cut:
    """Where to score a pair: `ids` without separator, ids[first:] are scored; they stand for `n_bytes` bytes."""

    ids: tuple[int, ...]
    first: int
    n_bytes: int


@dataclass(frozen=True)
class PairScore:
    """The outcome of one (context, continuation): positive nats over `n_bytes` bytes and `n_tokens` tokens."""

    nats: float
    greedy: bool
    n_bytes: int
    n_tokens: int


def cut_backoff(
    encode: Callable[[str], list[int]], lengths: np.ndarray, context: str, choices: Sequence[str]
) -> list[Cut]:
    """One cut for all choices of one context (see above)."""
    wholes = [encode(context + choice) for choice in choices]
    shared = encode(context)
    for whole in wholes:
        shared = shared[: common_prefix(shared, whole)]
    first = len(shared)
    return [Cut(tuple(whole), first, int(lengths[whole[first:]].sum())) for whole in wholes]


def cut_naive(
    encode: Callable[[str], list[int]], lengths: np.ndarray, context: str, choices: Sequence[str]
) -> list[Cut]:
    """lm-eval's cut of each pair by itself: white space at the context's end moves into the continuation, then
    E(context) is followed by what E(context + continuation) has beyond that many tokens."""
    cuts = []
    for choice in choices:
        stripped = context.rstrip()
        moved = context[len(stripped) :] + choice
        left = encode(stripped)
        right = encode(stripped + moved)[len(left) :] or encode(moved)
        cuts.append(Cut(tuple(left + right), len(left), len(moved.encode())))
    return cuts


CUTS: dict[str, Callable[..., list[Cut]]] = {"backoff": cut_backoff, "naive": cut_naive}


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of leading elements that are equal."""
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return min(len(a), len(b))


class Likelihood:
    """Scores of (context, choices) under one model and tokenizer.

    context_bytes: strings longer than this lose the left of their context, by bytes and not by tokens, so that every
        tokenizer sees the same text. `shortened` counts the strings that did.
    """

    def __init__(self, model: Any, tokenizer: Any, *, context_bytes: int, method: Scoring = "backoff"):
        if method not in CUTS:
            raise ConfigError(f"scoring={method!r}: allowed are {', '.join(CUTS)}")
        self.model = model
        self.encoder = TextEncoder(tokenizer)
        self.context_bytes = context_bytes
        self.method = method
        self.shortened = 0
        self._limit = max_positions(model)

    def score(self, items: Sequence[tuple[str, Sequence[str]]], method: Scoring | None = None) -> list[list[PairScore]]:
        """One score per choice of each (context, choices), in order. The choices of an item share their cut."""
        cuts = [
            CUTS[method or self.method](self._ids, self.encoder.lengths, context, choices) for context, choices in items
        ]
        flat = self._score([cut for own in cuts for cut in own])
        at = iter(flat)
        return [[next(at) for _ in own] for own in cuts]

    def _ids(self, text: str) -> list[int]:
        return self.encoder(text, "item").ids.tolist()  # type: ignore[no-any-return]

    def _score(self, cuts: Sequence[Cut]) -> list[PairScore]:
        unique = list(dict.fromkeys(cut for cut in cuts if cut.first < len(cut.ids)))
        nats, greedy = score_windows(self.model, [self._window(cut) for cut in unique], greedy=True)
        found = {cut: (float(n.sum()), g) for cut, n, g in zip(unique, nats, greedy)}
        scores = []
        for cut in cuts:
            total, hit = found.get(cut, (0.0, True))
            scores.append(PairScore(total, hit, cut.n_bytes, len(cut.ids) - cut.first))
        return scores

    def _window(self, cut: Cut) -> Window:
        """Separator and ids; the left of a context that does not fit goes, whole tokens of it."""
        ids = np.array(cut.ids, dtype=np.int64)
        sizes = self.encoder.lengths[ids]
        left = 0
        if int(sizes.sum()) > self.context_bytes:
            ends_from_right = np.cumsum(sizes[::-1])
            left = len(ids) - int(np.searchsorted(ends_from_right, self.context_bytes, side="right"))
        if self._limit is not None:
            left = max(left, len(ids) - self._limit)  # the separator and all ids but the last are read
            if left > cut.first:
                raise DataError(
                    f"a continuation of {len(ids) - cut.first} tokens does not fit the model's {self._limit} positions"
                )
        left = min(left, cut.first)
        self.shortened += left > 0
        return Window(np.concatenate([[self.encoder.eos_id], ids[left:]]), cut.first - left + 1)
