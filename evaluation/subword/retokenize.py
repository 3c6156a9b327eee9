"""The same prompt in other ids of the same vocabulary: StochasTok, BPE-dropout, single characters.

What a variant draws depends on (seed, question id, draw) alone, so arms and reruns are asked the same.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from isotok.errors import ConfigError
from isotok.keyed import keyed_int

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Retokenize = Callable[[Sequence[int], str, int], list[int]]
"""(ids of a prompt, question id, draw) -> ids that spell the same."""

CHARACTERS = "characters"
DROPOUT = "dropout-0.1"


def variants(
    tokenizer: "PreTrainedTokenizerFast", seed: int, *, generated: bool
) -> tuple[dict[str, Retokenize], dict[str, str]]:
    """The variants that a vocabulary has, by name, and why others are missing.

    generated: the task's answers are generated, as in addition, whose published arms split with p = 1.
    """
    from tokenization.dropout import BPEDropout
    from tokenization.stochastok import StochasTok

    makers: dict[str, Callable[[], Retokenize]] = {}
    for p in (0.1, 0.5, 1.0) if generated else (0.1, 0.5):
        # A prompt is short: rounded down, most would have too few attempts or none.
        recipe = StochasTok(p=p, rounding="stochastic", fresh=True)
        makers[recipe.label] = lambda recipe=recipe: _by_transform(recipe, tokenizer, seed)  # type: ignore[misc]
    makers[DROPOUT] = lambda: _by_transform(BPEDropout(q=0.1, fresh=True), tokenizer, seed)
    makers[CHARACTERS] = lambda: _by_character(tokenizer)
    found: dict[str, Retokenize] = {}
    missing: dict[str, str] = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except ConfigError as error:
            missing[name] = str(error)
    return found, missing


def is_random(name: str) -> bool:
    """Whether draws of a variant differ."""
    return name != CHARACTERS


def _by_transform(recipe: Any, tokenizer: "PreTrainedTokenizerFast", seed: int) -> Retokenize:
    import numpy as np

    apply = recipe.bind(tokenizer, seed)

    def retokenize(ids: Sequence[int], question: str, draw: int) -> list[int]:
        unit = keyed_int("retokenized question", question, bits=62)
        return [int(i) for i in apply(np.asarray(ids, dtype=np.int64), draw, unit)]

    return retokenize


def _by_character(tokenizer: "PreTrainedTokenizerFast") -> Retokenize:
    """One id a character, or one a byte where the character is no entry."""
    from tokenization.tokenizer import token_bytes

    pieces = token_bytes(tokenizer)
    by_bytes = {piece: index for index, piece in enumerate(pieces) if piece}
    lacking = [byte for byte in range(256) if bytes([byte]) not in by_bytes]
    if lacking:
        raise ConfigError(f"the vocabulary has no entry for {len(lacking)} of the 256 bytes")

    def retokenize(ids: Sequence[int], question: str, draw: int) -> list[int]:
        data = b"".join(pieces[i] for i in ids)
        made: list[int] = []
        for char in data.decode():
            whole = by_bytes.get(char.encode())
            made += [whole] if whole is not None else [by_bytes[bytes([byte])] for byte in char.encode()]
        return made

    return retokenize
