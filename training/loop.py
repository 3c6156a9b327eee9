"""The training loop. Its order: validate if due → keep the model if due → budget → stop signal → fetch → forward and
backward, the last backward only after all ranks agreed that the loss is finite → clip, step, learning rate → account →
log → save.

A rank's loss is the sum over its own targets, divided by all targets of the step over the number of ranks, and
gradients are averaged over ranks: how a step is cut into ranks and micro-batches changes nothing but rounding.
"""

import math
import time
from dataclasses import asdict

import numpy as np
import torch
from torch.nn import functional

from isotok.errors import DataError, InterruptedRun, IsotokError
from isotok.keyed import keyed_int
from isotok.progress import say
from training.checkpoint import KINDS, what_is_kept
from training.meter import Meter, NotFinite
from training.schedule import learning_rate, validation_steps
from training.seam import TrainingEngine
from training.setup import Agreed, Setup, Totals, spent
from training.signals import SIGNALS
from training.streams import IGNORED, Batch, Prefetch, units_between
from training.writer import save_native


def train(setup: Setup, totals: Totals) -> np.ndarray:
    """Train from `totals` to the plan's stop step; returns the state of this rank's row streams there.

    Raises InterruptedRun on a stop signal, after a checkpoint; DataError when loss or gradient is not finite;
    IsotokError when a checkpoint cannot be written. Every rank raises at the same step.
    """
    state = setup.streams.state  # before anything is read ahead
    with Prefetch(setup.streams) as batches:
        try:
            return _train(setup, totals, state, batches)
        except NotFinite as error:
            raise not_finite(setup, error) from None


def _train(setup: Setup, totals: Totals, state: np.ndarray, batches: Prefetch) -> np.ndarray:
    plan, training, enter = setup.plan, setup.training, setup.watchdog.enter
    due = set(validation_steps(training, plan.stop_step)) if setup.validate else set()
    meter, stop = Meter(setup, totals), None
    while True:
        stop = stop or stop_signal(setup)
        if totals.step in due - setup.validated and not (stop and totals.step < plan.stop_step):
            validate(setup, totals, meter)
            stop = stop or stop_signal(setup)
        if totals.step in setup.points and not (stop and totals.step < plan.stop_step):
            keep_point(setup, totals, meter)
        if totals.step >= plan.stop_step:
            finish_writing(setup, totals)
            return state
        if stop:
            save(setup, totals, state, meter)
            finish_writing(setup, totals)
            raise interrupted(setup, totals, stop)
        enter("fetch", totals.step)
        start = time.perf_counter()
        batch = batches.next()
        waited_s = time.perf_counter() - start
        lr = learning_rate(training, totals.step, plan.steps)
        agreed, norm = update(setup, batch, lr, totals.step, meter)
        state, stop = batch.state_after, agreed.signal
        totals.step += 1
        totals.tokens += batch.step_tokens
        totals.bytes += agreed.bytes
        meter.add(batch, agreed, norm, lr, waited_s, time.perf_counter() - start)
        if agreed.write_failed:
            finish_writing(setup, totals)
        if is_save_due(setup, totals, due):
            save(setup, totals, state, meter)


