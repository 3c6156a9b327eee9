"""Trees of tokens through a causal LM: sequences that begin alike share that beginning in one row.

A row holds a *stem* (ids common to all, the separator first) and the tokens of all branches after it. Each token sees
its own ancestors alone, by a four-dimensional attention mask, and has its depth as its position. So the choices of an
item, and the covers of a byte string, cost the tokens in which they differ. Models that take no such mask get one
ordinary row a path instead; which it is, is tried once on each model.
"""

import dataclasses
import inspect
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evaluation.forward import LOGITS_PER_BATCH, TOKENS_PER_BATCH, max_positions
from isotok.errors import DataError
from modeling.meta_injection import meta_id_of

_LOGITS_PER_CHUNK = 2**21
_TREES: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()
STEM = -1  # the node at the stem's end


@dataclass(frozen=True)
class Tree:
    """stem (n,) int64, n >= 1. ids, parents (m,): tokens after it, parents first; parent STEM is the stem's end.

    sets: pairs of a node and token ids (k,), whose probabilities after that node are summed.
    """

    stem: np.ndarray
    ids: np.ndarray
    parents: np.ndarray
    sets: tuple[tuple[int, np.ndarray], ...] = ()


@dataclass(frozen=True)
class TreeScore:
    """log_p (m,) float64: of each token after its parent. set_log_p: of each set together.

    set_best, best_log_p: the likeliest token of each set and its log-probability.
    best (m + 1,): the model's first choice after each node, the stem's end last; -1 where it was not asked.
    log_probs (m + 1, vocabulary) float32, where asked for, likewise.
    """

    log_p: np.ndarray
    set_log_p: np.ndarray
    set_best: np.ndarray
    best_log_p: np.ndarray
    best: np.ndarray
    log_probs: np.ndarray | None = None


class TreeBuilder:
    """Grows a tree from sequences that follow a stem."""

    def __init__(self, stem: Sequence[int] | np.ndarray):
        self.stem = np.asarray(stem, dtype=np.int64)
        self.ids: list[int] = []
        self.parents: list[int] = []
        self.sets: list[tuple[int, np.ndarray]] = []
        self._nodes: dict[tuple[int, int], int] = {}

    def add(self, ids: Sequence[int]) -> int:
        """The node at the end of the stem and these ids."""
        node = STEM
        for token in ids:
            node = self.add_after(node, token)
        return node

    def add_after(self, node: int, token: int) -> int:
        """The node of a token after a node."""
        child = self._nodes.get((node, token))
        if child is None:
            child = self._nodes[node, token] = len(self.ids)
            self.ids.append(token)
            self.parents.append(node)
        return child

    def ask(self, node: int, tokens: np.ndarray) -> int:
        """Number of a set of tokens after a node."""
        self.sets.append((node, tokens))
        return len(self.sets) - 1

    def child(self, node: int, token: int) -> int | None:
        """The node of a token after a node, if it has grown."""
        return self._nodes.get((node, token))

    def path(self, node: int) -> list[int]:
        """Nodes from the stem's end, left out, to this one."""
        nodes = []
        while node != STEM:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def tree(self) -> Tree:
        """What has grown so far."""
        return Tree(self.stem, np.array(self.ids, np.int64), np.array(self.parents, np.int64), tuple(self.sets))


@torch.inference_mode()
def score_trees(
    model: Any, trees: Sequence[Tree], *, full: bool = False, best: bool = True, advance: Any = None
) -> list[TreeScore]:
    """One score per tree, in order; `full` keeps the whole distribution after every node, `best` asks for the first
    choice after each.

    Softmax sums in float64. Raises DataError where a path is longer than the model's positions. `advance(n)` is called
    as n trees are done.
    """
    branching = branches_together(model)
    rows: list[_Row] = []
    for number, tree in enumerate(trees):
        rows += _rows(number, tree, branching, full)
    _refuse_long(model, rows)
    out = [
        TreeScore(
            np.full(len(tree.ids), np.nan),
            np.full(len(tree.sets), np.nan),
            np.full(len(tree.sets), -1, np.int64),
            np.full(len(tree.sets), np.nan),
            np.full(len(tree.ids) + 1, -1, np.int64),
        )
        for tree in trees
    ]
    logs: list[np.ndarray] = []
    if full:
        logs = [np.zeros((len(tree.ids) + 1, model.config.vocab_size), np.float32) for tree in trees]
    left = np.bincount([row.number for row in rows], minlength=len(trees))
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for batch in _batches(rows, model.config.vocab_size, device.type):
            logits = _forward(model, batch, device, branching)
            firsts = torch.cat([part.argmax(-1) for part in logits]).cpu().numpy() if best else None
            begin = 0
            for row, part, totals in zip(batch, logits, _totals(logits)):
                tree, score = trees[row.number], out[row.number]
                if firsts is not None:
                    own = firsts[begin : begin + len(part)]
                    score.best[[len(tree.ids), *row.nodes]] = own
                    begin += len(part)
                _read(row, part, totals, tree, score, logs[row.number] if full else None)
            done = [row.number for row in batch]
            np.subtract.at(left, done, 1)
            if advance is not None:
                advance(sum(left[number] == 0 for number in set(done)))
    finally:
        model.train(training)
    if full:
        return [dataclasses.replace(score, log_probs=log) for score, log in zip(out, logs)]
    return out


