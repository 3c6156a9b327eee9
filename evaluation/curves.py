"""Learning curves from metrics.jsonl: what was measured on validation text, and training loss in bins."""

import math
from dataclasses import dataclass
from typing import Any

from evaluation.gather import Run, Study

BINS = 40
LAST_PART = 0.2
STILL_FALLING = 0.01


@dataclass(frozen=True)
class Curve:
    """One run. Each point is (FLOPs, bytes of text, bits per byte)."""

    seed: int
    validation: tuple[tuple[float, float, float], ...]
    train: tuple[tuple[float, float, float], ...]


Curves = dict[str, list[Curve]]


def read_curves(study: Study) -> Curves:
    """The curves of every arm, one a seed."""
    return {name: [_read(run) for run in arm.runs] for name, arm in study.arms.items()}


def still_falling(curves: list[Curve]) -> dict[str, Any]:
    """How far validation bits per byte fell over the last fifth of training, mean over seeds.

    `falling` is set when that is more than 1% of the final value: the arm was then stopped on its way down,
    and its place among the arms may depend on the budget.
    """
    falls = []
    for curve in curves:
        if len(curve.validation) < 2:
            continue
        end = curve.validation[-1]
        falls.append((_at(curve.validation, end[0] * (1 - LAST_PART)) - end[2], end[2]))
    if not falls:
        return {"fall": None, "relative": None, "falling": None}
    fall, final = (sum(values) / len(falls) for values in zip(*falls))
    return {"fall": fall, "relative": fall / final, "falling": fall / final > STILL_FALLING}


def _read(run: Run) -> Curve:
    validation, steps = {}, {}
    for line in run.metrics():
        # A resumed run repeats the lines after its checkpoint: the later line of a step counts.
        if "validation_bpb" in line:
            validation[line["step"]] = (float(line["flops"]), float(line["bytes"]), float(line["validation_bpb"]))
        elif "train_nats" in line:
            steps[line["step"]] = line
    ordered = [steps[step] for step in sorted(steps)]
    width = max(1, math.ceil(len(ordered) / BINS))
    train = []
    for start in range(0, len(ordered), width):
        part = ordered[start : start + width]
        bits, n_bytes = (
            sum(line["train_nats"] for line in part) / math.log(2),
            sum(line["train_bytes"] for line in part),
        )
        middle = part[len(part) // 2]
        # A vocabulary that loses text credits a document's bytes at its last id: a bin may have none.
        if n_bytes:
            train.append((float(middle["flops"]), float(middle["bytes"]), bits / n_bytes))
    return Curve(run.seed, tuple(validation[step] for step in sorted(validation)), tuple(train))


def _at(points: tuple[tuple[float, float, float], ...], flops: float) -> float:
    """Bits per byte at `flops`, linear between points."""
    before = points[0]
    for point in points:
        if point[0] >= flops:
            share = (flops - before[0]) / (point[0] - before[0]) if point[0] > before[0] else 1.0
            return before[2] + share * (point[2] - before[2])
        before = point
    return before[2]
