"""What a model that knows several segmentations of a text is charged for, on short spans of test text.

Scored on its canonical tokens, a model trained under StochasTok or BPE-dropout also pays for the probability that it
keeps for other segmentations of the same text. Three numbers, over the same spans and after the same context:

- canonical: -log p of the span's tokens in E(document).
- canonicalised: at each step the softmax is renormalised over the tokens (and end-of-text, where a document may end)
  that keep the sequence the beginning of some text's encoding. At most the canonical number.
- marginal: -log of the sum over all token sequences that spell the span's bytes after the same context; at most the
  canonical number. The sum over segmentations (Cao and Rimell, EMNLP 2021, estimate it by sampling) is bounded by
  best-first search over their tree: segmentations that were finished bound it from below, those and the mass of all
  that were begun from above.
"""

import hashlib
import heapq
import inspect
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from evaluation.encoding import Encoded, TextEncoder
from evaluation.forward import LOGITS_PER_BATCH, TOKENS_PER_BATCH, max_positions
from isotok.errors import ConfigError
from isotok.keyed import keyed_rng
from isotok.progress import progress

LEAST_BYTES, MOST_BYTES = 16, 24
CONTEXT_BYTES = 64
TOLERANCE = 0.02
"""Nats between the bounds at which a span is done: under 0.002 bits per byte."""
ROWS = 2048
"""Rows of ids scored for a span at most."""
_ROWS_A_ROUND = 8
_LINE_START = re.compile(rb"(?:(?<=\n)|\A)(?=[^\s])")
_WORD_START = re.compile(rb"(?<=[^\s]) (?=[^\s])")
_WORD_END = re.compile(rb"(?<=[^\s])(?=\s|\Z)")


class Validity(Protocol):
    """Which token sequences begin the encoding of some text (`tokenization.canonical.Canonical`)."""

    def valid_next(self, ids: Sequence[int], size: int | None = None) -> np.ndarray:
        """(size,) bool: the tokens that may follow the canonical sequence `ids`."""
        ...

    def may_end(self, ids: Sequence[int]) -> bool:
        """Whether a document may end after `ids`."""
        ...


@dataclass(frozen=True)
class Span:
    """Bytes `begin` to `end` of document number `document`."""

    document: int
    begin: int
    end: int


@dataclass(frozen=True)
class SpanScore:
    """Nats of a span, see the module. The marginal lies between `marginal_least` and `marginal`.

    `canonicalised` is None where it is not known what may follow; `rows` of ids were scored.
    """

    canonical: float
    canonicalised: float | None
    marginal: float
    marginal_least: float
    tokens: int
    rows: int


def choose_spans(texts: Sequence[str], n: int, seed: int) -> list[Span]:
    """`n` spans of whole words, 16 to 24 bytes, drawn by key from all documents; fewer where there are fewer.

    They depend on the text alone. Each begins at the beginning of a line, where hardly any vocabulary has a token that
    reaches across, or, where there are too few of those, with the space before a word.
    """
    found: list[list[Span]] = [[], []]
    for number, text in enumerate(texts):
        source = text.encode()
        ends = np.array([match.start() for match in _WORD_END.finditer(source)], dtype=np.int64)
        for spans, start in zip(found, (_LINE_START, _WORD_START)):
            for match in start.finditer(source):
                begin = match.start()
                last = int(np.searchsorted(ends, begin + MOST_BYTES, side="right")) - 1
                if last >= 0 and ends[last] >= begin + LEAST_BYTES:
                    spans.append(Span(number, begin, int(ends[last])))
    rng = keyed_rng("segmentations", seed)
    chosen: list[Span] = []
    for spans in found:
        wanted = min(n - len(chosen), len(spans))
        chosen += [spans[i] for i in rng.choice(len(spans), wanted, replace=False)] if wanted else []
    return sorted(chosen, key=lambda span: (span.document, span.begin))


def score_spans(
    model: Any,
    encoder: TextEncoder,
    documents: Sequence[Encoded],
    spans: Sequence[Span],
    validity: Validity | None,
    rows: int = ROWS,
    tolerance: float = TOLERANCE,
) -> list[SpanScore | None]:
    """One score per span, None where a token of E(document) reaches across an end of it (a superword, mostly).

    Every span is scored after the 64 bytes before it (whole tokens, so a little more) or all there are.
    """
    spelling = _Spelling(encoder)
    limit = max_positions(model)
    searches: list[_Search | None] = []
    for span in spans:
        document = documents[span.document]
        first = int(np.searchsorted(document.ends, span.begin, side="right")) if span.begin else 0
        stop = int(np.searchsorted(document.ends, span.end, side="left")) + 1
        begins_there = first == 0 if span.begin == 0 else first > 0 and document.ends[first - 1] == span.begin
        if not begins_there or stop > len(document.ids) or document.ends[stop - 1] != span.end:
            searches.append(None)
            continue
        ids = document.ids.tolist()
        before = ids[:first]
        context = _context(before, document.ends[:first], span, encoder.eos_id)
        if limit is not None:
            room = limit - (span.end - span.begin)
            if room < 1:
                raise ConfigError(f"segmentations: {limit} model positions are too few for spans of {MOST_BYTES} bytes")
            context = context[-room:]
        source = b"".join([encoder.bytes[i] for i in ids[first:stop]])
        searches.append(_Search(source, context, before, tuple(ids[first:stop]), spelling))
    open_ones = [search for search in searches if search is not None]
    _first_rows(model, open_ones, validity, encoder.eos_id)
    with progress("segmentations", len(open_ones), "span") as advance:
        while open_ones:
            still = [s for s in open_ones if s.rows < rows and s.frontier and s.gap() > tolerance]
            advance(len(open_ones) - len(still))
            open_ones = still
            asked = [(s, path) for s in open_ones for path in s.best(min(_ROWS_A_ROUND, rows - s.rows))]
            for which, log_p in _log_probabilities(model, [(s.context, path) for s, path in asked]):
                asked[which][0].learn(asked[which][1], log_p)
            for search, path in asked:
                search.add(search.wanted.pop(path))
    return [None if search is None else search.score() for search in searches]


