"""Transforms: a unit's ids → ids at training time, keyed by (seed, epoch, unit). Evaluation always uses plain ids."""

from typing import TYPE_CHECKING, Protocol, TypeAlias

from isotok.errors import ConfigError
from isotok.recipe import recipe

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerFast

Spent: TypeAlias = tuple[float, float]
"""Fractions of the schedule's budget that a row has spent where a unit begins in it and where the unit ends."""


class Apply(Protocol):
    """(ids of a unit, epoch, unit index, what is spent) -> ids that spell the same text."""

    def __call__(self, ids: "np.ndarray", epoch: int, unit: int, spent: Spent = (0.0, 0.0), /) -> "np.ndarray": ...


class Units(Protocol):
    """What fitting needs of token data; see `tokenization.encode.TokenData`."""

    def __len__(self) -> int: ...

    def ids(self, unit: int) -> "np.ndarray": ...


class Transform(Protocol):
    """What a class must have to be a transform (plus the `@recipe` decorator).

    One whose settings come from the data has `fit(data, tokenizer) -> Transform` as well; see `fit_transform`.
    """

    @property
    def label(self) -> str:
        """A short name, from the recipe alone."""
        ...

    def bind(self, tokenizer: "PreTrainedTokenizerFast", seed: int) -> Apply:
        """The transform for one vocabulary and seed; a pure function of its arguments."""
        ...


def fit_transform(transform: Transform, data: Units, tokenizer: "PreTrainedTokenizerFast") -> Transform:
    """What `fit` makes of a transform from the training split: a recipe that needs no data. Others stay as they are.

    The same arguments give the same recipe, as a run's file keeps it and is compared when the run is resumed.
    """
    fit = getattr(transform, "fit", None)
    if fit is None:
        return transform
    fitted: Transform = fit(data, tokenizer)
    if hasattr(fitted, "fit"):
        raise ConfigError(
            f"transform={transform.label}: its fit gives {type(fitted).__name__}, which must be fitted too"
        )
    return fitted


@recipe
class NoTransform:
    """Ids as the tokenizer gives them."""

    @property
    def label(self) -> str:
        return "plain"

    def bind(self, tokenizer: "PreTrainedTokenizerFast", seed: int) -> Apply:
        def apply(ids: "np.ndarray", epoch: int, unit: int, spent: Spent = (0.0, 0.0), /) -> "np.ndarray":
            return ids

        return apply
