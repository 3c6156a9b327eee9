"""Runs of all engines on the same tiny model and data, and pairs of one that wrote a checkpoint and one that went on.

In a first launch all engines of as many ranks train from the start, in a second one, of fresh processes, they go on
from what all engines wrote. Tests read the folders.
"""

import dataclasses
import functools
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from isotok.files import read_json
from modeling import Llama, MetaLlama
from tokenization import StochasTok
from tokenization.transform import NoTransform
from training import Budget, Engine, Training
from training.api import prepare_run
from training.launch import launch
from training.tracking import read_metrics

WORKER = Path(__file__).with_name("engine_worker.py")
ROOT = WORKER.parents[2]
in_one_place = pytest.mark.xdist_group("engines")
"""Tests of one lab run in one process, which then makes it once."""

KINDS = ("weights", "exp_avg", "exp_avg_sq")
ENGINES = {"single": (1, 0), "ddp": (2, 0), "zero1": (2, 1), "zero2": (2, 2), "zero3": (2, 3)}
"""ranks, zero"""
SHARED = [name for name in ENGINES if name != "single"]
ZERO = [name for name in ENGINES if name.startswith("zero")]
STOCHASTIC = ("single", "ddp", "zero2")
BF16_READERS = {"zero1": "zero2", "zero2": "zero3", "zero3": "zero1"}
"""Who goes on from a stage's checkpoint in bf16."""

TIED = Llama(hidden_size=48, layers=2, heads=2, mlp_size=96)
UNTIED = Llama(hidden_size=48, layers=2, heads=2, mlp_size=96, tied=False)
ROWS, STEPS, AT, SAVE_EVERY = 8, 12, 6, 3
CLIP = 0.3
NO_CLIP = 1e6
LONG_STEPS = 50
META = MetaLlama(hidden_size=48, layers=2, heads=2, mlp_size=96)
META_RUNS: dict[str, dict[str, Any]] = {
    "meta": {"model": META},
    "meta_skip": {"model": dataclasses.replace(META, loss="skip_shift"), "training": {"z_loss": 1e-3}},
    "meta_none": {"model": dataclasses.replace(META, placement="none")},  # a second attention that has nothing to do
}
UNTIED_RUN: dict[str, Any] = {"model": UNTIED, "training": {"z_loss": 1e-3}}


def write_run(artefacts: dict[str, Path], out: Path, engine: Engine, **changes: Any) -> Path:
    """RUN_DIR/run.json for a run of STEPS steps, clipped, saved every few steps."""
    training = {
        "wandb": "disabled",
        "validations": 0,
        "lr": 3e-3,
        "min_warmup_steps": 2,
        "clip": CLIP,
        "save_every_steps": SAVE_EVERY,
        "keep_last": 99,
        **changes.pop("training", {}),
    }
    budget = {
        "amount": STEPS,
        "unit": "steps",
        "context_bytes": 128,
        "rows": ROWS,
        "max_epochs": 9,
        **changes.pop("budget", {}),
    }
    fields: dict[str, Any] = {
        "model": TIED,
        "transform": NoTransform(),
        "label": "run",
        "seed": 0,
        "tokens": artefacts["tokens"],
        "tokenizer": artefacts["tokenizer"],
        **changes,
    }
    prepare_run(out=out, budget=Budget(**budget), training=Training(**training), engine=engine, **fields)
    return out


