"""What a report is made from: the artefacts of every arm and seed, read and checked against each other."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation import positions
from evaluation.stats import Sample
from isotok.errors import ConfigError, DataError
from isotok.files import read_json

STAGES = ("corpus", "tokenizer", "encode", "pretrain", "evaluate")
BITS_PER_BYTE = "bits_per_byte"
TASK_METRICS = ("acc", "acc_bytes", "acc_pmi", "greedy", "gold_bits_per_byte")
_TASK_COLUMNS = {"acc": "correct", "acc_bytes": "correct_bytes", "acc_pmi": "correct_pmi", "greedy": "greedy"}
DOCUMENT = "document"
POSITION = "bytes "
REFERENCES = {
    "byte_unigram": "byte unigram",
    "markov_2": "order-2 Markov",
    "markov_3": "order-3 Markov",
    "xz": "xz",
}
"""Reference lines and how they are called in the report."""


@dataclass(frozen=True)
class Run:
    """One arm trained and evaluated with one seed."""

    arm: str
    seed: int
    folders: dict[str, Path]
    manifests: dict[str, dict[str, Any]]
    train: dict[str, Any]
    timing: dict[str, Any]
    results: dict[str, Any]
    corpus: dict[str, Any]
    tokenizer: dict[str, Any]
    transform: str
    """Class name of the arm's transform of token ids."""

    @cached_property
    def items(self) -> pa.Table:
        """items.parquet, sorted by kind and item."""
        path = self.folders["evaluate"] / "items.parquet"
        try:
            return pq.read_table(path).sort_by([("kind", "ascending"), ("item", "ascending")])
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise DataError(f"{path}: cannot be read ({error}); remove its folder and run again") from None

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        path = self.folders["pretrain"] / "metrics.jsonl"
        try:
            with open(path, encoding="utf-8") as file:
                for line in file:
                    yield json.loads(line)
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); remove its folder and run again") from None


@dataclass(frozen=True)
class Arm:
    name: str
    overrides: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)


@dataclass(frozen=True)
class Endpoint:
    """The one difference an experiment is about, declared before it ran."""

    metric: str
    arms: tuple[str, str]
    lower_is_better: bool
    smallest_difference: float | None


@dataclass(frozen=True)
class Study:
    experiment: str
    title: str
    notes: tuple[str, ...]
    arms: dict[str, Arm]
    baseline: str
    endpoint: Endpoint | None
    references: dict[str, float]
    reference_folder: Path | None
    items_sha256: str


def gather(spec: Mapping[str, Any]) -> Study:
    """Read and check every artefact that `spec` names.

    Raises DataError or ConfigError naming the arm when arms do not share their evaluation items, a seed comes
    twice, a file is missing, or baseline or endpoint name an unknown arm or metric.
    """
    arms: dict[str, Arm] = {}
    for entry in spec["arms"]:
        name = str(entry["name"])
        if name in arms:
            raise ConfigError(f"report: two arms are called {name!r}; give each its own name")
        runs = sorted((_read_run(name, run) for run in entry["runs"]), key=lambda run: run.seed)
        if not runs:
            raise DataError(f"arm {name}: no finished run; run its seeds first or take the arm out of the report")
        seeds = [run.seed for run in runs]
        if len(set(seeds)) != len(seeds):
            raise ConfigError(f"arm {name}: seed comes twice in {seeds}; each seed is one sample")
        arms[name] = Arm(name, tuple(str(o) for o in entry.get("overrides", ())), tuple(runs))
    if not arms:
        raise ConfigError("report: no arms; an experiment needs at least one")
    baseline = str(spec.get("baseline") or next(iter(arms)))
    if baseline not in arms:
        raise ConfigError(f"report: baseline={baseline!r} is not an arm (arms: {', '.join(arms)})")
    sha256 = _check_shared_items(arms)
    reference = Path(spec["reference"]) if spec.get("reference") else None
    references = read_json(reference / "reference.json") if reference else {}
    return Study(
        experiment=str(spec["experiment"]),
        title=str(spec.get("title") or spec["experiment"]),
        notes=tuple(str(note) for note in spec.get("notes") or ()),
        arms=arms,
        baseline=baseline,
        endpoint=_endpoint(spec.get("endpoint"), arms),
        references={name: float(references[name]) for name in REFERENCES if references.get(name) is not None},
        reference_folder=reference,
        items_sha256=sha256,
    )