def segmentation_rows(
    model: Any, tokenizer: Any, documents: Sequence[Any], encoded: Sequence[Encoded], n: int, seed: int
) -> list[dict[str, Any]]:
    """One row of items.parquet per span; its nats are None where a token reaches across an end of the span."""
    from tokenization.canonical import Canonical

    try:
        validity: Validity | None = Canonical(tokenizer)
    except ConfigError:  # no byte-level BPE: what may follow is not known
        validity = None
    spans = choose_spans([document.text for document in documents], n, seed)
    scores = score_spans(model, TextEncoder(tokenizer), encoded, spans, validity)
    rows = []
    for span, score in zip(spans, scores):
        document = documents[span.document]
        place = f"{span.begin}-{span.end}"
        digest = hashlib.sha256(f"{place}:{document.text}".encode()).hexdigest()
        row = {
            "kind": "segmentation",
            "item": f"{document.id}:{place}",
            "group": document.group,
            "domain": document.domain,
            "item_hash": digest[:16],
            "bytes": span.end - span.begin,
        }
        if score is not None:
            row |= {
                "tokens": score.tokens,
                "nats": score.canonical,
                "canonicalised_nats": score.canonicalised,
                "marginal_nats": score.marginal,
                "marginal_nats_least": score.marginal_least,
            }
        rows.append(row)
    return rows


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums over the spans that were scored, in bits per byte, and how many were not (`crossed`)."""
    scored = [row for row in rows if row.get("nats") is not None]
    size = sum(row["bytes"] for row in scored)

    def rate(column: str) -> float | None:
        values = [row[column] for row in scored]
        return None if not values or None in values else math.fsum(values) / math.log(2) / size

    return {
        "spans": len(rows),
        "crossed": len(rows) - len(scored),
        "bytes": size,
        "canonical": rate("nats"),
        "canonicalised": rate("canonicalised_nats"),
        "marginal": rate("marginal_nats"),
        "marginal_least": rate("marginal_nats_least"),
    }


def _context(ids: list[int], ends: np.ndarray, span: Span, eos_id: int) -> list[int]:
    """The tokens before a span from the last one that begins CONTEXT_BYTES or more before it."""
    starts = np.concatenate([[0], ends[:-1]])
    left = int(np.searchsorted(starts, span.begin - CONTEXT_BYTES, side="right")) - 1 if len(ids) else 0
    return ids[left:] if left > 0 else [eos_id, *ids]


class _Spelling:
    """Which tokens spell the beginning of a text."""

    def __init__(self, encoder: TextEncoder):
        self.lengths: list[int] = encoder.lengths.tolist()
        self._by_bytes: dict[bytes, list[int]] = {}
        for index, piece in enumerate(encoder.bytes):
            if piece:
                self._by_bytes.setdefault(piece, []).append(index)
        self._longest = max(self.lengths)

    def starting(self, source: bytes, at: int) -> list[tuple[int, int]]:
        """(id, bytes) of the tokens that source[at:] begins with, shorter ones first."""
        sizes = range(1, min(self._longest, len(source) - at) + 1)
        return [(i, size) for size in sizes for i in self._by_bytes.get(source[at : at + size], ())]


Path = tuple[int, ...]


@dataclass
class _Search:
    """The tree of segmentations of one span: a node is a path of tokens that spell the span's first bytes.

    known: log-probabilities of the tokens that may follow a path, in the order of `next_tokens`. A row of ids gives
    them for every path that begins it, so each row goes on to the end of the span.
    """

    source: bytes
    context: list[int]
    before: list[int]
    canonical: Path
    spelling: "_Spelling"
    known: dict[Path, np.ndarray] = field(default_factory=dict)
    frontier: list[tuple[float, Path, int]] = field(default_factory=list)
    finished: list[float] = field(default_factory=list)
    wanted: dict[Path, tuple[float, Path, int]] = field(default_factory=dict)
    canonical_nats: float = 0.0
    canonicalised_nats: float | None = None
    rows: int = 0

    def next_tokens(self, at: int) -> list[tuple[int, int]]:
        return self.spelling.starting(self.source, at)

    def best(self, n: int) -> list[Path]:
        """Rows that show the n most likely open nodes; each goes on to the end by longest tokens."""
        paths = []
        for _ in range(min(n, len(self.frontier))):
            node = heapq.heappop(self.frontier)
            path, at = list(node[1]), node[2]
            while at < len(self.source):
                token, size = self.next_tokens(at)[-1]
                path.append(token)
                at += size
            self.wanted[tuple(path)] = node
            paths.append(tuple(path))
        return paths

    def learn(self, path: Path, log_p: np.ndarray) -> None:
        """Take from a scored row what follows each of its beginnings. log_p: (len(path), vocabulary)."""
        self.rows += 1
        at = 0
        for i, token in enumerate(path):
            if path[:i] not in self.known:
                self.known[path[:i]] = log_p[i, [index for index, _ in self.next_tokens(at)]].astype(np.float64)
            at += self.spelling.lengths[token]

    def add(self, node: tuple[float, Path, int]) -> None:
        """Replace a node by its children as far as their probabilities are known; the rest is the frontier."""
        stack = [node]
        while stack:
            nats, path, at = stack.pop()
            if at == len(self.source):
                self.finished.append(nats)
            elif path in self.known:
                for (token, size), log_p in zip(self.next_tokens(at), self.known[path].tolist()):
                    stack.append((nats - log_p, (*path, token), at + size))
            else:
                heapq.heappush(self.frontier, (nats, path, at))

    def gap(self) -> float:
        """Nats between the bounds."""
        return _nats_of_sum(self.finished) - _nats_of_sum(self.finished + [nats for nats, _, _ in self.frontier])

    def score(self) -> SpanScore:
        # The canonical path is among the finished ones; a sum of one is that one, rounding aside.
        upper = min(_nats_of_sum(self.finished), self.canonical_nats)
        least = min(_nats_of_sum(self.finished + [nats for nats, _, _ in self.frontier]), upper)
        return SpanScore(self.canonical_nats, self.canonicalised_nats, upper, least, len(self.canonical), self.rows)


def _first_rows(model: Any, searches: Sequence[_Search], validity: Validity | None, eos_id: int) -> None:
    """The canonical segmentation of each span: its nats, those after renormalising, and the first nodes of the tree."""
    for which, log_p in _log_probabilities(model, [(s.context, s.canonical) for s in searches]):
        search = searches[which]
        path = search.canonical
        own = log_p[np.arange(len(path)), list(path)].astype(np.float64)
        search.canonical_nats = -math.fsum(own.tolist())
        if validity is not None:
            lost = [
                _log_mass(log_p[i], validity, [*search.before, *path[:i]], path[i], eos_id) for i in range(len(path))
            ]
            search.canonicalised_nats = search.canonical_nats + math.fsum(lost)
        search.learn(path, log_p)
        search.add((0.0, (), 0))


def _log_mass(log_p: np.ndarray, validity: Validity, ids: list[int], token: int, eos_id: int) -> float:
    """log of the probability of everything that may follow `ids` in an encoding; at most 0."""
    valid = validity.valid_next(ids, len(log_p)).copy()
    valid[eos_id] = validity.may_end(ids)
    valid[token] = True  # the document itself goes on so
    return min(0.0, float(np.logaddexp.reduce(log_p[valid].astype(np.float64))))


def _nats_of_sum(nats: Sequence[float]) -> float:
    return -float(np.logaddexp.reduce(-np.array(nats))) if nats else math.inf


@torch.inference_mode()
def _log_probabilities(model: Any, rows: Sequence[tuple[list[int], Path]]) -> Iterator[tuple[int, np.ndarray]]:
    """For each (context, path), its number and (len(path), vocabulary) log-probabilities before each token of path."""
    device = next(model.parameters()).device
    most = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])
    slices = "logits_to_keep" in inspect.signature(type(model).forward).parameters
    training = model.training
    model.eval()
    try:
        order = sorted(range(len(rows)), key=lambda i: (-len(rows[i][0]) - len(rows[i][1]), i))
        while order:
            longest = sum(map(len, rows[order[0]])) - 1
            room = min(most // longest, LOGITS_PER_BATCH // (longest * model.config.vocab_size))
            batch, order = order[: max(1, room)], order[max(1, room) :]
            ids = np.zeros((len(batch), longest), dtype=np.int64)
            for k, i in enumerate(batch):
                line = list(itertools.chain(*rows[i]))[:-1]
                ids[k, : len(line)] = line
            kept_from = min(len(rows[i][0]) for i in batch) - 1
            keep = {"logits_to_keep": longest - kept_from} if slices else {}
            logits = model(input_ids=torch.from_numpy(ids).to(device), use_cache=False, **keep).logits
            logits = logits[:, kept_from - longest :]
            for k, i in enumerate(batch):
                context, path = rows[i]
                begin = len(context) - 1 - kept_from
                part = logits[k, begin : begin + len(path)].float()
                yield i, torch.log_softmax(part, -1).cpu().numpy()
    finally:
        model.train(training)
