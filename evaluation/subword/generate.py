"""Many prompts continued at once: greedy answers that end at a stop or at end of text, and samples.

Rows of equal length share a batch and a cache of keys and values, so no row is padded and every model can do it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evaluation.forward import can_slice, max_positions
from isotok.errors import DataError

_ROWS = {"cpu": 64, "cuda": 1024}
_TOKENS = {"cpu": 8192, "cuda": 65536}
Pick = Callable[[list[int], torch.Tensor], np.ndarray]
"""(numbers of the rows, logits (rows, vocabulary)) -> the next id of each row."""


@dataclass(frozen=True)
class Generated:
    """data: the bytes before the stop or the end of text; ended: whether one of them came."""

    data: bytes
    ended: bool


def greedy(
    model: Any,
    pieces: Sequence[bytes],
    eos_id: int,
    prompts: Sequence[Sequence[int]],
    stop: bytes,
    most_bytes: int,
    advance: Callable[[float], None] | None = None,
) -> list[Generated]:
    """What the likeliest ids spell after each prompt (ids, the separator first), `most_bytes` at most.

    pieces: the bytes of each id. The stop is looked for in the text, so it may stand anywhere in a token; end of text
    always ends an answer. An id that spells nothing stops a row without ending its answer. Raises DataError where the
    model gives no numbers or a prompt fills its positions.
    """
    made = [b""] * len(prompts)
    ended = [False] * len(prompts)

    def over(row: int, token: int) -> bool:
        if token == eos_id:
            ended[row] = True
            return True
        piece = pieces[token] if token < len(pieces) else b""
        if not piece:
            return True
        begin = max(0, len(made[row]) - len(stop) + 1)
        made[row] += piece
        at = made[row].find(stop, begin) if stop else -1
        if at >= 0:
            ended[row] = True
            made[row] = made[row][:at]
            return True
        return len(made[row]) >= most_bytes

    _extend(model, prompts, most_bytes, lambda rows, logits: logits.argmax(-1).cpu().numpy(), over, advance)
    return [Generated(data[:most_bytes], end and len(data) <= most_bytes) for data, end in zip(made, ended)]


def sample(
    model: Any,
    eos_id: int,
    prompts: Sequence[Sequence[int]],
    most_ids: int,
    rngs: Sequence[np.random.Generator],
) -> list[list[int]]:
    """Ids drawn from the model's own distribution after each prompt, each row by its generator; end of text ends it and
    is left out."""
    drawn: list[list[int]] = [[] for _ in prompts]

    def pick(rows: list[int], logits: torch.Tensor) -> np.ndarray:
        cumulative = torch.softmax(logits.double(), -1).cumsum(-1).cpu().numpy()
        tokens = [
            np.searchsorted(line, rngs[row].random() * line[-1], side="right") for row, line in zip(rows, cumulative)
        ]
        return np.minimum(np.array(tokens, np.int64), cumulative.shape[1] - 1)

    def over(row: int, token: int) -> bool:
        if token == eos_id:
            return True
        drawn[row].append(token)
        return False

    _extend(model, prompts, most_ids, pick, over, None)
    return drawn


@torch.inference_mode()
def _extend(
    model: Any,
    prompts: Sequence[Sequence[int]],
    most_ids: int,
    pick: Pick,
    over: Callable[[int, int], bool],
    advance: Callable[[float], None] | None,
) -> None:
    """Give every row up to `most_ids` more ids; `over(row, id)` takes each and says whether the row is done."""
    device = next(model.parameters()).device
    limit = max_positions(model)
    keep = {"logits_to_keep": 1} if can_slice(type(model)) else {}
    training = model.training
    model.eval()
    try:
        for batch in _batches(prompts, device.type):
            length = len(prompts[batch[0]])
            if limit is not None and length > limit:
                raise DataError(f"a prompt of {length} tokens does not fit the model's {limit} positions")
            steps = most_ids if limit is None else min(most_ids, limit - length + 1)
            feed = torch.tensor([list(prompts[row]) for row in batch], device=device)
            open_rows, cache = set(range(len(batch))), None
            for _ in range(steps):
                output = model(input_ids=feed, past_key_values=cache, use_cache=True, **keep)
                cache, logits = output.past_key_values, output.logits[:, -1].float()
                if torch.isnan(logits).any():
                    raise DataError("the checkpoint gives NaN: it cannot be generated from")
                tokens = pick(batch, logits)
                open_rows -= {k for k in sorted(open_rows) if over(batch[k], int(tokens[k]))}
                if not open_rows:
                    break
                feed = torch.from_numpy(tokens.astype(np.int64))[:, None].to(device)
            if advance is not None:
                advance(len(batch))
    finally:
        model.train(training)


def _batches(prompts: Sequence[Sequence[int]], device: str) -> list[list[int]]:
    """Numbers of prompts, longest first, in batches of one length."""
    rows, tokens = _ROWS.get(device, _ROWS["cpu"]), _TOKENS.get(device, _TOKENS["cpu"])
    batches: list[list[int]] = []
    for row in sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row)):
        length = len(prompts[row])
        if (
            batches
            and len(prompts[batches[-1][0]]) == length
            and len(batches[-1]) < max(1, min(rows, tokens // length))
        ):
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
