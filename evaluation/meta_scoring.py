"""Text scored with meta tokens in its contexts, as a model was trained with them: they are seen and never scored.

A window of text gets what a row of pretraining gets: of its n inputs int(k · n) are meta tokens, in slots keyed by
(seed, document, window). Each text token is predicted by what stands before it, which may be a meta token; numerator
and bytes are those of the text, so bits per byte compare with those without meta tokens.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.forward import Window
from modeling.meta_injection import meta_id_of, slots_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Inject = Callable[[Window, int, int], tuple[Window, np.ndarray]]
"""(window, document, number of the window) -> the window with meta tokens, and which of its scored ids are text."""


def inject_as_trained(config: "PreTrainedConfig", seed: int) -> Inject | None:
    """How a model's windows get meta tokens; None where pretraining had none, or has text predict across them
    (`skip_shift`), which a window cannot say."""
    meta: Any = config
    meta_id = meta_id_of(config)
    if meta_id is None or meta.meta_placement == "none" or meta.meta_loss != "target_mask":
        return None

    def inject(window: Window, document: int, number: int) -> tuple[Window, np.ndarray]:
        return with_metas(window, meta_id, meta.meta_k, meta.meta_placement, seed, document, number)

    return inject


def with_metas(
    window: Window, meta_id: int, k: float, placement: str, seed: int, document: int, number: int
) -> tuple[Window, np.ndarray]:
    """See `inject_as_trained`; a window that is too short for one meta token stays as it is."""
    inputs = positions_of(len(window.ids) - 1, k)
    count = inputs - (len(window.ids) - 1)
    slots = slots_of(placement, count, inputs, seed, document, number)
    ids = np.full(inputs + 1, meta_id, dtype=np.int64)
    is_text = np.ones(inputs + 1, dtype=bool)
    is_text[slots] = False
    ids[is_text] = window.ids
    # Meta tokens before the first scored id belong to its context; `first` is at least 1, so one id stands before them.
    first = int(np.flatnonzero(is_text)[window.first])
    return Window(ids, first), is_text[first:]


def positions_of(text: int, k: float) -> int:
    """The n with n - int(k · n) = text: inputs of a row that has so many text tokens."""
    n = text
    while n - int(k * n) < text:
        n += 1
    return n
