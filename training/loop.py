"""The training loop. Its order: validate if due → budget → stop signal → fetch → accumulate → finite check → clip,
step, learning rate → account → log → save.

Losses are sums over a micro-batch divided by the number of targets in the whole step, so how a step is cut into
micro-batches changes nothing but rounding.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from isotok.errors import DataError, InterruptedRun, IsotokError
from isotok.keyed import keyed_int
from isotok.progress import say
from training.budget import Plan
from training.checkpoint import save_checkpoint, steps_saved
from training.engines import SingleEngine
from training.recipes import Training
from training.schedule import learning_rate, validation_steps
from training.signals import StopSignals
from training.streams import Batch, Prefetch, RowStreams, units_between
from training.tracking import Tracker, bits_per_byte

CPU_LOGITS_BYTES = 1 << 28

Validate = Callable[[Any], float]
"""model → bits per byte of held-out text."""


@dataclass
class Totals:
    """How far a run is: what a checkpoint keeps beside tensors. Seconds add up over resumes."""

    step: int = 0
    tokens: int = 0
    bytes: int = 0
    train_s: float = 0.0
    data_wait_s: float = 0.0


@dataclass
class Setup:
    """What the loop works with; see `training.worker` for how it comes together."""

    run_dir: Path
    seed: int
    plan: Plan
    training: Training
    engine: SingleEngine
    micro_rows: int
    streams: RowStreams
    tracker: Tracker
    wandb_id: str
    validate: Validate | None


def train(setup: Setup, totals: Totals) -> np.ndarray:
    """Train from `totals` to the plan's stop step; returns the state of the row streams there.

    Raises InterruptedRun on a stop signal, after a checkpoint; DataError when loss or gradient is not finite.
    """
    plan, training = setup.plan, setup.training
    due = set(validation_steps(training, plan.stop_step)) if setup.validate else set()
    meter = Meter(setup, totals)
    state = setup.streams.state
    with StopSignals() as signals, Prefetch(setup.streams) as batches:
        while True:
            if totals.step in due - setup.tracker.validated:
                meter.flush()
                validate(setup, totals)
                meter.restart_clock()
            if totals.step >= plan.stop_step:
                return state
            if signals.received:
                meter.flush()
                save(setup, totals, state)
                raise InterruptedRun(
                    f"{setup.run_dir}: stopped by {signals.received} at step {totals.step} of {plan.stop_step}, "
                    "checkpoint saved; the same command resumes"
                )
            start = time.perf_counter()
            batch = batches.next()
            waited_s = time.perf_counter() - start
            lr = learning_rate(training, totals.step, plan.steps)
            nats, norm = update(setup, batch, lr, totals.step)
            state = batch.state_after
            totals.step += 1
            totals.tokens += batch.n_tokens
            totals.bytes += batch.n_bytes
            meter.add(batch, nats, norm, lr, waited_s, time.perf_counter() - start)
            if totals.step % training.save_every_steps == 0 or totals.step == plan.stop_step:
                meter.flush()
                save(setup, totals, state)


def update(setup: Setup, batch: Batch, lr: float, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimizer step: (nats summed over the batch, norm of the gradient), both left on the device."""
    engine = setup.engine
    torch.manual_seed(keyed_int("step", setup.seed, step, engine.rank, bits=63))
    inputs = torch.from_numpy(batch.inputs).to(engine.device, non_blocking=True)
    targets = torch.from_numpy(batch.targets).to(engine.device, non_blocking=True)
    nats = torch.zeros((), dtype=torch.float64, device=engine.device)
    for at in range(0, len(inputs), setup.micro_rows):
        rows = slice(at, at + setup.micro_rows)
        loss = sum_of_losses(engine, inputs[rows], targets[rows])
        engine.micro_backward(loss / batch.n_tokens, last=at + setup.micro_rows >= len(inputs))
        nats += loss.detach()
    return nats, engine.update(lr)


