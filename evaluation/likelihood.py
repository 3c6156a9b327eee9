"""log P(continuation | context) of byte strings under a causal LM, by a named method.

- `bytes`: exact. P(a text begins with s) is the sum over all covers of s (`tokenization.covers`), and the score is
  log P(context + continuation) - log P(context). Both boundaries are right, whatever tokens span them. Mass on token
  sequences that no text encodes to is left out.
- `backoff`: score from the longest token prefix that E(context) and the E(context + choice) of all choices of one
  item share. Every choice is then charged for the same bytes: the tail of the context and the choice. The right
  boundary stays open: what could follow the choice inside its last token is not counted. For tokenizers that are not
  byte-level BPE.
- `naive`: lm-eval's cut of `E(context + continuation)` at `len(E(context))`, kept to show by how much it is off. A
  superword across that boundary makes it drop or double bytes, or leaves nothing to score; where it would stop the
  run, E(continuation) is scored.

Every row starts with the end-of-text separator, as in training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from evaluation.encoding import TextEncoder
from evaluation.forward import max_positions
from evaluation.trees import STEM, TreeBuilder, TreeScore, score_trees
from isotok.errors import ConfigError, DataError
from tokenization.canonical import Canonical
from tokenization.covers import Cover, covers

Scoring = Literal["bytes", "backoff", "naive"]
METHODS: tuple[Scoring, ...] = get_args(Scoring)

_NODES_PER_TREE = 1024


@dataclass(frozen=True)
class PairScore:
    """The outcome of one (context, continuation): positive nats over `n_bytes` bytes and `n_tokens` tokens.

    greedy: greedy decoding after the context gives the continuation (by bytes with `bytes`: its last token may go on).
    spans: a token of E(context + continuation) spans the end of the context.
    """

    nats: float
    greedy: bool
    n_bytes: int
    n_tokens: int
    spans: bool = False


@dataclass(frozen=True)
class Beginning:
    """A token sequence whose text begins with a prompt: its ids, the bytes beyond the prompt, and their joint log P."""

    ids: tuple[int, ...]
    over: bytes
    log_p: float


@dataclass(frozen=True)
class _Cover:
    """Covers that end in one node of a tree: the set of their last tokens, and how many of the string's bytes these
    begin with."""

    node: int
    tokens: int
    rest: int


@dataclass(frozen=True)
class _Choice:
    """What of an item's trees makes up one choice: the path to a node (`backoff`, `naive`) or covers (`bytes`)."""

    tree: int
    data: bytes
    n_bytes: int
    n_tokens: int
    spans: bool
    node: int = STEM
    covers: tuple[_Cover, ...] | None = None


@dataclass
class _Plan:
    """The trees of one item and how its scores are read off them; context: its covers, in the first tree."""

    builders: list[TreeBuilder]
    choices: list[_Choice | None]
    context: tuple[_Cover, ...] = ()
    scores: list[TreeScore] = field(default_factory=list)


