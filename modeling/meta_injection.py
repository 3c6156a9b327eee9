"""Meta tokens among text: where they stand in a row, and what the row's targets are.

A row of n inputs holds M = int(k · n) meta tokens and n - M text tokens (n includes them, so windows, positions and
FLOPs stay what they are). Of the n + 1 ids that inputs and shifted targets are cut from, the slots 1 to n - 1 may be
meta tokens: the first id and the last target are text, so that exactly n - M targets are text and each text id is a
target once. Slots are drawn uniformly by (seed, step, row), whatever the text.
"""

from typing import TYPE_CHECKING, Any

from isotok.errors import ConfigError
from isotok.keyed import keyed_rng

if TYPE_CHECKING:
    import numpy as np

PLACEMENTS = ("random", "periodic", "none")
LOSSES = ("target_mask", "skip_shift")
IGNORED = -100
"""A target that is none; torch's cross-entropy leaves it out."""


def meta_id_of(config: Any) -> int | None:
    """The id of the meta token by a model's config; None for a model that has none."""
    found: int | None = getattr(config, "meta_token_id", None)
    return found


def meta_count(config: Any, length: int) -> int:
    """Meta tokens that training puts into a row of `length` positions, by a model's config: int(k · length).

    0 for other models.
    """
    return 0 if getattr(config, "meta_placement", "none") == "none" else int(config.meta_k * length)


def check_count(config: Any, length: int) -> None:
    """Raise ConfigError where rows of training would have no meta token, or less than two text tokens."""
    count, k = meta_count(config, length), getattr(config, "meta_k", 0.0)
    if getattr(config, "meta_placement", "none") == "none":
        return
    if count < 1:
        raise ConfigError(
            f"model.k={k:g}: less than one meta token in a context of {length} tokens; raise it, take a longer "
            "context, or model.k=0"
        )
    if count >= length - 1:
        raise ConfigError(
            f"model.k={k:g}: {count} of {length} positions would be meta tokens, which leaves no text; lower it"
        )


def slots_of(placement: str, count: int, length: int, seed: int, step: int, row: int) -> "np.ndarray":
    """(count,) int64, ascending, of 1 to length - 1: the slots of meta tokens in a row at a step.

    random: distinct and uniform. periodic: evenly spaced, the same in every row and step.
    """
    import numpy as np

    if placement == "periodic":
        return 1 + (np.arange(count, dtype=np.int64) * (length - 1)) // max(count, 1)
    rng = keyed_rng("meta slots", seed, step, row)
    return np.sort(rng.choice(length - 1, size=count, replace=False)).astype(np.int64) + 1


def inject(text: "np.ndarray", slots: "np.ndarray", meta_id: int, loss: str) -> "tuple[np.ndarray, np.ndarray]":
    """(inputs, targets) of rows of text ids with meta tokens in their slots.

    text: int64 of (rows, n - M + 1), one id more than a row's inputs take. slots: int64 of (rows, M). inputs, targets:
    int64 of (rows, n), targets -100 where nothing is predicted. By `target_mask` each position predicts the next id
    where that is text (a meta token too: it stands where text is expected next); by `skip_shift` each text position
    predicts the next text id and meta tokens predict nothing. Either way each id of text[:, 1:] is a target once.
    """
    import numpy as np

    rows, n = len(text), text.shape[1] - 1 + slots.shape[1]
    is_meta = np.zeros((rows, n + 1), dtype=bool)
    np.put_along_axis(is_meta, slots, True, axis=1)
    ids = np.full((rows, n + 1), meta_id, dtype=np.int64)
    ids[~is_meta] = text.reshape(-1)
    inputs = ids[:, :n]
    if loss == "target_mask":
        return inputs, np.where(is_meta[:, 1:], IGNORED, ids[:, 1:])
    targets = np.full((rows, n), IGNORED, dtype=np.int64)
    targets[~is_meta[:, :n]] = text[:, 1:].reshape(-1)
    return inputs, targets
