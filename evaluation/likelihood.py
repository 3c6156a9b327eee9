"""Nats of whole documents under a causal LM, in windows that hold the same text for every tokenizer.

A document is encoded whole, as in training: `[end-of-text] E(document) [end-of-text]`. It is scored in windows of
`context_bytes` = C bytes that advance by H = C/2 bytes: the first window starts at the opening end-of-text and scores
the tokens that end within the first C bytes; each later one scores the tokens whose last byte falls into the next H
bytes and sees at least H bytes of the document to the left of the first of them (all tokens from the last one that
begins H bytes or more before it). So every byte is scored once, with at least H bytes of context or all there is,
whichever tokenizer cut them. What the window sees beyond these 2H bytes is less than two tokens.

Bits per byte = nats of all text tokens / (ln 2 x UTF-8 bytes of the source text). The closing end-of-text is scored
in the last window and kept apart.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isotok.errors import ConfigError, DataError
from tokenization import encode_text, token_bytes

# Batches are cut by two limits. Tokens: beyond some 2,000, activations fall out of a core's cache (at d 128, 8.6 s with
# 1,000 and 11.7 s with 8,000). Logits: rows x scored positions x vocabulary, in numbers; 2**25 of them are 128 MB.
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 65536}
LOGITS_PER_BATCH = 2**25
_LOGITS_PER_CHUNK = 2**22


@dataclass(frozen=True)
class Encoded:
    """One document: `ids` (n,) without separators, `ends` (n,) the byte at which each token ends, `n_bytes` in all."""

    ids: np.ndarray
    ends: np.ndarray
    n_bytes: int


@dataclass(frozen=True)
class Window:
    """`ids` in a row; ids[first:] are scored, each from all ids before it. `first` >= 1."""

    ids: np.ndarray
    first: int


@dataclass(frozen=True)
class DocumentScore:
    """`nats` of the text tokens, `separator_nats` of the closing end-of-text.

    Of its `windows`, `cut_windows` were split or lost context because the model has too few positions, and
    `long_windows` hold more ids than the rows that the model was trained on (`max_position_embeddings`).
    """

    nats: float
    separator_nats: float
    bytes: int
    tokens: int
    windows: int = 0
    cut_windows: int = 0
    long_windows: int = 0


class TextEncoder:
    """Text -> ids and byte offsets, with the check that nothing of the text is lost."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.bytes = token_bytes(tokenizer)
        self.lengths = np.array([len(b) for b in self.bytes], dtype=np.int64)
        if tokenizer.eos_token_id is None:
            raise DataError("tokenizer: no end-of-text token (eos_token), which separates documents")
        self.eos_id = int(tokenizer.eos_token_id)

    def __call__(self, text: str, name: str = "text") -> Encoded:
        """Raises DataError naming `name` where E(text) does not spell the text: bits per byte would be of another."""
        source = text.encode()
        ids = np.asarray(encode_text(self.tokenizer, text), dtype=np.int64)
        if b"".join([self.bytes[i] for i in ids.tolist()]) != source:
            raise DataError(
                f"{name}: the tokenizer does not give the text back (normalising or unknown tokens); "
                "bits per byte need a lossless tokenizer"
            )
        ends = np.cumsum(self.lengths[ids]) if len(ids) else np.zeros(0, dtype=np.int64)
        return Encoded(ids, ends, len(source))


def max_positions(model: Any) -> int | None:
    """The most ids a model can take in a row, or None where positions are computed (rotary) rather than looked up."""
    for name in ("wpe", "embed_positions", "position_embeddings"):
        for path, module in model.named_modules():
            if path.split(".")[-1] == name and isinstance(module, torch.nn.Embedding):
                return int(model.config.max_position_embeddings)
    return None