class Likelihood:
    """Scores of (context, choices) under one model and tokenizer.

    context_bytes: items whose longest string is longer than this lose the left of their context, whole tokens of it,
        by bytes and not by tokens, so that every tokenizer sees the same text. `shortened` counts the items that did.
    Raises ConfigError for a method that the tokenizer cannot have.
    """

    def __init__(self, model: Any, tokenizer: Any, *, context_bytes: int, method: Scoring = "bytes"):
        if method not in METHODS:
            raise ConfigError(f"scoring={method!r}: allowed are {', '.join(METHODS)}")
        self.model = model
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(tokenizer)
        self.context_bytes = context_bytes
        self.method = method
        self.shortened = 0
        self._limit = max_positions(model)
        self._known: Canonical | None = None
        if method == "bytes":
            _ = self.canonical

    @property
    def canonical(self) -> Canonical:
        """What the tokenizer's canonical sequences are; made at first use."""
        if self._known is None:
            self._known = Canonical(self.tokenizer)
        return self._known

    def score(
        self, items: Sequence[tuple[str, Sequence[str]]], method: Scoring | None = None, advance: Any = None
    ) -> list[list[PairScore]]:
        """One score per choice of each (context, choices), in order; an empty choice has 0 nats.

        With `backoff` the choices of an item share their cut. `advance(n)` is called as n items are done. Raises
        DataError where an item does not fit the model.
        """
        chosen = method or self.method
        plans = [self._plan(context, choices, chosen) for context, choices in items]
        flat = [builder.tree() for plan in plans for builder in plan.builders]
        scores = iter(score_trees(self.model, flat, advance=advance))
        for plan in plans:
            plan.scores = [next(scores) for _ in plan.builders]
        return [self._read(plan) for plan in plans]

    def beginnings(self, prompt: str, dropped: int = 0) -> list[Beginning]:
        """All canonical sequences that cover a prompt, which may end inside a token, as generation starts from one.

        dropped: how many ids at the left go, of those that all sequences share. log P is relative to what they share.
        """
        data = prompt.encode()
        found = self._covers(data, self._ids(prompt))
        stem = common_beginning([cover.ids for cover in found])
        builder = TreeBuilder([self.encoder.eos_id, *stem[dropped:]])
        nodes = [builder.add(cover.ids[len(stem) :]) for cover in found]
        for node, cover in zip(nodes, found):
            builder.ask(node, cover.tokens)
        (score,) = score_trees(self.model, [builder.tree()], full=True)
        assert score.log_probs is not None
        made = []
        for node, cover in zip(nodes, found):
            above = float(score.log_p[builder.path(node)].sum())
            rest = len(data) - int(self.encoder.lengths[list(cover.ids)].sum())
            for token in cover.tokens.tolist():
                ids = (*cover.ids[min(dropped, len(stem)) :], token)
                log = above + float(score.log_probs[node, token])
                made.append(Beginning(ids, self.canonical.tokens[token][rest:], log))
        return made

    def _ids(self, text: str) -> list[int]:
        return self.encoder(text, "item").ids.tolist()  # type: ignore[no-any-return]

    def _plan(self, context: str, choices: Sequence[str], method: Scoring) -> _Plan:
        longest = len(context.encode()) + max((len(choice.encode()) for choice in choices), default=0)
        if method == "bytes":
            plan = self._plan_bytes(context, choices)
        else:
            plan = self._plan_cuts(context, choices, _cut_backoff if method == "backoff" else _cut_naive)
        self._shorten(plan, longest)
        return plan

    def _plan_cuts(self, context: str, choices: Sequence[str], cut: Callable[..., Any]) -> _Plan:
        before = self._ids(context)
        wholes = [self._ids(context + choice) for choice in choices]
        stem, branches = cut(self._ids, self.encoder.lengths, before, wholes, context, choices)
        plan = _Plan([TreeBuilder([self.encoder.eos_id, *stem])], [])
        for choice, whole, (ids, n_bytes) in zip(choices, wholes, branches):
            if not choice:
                plan.choices.append(None)
                continue
            builder = self._roomy(plan)
            data = choice.encode()
            spans = common_prefix(before, whole) < len(before)
            at = len(plan.builders) - 1
            plan.choices.append(_Choice(at, data, n_bytes, len(ids), spans, node=builder.add(ids)))
        return plan

    def _plan_bytes(self, context: str, choices: Sequence[str]) -> _Plan:
        before = self._ids(context)
        data = context.encode()
        wholes = [self._ids(context + choice) for choice in choices]
        own = self._covers(data, before) if data else []
        found = [self._covers(data + choice.encode(), ids) if choice else [] for choice, ids in zip(choices, wholes)]
        # Every text begins with an empty context: its stem is empty.
        every = [cover.ids for part in (own, *found) for cover in part]
        stem = common_beginning(every) if data and every else ()
        plan = _Plan([TreeBuilder([self.encoder.eos_id, *stem])], [])
        plan.context = self._place(plan.builders[0], len(stem), data, own)
        for choice, ids, part in zip(choices, wholes, found):
            if not choice:
                plan.choices.append(None)
                continue
            builder = self._roomy(plan)
            shared = common_prefix(before, ids)
            placed = self._place(builder, len(stem), data + choice.encode(), part)
            plan.choices.append(
                _Choice(
                    len(plan.builders) - 1,
                    choice.encode(),
                    len(choice.encode()),
                    len(ids) - shared,
                    shared < len(before),
                    covers=placed,
                )
            )
        return plan

    def _roomy(self, plan: _Plan) -> TreeBuilder:
        """The item's last tree, or a new one with the same stem where that is full."""
        if len(plan.builders[-1].ids) > _NODES_PER_TREE:
            plan.builders.append(TreeBuilder(plan.builders[0].stem))
        return plan.builders[-1]

    def _place(self, builder: TreeBuilder, stem: int, data: bytes, part: Sequence[Cover]) -> tuple[_Cover, ...]:
        placed = []
        for cover in part:
            node = builder.add(cover.ids[stem:])
            rest = len(data) - int(self.encoder.lengths[list(cover.ids)].sum())
            placed.append(_Cover(node, builder.ask(node, cover.tokens), rest))
        return tuple(placed)

    def _covers(self, data: bytes, ids: Sequence[int]) -> list[Cover]:
        return covers(self.canonical, data, np.asarray(ids, np.int64))

    def _shorten(self, plan: _Plan, longest: int) -> None:
        """Cut the left of an item's stem where its longest string exceeds the context, or the model's positions."""
        if not plan.builders:
            return
        stem = plan.builders[0].stem[1:]
        reach = np.cumsum(self.encoder.lengths[stem])
        drop = 0
        if longest > self.context_bytes:
            drop = min(len(stem), int(np.searchsorted(reach, longest - self.context_bytes)) + 1)
        if self._limit is not None:
            depth = max(_fed_depth(builder) for builder in plan.builders)
            drop = max(drop, len(stem) + 1 + depth - self._limit)
            if drop > len(stem):
                raise DataError(
                    f"a continuation of {depth} tokens and more does not fit the model's {self._limit} positions"
                )
        if drop > 0:
            self.shortened += 1
            for builder in plan.builders:
                builder.stem = np.concatenate([builder.stem[:1], stem[drop:]])

    def _read(self, plan: _Plan) -> list[PairScore]:
        base = _log_sum(plan.builders[0], plan.scores[0], plan.context) if plan.context else 0.0
        scores = []
        for choice in plan.choices:
            if choice is None:
                scores.append(PairScore(0.0, True, 0, 0))
                continue
            builder, tree = plan.builders[choice.tree], plan.scores[choice.tree]
            if choice.covers is not None:
                nats = base - _log_sum(builder, tree, choice.covers)
                greedy = self._greedy(plan, choice)
            else:
                path = builder.path(choice.node)
                nats = -float(tree.log_p[path].sum())
                greedy = tree.best[[STEM, *path[:-1]]].tolist() == [builder.ids[node] for node in path]
            scores.append(PairScore(nats, greedy, choice.n_bytes, choice.n_tokens, choice.spans))
        return scores

    def _greedy(self, plan: _Plan, choice: _Choice) -> bool:
        """Whether the likeliest cover of the context, and then the model's first choices, spell the continuation."""
        builder, tree = plan.builders[choice.tree], plan.scores[choice.tree]
        tokens = self.canonical.tokens
        left = choice.data
        node: int | None = STEM
        if plan.context:
            first, score = plan.builders[0], plan.scores[0]
            cover = max(plan.context, key=lambda c: score.log_p[first.path(c.node)].sum() + score.best_log_p[c.tokens])
            token = int(score.set_best[cover.tokens])
            over = tokens[token][cover.rest :]
            if over.startswith(left):
                return True
            if not left.startswith(over):
                return False
            left = left[len(over) :]
            for step in [*(first.ids[k] for k in first.path(cover.node)), token]:
                node = builder.child(node, step) if node is not None else None
        while node is not None:
            token = int(tree.best[node])
            piece = tokens[token] if 0 <= token < len(tokens) else b""
            if piece and piece.startswith(left):
                return True
            if not piece or not left.startswith(piece):
                return False
            left = left[len(piece) :]
            node = builder.child(node, token)
        return False  # off the paths that begin encodings of context and continuation