def sample(arm: Arm, metric: str, domain: str | None = None) -> Sample:
    """A metric of one arm, item by item: `bits_per_byte`, `bytes BIN.bits_per_byte` for a bin of byte positions
    (`position_bins`), or `TASK.METRIC` with one of TASK_METRICS."""
    columns = [_columns(run, metric, domain) for run in arm.runs]
    return Sample(
        seeds=arm.seeds,
        numerators=np.stack([numerators for numerators, _, _ in columns]),
        denominators=columns[0][1],
        groups=columns[0][2],
    )


def tasks(study: Study) -> list[str]:
    """Names of the tasks that have items, in the order in which the evaluation recipe names them."""
    rows = _first_run(study).results.get("tasks", {})
    return sorted((name for name in rows if rows[name]["n"]), key=lambda name: (rows[name].get("place", 0), name))


def missing_tasks(study: Study) -> dict[str, str]:
    """Tasks without items, and why they have none."""
    rows = _first_run(study).results.get("tasks", {}).items()
    return {name: row.get("missing") or "no items" for name, row in rows if not row["n"]}


def task_metrics(row: Mapping[str, Any]) -> list[str]:
    """Which of TASK_METRICS a task's figures hold: one with single choices has no accuracy."""
    return [metric for metric in TASK_METRICS if row.get(metric) is not None]


def position_bins(study: Study) -> list[str]:
    """Bins of byte positions that hold text, in order."""
    return [row["position"] for row in _first_run(study).results["bpb"].get("by_position", [])]


def position_metric(name: str) -> str:
    return f"{POSITION}{name}.{BITS_PER_BYTE}"


def domains(study: Study) -> list[str]:
    return sorted(_first_run(study).results["bpb"].get("by_domain", {}))


def merged_items(study: Study) -> pa.Table:
    """All items of all runs, with the columns arm and seed in front."""
    parts = []
    for arm in study.arms.values():
        for run in arm.runs:
            rows = run.items.num_rows
            table = run.items.replace_schema_metadata(None)
            table = table.add_column(0, "seed", pa.array([run.seed] * rows, pa.int64()))
            parts.append(table.add_column(0, "arm", pa.array([arm.name] * rows, pa.string())))
    return pa.concat_tables(parts, promote_options="permissive")


def _first_run(study: Study) -> Run:
    return next(iter(study.arms.values())).runs[0]


def _read_run(arm: str, run: Mapping[str, Any]) -> Run:
    missing = [stage for stage in STAGES if stage not in run]
    if missing:
        raise DataError(f"arm {arm} seed {run.get('seed')}: no {missing[0]} artefact; run that stage first")
    folders = {stage: Path(run[stage]) for stage in STAGES}
    timing = folders["pretrain"] / "timing.json"
    settings = folders["pretrain"] / "run.json"
    transform = read_json(settings).get("transform") if settings.exists() else None
    return Run(
        arm=arm,
        seed=int(run["seed"]),
        folders=folders,
        manifests={stage: _manifest(folder) for stage, folder in folders.items()},
        train=read_json(folders["pretrain"] / "train.json"),
        timing=read_json(timing) if timing.exists() else {},
        results=read_json(folders["evaluate"] / "results.json"),
        corpus=read_json(folders["corpus"] / "corpus.json"),
        tokenizer=read_json(folders["tokenizer"] / "metadata.json"),
        transform=str((transform or {}).get("_target_", "")).rsplit(".", 1)[-1],
    )


def _manifest(folder: Path) -> dict[str, Any]:
    """Of an artefact of the store; folders made from Python have none."""
    path = folder / "manifest.json"
    return dict(read_json(path)) if path.exists() else {}


def _endpoint(entry: Mapping[str, Any] | None, arms: Mapping[str, Arm]) -> Endpoint | None:
    if not entry or len(arms) < 2:
        return None
    names = tuple(str(name) for name in entry["arms"])
    unknown = [name for name in names if name not in arms]
    if unknown:
        raise ConfigError(f"endpoint.arms: {unknown[0]!r} is not an arm (arms: {', '.join(arms)})")
    if len(names) != 2 or names[0] == names[1]:
        raise ConfigError(f"endpoint.arms={list(names)}: needs two different arms")
    direction = entry.get("direction", "lower")
    if direction not in ("lower", "higher"):
        raise ConfigError(f"endpoint.direction={direction!r}: 'lower' or 'higher'")
    smallest = entry.get("smallest_difference")
    if smallest is not None and not float(smallest) > 0:
        raise ConfigError(f"endpoint.smallest_difference={smallest!r}: needs a number above 0")
    metric = str(entry["metric"])
    rows = arms[names[0]].runs[0].results.get("tasks", {})
    known = [name for name, row in rows.items() if row["n"]]
    task, _, measure = metric.rpartition(".")
    if metric != BITS_PER_BYTE and (task not in known or measure not in task_metrics(rows[task])):
        raise ConfigError(
            f"endpoint.metric={metric!r}: {BITS_PER_BYTE!r} or TASK.METRIC with TASK in {', '.join(known) or 'none'} "
            f"and METRIC in {', '.join(TASK_METRICS)}"
        )
    return Endpoint(metric, (names[0], names[1]), direction == "lower", None if smallest is None else float(smallest))