def sum_of_losses(engine: SingleEngine, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Nats of the targets (rows, L) after the inputs (rows, L), summed."""
    with engine.autocast():
        logits = engine.forward(input_ids=inputs, use_cache=False).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")


def cpu_micro_rows(plan: Plan, vocab_size: int) -> int:
    """Rows of a micro-batch whose fp32 logits stay under CPU_LOGITS_BYTES."""
    return min(plan.rows, max(1, CPU_LOGITS_BYTES // (plan.context_tokens * vocab_size * 4)))


def dry_run(engine: SingleEngine, plan: Plan, vocab_size: int, micro_rows: int | str) -> int:
    """Forward and backward of the largest micro-batch before the first step; returns the rows of a micro-batch.

    What does not fit in memory fails here and not after hours. `auto` halves the rows until they fit on a GPU, and on
    the CPU keeps the logits under CPU_LOGITS_BYTES.
    """
    if micro_rows != "auto":
        rows = min(int(micro_rows), plan.rows)
    elif engine.device.type == "cpu":
        rows = cpu_micro_rows(plan, vocab_size)
    else:
        rows = plan.rows
    while True:
        ids = torch.full((rows, plan.context_tokens), vocab_size - 1, dtype=torch.int64, device=engine.device)
        try:
            engine.micro_backward(sum_of_losses(engine, ids, ids), last=True)
            break
        except torch.OutOfMemoryError:
            if micro_rows != "auto" or rows == 1:
                raise IsotokError(
                    f"engine.micro_rows={micro_rows}: {rows} rows of {plan.context_tokens} tokens do not fit in the "
                    "memory of the device; lower engine.micro_rows or take a smaller model"
                ) from None
        finally:
            engine.clear_gradients()
        torch.cuda.empty_cache()
        rows //= 2
    return rows


def validate(setup: Setup, totals: Totals) -> None:
    """Score held-out text and write it down; weights and random streams are as before."""
    assert setup.validate is not None
    model = setup.engine.module
    model.eval()
    with torch.no_grad():
        score = float(setup.validate(model))
    model.train()
    if not math.isfinite(score):
        raise DataError(f"{setup.run_dir}: validation loss is {score} after step {totals.step}")
    flops = totals.step * setup.plan.flops_per_step
    row = {"step": totals.step, "tokens": totals.tokens, "bytes": totals.bytes, "flops": flops}
    setup.tracker.write({**row, "validation_bpb": score})
    setup.tracker.validated.add(totals.step)
    say(f"step {totals.step:,}/{setup.plan.stop_step:,}: validation {score:.4f} bits/byte")


def save(setup: Setup, totals: Totals, state: np.ndarray) -> None:
    """A checkpoint of this step, after the metrics that lead to it."""
    setup.tracker.sync()
    record = {
        **asdict(totals),
        "flops": totals.step * setup.plan.flops_per_step,
        "optimizer_step": setup.engine.optimizer_step,
        "rows": state.tolist(),
        "wandb_id": setup.wandb_id,
    }
    save_checkpoint(setup.run_dir / "checkpoints", record, setup.engine.tensors())


@dataclass
class Pending:
    """A step whose figures may still be on the device."""

    row: dict[str, Any]
    nats: torch.Tensor
    norm: torch.Tensor
    batch: Batch


class Meter:
    """Metrics of each step, and a progress line now and then.

    On the CPU figures are read at once; on a GPU only with a progress line or a checkpoint, as reading them waits for
    the device. A loss that is not finite is found when it is read; until then `update` leaves the weights alone.
    """

    def __init__(self, setup: Setup, totals: Totals) -> None:
        self.setup, self.totals = setup, totals
        self.pending: list[Pending] = []
        self.eager = setup.engine.device.type == "cpu"
        self.restart_clock()

    def restart_clock(self) -> None:
        self.since = time.monotonic()
        self.tokens = self.bytes = self.steps = 0
        self.nats = self.waited_s = self.busy_s = 0.0

    def add(
        self, batch: Batch, nats: torch.Tensor, norm: torch.Tensor, lr: float, waited_s: float, took_s: float
    ) -> None:
        totals = self.totals
        flops = totals.step * self.setup.plan.flops_per_step
        row = {"step": totals.step, "tokens": totals.tokens, "bytes": totals.bytes, "flops": flops, "lr": lr}
        self.pending.append(Pending(row, nats, norm, batch))
        totals.train_s += took_s
        totals.data_wait_s += waited_s
        self.waited_s += waited_s
        self.busy_s += took_s
        self.steps += 1
        self.tokens += batch.n_tokens
        self.bytes += batch.n_bytes
        log = time.monotonic() - self.since >= self.setup.training.log_every_s
        if self.eager or log:
            self.flush()
        if log:
            self.line(row["lr"])

    def flush(self) -> None:
        """Read what is pending from the device, check that it is finite, write it down."""
        for step in self.pending:
            nats, norm = float(step.nats), float(step.norm)
            if not (math.isfinite(nats) and math.isfinite(norm)):
                raise self._not_finite(step, nats, norm)
            self.nats += nats
            self.norm = norm
            n_bytes = step.batch.n_bytes
            train = {"train_nats": nats, "train_bytes": n_bytes, "train_bpb": bits_per_byte(nats, n_bytes)}
            self.setup.tracker.write({**step.row, **train, "grad_norm": norm})
        self.pending.clear()

    def line(self, lr: float) -> None:
        plan, step = self.setup.plan, self.totals.step
        elapsed_s = max(time.monotonic() - self.since, 1e-9)
        flops_per_s = self.steps * plan.flops_per_step / elapsed_s
        wait = self.waited_s / max(self.busy_s, 1e-9)
        left_s = (plan.stop_step - step) * elapsed_s / self.steps
        bpb = bits_per_byte(self.nats, self.bytes)
        say(
            f"step {step:,}/{plan.stop_step:,} {step / plan.steps:.1%} of budget | "
            f"{'-' if bpb is None else f'{bpb:.4f}'} bits/byte | lr {lr:.2e} | grad {self.norm:.2f} | "
            f"{self.tokens / elapsed_s:,.0f} tok/s | {self.bytes / elapsed_s:,.0f} B/s | {flops_per_s:.2e} FLOP/s | "
            f"data wait {wait:.1%} | {int(left_s) // 60}:{int(left_s) % 60:02d} left"
        )
        self.setup.tracker.write_timing(
            {
                "step": step,
                "train_s": self.totals.train_s,
                "tokens_per_s": self.tokens / elapsed_s,
                "bytes_per_s": self.bytes / elapsed_s,
                "flops_per_s": flops_per_s,
                "data_wait_share": wait,
            }
        )
        self.restart_clock()

    def _not_finite(self, step: Pending, nats: float, norm: float) -> DataError:
        data, run_dir = self.setup.streams.data, self.setup.run_dir
        units = units_between(step.batch.state, step.batch.state_after, len(data), self.setup.seed)
        named = ", ".join(str(unit) for unit in units[:20]) + (
            f" and {len(units) - 20} more" if len(units) > 20 else ""
        )
        saved = steps_saved(run_dir / "checkpoints")
        kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "there is no checkpoint yet"
        return DataError(
            f"{run_dir}: step {step.row['step']}: loss {nats} nats, gradient norm {norm}: not finite. It read the "
            f"documents {named} of the training split; {kept}. Lower training.lr or look at those documents"
        )
