"""What the loop works with, how far it is, and what its ranks agree on at each step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch

from isotok.ranks import Ranks
from training.budget import Keys
from training.recipes import Training
from training.seam import TrainingEngine
from training.signals import StopSignals
from training.streams import Streams
from training.tracking import Tracker
from training.watchdog import Watchdog
from training.writer import CheckpointWriter

Validate = Callable[[Any], float]
"""model → bits per byte of held-out text. With several ranks each calls it with the same text: forward passes of ZeRO 3
need all of them."""


class RunPlan(Protocol):
    """What the loop needs of `training.budget.Plan` or `training.finetune.FinetunePlan`.

    context_tokens: the longest row. packed: whether rows hold texts that do not see each other. meta_tokens: that every
    row has.
    """

    keys: ClassVar[Keys]
    packed: ClassVar[bool]

    @property
    def steps(self) -> int: ...
    @property
    def stop_step(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def context_tokens(self) -> int: ...
    @property
    def meta_tokens(self) -> int: ...
    @property
    def flops_per_step(self) -> float: ...
    @property
    def flops(self) -> float: ...


@dataclass
class Totals:
    """How far a run is: what a checkpoint keeps beside tensors. Seconds add up over resumes."""

    step: int = 0
    tokens: int = 0
    bytes: int = 0
    train_s: float = 0.0
    data_wait_s: float = 0.0


def spent(plan: RunPlan, totals: Totals) -> dict[str, Any]:
    """What a run has used up so far, in every unit of a budget: the head of its lines and checkpoints."""
    flops = totals.step * plan.flops_per_step
    return {"step": totals.step, "tokens": totals.tokens, "bytes": totals.bytes, "flops": flops}


@dataclass
class Setup:
    """What the loop works with; see `training.worker` for how it comes together.

    streams: the rows of this rank. tracker: on rank 0. validated: steps whose validation is written. record: what a
    checkpoint says of its run besides. points: step → the folder, under the run's, for the model after it, which
    `export` writes from its weights.
    """

    run_dir: Path
    seed: int
    plan: RunPlan
    training: Training
    engine: TrainingEngine
    micro_rows: int
    streams: Streams
    tracker: Tracker | None
    writer: CheckpointWriter
    signals: StopSignals
    watchdog: Watchdog
    validate: Validate | None
    ranks: Ranks = field(default_factory=Ranks)
    native: bool = False
    validated: set[int] = field(default_factory=set)
    record: dict[str, Any] = field(default_factory=dict)
    points: Mapping[int, str] = field(default_factory=dict)
    export: Callable[[Mapping[str, torch.Tensor], Path], None] | None = None


class Agreed(NamedTuple):
    """What all ranks know of a step before its last backward pass: sums over them, and what they must do together."""

    nats: float
    bytes: int
    signal: str | None
    write_failed: bool
