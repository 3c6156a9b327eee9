"""Rows of ids through a causal LM, in batches: nats of what follows what."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Batches are cut by two limits. Tokens: beyond some 500 in a batch, activations fall out of a core's cache (items a
# second at d 128 and 512: up to 1.4 times as many with 512 as with 2,048; documents do not mind). Logits: rows x scored
# positions x vocabulary, in numbers; 2**25 of them are 128 MB.
TOKENS_PER_BATCH = {"cpu": 512, "cuda": 65536}
LOGITS_PER_BATCH = 2**25
_LOGITS_PER_CHUNK = 2**22


@dataclass(frozen=True)
class Window:
    """`ids` in a row; ids[first:] are scored, each from all ids before it. `first` >= 1."""

    ids: np.ndarray
    first: int


def max_positions(model: Any) -> int | None:
    """The most ids a model can take in a row, or None where positions are computed (rotary) rather than looked up."""
    for name in ("wpe", "embed_positions", "position_embeddings"):
        for path, module in model.named_modules():
            if path.split(".")[-1] == name and isinstance(module, torch.nn.Embedding):
                return int(model.config.max_position_embeddings)
    return None


@torch.no_grad()
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
    keep = {"logits_to_keep": length - kept_from} if can_slice(type(model)) else {}
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


def can_slice(model_class: type) -> bool:
    """Whether its forward takes `logits_to_keep`, so that logits of other positions are never made."""
    return "logits_to_keep" in inspect.signature(model_class.forward).parameters  # type: ignore[attr-defined]