def update(setup: Setup, batch: Batch, lr: float, step: int, meter: Meter) -> tuple[Agreed, torch.Tensor]:
    """One optimizer step: what the ranks agreed on, and the norm of the gradient, which may still be on the device."""
    engine, size = setup.engine, setup.ranks.size
    setup.watchdog.enter("step", step)
    torch.manual_seed(keyed_int("step", setup.seed, step, setup.ranks.rank, bits=63))
    inputs = torch.from_numpy(batch.inputs).to(engine.device, non_blocking=True)
    targets = torch.from_numpy(batch.targets).to(engine.device, non_blocking=True)
    segments, metas = (
        None if part is None else torch.from_numpy(part).to(engine.device, non_blocking=True)
        for part in (batch.segments, batch.metas)
    )
    nats = torch.zeros((), dtype=torch.float64, device=engine.device)
    agreed = None
    for at in range(0, len(inputs), setup.micro_rows):
        rows, last = slice(at, at + setup.micro_rows), at + setup.micro_rows >= len(inputs)
        own = (None if part is None else part[rows] for part in (segments, metas))
        loss, extra = losses(engine, inputs[rows], targets[rows], last, setup.training.z_loss, *own)
        nats += loss.detach()
        if last:
            # A gradient from before that is not finite is found here at the latest: nothing was updated since.
            meter.flush()
            setup.watchdog.enter("agree" if size > 1 else "step", step)
            agreed = agree(setup, float(nats), batch.n_bytes)
            if not math.isfinite(agreed.nats):
                raise NotFinite(step + 1, agreed.nats, None, batch)
            setup.watchdog.enter("step", step)
        engine.backward((loss + extra) / batch.n_tokens)
    assert agreed is not None
    return agreed, engine.update(lr)