def document_windows(
    encoded: Encoded, context_bytes: int, eos_id: int, limit: int | None = None
) -> tuple[list[Window], int]:
    """The windows of one document (see above), and how many of them `limit` model positions cut short.

    Ids of all windows' scored parts, in order, are E(document) and the closing end-of-text.
    """
    if context_bytes < 2:
        raise ConfigError(f"context_bytes={context_bytes}: at least 2")
    if limit is not None and limit < 2:
        raise ConfigError(f"the model has {limit} positions: too few to score anything")
    half = context_bytes // 2
    n = len(encoded.ids)
    row = np.concatenate([[eos_id], encoded.ids, [eos_id]])
    starts = np.concatenate([[0], encoded.ends[:-1]]) if n else encoded.ends
    windows, cut = [], 0
    first, end_byte = 0, 2 * half  # `first`: the next token to score, by its place in E(document)
    while True:
        stop = int(np.searchsorted(encoded.ends, end_byte, side="right"))
        end_byte += half
        last = stop >= n
        while first < stop or last:
            until = stop + last  # the closing end-of-text stands at place n
            left = 0 if first == 0 else int(np.searchsorted(starts, starts[min(first, n - 1)] - half, side="right")) - 1
            left = max(left, 0)
            # Row places are one up, for the opening end-of-text; it is seen where the window reaches the start.
            begin = left + 1 if left > 0 else 0
            if limit is not None and until - begin > limit:
                cut += 1
                until = min(until, first + max(1, limit // 2))
                begin = max(begin, until - limit)
            windows.append(Window(row[begin : until + 1], first + 1 - begin))
            first = until
            if until == n + 1:
                return windows, cut


@torch.inference_mode()
def score_windows(model: Any, windows: Sequence[Window], greedy: bool = False) -> tuple[list[np.ndarray], list[bool]]:
    """Nats (float64 array) of the scored ids of each window, in the order given; with `greedy`, also whether all of
    them are the model's first choice.

    Rows are sorted by length and padded at the right, which a causal model cannot see. Softmax in float32.
    """
    order = sorted(range(len(windows)), key=lambda i: (-len(windows[i].ids), windows[i].first, i))
    nats: list[np.ndarray] = [np.zeros(0)] * len(windows)
    firsts: list[bool] = [True] * len(windows)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for batch in _batches(windows, order, model.config.vocab_size, device.type):
            values, hits, kept_from = _score_batch(model, [windows[i] for i in batch], device, greedy)
            for row, i in enumerate(batch):
                window = windows[i]
                span = slice(window.first - 1 - kept_from, len(window.ids) - 1 - kept_from)
                nats[i] = values[row, span].astype(np.float64)
                firsts[i] = bool(hits[row, span].all()) if hits is not None else False
    finally:
        model.train(training)
    return nats, firsts


def _batches(windows: Sequence[Window], order: list[int], vocabulary: int, device: str) -> list[list[int]]:
    """`order`, longest first, in batches within both limits; one window at least."""
    batches: list[list[int]] = []
    length = kept = 0
    limit = TOKENS_PER_BATCH.get(device, TOKENS_PER_BATCH["cpu"])
    for i in order:
        window = windows[i]
        if batches:
            rows = len(batches[-1]) + 1
            most = max(kept, length - window.first)
            if rows * length <= limit and rows * most * vocabulary <= LOGITS_PER_BATCH:
                batches[-1].append(i)
                kept = most
                continue
        batches.append([i])
        length, kept = len(window.ids), len(window.ids) - window.first
    return batches


def _score_batch(
    model: Any, batch: list[Window], device: torch.device, greedy: bool
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """(rows, kept) nats of predictions from position `kept_from` on, hits of the argmax likewise, `kept_from`."""
    length = max(len(w.ids) for w in batch) - 1
    kept_from = min(w.first for w in batch) - 1
    ids = np.zeros((len(batch), length + 1), dtype=np.int64)
    for row, window in enumerate(batch):
        ids[row, : len(window.ids)] = window.ids
    tensor = torch.from_numpy(ids).to(device)
    keep = {"logits_to_keep": length - kept_from} if _can_slice(type(model)) else {}
    logits = model(input_ids=tensor[:, :-1], use_cache=False, **keep).logits
    logits = logits[:, -(length - kept_from) :]
    targets = tensor[:, 1 + kept_from :]
    return *_nats(logits, targets, greedy), kept_from


def _nats(logits: torch.Tensor, targets: torch.Tensor, greedy: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """-log softmax at the targets, (rows, positions), in chunks: no second copy of all logits is made."""
    flat, wanted = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    step = max(1, _LOGITS_PER_CHUNK // flat.shape[1])
    out = torch.empty(len(flat), dtype=torch.float32, device=flat.device)
    hits = torch.empty(len(flat), dtype=torch.bool, device=flat.device) if greedy else None
    for i in range(0, len(flat), step):
        part, goal = flat[i : i + step].float(), wanted[i : i + step]
        out[i : i + step] = torch.nn.functional.cross_entropy(part, goal, reduction="none")
        if hits is not None:
            hits[i : i + step] = part.argmax(-1) == goal
    shape = tuple(targets.shape)
    return out.reshape(shape).cpu().numpy(), hits.reshape(shape).cpu().numpy() if hits is not None else None


def _can_slice(model_class: type) -> bool:
    return "logits_to_keep" in inspect.signature(model_class.forward).parameters  # type: ignore[attr-defined]


def score_documents(
    model: Any, documents: Sequence[Encoded], context_bytes: int, eos_id: int, advance: Any = None
) -> list[DocumentScore]:
    """One score per document. `advance(bytes)` is called as documents are done, a few at a time."""
    limit = max_positions(model)
    trained = getattr(model.config, "max_position_embeddings", None) or math.inf
    scores = []
    # A few documents at a time: enough for full batches, and the progress moves.
    group: list[Encoded] = []
    size = 0
    for i, encoded in enumerate(documents):
        group.append(encoded)
        size += encoded.n_bytes
        if size >= 200_000 or i == len(documents) - 1:
            planned = [document_windows(e, context_bytes, eos_id, limit) for e in group]
            nats, _ = score_windows(model, [w for windows, _ in planned for w in windows])
            at = 0
            for e, (windows, cut) in zip(group, planned):
                own = np.concatenate(nats[at : at + len(windows)])
                at += len(windows)
                long = sum(len(window.ids) > trained for window in windows)
                counts = (len(windows), cut, long)
                scores.append(DocumentScore(float(own[:-1].sum()), float(own[-1]), e.n_bytes, len(e.ids), *counts))
            if advance is not None:
                advance(size)
            group, size = [], 0
    return scores


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Nats over a text of so many bytes, in bits per byte."""
    return nats / (math.log(2) * n_bytes)


class Validator:
    """Bits per byte of the same texts again and again, as inside a training loop: encoded once, scored at each call.

    `Validator(tokenizer, texts, context_bytes)(model)` -> float; the model may be in training mode and is left so.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str], context_bytes: int):
        encode = TextEncoder(tokenizer)
        self.context_bytes = context_bytes
        self.eos_id = encode.eos_id
        self.documents = [encode(text, f"validation text {i}") for i, text in enumerate(texts)]
        self.n_bytes = sum(d.n_bytes for d in self.documents)
        if not self.n_bytes:
            raise DataError("validation: no text to score")

    def __call__(self, model: Any) -> float:
        scores = score_documents(model, self.documents, self.context_bytes, self.eos_id)
        return bits_per_byte(math.fsum(s.nats for s in scores), self.n_bytes)


def validation_bpb(model: Any, tokenizer: Any, texts: Sequence[str], context_bytes: int) -> float:
    """Bits per byte of texts, once; `Validator` where the texts stay the same."""
    return Validator(tokenizer, texts, context_bytes)(model)
