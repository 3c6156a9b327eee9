"""Text that follows a prompt: budgets in bytes, stop strings found in the text and not in tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evaluation.encoding import TextEncoder, whole_text
from evaluation.likelihood import Beginning
from isotok.errors import ConfigError, DataError

BYTES_PER_GENERATED_TOKEN = 4  # a budget in tokens becomes one in bytes, equal for all tokenizers
_DEFAULT_TOKENS = 256  # lm-eval's own
_TOKEN_BUDGETS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # lm-eval's order
# Options that tasks bring along, and the value at which they change nothing.
_NO_EFFECT = {
    "top_p": 1,
    "min_p": 0,
    "typical_p": 1,
    "top_k": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
}
_SAMPLING_ONLY = ("top_p", "min_p", "typical_p", "top_k")
_IGNORED = ("use_cache", "early_stopping", "length_penalty")  # speed, and shapes of beam search


@dataclass(frozen=True)
class Options:
    """At most `max_bytes` bytes, up to the first of `stops`; greedy at `temperature` 0."""

    max_bytes: int
    stops: tuple[str, ...] = ()
    temperature: float = 0.0


def read_options(given: Mapping[str, Any]) -> Options:
    """Generation options as tasks give them to lm-eval. Raises ConfigError naming one that would change the text and
    is not supported."""
    options = {key: value for key, value in given.items() if value is not None}
    until = options.pop("until", [])
    tokens = [options.pop(key) for key in _TOKEN_BUDGETS if key in options]
    budget = int(
        options.pop("max_gen_bytes", BYTES_PER_GENERATED_TOKEN * int(tokens[0] if tokens else _DEFAULT_TOKENS))
    )
    temperature = options.pop("temperature", None)
    sample = bool(options.pop("do_sample", bool(temperature)))
    if budget < 0 or float(temperature or 0) < 0:
        raise ConfigError(f"generation options {dict(given)}: budget and temperature must not be negative")
    if sample and temperature is not None and float(temperature) == 0:
        raise ConfigError("generation options do_sample=true and temperature=0 contradict each other")
    for key, value in options.items():
        if key in _IGNORED or value == _NO_EFFECT.get(key, ...) or (key in _SAMPLING_ONLY and not sample):
            continue
        raise ConfigError(
            f"generation option {key}={value!r}: not supported by isotok's model class (known: until, max_gen_bytes, "
            f"{', '.join(_TOKEN_BUDGETS)}, do_sample, temperature)"
        )
    stops = [until] if isinstance(until, str) else list(until)
    if any(not isinstance(stop, str) for stop in stops):
        raise ConfigError(f"generation option until={until!r}: must be a string or a list of strings")
    chosen = float(temperature if temperature is not None else 1.0) if sample else 0.0
    return Options(budget, tuple(stop for stop in stops if stop), chosen)


@torch.inference_mode()
def follow(
    model: Any,
    encoder: TextEncoder,
    ids: Sequence[int],
    options: Options,
    rng: np.random.Generator,
    limit: int | None = None,
    made: bytes = b"",
) -> str:
    """The text after `ids` (the separator first): whole characters, without the stop string, up to end of text.

    made: bytes of the last id that belong to that text already.
    """
    device = next(model.parameters()).device
    stops = [stop.encode() for stop in options.stops]
    cache = None
    feed, used = list(ids), 0
    while len(made) < options.max_bytes and not any(stop in made for stop in stops):
        used += len(feed)
        if limit is not None and used > limit:
            break
        output = model(input_ids=torch.tensor([feed], device=device), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        token = _draw(output.logits[0, -1].float().cpu().numpy(), options.temperature, rng)
        piece = encoder.bytes[token] if token < len(encoder.bytes) else b""
        if not piece:  # end of text, or an id that stands for nothing
            break
        made += piece
        feed = [token]
    made = made[: options.max_bytes]
    end = min((at for stop in stops if (at := made.find(stop)) >= 0), default=len(made))
    return whole_text(made[:end])


def pick_beginning(found: Sequence[Beginning], temperature: float, rng: np.random.Generator) -> Beginning:
    """The likeliest beginning, or one drawn by probability at a temperature above 0."""
    logs = np.array([beginning.log_p for beginning in found])
    return found[_draw(logs, temperature, rng)]


def _draw(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    if np.isnan(logits).any():
        raise DataError("the checkpoint gives NaN: it cannot be generated from")
    if temperature <= 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / temperature
    cumulative = np.cumsum(np.exp(scaled - scaled.max()))
    return int(min(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"), len(logits) - 1))
