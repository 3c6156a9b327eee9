"""StochasTok (Sims et al., 2025): split some tokens of the training stream at random into two that spell the same.

Per unit of n ids: int(n · p) attempts, each at a position uniform over the growing list; an entry that no two others
spell spends its attempt, otherwise one of its cuts, uniform, takes its place. Products may be hit again.
Model, vocabulary and loss stay as they are.
"""

import hashlib
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from isotok.errors import ConfigError, DataError
from isotok.keyed import keyed_rng
from isotok.recipe import Field, recipe
from tokenization.transform import Apply, Spent

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from transformers import PreTrainedTokenizerFast

WINDOW_IDS = 65_536
"""Longer units are expanded window by window of this many ids. The draws depend on it: it stays as it is."""
ANNEAL_WINDOW_IDS = 1024
"""The same while p falls, so that it falls inside long units too."""


class Cuts(NamedTuple):
    """The cuts of id i are pairs[starts[i] : starts[i + 1]]: int32 rows (left, right); starts is int64."""

    starts: "np.ndarray"
    pairs: "np.ndarray"


MAX_TABLES = 4
_TABLES: dict[bytes, Cuts] = {}


@recipe
class StochasTok:
    """Random re-splitting of tokens at training time.

    p: attempts per id; 0.1 as published (about 8% more ids).
    rounding: attempts of a unit are `floor`(n · p) as published, or `stochastic` (floor plus a draw for the rest).
    fresh: new draws each epoch; false repeats the first epoch's, as the paper's offline expansion does.
    anneal: the last part of the budget, in which p falls linearly to 0; before, nothing differs. Units that end in it
    are expanded in windows of ANNEAL_WINDOW_IDS, each at the p of its middle.
    """

    p: Annotated[float, Field(ge=0, le=1)] = 0.1
    rounding: Literal["floor", "stochastic"] = "floor"
    fresh: bool = False
    anneal: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def label(self) -> str:
        return f"stochastok-{self.p:g}" + (f"-anneal-{self.anneal:g}" if self.anneal else "")

    def bind(self, tokenizer: "PreTrainedTokenizerFast", seed: int) -> Apply:
        cuts = cut_table(tokenizer)
        vocab_size = len(cuts.starts) - 1

        def apply(ids: "np.ndarray", epoch: int, unit: int, spent: Spent = (0.0, 0.0), /) -> "np.ndarray":
            import numpy as np

            # The kernel looks ids up without a check of its own.
            if len(ids) and int(ids.max()) >= vocab_size:
                raise DataError(f"train document {unit}: id {int(ids.max())} outside a vocabulary of {vocab_size}")
            rng = keyed_rng("stochastok", seed, epoch if self.fresh else 0, unit)
            falls = self.anneal > 0 and spent[1] > 1 - self.anneal
            size, windows, p = ANNEAL_WINDOW_IDS if falls else WINDOW_IDS, [], self.p
            for start in range(0, len(ids), size):
                window = ids[start : start + size]
                if falls:
                    middle = (start + len(window) / 2) / len(ids)
                    p = self.p * self._left(spent[0] + middle * (spent[1] - spent[0]))
                windows.append(expand(window, self._attempts(window, p, rng), cuts, rng))
            return np.concatenate(windows or [ids]).astype(ids.dtype)

        return apply

    def _left(self, spent: float) -> float:
        """The factor of p at a fraction of the budget. Text may go on a little past its end: bytes are estimated."""
        return min(1.0, max(0.0, 1 - spent) / self.anneal)

    def _attempts(self, ids: "np.ndarray", p: float, rng: "np.random.Generator") -> int:
        exact = len(ids) * p
        extra = rng.random() < exact - int(exact) if self.rounding == "stochastic" else False
        return int(exact) + int(extra)


def expand(ids: "np.ndarray", attempts: int, cuts: Cuts, rng: "np.random.Generator") -> "np.ndarray":
    """The paper's expansion of ids, as int64."""
    import numpy as np

    from tokenization import stochastok_kernel

    return stochastok_kernel.expand(ids.astype(np.int64), rng.random((attempts, 2)), cuts.starts, cuts.pairs)


def cut_table(tokenizer: "PreTrainedTokenizerFast") -> Cuts:
    """For each id, every pair (left, right) of ids whose bytes joined are its own.

    Single bytes have none, and specials and added tokens neither have one nor come of one. The table of a vocabulary
    is kept for the process, under a hash of the entries' bytes. ConfigError if ids stand for no fixed bytes.
    """
    pieces = _spelled(tokenizer)
    sizes = ",".join(str(len(piece)) for piece in pieces)
    key = hashlib.blake2b(sizes.encode() + b"".join(pieces), digest_size=16).digest()
    if key not in _TABLES:
        while len(_TABLES) >= MAX_TABLES:
            _TABLES.pop(next(iter(_TABLES)), None)
        _TABLES[key] = binary_cuts(pieces)
    return _TABLES[key]


def binary_cuts(pieces: "Sequence[bytes]") -> Cuts:
    """Cuts of a vocabulary from the bytes of its ids, b"" for an id that takes no part; of two alike the last does."""
    import numpy as np

    find = {piece: index for index, piece in enumerate(pieces) if piece}.get
    starts, pairs = [0], []
    for piece in pieces:
        for at in range(1, len(piece)):
            left = find(piece[:at])
            right = None if left is None else find(piece[at:])
            if right is not None:
                pairs.append((left, right))
        starts.append(len(pairs))
    return Cuts(np.array(starts, np.int64), np.array(pairs, np.int32).reshape(-1, 2))


def _spelled(tokenizer: "PreTrainedTokenizerFast") -> list[bytes]:
    """The bytes of each id, none for added tokens, special or not."""
    from tokenization.tokenizer import token_bytes

    try:
        pieces = token_bytes(tokenizer)
    except (ConfigError, KeyError):
        model = type(tokenizer.backend_tokenizer.model).__name__
        raise ConfigError(
            "transform=stochastok needs a byte-level vocabulary, whose ids stand for fixed bytes; "
            f"tokenizer {tokenizer.name_or_path or '(not saved)'}, a {model}, has another"
        ) from None
    for index in tokenizer.added_tokens_decoder:
        pieces[index] = b""
    return pieces