def losses(
    engine: TrainingEngine,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    last: bool,
    z_loss: float,
    segments: torch.Tensor | None = None,
    metas: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(nats of the targets (rows, L) after the inputs (rows, L), z-loss), both summed over positions.

    segments (rows, L): inputs see those before them that have their number, and only some have a target. metas (rows,
    M): the places of meta tokens; there, or before them, is no target.
    """
    if segments is None:
        logits = engine.forward(inputs, last, metas=metas)
    else:
        # The head is computed where any of the rows has a target.
        kept = (targets != IGNORED).any(dim=0).nonzero().flatten()
        logits, targets = engine.forward(inputs, last, segments, kept), targets[:, kept]
    logits = logits.float().flatten(0, 1)
    nats = functional.cross_entropy(logits, targets.flatten(), reduction="sum", ignore_index=IGNORED)
    if not z_loss:
        return nats, torch.zeros((), device=nats.device)
    if segments is not None or metas is not None:
        logits = logits[targets.flatten() != IGNORED]
    return nats, z_loss * torch.logsumexp(logits, dim=-1).square().sum()


def agree(setup: Setup, nats: float, n_bytes: int) -> Agreed:
    """One exchange a step: the loss, the bytes read, and whether a rank was told to stop or could not write."""
    received = setup.signals.received
    flags = [float(received == number.name) for number in SIGNALS]
    write_failed = setup.writer.failed or (setup.tracker is not None and setup.tracker.failed)
    sums = setup.ranks.sum([nats, float(n_bytes), float(write_failed), *flags])
    told = [number.name for number, flag in zip(SIGNALS, sums[3:], strict=True) if flag]
    return Agreed(sums[0], int(sums[1]), told[0] if told else None, sums[2] > 0)


def stop_signal(setup: Setup) -> str | None:
    """A signal that one process can act on by itself; ranks wait for the next agreement."""
    return setup.signals.received if setup.ranks.size == 1 else None


def is_save_due(setup: Setup, totals: Totals, due: set[int]) -> bool:
    """Every so many steps, at the end, and where a validation follows whose checkpoint may be the best."""
    training, step = setup.training, totals.step
    validated_next = training.keep_best and step in due
    return step % training.save_every_steps == 0 or step == setup.plan.stop_step or validated_next


def validate(setup: Setup, totals: Totals, meter: Meter) -> None:
    """Score held-out text and write it down; weights and random streams are as before."""
    assert setup.validate is not None
    setup.watchdog.enter("validate", totals.step)
    meter.flush()
    model = setup.engine.module
    model.eval()
    with torch.no_grad():
        score = float(setup.ranks.broadcast(float(setup.validate(model))))
    model.train()
    if not math.isfinite(score):
        settle(setup)
        raise DataError(f"{setup.run_dir}: validation loss is {score} after step {totals.step}")
    setup.validated.add(totals.step)
    if setup.tracker is not None:
        # Marked first: a run that is killed in between validates again, and would not mark what it finds written.
        setup.writer.mark_best(totals.step, score)
        setup.tracker.write({**spent(setup.plan, totals), "validation_bpb": score})
    say(f"step {totals.step:,}/{setup.plan.stop_step:,}: validation {score:.4f} bits/byte")
    meter.restart_clock()


def keep_point(setup: Setup, totals: Totals, meter: Meter) -> None:
    """The model of this step in a folder of its own, before the run goes on: a later checkpoint means that it is there.

    A run that is resumed here writes it again, the same bits. Every rank raises where rank 0 could not write it.
    """
    assert setup.export is not None
    meter.flush()
    setup.watchdog.enter("export", totals.step)
    setup.writer.settle()  # so that memory holds one snapshot
    first, problem = setup.ranks.rank == 0, None
    weights = setup.engine.snapshot(("weights",), keep=first).get("weights", {})
    if first:
        try:
            setup.export(weights, setup.run_dir / setup.points[totals.step])
        except (IsotokError, OSError) as error:
            problem = f"{error}; {what_is_kept(setup.run_dir / 'checkpoints')}"
    problem = setup.ranks.broadcast(problem)
    if problem is not None:
        raise IsotokError(problem)
    meter.restart_clock()


def save(setup: Setup, totals: Totals, state: np.ndarray, meter: Meter) -> None:
    """A checkpoint of this step, after the metrics that lead to it; gathered ones go to disk in the background."""
    meter.flush()
    setup.watchdog.enter("save", totals.step)
    record = {
        **asdict(totals),
        **spent(setup.plan, totals),
        **setup.record,
        "optimizer_step": setup.engine.optimizer_step,
        "rows": setup.ranks.rows(state).tolist(),
        "layout": setup.engine.layout,
    }
    sync = setup.tracker.sync if setup.tracker is not None else (lambda: None)
    if setup.native:
        save_native(setup.run_dir / "checkpoints", record, setup.engine.shard(), setup.ranks, sync)
        if setup.ranks.rank == 0:
            setup.writer.prune()
        return
    setup.writer.settle()
    tensors = setup.engine.snapshot(KINDS, keep=setup.ranks.rank == 0)
    if setup.ranks.rank == 0:
        setup.writer.save(record, tensors, sync)


def finish_writing(setup: Setup, totals: Totals) -> None:
    """Wait until the last checkpoint is on disk; every rank raises where rank 0 could not write it."""
    setup.watchdog.enter("save", totals.step)
    problem: str | None = None
    try:
        setup.writer.settle()  # so that what is kept is known
        if setup.tracker is not None:
            setup.tracker.check()
        setup.writer.wait()
    except (IsotokError, OSError) as error:
        problem = str(error)
    problem = setup.ranks.broadcast(problem)
    if problem is not None:
        raise IsotokError(problem)


def settle(setup: Setup) -> None:
    """Let rank 0 end the save under way before any rank leaves: whoever started them kills the rest soon after."""
    setup.writer.settle()
    setup.ranks.barrier()


def interrupted(setup: Setup, totals: Totals, signal: str) -> InterruptedRun:
    return InterruptedRun(
        f"{setup.run_dir}: stopped by {signal} at step {totals.step} of {setup.plan.stop_step}, "
        "checkpoint saved; the same command resumes",
        signal,
    )


def not_finite(setup: Setup, error: NotFinite) -> DataError:
    """Name the units of the step whose figures are not finite; every rank comes here at the same step."""
    before, after = setup.ranks.rows(error.batch.state), setup.ranks.rows(error.batch.state_after)
    units = units_between(before, after, len(setup.streams.data), setup.seed)
    named = ", ".join(str(unit) for unit in units[:20]) + (f" and {len(units) - 20} more" if len(units) > 20 else "")
    settle(setup)
    kept = what_is_kept(setup.run_dir / "checkpoints")
    return DataError(
        f"{setup.run_dir}: step {error.step}: {error.what}: not finite. It read the {setup.streams.units} {named} of "
        f"the training split; {kept}. Lower {setup.plan.keys.lr} or look at those {setup.streams.units}"
    )