def _check_shared_items(arms: Mapping[str, Arm]) -> str:
    """The common hash of evaluation items; also that figures and raw items of each run agree."""
    runs = [run for arm in arms.values() for run in arm.runs]
    first = runs[0]
    sha256 = str(first.results["evaluation_items_sha256"])
    for run in runs:
        where = f"arm {run.arm} seed {run.seed}"
        if run.results["evaluation_items_sha256"] != sha256:
            raise DataError(
                f"{where} was evaluated on other items than arm {first.arm} seed {first.seed}; "
                "evaluate all arms on one corpus and one evaluation recipe"
            )
        if _scored_how(run) != _scored_how(first):
            raise DataError(
                f"{where} was scored as {_scored_how(run)}, arm {first.arm} seed {first.seed} as {_scored_how(first)}; "
                "use one evaluation recipe and one budget.context_bytes for all arms"
            )
        numerators, denominators, _ = _columns(run, BITS_PER_BYTE, None)
        same = all(run.items[column].equals(first.items[column]) for column in ("kind", "item", "group", "gold"))
        if not same or not np.array_equal(denominators, _columns(first, BITS_PER_BYTE, None)[1]):
            raise DataError(
                f"{where}: its items.parquet lists other items than that of arm {first.arm} seed {first.seed}; "
                "remove both evaluate folders and run again"
            )
        stated, found = float(run.results["bpb"]["bits_per_byte"]), float(numerators.sum() / denominators.sum())
        if not math.isclose(stated, found, rel_tol=1e-6):
            raise DataError(
                f"{where}: results.json says {stated:.6f} bits per byte, its items add up to {found:.6f}; "
                f"remove {run.folders['evaluate']} and run again"
            )
    return sha256


def _scored_how(run: Run) -> dict[str, Any]:
    tasks = run.results.get("tasks", {})
    how = {
        name: f"{row.get('scoring')} version {row.get('version')} {str(row.get('sha256'))[:12]}"
        for name, row in tasks.items()
    }
    return {"context_bytes": run.results["bpb"].get("context_bytes"), **how}


def _columns(run: Run, metric: str, domain: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(numerators, denominators, groups) of a metric's items in one run."""
    task, _, measure = metric.rpartition(".")
    kind = DOCUMENT if measure == BITS_PER_BYTE else task
    chosen = run.items["kind"].to_numpy(zero_copy_only=False) == kind
    if domain is not None:
        chosen &= run.items["domain"].to_numpy(zero_copy_only=False) == domain
    rows = run.items.filter(pa.array(chosen))
    if rows.num_rows == 0:
        raise DataError(f"arm {run.arm} seed {run.seed}: no items of {kind} in {run.folders['evaluate']}")
    groups = np.array(
        [g if g is not None else i for g, i in zip(rows["group"].to_pylist(), rows["item"].to_pylist())], str
    )
    if metric == BITS_PER_BYTE:
        return _floats(rows, "nats") / math.log(2), _floats(rows, "bytes"), groups
    if measure == BITS_PER_BYTE:
        place = positions.labels().index(task.removeprefix(POSITION))
        nats = np.array([bins[place] for bins in rows["position_nats"].to_pylist()], dtype=np.float64)
        return (
            nats / math.log(2),
            np.array([positions.bytes_in_bins(n)[place] for n in rows["bytes"].to_pylist()]),
            groups,
        )
    if measure == "gold_bits_per_byte":
        # These nats may cover a few bytes of context before the answer (back-off), and `bytes` counts them.
        return _floats(rows, "nats") / math.log(2), _floats(rows, "bytes"), groups
    correct = _floats(rows, _TASK_COLUMNS[measure])
    return correct, np.ones(len(correct)), groups


def _floats(rows: pa.Table, column: str) -> np.ndarray:
    return np.array([float(value) for value in rows[column].to_pylist()])
