"""Training proper: reads RUN_DIR/run.json, writes only into RUN_DIR, and resumes what it finds there."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isotok.errors import ConfigError, DataError, InterruptedRun, IsotokError
from isotok.files import hash_key, lock, read_json, write_json
from isotok.progress import say, silence
from isotok.ranks import Ranks
from isotok.recipe import OWN_PACKAGES, build
from training.checkpoint import Checkpoint, check_made_for, load_newest, open_checkpoint
from training.engines import prepare
from training.export import export_model
from training.figures import loss_figures, timing_figures, weights_sha256
from training.loop import train
from training.process import world_size
from training.process_group import Processes, started
from training.recipes import Engine, Training
from training.rehearsal import rehearse, rows_of_rank
from training.schedule import validation_steps
from training.seam import TrainingEngine
from training.setup import Setup, Totals, Validate
from training.signals import StopSignals
from training.tracking import Tracker, read_metrics
from training.watchdog import Watchdog
from training.work import Work, work_of
from training.writer import CheckpointWriter


def run(
    run_dir: Path,
    validate: Validate | None = None,
    *,
    allow: tuple[str, ...] | None = OWN_PACKAGES,
) -> dict[str, Any]:
    """Train what `run_dir/run.json` says, from its newest valid checkpoint; returns the figures of train.json.

    One process, or one of the ranks that torchrun, srun or accelerate started; all of them see run_dir, rank 0 writes.
    validate: model → bits per byte, called at the validation points, on every rank. allow: packages whose recipes
    run.json may name. Leaves metrics.jsonl, timing.json, checkpoints/, model/ (loads with transformers alone) and
    train.json. Raises InterruptedRun after a stop signal and a checkpoint; ConfigError and DataError as they come.
    """
    spec = read_json(run_dir / "run.json")
    training = build(spec["training"], "training", allow=allow)
    engine = build(spec["engine"], "engine", allow=allow)
    threads = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        # Signals first: whoever started the ranks passes them on once the watchdog's file is there.
        signals = stack.enter_context(StopSignals(exit_at_once=world_size() > 1))
        processes = stack.enter_context(started(engine, training))
        ranks = processes.ranks
        stack.callback(torch.set_num_threads, threads)
        if ranks.rank:
            silence()
        if ranks.size != engine.ranks:
            say(f"{ranks.size} rank(s) were started, which wins over engine.ranks={engine.ranks}")
        watchdog = stack.enter_context(contextlib.closing(Watchdog(run_dir, ranks.rank, ranks.size, engine.timeout_s)))
        _take_folder(run_dir, ranks, signals, watchdog, stack)
        return _run(run_dir, spec, validate, training, engine, processes, signals, watchdog, allow)


def _run(
    run_dir: Path,
    spec: dict[str, Any],
    validate: Validate | None,
    training: Training,
    recipe: Engine,
    processes: Processes,
    signals: StopSignals,
    watchdog: Watchdog,
    allow: tuple[str, ...] | None,
) -> dict[str, Any]:
    ranks, seed, work = processes.ranks, int(spec["seed"]), work_of(spec, allow)
    plan, wanted = work.plan, work.made_for
    n_rows = rows_of_rank(plan, ranks.size)
    watchdog.enter("build", 0)
    engine = prepare(work.model(), training, recipe, processes)
    watchdog.enter("load", 0)
    checkpoint = _newest(run_dir / "checkpoints", wanted, engine.layout, ranks)
    totals = Totals()
    if checkpoint is not None:
        totals = Totals(**{field.name: checkpoint.state[field.name] for field in dataclasses.fields(Totals)})
    micro_rows = n_rows
    if totals.step < plan.stop_step:
        watchdog.enter("rehearse", totals.step)
        same = _as_before(recipe, engine, checkpoint)
        micro_rows = rehearse(engine, same, training, plan, work.config, ranks.size)
    rows, wandb_id = None, hash_key({"run": {**spec, "engine": None}, "dir": str(run_dir)})
    if checkpoint is not None:
        watchdog.enter("load", totals.step)
        engine.load(checkpoint)
        rows, wandb_id = np.array(checkpoint.state["rows"], dtype=np.int64), checkpoint.state["wandb_id"]
        say(f"resuming from step {totals.step:,} of {plan.stop_step:,}")
    subset = range(ranks.rank * n_rows, (ranks.rank + 1) * n_rows)
    streams = work.streams(rows, subset, totals.step)
    _check_points(run_dir, work, totals.step, ranks)
    with contextlib.ExitStack() as stack:
        tracker = None
        if ranks.rank == 0:
            tracker = Tracker(run_dir, totals.step, training.wandb, wandb_id, str(spec["label"]))
            stack.callback(tracker.close)
        # Left before the tracker, whose file a save under way still flushes.
        writer = CheckpointWriter(run_dir / "checkpoints", training.keep_last, training.keep_best)
        stack.enter_context(writer)
        setup = Setup(
            run_dir=run_dir,
            seed=seed,
            plan=plan,
            training=training,
            engine=engine,
            micro_rows=micro_rows,
            streams=streams,
            tracker=tracker,
            writer=writer,
            signals=signals,
            watchdog=watchdog,
            validate=validate,
            ranks=ranks,
            native=recipe.checkpoint == "native",
            validated=ranks.broadcast(tracker.validated if tracker else None),
            record={"wandb_id": wandb_id, "made_for": wanted, "micro_rows": micro_rows},
            points=work.points,
            export=lambda weights, folder: export_model(work.config, weights, Path(spec["tokenizer"]), folder),
        )
        state = train(setup, totals)
        return _finish(setup, totals, state, spec, work)


def _finish(setup: Setup, totals: Totals, state: np.ndarray, spec: dict[str, Any], work: Work) -> dict[str, Any]:
    """The model's folder and the figures of a run that has come to its end; every rank calls it and gets them."""
    run_dir, plan, ranks = setup.run_dir, setup.plan, setup.ranks
    setup.watchdog.enter("export", totals.step)
    rows = ranks.rows(state)
    weights = setup.engine.snapshot(("weights",), keep=ranks.rank == 0).get("weights", {})
    if ranks.rank == 0:
        export_model(work.config, weights, Path(spec["tokenizer"]), run_dir / "model")
        figures = {
            "label": spec["label"],
            "seed": setup.seed,
            "steps": plan.stop_step,
            **work.figures(totals, setup.streams, rows),
            "lr": setup.training.lr,
            "weights_sha256": weights_sha256(weights),
            **loss_figures(
                read_metrics(run_dir / "metrics.jsonl"),
                plan.stop_step,
                validation_steps(setup.training, plan.stop_step),
            ),
        }
        write_json(run_dir / "timing.json", timing_figures(totals, plan, setup.engine.device, ranks.size))
        write_json(run_dir / "train.json", figures)
    ranks.barrier()
    return read_json(run_dir / "train.json")


