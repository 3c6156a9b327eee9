"""The learning rate as a function of the fraction of the budget that is spent, and when validation is due."""

import math

from training.recipes import Training


def warmup_steps(training: Training, steps: int) -> int:
    """At least `min_warmup_steps`, but never more than half of the run."""
    return min(max(round(training.warmup * steps), training.min_warmup_steps), steps // 2)


def learning_rate(training: Training, step: int, steps: int) -> float:
    """The learning rate of the update that takes a run of `steps` from `step` to `step + 1`."""
    warmup = warmup_steps(training, steps)
    if step < warmup:
        return training.lr * (step + 1) / warmup
    floor = training.min_lr_ratio
    if training.schedule == "wsd":
        left = (steps - step) / max(training.decay * steps, 1.0)
        return training.lr * (floor + (1 - floor) * min(1.0, left))
    done = (step - warmup) / max(steps - warmup, 1)
    return training.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def validation_steps(training: Training, stop_step: int) -> list[int]:
    """The steps after which validation is due: evenly spread, the last at the end."""
    points = {round(stop_step * i / training.validations) for i in range(1, training.validations + 1)}
    return sorted(points - {0})
