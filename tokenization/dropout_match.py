"""BPE-dropout whose growth is StochasTok's: its rate is found on the training split by bisection.

At equal rates the two lengthen text by very different amounts, and so do dropout's two procedures and vocabularies with
and without superwords. Growth = ids after over ids before, less one, end-of-text ids included.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from isotok.errors import ConfigError
from isotok.progress import say
from isotok.recipe import Field, recipe
from tokenization.dropout import BPEDropout
from tokenization.stochastok import StochasTok
from tokenization.transform import Apply, Transform, Units

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerFast

SAMPLE_IDS = 1_000_000
RATE_DIGITS = 5
"""Decimals of a rate: what is measured is what is used, and reads well."""
NEIGHBOURS, APART = 100, 0.0002
"""Rates to try on each side of where bisection ends without a match."""


@recipe
class MatchedDropout:
    """BPE-dropout at the rate that lengthens the training text as StochasTok does; becomes a `BPEDropout`.

    p, rounding: of the StochasTok that is matched. variant, fresh: of the dropout. tolerance: difference in growth that
    counts as none, 0.002 is 0.2 points. Measured on the split's first million ids, whole documents, with seed 0 for
    all rates and whatever the run's seed, so that seeds train at one rate.
    """

    p: Annotated[float, Field(gt=0, le=1)] = 0.1
    rounding: Literal["floor", "stochastic"] = "floor"
    variant: Literal["reference", "queue"] = "reference"
    fresh: bool = True
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.002

    @property
    def label(self) -> str:
        return f"dropout-as-stochastok-{self.p:g}" + ("-queue" if self.variant == "queue" else "")

    def bind(self, tokenizer: "PreTrainedTokenizerFast", seed: int) -> Apply:
        raise ConfigError(f"transform={self.label}: its rate comes from data; call fit(data, tokenizer) and bind that")

    def fit(self, data: Units, tokenizer: "PreTrainedTokenizerFast") -> BPEDropout:
        """Raises ConfigError if there is no growth to match, or no rate that has it."""
        sample = first_units(data)
        stochastok = StochasTok(p=self.p, rounding=self.rounding)
        wanted = growth(stochastok, sample, tokenizer)
        if wanted == 0:
            raise ConfigError(
                f"transform={self.label}: StochasTok at p={self.p:g} splits nothing of the training text, so there is "
                "no growth to match; this vocabulary has no entry to split, or its documents are too short for "
                "rounding=floor"
            )
        # Growth rises with the rate: by almost nothing at 0, and at 1 all that is left are bytes.
        measured: dict[float, float] = {}
        low, high = 0.0, 1.0
        while (q := round((low + high) / 2, RATE_DIGITS)) not in (low, high) and not self._met(measured, wanted):
            measured[q] = growth(self._at(q), sample, tokenizer)
            low, high = (q, high) if measured[q] < wanted else (low, q)
        # Where pieces are long, one draw decides much and growth does not rise with every hair's breadth of the rate.
        for step in range(1, NEIGHBOURS + 1):
            for q in (round(low - step * APART, RATE_DIGITS), round(high + step * APART, RATE_DIGITS)):
                if 0 < q < 1 and not self._met(measured, wanted):
                    measured[q] = growth(self._at(q), sample, tokenizer)
        q = min(measured, key=lambda q: (abs(measured[q] - wanted), q))
        if not self._met(measured, wanted):
            raise ConfigError(
                f"transform={self.label}: no rate grows by {wanted:.2%} within {self.tolerance:.2%}; the nearest is "
                f"q={q:g} with {measured[q]:.2%}. Raise transform.tolerance, or give more text"
            )
        say(f"{self.label}: q={q:g} grows by {measured[q]:.2%}, StochasTok by {wanted:.2%}")
        return self._at(q)

    def _met(self, measured: dict[float, float], wanted: float) -> bool:
        return any(abs(had - wanted) <= self.tolerance for had in measured.values())

    def _at(self, q: float) -> BPEDropout:
        return BPEDropout(q=q, variant=self.variant, fresh=self.fresh)


def first_units(data: Units, at_least: int = SAMPLE_IDS) -> "list[np.ndarray]":
    """Ids of the first units that have so many ids together, or of all."""
    units, held = [], 0
    for unit in range(len(data)):
        units.append(data.ids(unit))
        held += len(units[-1])
        if held >= at_least:
            break
    return units


def growth(transform: Transform, sample: "list[np.ndarray]", tokenizer: "PreTrainedTokenizerFast") -> float:
    """Ids after a transform over ids before, less one, of the units of a split's start; bound to seed 0."""
    apply = transform.bind(tokenizer, 0)
    after = sum(len(apply(ids, 0, unit, (0.0, 0.0))) for unit, ids in enumerate(sample))
    return after / sum(map(len, sample)) - 1 if sample else 0.0