def engine_of(name: str, **changes: Any) -> Engine:
    """Two micro-batches a step on each rank."""
    ranks, zero = ENGINES[name]
    fields = {"device": "cpu", "ranks": ranks, "zero": zero, "micro_rows": ROWS // ranks // 2, "timeout_s": 100.0}
    return Engine(**{**fields, **changes})


def run_jobs(folder: Path, ranks: int, jobs: list[dict[str, Any]]) -> None:
    """Run them in turn in one launch; raises where a rank fails otherwise than a job may."""
    folder.mkdir(parents=True)
    path = folder / "jobs.json"
    path.write_text(json.dumps([{**job, "run": str(job["run"])} for job in jobs]), encoding="utf-8")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        launch(folder, Engine(ranks=ranks), [sys.executable, str(WORKER), str(path)])
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def go_on(source: Path, out: Path, step: int = AT) -> Path:
    """Give a run the checkpoint of another, and the metrics that lead to it."""
    shutil.copytree(checkpoint(source, step), checkpoint(out, step))
    shutil.copy(source / "metrics.jsonl", out)
    return out


class Lab:
    """Folders of runs: `start/<engine>/<kind of run>`, `pair/<writer>-<reader>`, `again/<engine>/<kind of run>`."""

    def __init__(self, folder: Path, artefacts: dict[str, Path]) -> None:
        self.folder, self.artefacts = folder, artefacts

    def start(self, engine: str, kind: str = "base") -> Path:
        return self.folder / "start" / engine / kind

    def pair(self, writer: str, reader: str) -> Path:
        return self.folder / "pair" / f"{writer}-{reader}"

    def again(self, engine: str, kind: str) -> Path:
        return self.folder / "again" / engine / kind

    def launch(self, folder: str, names: Sequence[str], jobs_of: Callable[[str], list[dict[str, Any]]]) -> None:
        run_jobs(self.folder / folder, ENGINES[names[0]][0], [job for name in names for job in jobs_of(name)])

    def first_jobs(self, name: str) -> list[dict[str, Any]]:
        """Train from the start."""
        whole = ROWS // ENGINES[name][0]
        kinds: dict[str, dict[str, Any]] = {
            "base": {},
            "long": {
                "engine": engine_of(name, micro_rows=whole),
                "budget": {"amount": LONG_STEPS},
                "training": {"clip": NO_CLIP, "lr": 1e-3, "save_every_steps": LONG_STEPS},
            },
            "untied": UNTIED_RUN,
            **META_RUNS,
            "bf16": {"training": {"precision": "bf16"}},
        }
        if name in ZERO:
            kinds["native"] = {"engine": engine_of(name, checkpoint="native")}
        if name in STOCHASTIC:
            kinds["stochastok"] = {"transform": StochasTok(p=0.3)}
        jobs = []
        for kind, changes in kinds.items():
            out = write_run(self.artefacts, self.start(name, kind), **{"engine": engine_of(name), **changes})
            record = ["gradient", *(["rehearsal", "start"] if kind in ("base", "bf16") else [])]
            jobs.append({"run": out, "record": record})
        return jobs

    def second_jobs(self, name: str) -> list[dict[str, Any]]:
        """Go on from what all engines wrote."""
        jobs: list[dict[str, Any]] = []

        def add(source: Path, out: Path, step: int = AT, job: dict[str, Any] | None = None, **changes: Any) -> None:
            write_run(self.artefacts, out, **{"engine": engine_of(name), **changes})
            jobs.append({"run": go_on(source, out, step), "record": ["loaded"], **(job or {})})

        for writer in ENGINES:
            add(self.start(writer), self.pair(writer, name))
        add(self.start(name, "untied"), self.again(name, "untied"), **UNTIED_RUN)
        add(self.start(name, "meta"), self.again(name, "meta"), **META_RUNS["meta"])
        if name == "single":
            for other in SHARED:  # the third leg of 1 → 2 → 1 ranks
                add(self.pair("single", other), self.again(name, f"after-{other}"), AT + SAVE_EVERY)
        for fault in ("loss", "gradient"):
            add(self.start(name), self.again(name, f"fault-{fault}"), job={"fault": fault, "fails": True})
        if name in ZERO:
            native = engine_of(name, checkpoint="native")
            add(self.start(name, "native"), self.again(name, "native"), engine=native)
            reader = BF16_READERS[name]
            add(self.start(reader, "bf16"), self.again(name, "bf16"), training={"precision": "bf16"})
        if name in ("ddp", "zero2"):
            add(self.start("zero1", "native"), self.again(name, "other-layout"), job={"fails": True})
        if name == "ddp":
            # Asked for with one rank, where it fits: what was started wins.
            for kind, rows, micro_rows in (("few-rows", 1, 1), ("odd-rows", 3, 1), ("micro-rows", 12, 4)):
                engine = engine_of("single", micro_rows=micro_rows)
                out = write_run(self.artefacts, self.again(name, kind), engine, budget={"rows": rows})
                jobs.append({"run": out, "fails": True})
        return jobs


@functools.cache
def _lab(folder: Path, artefacts: tuple[tuple[str, Path], ...]) -> Lab:
    lab = Lab(folder, dict(artefacts))
    # The first of a launch makes the process group, which DeepSpeed does in its own way.
    lab.launch("launch-1", ["single"], lab.first_jobs)
    lab.launch("launch-2", ["zero1", "zero2", "zero3", "ddp"], lab.first_jobs)
    lab.launch("launch-3", ["zero3", "ddp", "zero2", "zero1"], lab.second_jobs)
    lab.launch("launch-4", ["single"], lab.second_jobs)
    return lab


def get_lab(artefacts: dict[str, Path]) -> Lab:
    """All runs, made once a session: beside the artefacts."""
    return _lab(artefacts["tokens"].parent / "engines", tuple(artefacts.items()))


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def state_of(run: Path, step: int) -> dict[str, Any]:
    return dict(read_json(checkpoint(run, step) / "state.json")["state"])


def tensors_of(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / f"{kind}.safetensors"))


def column(run: Path, key: str, after: int = 0, upto: int = 10**9) -> list[float]:
    """A figure of each step, of those after `after` and up to `upto`."""
    return [row[key] for row in read_metrics(run / "metrics.jsonl") if after < row["step"] <= upto]


def apart(ours: list[float], theirs: list[float]) -> float:
    """The largest relative difference of two columns."""
    assert len(ours) == len(theirs) > 0
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def tensors_apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> tuple[float, float]:
    """The relative norm of the difference: over all tensors, and of the worst one."""
    assert ours.keys() == theirs.keys()
    difference = {name: float((ours[name] - theirs[name]).norm()) for name in ours}
    norm = {name: float(theirs[name].norm()) for name in theirs}
    whole = sum(x * x for x in difference.values()) ** 0.5 / sum(x * x for x in norm.values()) ** 0.5
    # Where theirs is nothing, as the gradient of an attention without a say, ours has to be as well.
    return whole, max(difference[name] / norm[name] if norm[name] else difference[name] for name in ours)


def same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]) for name, tensor in ours.items()
    )


def outcomes(run: Path) -> list[dict[str, Any]]:
    """What each rank says of a run."""
    return [json.loads(path.read_text()) for path in sorted(run.glob("outcome-*.json"))]