def _log_sum(builder: TreeBuilder, tree: TreeScore, placed: Sequence[_Cover]) -> float:
    """log of the summed probability of covers, relative to the stem."""
    parts = [tree.log_p[builder.path(cover.node)].sum() + tree.set_log_p[cover.tokens] for cover in placed]
    with np.errstate(invalid="ignore"):  # a broken checkpoint gives NaN, which callers name
        return float(np.logaddexp.reduce(parts)) if parts else -np.inf


def _fed_depth(builder: TreeBuilder) -> int:
    """The most tokens after the stem that are fed on one path."""
    depth = [0] * len(builder.ids)
    fed = 0
    asked = {node for node, _ in builder.sets}
    for node, parent in enumerate(builder.parents):
        above = 0 if parent == STEM else depth[parent]
        depth[node] = above + 1
        fed = max(fed, above, depth[node] if node in asked else 0)
    return fed


def _cut_backoff(
    encode: Callable[[str], list[int]],
    lengths: np.ndarray,
    before: list[int],
    wholes: list[list[int]],
    context: str,
    choices: Sequence[str],
) -> tuple[list[int], list[tuple[list[int], int]]]:
    """The stem of all choices, and for each its ids after the stem and the bytes that they are charged for.

    before, wholes: E(context), and E(context + choice) of each choice.
    """
    shared = before
    for whole in wholes:
        shared = shared[: common_prefix(shared, whole)]
    return shared, [(whole[len(shared) :], int(lengths[whole[len(shared) :]].sum())) for whole in wholes]


def _cut_naive(
    encode: Callable[[str], list[int]],
    lengths: np.ndarray,
    before: list[int],
    wholes: list[list[int]],
    context: str,
    choices: Sequence[str],
) -> tuple[list[int], list[tuple[list[int], int]]]:
    """The same by lm-eval's rule: white space at the context's end moves into the continuation, then E(context) is
    followed by what E(context + continuation) has beyond that many tokens."""
    stripped = context.rstrip()
    left = before if stripped == context else encode(stripped)
    branches = []
    for choice, whole in zip(choices, wholes):
        moved = context[len(stripped) :] + choice
        branches.append((whole[len(left) :] or encode(moved), len(moved.encode())))
    return left, branches


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of leading elements that are equal."""
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return min(len(a), len(b))


def common_beginning(sequences: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all sequences begin with."""
    low, high = min(sequences), max(sequences)  # the two that differ first differ from all the others no earlier
    return low[: common_prefix(low, high)]