def _newest(folder: Path, wanted: dict[str, Any], layout: dict[str, int], ranks: Ranks) -> Checkpoint | None:
    """The newest valid checkpoint; rank 0 looks for it and reads it through, the others trust it.

    Raises ConfigError for one of another model, tokenizer, data or batch, and for a native one of another layout.
    """
    problem: IsotokError | None = None
    path: Path | None = None
    if ranks.rank == 0:
        try:
            found = load_newest(folder)
            if found is not None:
                check_made_for(found, wanted)
                if found.native and found.state["layout"] != layout:
                    raise ConfigError(_other_layout(found, layout))
                path = found.path
        except IsotokError as error:
            problem = error
    path, problem = ranks.broadcast((path, problem))
    if problem is not None:
        raise problem
    return None if path is None else open_checkpoint(path)


def _check_points(run_dir: Path, work: Work, step: int, ranks: Ranks) -> None:
    """Models that were kept before the checkpoint cannot be made again: DataError where one is gone."""
    gone = [name for at, name in work.points.items() if at < step and not (run_dir / name).is_dir()]
    gone = ranks.broadcast(gone)
    if gone:
        raise DataError(
            f"{run_dir / gone[0]}: the model kept there is gone, and the run is at step {step} already; "
            "remove the run's folder and start again"
        )


def _as_before(recipe: Engine, engine: TrainingEngine, checkpoint: Checkpoint | None) -> Engine:
    """`auto` micro-batches are those of the checkpoint on the same layout, however much memory is free this time."""
    if recipe.micro_rows != "auto" or checkpoint is None or checkpoint.state["layout"] != engine.layout:
        return recipe
    return dataclasses.replace(recipe, micro_rows=checkpoint.state["micro_rows"])


def _other_layout(checkpoint: Checkpoint, layout: dict[str, int]) -> str:
    theirs, ours = (
        f"engine.zero={one['zero']} engine.ranks={one['ranks']}" for one in (checkpoint.state["layout"], layout)
    )
    return (
        f"{checkpoint.path}: a native checkpoint of {theirs}, this is {ours}; go on as before, and with "
        "engine.checkpoint=gathered the next one can be read by any engine"
    )


def _take_folder(
    run_dir: Path, ranks: Ranks, signals: StopSignals, watchdog: Watchdog, stack: contextlib.ExitStack
) -> None:
    """Hold the folder, on rank 0, once no other job trains in it; the others wait with it, for as long as it takes.

    Another job may still be there, or have been moved to another machine. A stop signal ends the waiting.
    """

    def wait() -> None:
        told = signals.received
        ranks.broadcast((False, told))
        _still_waiting(run_dir, told, watchdog)

    if ranks.rank == 0:
        stack.enter_context(lock(run_dir / ".worker.lock", on_wait=_say_waiting, on_poll=wait))
        ranks.broadcast((True, None))
        return
    while not (news := ranks.broadcast(None))[0]:
        _still_waiting(run_dir, news[1], watchdog)


def _still_waiting(run_dir: Path, told: str | None, watchdog: Watchdog) -> None:
    watchdog.enter("wait", 0)
    if told is not None:
        raise InterruptedRun(f"{run_dir}: stopped by {told} while another job trains in it; nothing was begun", told)


def _say_waiting(owner: dict[str, Any]) -> None:
    say(f"waiting for process {owner.get('pid')} on {owner.get('host')}, which trains in this folder")
