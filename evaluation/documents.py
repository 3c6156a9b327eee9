"""Nats of whole documents under a causal LM, in windows that hold the same text for every tokenizer.

A document is encoded whole, as in training: `[end-of-text] E(document) [end-of-text]`. It is scored in windows of
`context_bytes` = C bytes that advance by H = C/2 bytes: the first window starts at the opening end-of-text and scores
the tokens that end within the first C bytes; each later one scores the tokens whose last byte falls into the next H
bytes and sees at least H bytes of the document to the left of the first of them (all tokens from the last one that
begins H bytes or more before it). So every byte is scored once, with at least H bytes of context or all there is,
whichever tokenizer cut them. What the window sees beyond these 2H bytes is less than two tokens.

Bits per byte = nats of all text tokens / (ln 2 x UTF-8 bytes of the source text). The closing end-of-text is scored
in the last window and kept apart. Nats are also added up by the place of their bytes in the document (`positions`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.encoding import Encoded, TextEncoder
from evaluation.forward import Window, max_positions, score_windows
from evaluation.meta_scoring import Inject
from evaluation.positions import nats_in_bins
from isotok.errors import ConfigError, DataError


@dataclass(frozen=True)
class DocumentScore:
    """`nats` of the text tokens, `separator_nats` of the closing end-of-text, `position_nats` by bin of byte positions.

    Of its `windows`, `cut_windows` were split or lost context because the model has too few positions, and
    `long_windows` hold more ids than the rows that the model was trained on (`max_position_embeddings`).
    """

    nats: float
    separator_nats: float
    bytes: int
    tokens: int
    position_nats: tuple[float, ...]
    windows: int = 0
    cut_windows: int = 0
    long_windows: int = 0


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


def score_documents(
    model: Any,
    documents: Sequence[Encoded],
    context_bytes: int,
    eos_id: int,
    advance: Any = None,
    inject: Inject | None = None,
) -> list[DocumentScore]:
    """One score per document. `advance(bytes)` is called as documents are done, a few at a time. inject: puts meta
    tokens into windows, whose text alone is scored; positions are then shared out between both."""
    limit = max_positions(model)
    if limit is not None and inject is not None:
        limit -= int(model.config.meta_k * limit)
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
            nats = _score(model, [windows for windows, _ in planned], i + 1 - len(group), inject)
            at = 0
            for e, (windows, cut) in zip(group, planned):
                own = np.concatenate(nats[at : at + len(windows)])
                at += len(windows)
                long = sum(len(window.ids) > trained for window in windows)
                counts = (len(windows), cut, long)
                bins = tuple(nats_in_bins(own[:-1], e.ends, e.n_bytes).tolist())
                text, closing = float(own[:-1].sum()), float(own[-1])
                scores.append(DocumentScore(text, closing, e.n_bytes, len(e.ids), bins, *counts))
            if advance is not None:
                advance(size)
            group, size = [], 0
    return scores


def _score(model: Any, documents: Sequence[Sequence[Window]], first: int, inject: Inject | None) -> list[np.ndarray]:
    """Nats of the text of all windows, in order; first: the number of the first document."""
    if inject is None:
        return score_windows(model, [window for windows in documents for window in windows])[0]
    made = [
        inject(window, document, number)
        for document, windows in enumerate(documents, first)
        for number, window in enumerate(windows)
    ]
    nats, _ = score_windows(model, [window for window, _ in made])
    return [values[is_text] for values, (_, is_text) in zip(nats, made)]


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
