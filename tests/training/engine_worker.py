"""Runs of several folders in turn in the same ranks, and what the engine held at chosen moments.

    python engine_worker.py JOBS.json

JOBS.json lists {"run": RUN_DIR, "record": [...], "fault": ..., "fails": true}; see `observe` and `faulty`. The process
group is made once; each run has its own model, engine and DeepSpeed config. What happened goes to
RUN_DIR/outcome-<rank>.json; an error of a job that does not say `fails` ends the process.
"""

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.process import die_with_parent, report_error, stdout_to_stderr

die_with_parent()
stdout_to_stderr()

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from isotok.errors import IsotokError  # noqa: E402
from training import deepspeed_engine, deepspeed_setup, loop, process_group, worker  # noqa: E402
from training.checkpoint import KINDS  # noqa: E402
from training.process_group import Processes  # noqa: E402
from training.recipes import Engine, Training  # noqa: E402

deepspeed_setup.WHOLE_BELOW = 0  # parameters of tiny models are taken apart too
RANK = int(os.environ.get("RANK", "0"))
FAULT_STEP, FAULT_RANK = 9, 1


class Group:
    """Stands in for `process_group.started`: the first run makes the group, later ones get a new accelerator on it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.first: Processes | None = None

    @contextlib.contextmanager
    def started(self, engine: Engine, training: Training) -> Iterator[Processes]:
        if self.first is None:
            self.first = self.stack.enter_context(process_group.started(engine, training))
            yield self.first
            return
        accelerator = None
        if self.first.accelerator is not None:
            from accelerate.state import AcceleratorState

            AcceleratorState._reset_state(reset_partial_state=True)
            timeout = torch.distributed.distributed_c10d.default_pg_timeout
            accelerator = process_group._accelerator(engine, training, self.first.device, timeout)
        yield Processes(self.first.ranks, self.first.device, accelerator)


def whole_gradient(engine: Any) -> dict[str, torch.Tensor]:
    """Between the last backward and the update, on all ranks."""
    if not engine.layout["zero"]:
        return {name: p.grad.detach().clone() for name, p in engine.module.named_parameters()}
    from deepspeed.utils import safe_get_full_grad

    found = {}
    for name, parameter in engine.module.named_parameters():
        gradient = safe_get_full_grad(parameter)
        found[name] = gradient.detach().float().reshape(deepspeed_engine._shape(parameter)).clone()
    return found


def working_weights(engine: Any) -> dict[str, torch.Tensor]:
    """What the forward pass computes with."""
    if engine.layout["zero"] != 3:
        return {name: p.detach().clone() for name, p in engine.module.named_parameters()}
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        return {name: p.detach().clone() for name, p in engine.module.named_parameters()}


def everything(engine: Any) -> dict[str, dict[str, torch.Tensor]]:
    return {**engine.snapshot(KINDS, keep=True), "working": working_weights(engine)}


def write(folder: Path, engine: Any) -> None:
    """All that an update changes, one file a kind; every rank calls it, rank 0 writes."""
    tensors, step = everything(engine), engine.optimizer_step
    if RANK == 0:
        folder.mkdir()
        for kind, named in tensors.items():
            save_file({name: tensor.contiguous() for name, tensor in named.items()}, folder / f"{kind}.safetensors")
        (folder / "optimizer_step").write_text(str(step))


def observe(engine: Any, run: Path, record: list[str]) -> None:
    """Record a run's first "gradient", what `load` left ("loaded"), how it started ("start")."""
    update, load = engine.update, engine.load

    def observed_update(lr: float) -> torch.Tensor:
        path = run / "gradient.safetensors"
        if "gradient" in record and engine.optimizer_step == 0:
            gradient = whole_gradient(engine)
            if RANK == 0:
                save_file(gradient, path)
        return update(lr)

    def observed_load(checkpoint: Any) -> None:
        load(checkpoint)
        if "loaded" in record:
            write(run / "loaded", engine)

    engine.update, engine.load = observed_update, observed_load
    if "start" in record:
        write(run / "start", engine)


def faulty(real: Any, fault: str) -> Any:
    """`loop.losses` that goes wrong on one rank in one step, in its first micro-batch of two."""

    def losses(engine: Any, inputs: Any, targets: Any, last: bool, *rest: Any) -> Any:
        loss, extra = real(engine, inputs, targets, last, *rest)
        alone = engine.layout["ranks"] == 1
        if engine.optimizer_step + 1 == FAULT_STEP and not last and (alone or RANK == FAULT_RANK):
            if fault == "loss":
                loss = loss * math.nan
            else:
                loss.register_hook(lambda gradient: gradient * math.nan)
        return loss, extra

    return losses


def run_job(job: dict[str, Any], group: Group) -> dict[str, Any]:
    run, record = Path(job["run"]), job.get("record", [])
    engines: list[Any] = []
    outcome: dict[str, Any] = {}
    real_prepare, real_rehearse = worker.prepare, worker.rehearse

    def prepare(*arguments: Any) -> Any:
        engine = real_prepare(*arguments)
        engines.append(engine)
        if engine.layout["zero"] == 3:
            assert not any(parameter.ds_persist for parameter in engine.module.parameters()), "nothing to gather"
        observe(engine, run, record)
        return engine

    def rehearse(engine: Any, *arguments: Any) -> int:
        before, step = everything(engine), engine.optimizer_step
        rows = real_rehearse(engine, *arguments)
        after = everything(engine)
        changed = [
            f"{kind} of {name}"
            for kind, named in before.items()
            for name, tensor in named.items()
            if not torch.equal(tensor, after[kind][name])
        ]
        compared = sum(map(len, before.values()))
        outcome["rehearsal"] = {"changed": changed, "compared": compared, "steps": engine.optimizer_step - step}
        return rows

    with contextlib.ExitStack() as undo:
        undo.callback(setattr, worker, "prepare", real_prepare)
        undo.callback(setattr, worker, "rehearse", real_rehearse)
        undo.callback(setattr, loop, "losses", loop.losses)
        worker.prepare, worker.started = prepare, group.started
        if "rehearsal" in record:
            worker.rehearse = rehearse
        if "fault" in job:
            loop.losses = faulty(loop.losses, job["fault"])
        try:
            worker.run(run)
        except IsotokError as error:
            if not job.get("fails"):  # maybe on this rank alone, with the others in a collective
                raise
            outcome.update(error=type(error).__name__, text=str(error))
            if engines and "fault" in job:
                write(run / "after", engines[-1])
    if engines and engines[-1].layout["zero"]:
        engines[-1]._engine.destroy()
    return outcome


def main() -> None:
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        group = Group(stack)
        for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
            outcome = run_job(job, group)
            (Path(job["run"]) / f"outcome-{RANK}.json").write_text(json.dumps(outcome), encoding="utf-8")
            if dist.is_initialized():
                dist.barrier()


try:
    main()
except BaseException as error:
    report_error(error)
    raise
