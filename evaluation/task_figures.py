"""Figures of an arm's tasks for the report, from the figures of its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evaluation.gather import TASK_METRICS, Arm, Study, sample, task_metrics, tasks
from evaluation.stats import estimate

_STATED = ("n", "chance", "scoring", "version", "sha256", "normalization", "shortened")


def task_figures(study: Study, arm: Arm) -> dict[str, Any]:
    """By task: what is stated of it, an estimate of each metric that it has, and means over seeds of the rest.

    `at_chance`: the headline's interval reaches down to chance, or to what taking the fewest tokens gets; a task with
    single choices has the floor 0.
    """
    return {task: _row(arm, task) for task in tasks(study)}


def headlines(study: Study) -> dict[str, str]:
    """The figure that each task is read by."""
    stated = next(iter(study.arms.values())).runs[0].results["tasks"]
    return {task: headline(stated[task]) for task in tasks(study)}


def headline(stated: Mapping[str, Any]) -> str:
    return str(stated.get("headline") or "acc_bytes")


def _row(arm: Arm, task: str) -> dict[str, Any]:
    every = [run.results["tasks"][task] for run in arm.runs]
    stated = every[0]
    row: dict[str, Any] = {key: stated.get(key) for key in _STATED}
    row["headline"] = headline(stated)
    there = task_metrics(stated)
    for metric in TASK_METRICS:
        row[metric] = asdict(estimate(sample(arm, f"{task}.{metric}"))) if metric in there else None
    row["fewest_tokens"] = stated.get("acc_fewest_tokens")
    span = row[row["headline"]]["interval_with_items"]
    floors = [floor for floor in (row["chance"], row["fewest_tokens"]) if floor is not None]
    # Under three seeds nothing shows that a task is off chance.
    row["at_chance"] = span is None or span[0] <= max(floors, default=0.0)
    for key in ("norm_correct_prob", "spans", "by_variant", "methods"):
        row[key] = mean([one.get(key) for one in every])
    return row


def mean(values: Sequence[Any]) -> Any:
    """Means of numbers, key by key of equal mappings; what is no number is taken from the first."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: mean([value[key] for value in values]) for key in first}
    if isinstance(first, bool) or not isinstance(first, int | float) or any(value is None for value in values):
        return first if all(value == first for value in values) else None
    return sum(values) / len(values) if len(set(values)) > 1 else first
