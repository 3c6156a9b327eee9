"""Before the first step: the largest micro-batch forward and backward, so that what does not fit fails at once."""

from typing import TYPE_CHECKING

import torch

from isotok.errors import ConfigError, IsotokError
from modeling.meta_injection import meta_id_of
from training.loop import losses
from training.recipes import Engine, Training
from training.seam import TrainingEngine
from training.setup import RunPlan

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CPU_LOGITS_BYTES = 1 << 28


def rows_of_rank(plan: RunPlan, ranks: int) -> int:
    """Rows a step that each rank takes; ConfigError where they cannot be shared out evenly."""
    if ranks > plan.rows:
        raise ConfigError(f"engine.ranks={ranks}: more than {plan.keys.rows}={plan.rows}; lower engine.ranks")
    if plan.rows % ranks:
        fits = ", ".join(str(n) for n in _divisors(plan.rows))
        raise ConfigError(f"engine.ranks={ranks}: does not divide {plan.keys.rows}={plan.rows}; take one of {fits}")
    return plan.rows // ranks


def micro_rows_of(engine: Engine, plan: RunPlan, vocab_size: int, ranks: int, on_cpu: bool) -> int:
    """Rows of a micro-batch on a rank, before memory is asked: as given, or what `auto` begins with.

    On the CPU `auto` keeps fp32 logits under CPU_LOGITS_BYTES. Always a divisor of the rank's rows, so that ranks make
    the same number of passes, all alike. Raises ConfigError naming engine.micro_rows.
    """
    rows = rows_of_rank(plan, ranks)
    if engine.micro_rows == "auto":
        most = max(1, CPU_LOGITS_BYTES // (plan.context_tokens * vocab_size * 4)) if on_cpu else rows
        if engine.zero and not on_cpu:
            raise ConfigError("engine.micro_rows=auto: cannot be tried out with engine.zero on a GPU; give a number")
        return max(n for n in _divisors(rows) if n <= most)
    if engine.micro_rows >= rows:
        return rows
    if rows % engine.micro_rows:
        fits = ", ".join(str(n) for n in _divisors(rows))
        raise ConfigError(
            f"engine.micro_rows={engine.micro_rows}: does not divide the {rows} rows of a rank "
            f"({plan.keys.rows}={plan.rows}, {ranks} ranks); take one of {fits}"
        )
    return engine.micro_rows


def rehearse(
    engine: TrainingEngine, recipe: Engine, training: Training, plan: RunPlan, config: "PreTrainedConfig", ranks: int
) -> int:
    """Run the largest micro-batch and forget it; returns the rows of a micro-batch.

    With `auto`, one process on a GPU takes the next smaller divisor of its rows until it fits. Raises IsotokError where
    it does not.
    """
    rows = micro_rows_of(recipe, plan, config.vocab_size, ranks, engine.device.type == "cpu")

    def step() -> None:
        top = text_ids(config) - 1
        ids = torch.full((rows, plan.context_tokens), top, dtype=torch.int64, device=engine.device)
        segments = torch.ones_like(ids) if plan.packed else None
        inputs, metas = with_metas(ids, plan, config)
        loss, extra = losses(engine, inputs, ids, True, training.z_loss, segments, metas)
        engine.backward((loss + extra) / ids.numel())

    while True:
        try:
            engine.rehearse(step)
            return rows
        except torch.OutOfMemoryError:
            # Several ranks would have to agree, and one that runs out of memory leaves the others in a collective.
            if recipe.micro_rows != "auto" or rows == 1 or ranks > 1:
                raise IsotokError(
                    f"engine.micro_rows={recipe.micro_rows}: {rows} rows of {plan.context_tokens} tokens do not fit in "
                    "the memory of the device; lower engine.micro_rows or take a smaller model"
                ) from None
        torch.cuda.empty_cache()
        rows = max(n for n in _divisors(rows_of_rank(plan, ranks)) if n < rows)


def text_ids(config: "PreTrainedConfig") -> int:
    """Ids of a model's table that stand for text: all up to its meta token."""
    return meta_id_of(config) or int(config.vocab_size)


def with_metas(
    ids: torch.Tensor, plan: RunPlan, config: "PreTrainedConfig"
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Made-up inputs (rows, T) with as many meta tokens a row as training has, and their places, if any."""
    meta_id = meta_id_of(config)
    if not plan.meta_tokens or meta_id is None:
        return ids, None
    places = torch.arange(1, plan.meta_tokens + 1, device=ids.device).expand(len(ids), -1)
    return ids.scatter(1, places, meta_id), places


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
