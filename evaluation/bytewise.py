"""Texts byte by byte under a model of tokens: exact next-byte distributions, sampling, filling in, ensembles.

What a model of tokens says about the next byte after any bytes, inside a token or a character too, is a sum over all
canonical token sequences that cover them (`tokenization.covers`). So a prompt may end anywhere, and models with
different vocabularies can be mixed: they speak of the same bytes.

Of P(a text begins with s) the parts are: P(s + b) for each byte b, P(the text ends with s), and what the model puts on
token sequences that no text encodes to. The last is shown and never spread over the rest.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from evaluation.encoding import Encoded, TextEncoder
from evaluation.forward import max_positions
from evaluation.trees import STEM, Tree, TreeBuilder, branches_together, score_trees
from isotok.errors import ConfigError, DataError
from tokenization.canonical import Canonical
from tokenization.covers import covers, encode_bytes
from tokenization.situations import begins_text, is_text

END = 256  # where a distribution over bytes has the end of the text
_CONTINUING = bytes(range(0x80, 0xC0))  # bytes of UTF-8 that begin no character


class ByteModel:
    """A causal LM and its tokenizer, spoken of in bytes.

    Raises ConfigError where the tokenizer is no byte-level BPE.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str = ""):
        self.model = model.eval()
        self.encoder = TextEncoder(tokenizer)
        self.canonical = Canonical(tokenizer)
        self.name = name
        self.eos_id = self.encoder.eos_id
        self.limit = max_positions(model)

    @cached_property
    def spelled(self) -> np.ndarray:
        """(reachable tokens in the order of their bytes, longest) int16: their bytes, -1 after their end."""
        tokens = [self.canonical.tokens[i] for i in self.canonical.by_bytes]
        table = np.full((len(tokens), self.canonical.longest + 1), -1, np.int16)
        for row, token in zip(table, tokens):
            row[: len(token)] = list(token)
        return table

    @cached_property
    def rank(self) -> np.ndarray:
        """Place of each id among the reachable tokens in the order of their bytes, -1 of others."""
        place = np.full(len(self.canonical.tokens), -1, np.int64)
        place[self.canonical.by_bytes] = np.arange(len(self.canonical.by_bytes))
        return place

    def spell(self, ids: Sequence[int]) -> bytes:
        """The bytes that ids stand for."""
        return b"".join(self.canonical.tokens[i] for i in ids)

    def log_p(self, strings: Sequence[bytes]) -> np.ndarray:
        """log P(a text begins with these bytes), float64; bytes may end inside a character."""
        builders, placed = [], []
        for data in strings:
            builder = TreeBuilder([self.eos_id])
            found = []
            if data and begins_text(data):
                found = covers(self.canonical, data, encode_bytes(self.canonical, data))
            placed.append([(node := builder.add(cover.ids), builder.ask(node, cover.tokens)) for cover in found])
            builders.append(builder)
        out = np.zeros(len(strings))
        for k, (builder, own, score) in enumerate(
            zip(builders, placed, score_trees(self.model, [builder.tree() for builder in builders]))
        ):
            if strings[k]:
                parts = [score.log_p[builder.path(node)].sum() + score.set_log_p[number] for node, number in own]
                out[k] = np.logaddexp.reduce(parts) if parts else -np.inf
        return out

    def byte_nats(self, document: Encoded, context_bytes: int, advance: Any = None) -> np.ndarray:
        """Nats of each byte of a document after those before it, float64 (bytes,); in the windows of `documents`.

        Every byte sees at least half of `context_bytes` to its left, or all there is, as far as the model has
        positions. They add up to -log P(a text begins with the document). `advance(bytes)` is called as bytes are done.
        """
        data = b"".join(self.encoder.bytes[i] for i in document.ids.tolist())
        half = max(1, context_bytes // 2)
        starts = np.concatenate([[0], document.ends[:-1]]).astype(np.int64)
        nats = np.empty(len(data))
        first, last, left_bytes = 0, min(len(data), 2 * half), half
        while first < len(data):
            # From the last token that begins so many bytes or more before the first byte, and ends before it.
            at = int(np.searchsorted(starts, first - left_bytes, side="right")) - 1 if first > left_bytes else -1
            while at > 0 and document.ends[at] > first:
                at -= 1
            if at > 0:
                begin = int(document.ends[at])
                stem, left = [int(document.ids[at])], document.ids[max(0, at - 15) : at + 1].tolist()
            else:
                begin, stem, left = 0, [self.eos_id], []
            logs = self._prefix_logs(data[begin:last], stem, left)
            if logs is None:  # too few positions: less text in this window, then less to its left
                if last - first <= 1 and left_bytes <= 1:
                    raise DataError(f"{self.name or 'the model'}: a byte does not fit into its {self.limit} positions")
                if 2 * (last - first) > left_bytes:
                    last = first + max(1, (last - first) // 2)
                else:
                    left_bytes = max(1, left_bytes // 2)
                continue
            nats[first:last] = -np.diff(logs)[first - begin :]
            if advance is not None:
                advance(last - first)
            first, last, left_bytes = last, min(len(data), last + half), half
        return nats

    def nats_after(self, before: bytes, data: bytes) -> np.ndarray:
        """Nats of each byte of `data` after `before`, which may end anywhere, float64 (bytes,).

        Where the model has too few positions, the left of `before` is cut off."""
        while (logs := self._prefix_logs(before + data, [self.eos_id], [])) is None:
            if not before:
                raise DataError(f"{self.name or 'the model'}: {len(data)} bytes do not fit {self.limit} positions")
            before = before[(len(before) + 1) // 2 :].lstrip(_CONTINUING)
        return np.asarray(-np.diff(logs)[len(before) :])

    def _prefix_logs(self, data: bytes, stem: list[int], left: list[int]) -> np.ndarray | None:
        """log P(data[:j]) after a stem, for j = 0 … len(data). left: the ids before, as far as pieces depend on it.

        None where the model has too few positions for it."""
        builder, by_end = byte_tree(self.canonical, data, stem, left)
        if self.limit is not None and len(stem) + _depth(builder) > self.limit:
            return None
        (score,) = score_trees(self.model, [builder.tree()])
        above = np.zeros(len(builder.ids))
        for node, parent in enumerate(builder.parents):
            above[node] = score.log_p[node] + (above[parent] if parent != STEM else 0.0)
        logs = np.zeros(len(data) + 1)
        for j in range(1, len(data) + 1):
            parts = [(0.0 if node == STEM else above[node]) + score.set_log_p[number] for node, number in by_end[j]]
            logs[j] = np.logaddexp.reduce(parts) if parts else -np.inf
        return logs


def _depth(builder: TreeBuilder) -> int:
    """The most tokens on one path after the stem."""
    depth: list[int] = []
    for parent in builder.parents:
        depth.append(1 + (0 if parent == STEM else depth[parent]))
    return max(depth, default=0)


def byte_tree(
    canonical: Canonical, data: bytes, stem: list[int], left: list[int]
) -> tuple[TreeBuilder, list[list[tuple[int, int]]]]:
    """All canonical token sequences that spell a beginning of data, as a tree, and for each j the sets of tokens after
    nodes that together cover data[:j]."""
    builder = TreeBuilder(stem)
    by_end: list[list[tuple[int, int]]] = [[] for _ in range(len(data) + 1)]
    at: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in range(len(data))]
    if data:
        at[0].append((STEM, tuple(left)))
    for i in range(len(data)):
        for node, ids in at[i]:
            for j in range(i + 1, len(data) + 1):
                rest = data[i:j]
                if not canonical.has_prefix(rest):
                    break
                tokens = canonical.next_tokens(ids, rest)
                if not len(tokens):
                    break
                by_end[j].append((node, builder.ask(node, tokens)))
                exact = canonical.exactly(rest)
                if exact is not None and j < len(data) and exact in tokens:
                    child = builder.add_after(node, exact)
                    at[j].append((child, (*ids[-511:], exact)))
    return builder, by_end


@dataclass
class _Live:
    """A canonical sequence that spells a beginning of the text: which tokens may still follow and what they weigh.

    places: of reachable tokens in the order of their bytes; logs: log P(ids + [token]); end: log P(ids, end of text).
    """

    ids: tuple[int, ...]
    start: int
    places: np.ndarray
    logs: np.ndarray
    end: float


class ByteStream:
    """A text that grows by bytes under a model. `prompt` may end anywhere, inside a token or a character too.

    The model reads each token once: what all live sequences share stays in its cache.
    """

    def __init__(self, model: ByteModel, prompt: bytes = b""):
        self.model = model
        self.text = prompt
        self._cached: list[int] = []
        self._cache: Any = None
        self._live: list[_Live] = []
        if not begins_text(prompt):
            raise DataError(f"no text begins with {prompt[-40:]!r}: not UTF-8")
        if prompt:
            found = covers(model.canonical, prompt, encode_bytes(model.canonical, prompt))
            sequences = [cover.ids for cover in found]
            # log P(L) of each: from trees, as the cache serves what comes after the prompt.
            builder = TreeBuilder([model.eos_id])
            nodes = [builder.add(ids) for ids in sequences]
            for node in nodes:
                builder.ask(node, model.canonical.by_bytes[:1])
            (score,) = score_trees(model.model, [builder.tree()])
            above = [float(score.log_p[builder.path(node)].sum()) for node in nodes]
            self._add(sequences, [len(model.spell(ids)) for ids in sequences], above)
            for live in self._live:
                rest = prompt[live.start :]
                table = model.spelled[live.places, : len(rest)]
                keep = (table == np.frombuffer(rest, np.uint8).astype(np.int16)).all(1)
                live.places, live.logs = live.places[keep], live.logs[keep]
            self._grow(len(prompt))
        else:
            self._add([()], [0], [0.0])

    @property
    def log_p(self) -> float:
        """log P(a text begins with these bytes)."""
        if not self.text:
            return 0.0
        parts = [live.logs for live in self._live if live.start < len(self.text)]
        return float(np.logaddexp.reduce(np.concatenate(parts))) if parts else -math.inf

    def distribution(self) -> np.ndarray:
        """(257,) float64: P(next byte) for each byte and, last, P(the text ends here). What is missing to 1 lies on
        token sequences that no text encodes to."""
        out = np.zeros(END + 1)
        total = self.log_p
        if total == -math.inf:
            raise DataError(f"the model gives no text that begins with {self.text[-40:]!r} any probability")
        for live in self._live:
            following = self.model.spelled[live.places, len(self.text) - live.start]
            inside = following >= 0
            np.add.at(out, following[inside], np.exp(live.logs[inside] - total))
            if live.start == len(self.text):
                out[END] += math.exp(live.end - total)
        return out

    def push(self, byte: int) -> None:
        """Let the text go on with this byte."""
        for live in self._live:
            keep = self.model.spelled[live.places, len(self.text) - live.start] == byte
            live.places, live.logs = live.places[keep], live.logs[keep]
        self._live = [live for live in self._live if len(live.places)]
        self.text += bytes([byte])
        self._grow(len(self.text))

    def copy(self) -> "ByteStream":
        """An independent stream at the same place."""
        twin = copy.copy(self)
        twin._live = [copy.copy(live) for live in self._live]
        twin._cached, twin._cache = [], None  # caches are written in place
        return twin

    def _grow(self, size: int) -> None:
        """Sequences whose last token ends exactly here become live themselves."""
        sequences, above = [], []
        for live in self._live:
            if live.start == size:
                continue
            for place in np.flatnonzero(self.model.spelled[live.places, size - live.start] < 0).tolist():
                sequences.append((*live.ids, int(self.model.canonical.by_bytes[live.places[place]])))
                above.append(float(live.logs[place]))
        if sequences:
            self._add(sequences, [size] * len(sequences), above)

    def _add(self, sequences: list[tuple[int, ...]], starts: list[int], above: list[float]) -> None:
        for ids, start, log, logs in zip(sequences, starts, above, self._read(sequences)):
            tokens = self.model.canonical.next_tokens(ids[-512:])
            end = log + float(logs[self.model.eos_id]) if self.model.canonical.may_end(ids[-512:]) else -math.inf
            self._live.append(_Live(ids, start, self.model.rank[tokens], log + logs[tokens].astype(np.float64), end))

    @torch.inference_mode()
    def _read(self, sequences: list[tuple[int, ...]]) -> list[np.ndarray]:
        """Log-probabilities (vocabulary,) of what follows each sequence."""
        model = self.model.model
        rows = [(self.model.eos_id, *ids) for ids in sequences]
        if self.model.limit is not None and max(map(len, rows)) > self.model.limit:
            raise DataError(
                f"a text of {max(map(len, rows))} tokens does not fit the model's {self.model.limit} positions"
            )
        if not branches_together(model):
            scores = score_trees(model, [Tree(np.array(row), *_NOTHING) for row in rows], full=True)
            return [score.log_probs[STEM] for score in scores if score.log_probs is not None]
        everything = [*rows, *((self.model.eos_id, *live.ids) for live in self._live)]
        low, high = min(everything), max(everything)
        trunk = min(_shared(low, high), min(map(len, rows)) - 1)
        kept = min(_shared(self._cached, low), trunk)
        if self._cache is None:
            from transformers import DynamicCache

            self._cache, kept = DynamicCache(), 0
        elif kept < len(self._cached):
            self._cache.crop(kept - len(self._cached))
        builder = TreeBuilder(rows[0][:trunk])
        nodes = [builder.add(row[trunk:]) for row in rows]
        logits = _read_branches(model, low[kept:trunk], builder, self._cache, kept)
        self._cached = list(low[:trunk])
        self._cache.crop(-len(builder.ids))
        return [torch.log_softmax(logits[node].double(), -1).cpu().numpy() for node in nodes]


_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _read_branches(model: Any, trunk: Sequence[int], builder: TreeBuilder, cache: Any, past: int) -> torch.Tensor:
    """Logits after each node of a tree whose stem's first `past` ids are in the cache and whose others are `trunk`."""
    device = next(model.parameters()).device
    size = len(trunk) + len(builder.ids)
    seen = np.zeros((size, past + size), np.bool_)
    seen[:, :past] = True
    positions = np.arange(past, past + size)
    seen[: len(trunk), past : past + len(trunk)] = np.tri(len(trunk), dtype=np.bool_)
    for node, parent in enumerate(builder.parents):
        at = len(trunk) + node
        if parent == STEM:
            seen[at, past : past + len(trunk)] = True
            positions[at] = past + len(trunk)
        else:
            seen[at] = seen[len(trunk) + parent]
            positions[at] = positions[len(trunk) + parent] + 1
        seen[at, past + at] = True
    dtype = next(model.parameters()).dtype
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen), torch.finfo(dtype).min)
    output = model(
        input_ids=torch.tensor([[*trunk, *builder.ids]], device=device),
        attention_mask=mask[None, None].to(device),
        position_ids=torch.from_numpy(positions)[None].to(device),
        past_key_values=cache,
        use_cache=True,
    )
    return output.logits[0, len(trunk) :].float()


class Mixture:
    """Several streams over the same text, mixed: the mean of their next-byte distributions.

    Their vocabularies may differ. Raises ConfigError for none.
    """

    def __init__(self, streams: Sequence[ByteStream]):
        if not streams:
            raise ConfigError("an ensemble needs at least one model")
        self.streams = list(streams)

    @property
    def text(self) -> bytes:
        """The text so far."""
        return self.streams[0].text

    def distribution(self) -> np.ndarray:
        """As `ByteStream.distribution`."""
        return np.asarray(np.mean([stream.distribution() for stream in self.streams], axis=0))

    def push(self, byte: int) -> None:
        """Let all texts go on with this byte."""
        for stream in self.streams:
            stream.push(byte)


def sample_bytes(
    stream: ByteStream | Mixture, max_bytes: int, rng: np.random.Generator, temperature: float = 1.0
) -> bytes:
    """Bytes that follow, drawn one by one until the text ends; the likeliest ones at temperature 0."""
    begin = len(stream.text)
    for _ in range(max_bytes):
        p = stream.distribution()
        if temperature <= 0:
            choice = int(p.argmax())
        else:
            weights = np.where(p > 0, np.power(p / p.max(), 1 / temperature), 0.0)
            cumulative = np.cumsum(weights)
            choice = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        if choice == END:
            break
        stream.push(choice)
    return stream.text[begin:]


def mixture_nats(nats: Sequence[np.ndarray]) -> np.ndarray:
    """Nats of each byte under the mean of models' next-byte probabilities, from their own nats of it."""
    stacked = -np.stack(list(nats))
    return np.asarray(np.log(len(stacked)) - np.logaddexp.reduce(stacked, axis=0))


@dataclass(frozen=True)
class Filled:
    """A middle for a gap: its bytes and log P(before + middle + after) - log P(before)."""

    middle: bytes
    log_p: float


def fill_in(
    model: ByteModel, before: bytes, after: bytes, max_bytes: int, tries: int, rng: np.random.Generator
) -> list[Filled]:
    """Middles between two texts, either of which may be cut inside a token, likeliest first.

    No model trained to fill in is needed. Middles are drawn byte by byte after `before`, and all their beginnings are
    candidates; each is scored by P(before + middle + after), so what comes after weighs as it should. `tries` draws of
    at most `max_bytes` bytes; the best of them is no more than the best of what was drawn.
    """
    start = ByteStream(model, before)
    middles = {b""}
    for _ in range(tries):
        drawn = sample_bytes(start.copy(), max_bytes, rng)
        middles |= {drawn[:n] for n in range(1, len(drawn) + 1)}
    ordered = sorted(middle for middle in middles if is_text(before + middle + after))
    logs = model.log_p([before + middle + after for middle in ordered]) - start.log_p
    ranked = sorted(zip(ordered, logs.tolist()), key=lambda pair: (-pair[1], pair[0]))
    return [Filled(middle, log) for middle, log in ranked]
