"""What a task's report is made from: the artefacts of every arm and seed, read and checked against each other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.stats import Sample
from evaluation.subword.questions import TASK_FILE
from isotok.errors import ConfigError, DataError
from isotok.files import read_json

STAGES = ("task", "tokenizer", "pretrain", "finetune", "answers", "evaluate")
NEEDED = ("task", "tokenizer", "answers")
AUC, ACCURACY, EXACT = "task_auc", "task_accuracy", "task_exact"
METRICS = (AUC, ACCURACY, EXACT)
MEASURES = {"acc": "correct", "acc_bytes": "correct_bytes", "exact": "exact"}
"""Figures of a question and the column of items.parquet that holds them, empty where it was not asked so."""
METRIC_OF = {"acc": ACCURACY, "exact": EXACT}
AT_CHANCE, IS_SATURATED = "at chance", "saturated"
CANONICAL = ""
HEURISTICS = ("heuristics", "heuristics_by_type")
_ORDER = ("point", "split", "variant", "item")
_ASKED = (*_ORDER, "item_hash", "type", "group", "n_options", "gold")
_WHAT = tuple[int, str, str]
"""(point, split, variant)"""


@dataclass(frozen=True)
class TaskRun:
    """One arm with one seed: its answers and what led to them. Empty mappings for stages that it does not have."""

    arm: str
    seed: int
    folders: dict[str, Path]
    manifests: dict[str, dict[str, Any]]
    task: dict[str, Any]
    answers: dict[str, Any]
    finetune: dict[str, Any]
    pretrain: dict[str, Any]
    evaluate: dict[str, Any]
    tokenizer: dict[str, Any]
    transform: str
    """Class name of the transform of token ids that it was pretrained with."""
    wall_s: dict[str, float | None]

    @property
    def where(self) -> str:
        return f"arm {self.arm} seed {self.seed}"

    @cached_property
    def items(self) -> pa.Table:
        """items.parquet, sorted by point, split, variant and item."""
        path = self.folders["answers"] / "items.parquet"
        try:
            return pq.read_table(path).sort_by([(name, "ascending") for name in _ORDER]).combine_chunks()
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise DataError(f"{path}: cannot be read ({error}); remove its folder and run again") from None

    @cached_property
    def parts(self) -> dict[_WHAT, slice]:
        """Rows of each (point, split, variant)."""
        columns = [self.items[name].to_pylist() for name in ("point", "split", "variant")]
        found: dict[_WHAT, slice] = {}
        for row, what in enumerate(zip(*columns)):
            start = found[what].start if what in found else row
            found[what] = slice(start, row + 1)
        return found

    def column(self, name: str, what: _WHAT) -> np.ndarray:
        """Figures as float64 (NaN where there is none), everything else as objects."""
        part: np.ndarray = self._column(name)[self.parts[what]]
        return part

    def _column(self, name: str) -> np.ndarray:
        cache: dict[str, np.ndarray] = self.__dict__.setdefault("_columns", {})
        if name not in cache:
            values = self.items[name].to_pylist()
            if name in MEASURES.values():
                cache[name] = np.array([math.nan if value is None else float(value) for value in values])
            else:
                cache[name] = np.array(values, dtype=object)
        return cache[name]


@dataclass(frozen=True)
class TaskArm:
    name: str
    overrides: tuple[str, ...]
    runs: tuple[TaskRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def untrained(self) -> bool:
        """Whether it is fine-tuned from random weights."""
        return any(run.finetune and (run.finetune.get("init") == "random" or not run.pretrain) for run in self.runs)


@dataclass(frozen=True)
class TaskEndpoint:
    """The one difference an experiment is about, declared before it ran; higher is better."""

    metric: str
    split: str
    arms: tuple[str, str]
    smallest_difference: float | None


@dataclass(frozen=True)
class TaskStudy:
    experiment: str
    title: str
    notes: tuple[str, ...]
    arms: dict[str, TaskArm]
    baseline: str
    endpoint: TaskEndpoint | None

    @property
    def first(self) -> TaskRun:
        return next(iter(self.arms.values())).runs[0]

    @property
    def task(self) -> dict[str, Any]:
        return self.first.task

    @cached_property
    def points(self) -> list[int]:
        """Numbers of training questions after which the model was asked."""
        return sorted({point for point, _, _ in self.first.parts})

    @property
    def last(self) -> int:
        return self.points[-1]

    @property
    def measure(self) -> str:
        """What the task is read by: the choice where there is one, else the generated answer."""
        return "acc" if "choice" in self.task["modes"] else "exact"

    @property
    def splits(self) -> list[str]:
        """The main split first, each split that leaves the training distribution before the one it is held against."""
        found: list[str] = []
        rest = [split for split in self.task["files"] if split != self.task["main"]]
        for split in [self.task["main"], *sorted(rest, key=lambda s: (s not in self.task["matched"], s))]:
            for name in (split, self.task["matched"].get(split)):
                if name and name not in found and (self.last, name, CANONICAL) in self.first.parts:
                    found.append(name)
        return found

    @property
    def curve_points(self) -> list[int]:
        """Points on a logarithmic axis; a curve needs two."""
        points = [point for point in self.points if point > 0]
        return points if len(points) > 1 else []

    def in_curve(self, split: str) -> bool:
        """Whether a split was asked at every point, with questions in common."""
        asked = all((point, split, CANONICAL) in self.first.parts for point in self.curve_points)
        return bool(self.curve_points) and asked and len(common(self.first, split, self.curve_points)) > 0


def gather_task(spec: Mapping[str, Any]) -> TaskStudy:
    """Read and check every artefact that `spec` names.

    Raises DataError naming arm and seed where a run has another task, other questions, or figures that its items do
    not give; ConfigError where baseline or endpoint name what is not there, or a seed comes twice.
    """
    arms: dict[str, TaskArm] = {}
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
        arms[name] = TaskArm(name, tuple(str(o) for o in entry.get("overrides") or ()), tuple(runs))
    if not arms:
        raise ConfigError("report: no arms; an experiment needs at least one")
    baseline = str(spec.get("baseline") or next(iter(arms)))
    if baseline not in arms:
        raise ConfigError(f"report: baseline={baseline!r} is not an arm (arms: {', '.join(arms)})")
    _check_runs([run for arm in arms.values() for run in arm.runs])
    study = TaskStudy(
        experiment=str(spec["experiment"]),
        title=str(spec.get("title") or spec["experiment"]),
        notes=tuple(str(note) for note in spec.get("notes") or ()),
        arms=arms,
        baseline=baseline,
        endpoint=None,
    )
    return TaskStudy(**{**study.__dict__, "endpoint": _endpoint(spec.get("endpoint"), study)})


def domain(split: str, type: str | None = None, variant: str = CANONICAL) -> str:
    """What a comparison is over, in words."""
    return ", ".join([split, *([type] if type else []), *([f"as {variant}"] if variant else [])])


def common(run: TaskRun, split: str, points: Sequence[int]) -> np.ndarray:
    """Ids of the questions of a split that were asked at all points, in order."""
    shared = set(run.column("item", (points[0], split, CANONICAL)))
    for point in points[1:]:
        shared &= set(run.column("item", (point, split, CANONICAL)))
    return np.array(sorted(shared), dtype=object)


def sample(
    arm: TaskArm,
    measure: str,
    what: tuple[int, str, str],
    *,
    type: str | None = None,
    items: np.ndarray | None = None,
) -> Sample | None:
    """A measure of one arm, question by question; `items` keeps those only. None where it was not asked so."""
    first = arm.runs[0]
    if any(what not in run.parts for run in arm.runs):
        return None
    kept = np.ones(len(first.column("item", what)), dtype=bool)
    if type is not None:
        kept &= first.column("type", what) == type
    if items is not None:
        kept &= np.isin(first.column("item", what).astype(str), items.astype(str))
    kept &= _askable(first, measure, what)
    right = np.stack([run.column(MEASURES[measure], what)[kept] for run in arm.runs])
    if right.size == 0 or np.isnan(right).any():
        return None
    return Sample(arm.seeds, right, np.ones(right.shape[1]), _groups(first, what)[kept])


def auc_sample(arm: TaskArm, measure: str, split: str, points: Sequence[int]) -> Sample | None:
    """The area under the questions curve, question by question.

    It is the mean of what was right over ln(questions) between the first and the last point, by trapezoids, over the
    questions that were asked at all points.
    """
    items = common(arm.runs[0], split, points)
    parts = [sample(arm, measure, (point, split, CANONICAL), items=items) for point in points]
    if any(part is None for part in parts):
        return None
    found = [part for part in parts if part is not None]
    weights = trapezoid_weights(points)
    area = sum(weight * part.numerators for weight, part in zip(weights, found))
    return Sample(arm.seeds, np.asarray(area), found[0].denominators, found[0].groups)


def trapezoid_weights(points: Sequence[int]) -> list[float]:
    """What each point weighs in the mean over ln(questions); they add up to 1."""
    places = [math.log(point) for point in points]
    length = places[-1] - places[0]
    return [(places[min(i + 1, len(places) - 1)] - places[max(i - 1, 0)]) / 2 / length for i in range(len(places))]


def endpoint_sample(study: TaskStudy, arm: TaskArm, metric: str, split: str) -> Sample | None:
    if metric == AUC:
        return auc_sample(arm, study.measure, split, study.curve_points) if study.in_curve(split) else None
    return sample(arm, {ACCURACY: "acc", EXACT: "exact"}[metric], (study.last, split, CANONICAL))


def chance_of(run: TaskRun, what: _WHAT, type: str | None = None) -> float | None:
    """The mean over questions of 1 / options; None where there is nothing to choose."""
    counts = run.column("n_options", what)
    kept = counts > 0 if type is None else (counts > 0) & (run.column("type", what) == type)
    return float((1 / counts[kept].astype(float)).mean()) if kept.any() else None


def unread(study: TaskStudy, split: str, type: str | None = None) -> float:
    """The share of choices that are right without reading a question: by guessing, or by the task's best rule. 0 for
    written answers: rules for those read it."""
    if study.measure != "acc":
        return 0.0
    by_split, by_type = (study.task["about"].get(key, {}).get(split, {}) for key in HEURISTICS)
    rules = by_split if type is None else by_type.get(type, {})
    chance = chance_of(study.first, (study.last, split, CANONICAL), type)
    return max([chance or 0.0, *rules.values()])


def _askable(run: TaskRun, measure: str, what: _WHAT) -> np.ndarray:
    """Questions that can have the figure: a choice needs options."""
    options = run.column("n_options", what)
    asked: np.ndarray = np.ones(len(options), dtype=bool) if measure == "exact" else options > 0
    return asked


def _groups(run: TaskRun, what: _WHAT) -> np.ndarray:
    """What clusters the questions; one without a group is its own."""
    return np.array([g or i for g, i in zip(run.column("group", what), run.column("item", what))], dtype=str)


def _read_run(arm: str, run: Mapping[str, Any]) -> TaskRun:
    missing = [stage for stage in NEEDED if not run.get(stage)]
    if missing:
        raise DataError(f"arm {arm} seed {run.get('seed')}: no {missing[0]} artefact; run that stage first")
    folders = {stage: Path(run[stage]) for stage in STAGES if run.get(stage)}
    manifests = {stage: _optional(folder / "manifest.json") for stage, folder in folders.items()}

    def of(stage: str, name: str) -> dict[str, Any]:
        return dict(read_json(folders[stage] / name)) if stage in folders else {}

    def wall(stage: str) -> float | None:
        if stage not in folders:
            return None
        return _optional(folders[stage] / "timing.json").get("wall_s") or manifests[stage].get("wall_s")

    pretrain_run = _optional(folders["pretrain"] / "run.json") if "pretrain" in folders else {}
    return TaskRun(
        arm=arm,
        seed=int(run["seed"]),
        folders=folders,
        manifests=manifests,
        task=of("task", TASK_FILE),
        answers=of("answers", "results.json"),
        finetune=of("finetune", "train.json"),
        pretrain=of("pretrain", "train.json"),
        evaluate=of("evaluate", "results.json"),
        tokenizer=of("tokenizer", "metadata.json"),
        transform=str((pretrain_run.get("transform") or {}).get("_target_", "")).rsplit(".", 1)[-1],
        wall_s={stage: wall(stage) for stage in STAGES},
    )


def _optional(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.exists() else {}


def _endpoint(entry: Mapping[str, Any] | None, study: TaskStudy) -> TaskEndpoint | None:
    arms = study.arms
    if not entry or len(arms) < 2:
        return None
    names = tuple(str(name) for name in entry["arms"])
    unknown = [name for name in names if name not in arms]
    if unknown:
        raise ConfigError(f"endpoint.arms: {unknown[0]!r} is not an arm (arms: {', '.join(arms)})")
    if len(names) != 2 or names[0] == names[1]:
        raise ConfigError(f"endpoint.arms={list(names)}: needs two different arms")
    metric, split = str(entry["metric"]), str(entry.get("split") or study.task["main"])
    if metric not in METRICS:
        raise ConfigError(f"endpoint.metric={metric!r}: one of {', '.join(METRICS)}")
    if entry.get("direction", "higher") != "higher":
        raise ConfigError(f"endpoint.direction={entry['direction']!r}: {metric} is better when 'higher'")
    smallest = entry.get("smallest_difference")
    if smallest is not None and not float(smallest) > 0:
        raise ConfigError(f"endpoint.smallest_difference={smallest!r}: needs a number above 0")
    if split not in study.splits:
        raise ConfigError(f"endpoint.split={split!r}: not a split of this task (splits: {', '.join(study.splits)})")
    if metric == AUC and not study.in_curve(split):
        points = ", ".join(f"{point:,}" for point in study.points)
        raise ConfigError(f"endpoint.metric={metric!r}: split {split} needs two points or more (points: {points})")
    if endpoint_sample(study, arms[names[0]], metric, split) is None:
        raise ConfigError(
            f"endpoint.metric={metric!r}: split {split} was not asked so (modes: {', '.join(study.task['modes'])})"
        )
    return TaskEndpoint(metric, split, (names[0], names[1]), None if smallest is None else float(smallest))


def _check_runs(runs: Sequence[TaskRun]) -> None:
    """That all runs have one task and the same questions, and that figures and items of each run agree."""
    first = runs[0]
    for run in runs:
        for key in ("name", "files", "main", "matched", "modes", "stop"):
            if run.task.get(key) != first.task.get(key):
                raise DataError(
                    f"{run.where} was asked another task than {first.where} (task.json: {key} differs); "
                    "use one task recipe and one corpus for all arms"
                )
        points, known = ({point for point, _, _ in r.parts} for r in (run, first))
        if points != known:
            raise DataError(
                f"{run.where} was asked after {_listed(points)} questions, {first.where} after {_listed(known)}; "
                "use one fine-tuning recipe for all arms"
            )
        _check_questions(run, first)
        _check_figures(run)


def _check_questions(run: TaskRun, first: TaskRun) -> None:
    """Canonical questions must be the same; other encodings may be missing where a tokenizer has none."""
    plain, known = ({what for what in r.parts if what[2] == CANONICAL} for r in (run, first))
    shared = [what for what in run.parts if what in first.parts]
    same = plain == known and all(
        run.items[name].slice(run.parts[what].start, _length(run, what)).to_pylist()
        == first.items[name].slice(first.parts[what].start, _length(first, what)).to_pylist()
        for what in shared
        for name in _ASKED
    )
    if not same:
        raise DataError(
            f"{run.where}: its items.parquet lists other questions than that of {first.where}; "
            "remove both answers folders and run again"
        )


def _check_figures(run: TaskRun) -> None:
    """That results.json says what the items add up to."""
    for point, splits in run.answers["points"].items():
        for split, stated in splits.items():
            what = (int(point), split, CANONICAL)
            if what not in run.parts:
                raise DataError(
                    f"{run.where}: results.json has split {split} after {point} questions, items.parquet does not; "
                    f"remove {run.folders['answers']} and run again"
                )
            for measure, column in MEASURES.items():
                values = run.column(column, what)[_askable(run, measure, what)]
                found = None if not values.size or np.isnan(values).any() else float(values.mean())
                said = stated.get(measure)
                if said is None and found is None:
                    continue
                if said is None or found is None or not math.isclose(said, found, rel_tol=1e-6, abs_tol=1e-9):
                    raise DataError(
                        f"{run.where}: results.json says {measure} {said} of {split} after {point} questions, "
                        f"its items add up to {found}; remove {run.folders['answers']} and run again"
                    )


def _length(run: TaskRun, what: _WHAT) -> int:
    return run.parts[what].stop - run.parts[what].start


def _listed(points: set[int]) -> str:
    return ", ".join(f"{point:,}" for point in sorted(points))
