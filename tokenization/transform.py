"""Transforms: a unit's ids → ids at training time, keyed by (seed, epoch, unit). Evaluation always uses plain ids."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from isotok.recipe import recipe

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerFast

Apply: TypeAlias = "Callable[[np.ndarray, int, int], np.ndarray]"
"""(ids of a unit, epoch, unit index) -> ids that spell the same text."""


class Transform(Protocol):
    """What a class must have to be a transform (plus the `@recipe` decorator)."""

    @property
    def label(self) -> str: ...

    def bind(self, tokenizer: "PreTrainedTokenizerFast", seed: int) -> Apply:
        """The transform for one vocabulary and seed; a pure function of its arguments."""
        ...


@recipe
class NoTransform:
    """Ids as the tokenizer gives them."""

    @property
    def label(self) -> str:
        return "plain"

    def bind(self, tokenizer: "PreTrainedTokenizerFast", seed: int) -> Apply:
        return lambda ids, epoch, unit: ids