@dataclass(frozen=True)
class _Row:
    """One row of a batch: the nodes of tree `number` that are fed after the stem, in order, and their parents' places
    among them (-1: the stem); the logits at the stem's end and at each of them are read."""

    number: int
    stem: np.ndarray
    nodes: list[int]
    ids: list[int]
    parents: list[int]

    def __len__(self) -> int:
        return len(self.stem) + len(self.ids)


def _rows(number: int, tree: Tree, branching: bool, full: bool) -> list[_Row]:
    """A tree's rows: one, or one for each path. Tokens after which nothing is asked are not fed."""
    parents = tree.parents.tolist()
    fed = (
        set(range(len(parents))) if full else {p for p in parents if p != STEM} | {n for n, _ in tree.sets if n != STEM}
    )
    order = sorted(fed)
    ids = tree.ids.tolist()
    if branching:
        place = {node: k for k, node in enumerate(order)}
        place[STEM] = -1
        return [_Row(number, tree.stem, order, [ids[n] for n in order], [place[parents[n]] for n in order])]
    inner = {parents[node] for node in order}
    paths = []
    for leaf in [node for node in order if node not in inner] or [STEM]:
        path: list[int] = []
        while leaf != STEM:
            path.append(leaf)
            leaf = parents[leaf]
        paths.append(path[::-1])
    return [_Row(number, tree.stem, p, [ids[n] for n in p], list(range(-1, len(p) - 1))) for p in paths]


def _refuse_long(model: Any, rows: list[_Row]) -> None:
    limit = max_positions(model)
    if limit is None:
        return
    for row in rows:
        depths: list[int] = []
        for parent in row.parents:
            depths.append(1 + (depths[parent] if parent >= 0 else 0))
        longest = len(row.stem) + max(depths, default=0)
        if longest > limit:
            raise DataError(f"a text of {longest} tokens does not fit the model's {limit} positions")


def _batches(rows: list[_Row], vocabulary: int, device: str) -> list[list[_Row]]:
    """Rows, longest first, in batches within the limits of `forward`; one row at least."""
    limit = TOKENS_PER_BATCH.get(device, TOKENS_PER_BATCH["cpu"])
    batches: list[list[_Row]] = []
    length = kept = 0
    for row in sorted(rows, key=lambda row: (-len(row), -len(row.ids))):
        if batches:
            count, most = len(batches[-1]) + 1, max(kept, len(row.ids) + 1)
            if count * length <= limit and count * most * vocabulary <= LOGITS_PER_BATCH:
                batches[-1].append(row)
                kept = most
                continue
        batches.append([row])
        length, kept = len(row), len(row.ids) + 1
    return batches


def _forward(model: Any, batch: list[_Row], device: torch.device, branching: bool) -> list[torch.Tensor]:
    """Logits (fed nodes + 1, vocabulary) of each row, the stem's end first."""
    length = max(map(len, batch))
    kept = max(len(row.ids) for row in batch) + 1
    ids = np.zeros((len(batch), length), np.int64)
    can_slice = "logits_to_keep" in inspect.signature(type(model).forward).parameters
    if branching:
        # Padding stands at the left, so that what is read stands at the end of all rows; it sees itself alone.
        seen = np.zeros((len(batch), length, length), np.bool_)
        positions = np.zeros((len(batch), length), np.int64)
        for k, row in enumerate(batch):
            pad, stem = length - len(row), len(row.stem)
            ids[k, pad:] = [*row.stem, *row.ids]
            seen[k, np.arange(pad), np.arange(pad)] = True
            seen[k, pad : pad + stem, pad : pad + stem] = np.tri(stem, dtype=np.bool_)
            positions[k, pad : pad + stem] = np.arange(stem)
            for at, parent in enumerate(row.parents):
                mine, above = pad + stem + at, pad + stem + parent
                seen[k, mine] = seen[k, above]
                seen[k, mine, mine] = True
                positions[k, mine] = positions[k, above] + 1
        dtype = next(model.parameters()).dtype
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen), torch.finfo(dtype).min)
        extra: dict[str, Any] = {
            "attention_mask": mask[:, None].to(device),
            "position_ids": torch.from_numpy(positions).to(device),
        }
        if can_slice:
            extra["logits_to_keep"] = kept
        logits = model(input_ids=torch.from_numpy(ids).to(device), use_cache=False, **extra).logits
        return [logits[k, logits.shape[1] - len(row.ids) - 1 :] for k, row in enumerate(batch)]
    for k, row in enumerate(batch):
        ids[k, : len(row)] = [*row.stem, *row.ids]
    first = min(len(row.stem) for row in batch) - 1
    keep = {"logits_to_keep": length - first} if can_slice else {}
    logits = model(input_ids=torch.from_numpy(ids).to(device), use_cache=False, **keep).logits[:, -(length - first) :]
    return [logits[k, len(row.stem) - 1 - first : len(row) - first] for k, row in enumerate(batch)]


def _totals(logits: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """log of the sum of exp of each line of logits, float64, of several rows in chunks."""
    lines = [line for part in logits for line in part.split(max(1, _LOGITS_PER_CHUNK // part.shape[1]))]
    sums, chunk, size = [], [], 0
    for k, part in enumerate(lines, 1):
        chunk.append(part)
        size += part.numel()
        if k == len(lines) or size + lines[k].numel() > _LOGITS_PER_CHUNK:
            sums.append(torch.cat(chunk).double().logsumexp(-1).cpu().numpy())
            chunk, size = [], 0
    ends = np.cumsum([len(part) for part in logits])
    return np.split(np.concatenate(sums), ends[:-1])


def _read(
    row: _Row, logits: torch.Tensor, totals: np.ndarray, tree: Tree, score: TreeScore, full: np.ndarray | None
) -> None:
    """Take what a tree asks from the logits of one of its rows; totals: `_totals` of them."""
    columns = {node: k for k, node in enumerate(row.nodes, 1)}
    columns[STEM] = 0
    if full is not None:
        full[[*row.nodes, len(tree.ids)]] = (
            (logits.double() - torch.from_numpy(totals).to(logits.device)[:, None])[[*range(1, len(logits)), 0]]
            .float()
            .cpu()
            .numpy()
        )
    # One gather for all tokens that follow a node and all members of sets.
    edges = [(node, columns[p]) for node, p in enumerate(tree.parents.tolist()) if p in columns]
    sets = [(k, columns[node], tokens) for k, (node, tokens) in enumerate(tree.sets) if node in columns]
    at = np.array([column for _, column in edges] + [c for _, c, t in sets for _ in range(len(t))], np.int64)
    if not len(at):
        return
    nodes = np.array([node for node, _ in edges], np.int64)
    wanted = np.concatenate([tree.ids[nodes], *(tokens for *_, tokens in sets)]).astype(np.int64)
    flat = torch.from_numpy(at * logits.shape[1] + wanted).to(logits.device)
    values = logits.reshape(-1)[flat].double().cpu().numpy() - totals[at]
    score.log_p[nodes] = values[: len(nodes)]
    begin = len(nodes)
    for k, _, tokens in sets:
        part = values[begin : begin + len(tokens)]
        begin += len(tokens)
        top = int(part.argmax())
        score.set_best[k], score.best_log_p[k] = tokens[top], part[top]
        score.set_log_p[k] = part[top] + np.log(np.exp(part - part[top]).sum()) if np.isfinite(part[top]) else part[top]


def branches_together(model: Any) -> bool:
    """Whether the model gives a small tree what it gives the paths in rows of their own; tried once."""
    known = _TREES.get(model)
    if known is None:
        known = _TREES[model] = _try_tree(model)
    return known


@torch.inference_mode()
def _try_tree(model: Any) -> bool:
    parameters = inspect.signature(type(model).forward).parameters
    if not {"attention_mask", "position_ids"} <= set(parameters):
        return False
    if getattr(model.config, "_attn_implementation", "eager") not in ("eager", "sdpa"):
        return False
    # A mask of our own would let layers that look back only so far see more.
    if getattr(model.config, "sliding_window", None) or set(getattr(model.config, "layer_types", None) or ()) - {
        "full_attention"
    }:
        return False
    # A meta token, and rows of the table after it, have no logit.
    size = meta_id_of(model.config) or model.config.vocab_size
    draw = np.random.default_rng(0)
    limit = min(48, getattr(model.config, "max_position_embeddings", None) or 48)
    stem = draw.integers(size, size=max(1, limit - 4))
    tree = Tree(
        stem, draw.integers(size, size=6), np.array([-1, 0, 1, -1, 3, 4]), ((2, np.array([0])), (5, np.array([0])))
    )
    device = next(model.parameters()).device
    together = _forward(model, _rows(0, tree, True, False), device, True)[0].float()[:, :size]
    apart = [part.float()[:, :size] for part in _forward(model, _rows(0, tree, False, False), device, False)]
    expected = torch.cat([apart[0], apart[1][1:]])
    if not torch.isfinite(expected).all():
        return False  # a broken checkpoint: whoever reads the scores says so
    scale = 1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2
    return bool(torch.allclose(together, expected, rtol=scale, atol=scale * expected.abs().max().item()))
