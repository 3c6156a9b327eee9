"""The report of a task's experiment: report.html, report.md, results.json, table.csv.

Every figure is computed from the answers of all runs, question by question (`report_runs`); what intervals mean is in
`evaluation.stats`, how it looks in `report_page`.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.report import config_differences, flat, link, plain
from evaluation.stats import CANNOT_TELL, Comparison, Sample, compare, estimate, holm, seeds_rule
from evaluation.subword.report_page import caveats, markdown, render
from evaluation.subword.report_runs import (
    AT_CHANCE,
    AUC,
    CANONICAL,
    EXACT,
    HEURISTICS,
    IS_SATURATED,
    MEASURES,
    METRIC_OF,
    STAGES,
    TaskArm,
    TaskRun,
    TaskStudy,
    auc_sample,
    chance_of,
    common,
    domain,
    endpoint_sample,
    gather_task,
    sample,
    trapezoid_weights,
    unread,
)
from evaluation.task_figures import mean as mean_figures
from isotok.files import write_json, write_text

FORMAT = 1
SATURATED = 0.95
"""Of questions that the baseline gets right: above, hardly any room is left for a difference."""


def write_task_report(spec: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write the report of a task's experiment into the folder `out` and return its headline figures.

    `spec`: experiment, title, notes, arms (name, overrides, runs: seed and folders answers, task, tokenizer, and
    finetune, pretrain, evaluate or None), baseline, endpoint (metric, split, arms, smallest_difference; may be
    missing). Everything in results.json but "provenance" and "timing" depends on the artefacts' results alone.
    Raises DataError or ConfigError when the arms cannot be compared.
    """
    out.mkdir(parents=True, exist_ok=True)
    study = gather_task(spec)
    results = build_results(study, out)
    write_json(out / "results.json", results)
    write_text(out / "table.csv", table_csv(study))
    write_text(out / "report.md", markdown(results))
    write_text(out / "report.html", render(results))
    primary = next((c for c in results["comparisons"] if c["kind"] == "primary"), None)
    main, last = results["task"]["main"], str(study.last)
    return {
        "arms": {name: arm["points"][last][main][study.measure]["mean"] for name, arm in results["arms"].items()},
        "endpoint": primary
        and {key: primary[key] for key in ("metric", "split", "arms", "delta", "interval", "rule", "verdict")},
    }


def build_results(study: TaskStudy, out: Path) -> dict[str, Any]:
    """Everything the report shows, as JSON data."""
    arms = {name: _arm(study, arm) for name, arm in study.arms.items()}
    results: dict[str, Any] = {
        "format": FORMAT,
        "experiment": study.experiment,
        "title": study.title,
        "baseline": study.baseline,
        "endpoint": study.endpoint and asdict(study.endpoint),
        "notes": list(study.notes),
        "task": _task(study),
        "arms": arms,
        "states": {split: _state(study, arms, split) for split in study.splits},
        "comparisons": [],
        "provenance": _provenance(study, out),
        "timing": {f"{arm.name}/{run.seed}": run.wall_s for arm in study.arms.values() for run in arm.runs},
    }
    results["comparisons"] = _comparisons(study)
    made: dict[str, Any] = plain(results)
    made["caveats"] = caveats(made)
    return made


def table_csv(study: TaskStudy) -> str:
    """One row a run, point, split, encoding, type and metric; type is empty for all types together."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "seed", "point", "split", "variant", "type", "metric", "value", "n"])
    for arm in study.arms.values():
        curves = {split: auc_sample(arm, study.measure, split, study.curve_points) for split in _curve_splits(study)}
        for place, run in enumerate(arm.runs):
            for what in run.parts:
                for metric in MEASURES:
                    for kind, values in _by_type(run, metric, what):
                        if values.size:
                            row = [arm.name, run.seed, *what, kind, metric, float(values.mean()), values.size]
                            writer.writerow(row)
            for split, made in curves.items():
                if made is not None:
                    value, n = float(made.values[place]), len(made.denominators)
                    writer.writerow([arm.name, run.seed, "", split, "", "", "auc", value, n])
    return text.getvalue()


def _by_type(run: TaskRun, metric: str, what: tuple[int, str, str]) -> list[tuple[str, np.ndarray]]:
    values, types = run.column(MEASURES[metric], what), run.column("type", what)
    kept = ~np.isnan(values)
    return [("", values[kept]), *((kind, values[kept & (types == kind)]) for kind in sorted(set(types)))]


def _task(study: TaskStudy) -> dict[str, Any]:
    """What all arms were asked."""
    task, first = study.task, study.first

    def about(point: int, split: str) -> dict[str, Any]:
        what = (point, split, CANONICAL)
        return {"n": len(first.column("item", what)), "chance": chance_of(first, what)}

    asked = {
        str(point): {split: about(point, split) for split in study.splits if (point, split, CANONICAL) in first.parts}
        for point in study.points
    }
    types = {split: _types(study, split) for split in study.splits}
    known = {name: value for name, value in task["about"].items() if name not in HEURISTICS}
    return {
        "name": task["name"],
        "main": task["main"],
        "matched": {split: other for split, other in task["matched"].items() if split in study.splits},
        "modes": list(task["modes"]),
        "measure": study.measure,
        "metrics": [metric for metric in MEASURES if _has(study, metric)],
        "splits": study.splits,
        "points": study.points,
        "last": study.last,
        "asked": asked,
        "curve": {
            split: {
                "questions": len(common(first, split, study.curve_points)),
                "weights": dict(zip(map(str, study.curve_points), trapezoid_weights(study.curve_points))),
            }
            for split in _curve_splits(study)
        },
        "types": {
            split: {kind: chance_of(first, (study.last, split, CANONICAL), kind) for kind in kinds}
            for split, kinds in types.items()
        },
        **{
            key: {split: made for split, made in task["about"].get(key, {}).items() if split in study.splits}
            for key in HEURISTICS
        },
        "retok_split": _retok_split(study),
        "train_questions": task["files"].get("train", {}).get("n"),
        "files": task["files"],
        "about": known,
    }


def _has(study: TaskStudy, metric: str) -> bool:
    what = (study.last, study.task["main"], CANONICAL)
    return any(sample(arm, metric, what) is not None for arm in study.arms.values())


def _curve_splits(study: TaskStudy) -> list[str]:
    return [split for split in study.splits if study.in_curve(split)]


def _types(study: TaskStudy, split: str) -> list[str]:
    return sorted(set(study.first.column("type", (study.last, split, CANONICAL))))


def _variants(study: TaskStudy) -> list[str]:
    """Other encodings that some run was asked in, in the order of the first one that has them."""
    runs = [run for arm in study.arms.values() for run in arm.runs]
    found = dict.fromkeys(variant for run in runs for variant in run.answers.get("retok") or {})
    return [name for name in found if any(name == variant for run in runs for _, _, variant in run.parts)]


def _retok_split(study: TaskStudy) -> str | None:
    runs = [run for arm in study.arms.values() for run in arm.runs]
    return next((split for run in runs for _, split, variant in run.parts if variant != CANONICAL), None)


def _arm(study: TaskStudy, arm: TaskArm) -> dict[str, Any]:
    first = arm.runs[0]
    points = {
        str(point): {
            split: _split(study, arm, (point, split, CANONICAL))
            for split in study.splits
            if (point, split, CANONICAL) in first.parts
        }
        for point in study.points
    }
    return {
        "seeds": list(arm.seeds),
        "rule": seeds_rule(len(arm.runs)),
        "untrained": arm.untrained,
        "fine_tuned": any(run.finetune for run in arm.runs),
        "transform": first.transform,
        "growth": _figure(arm, "pretrain", "growth"),
        "bits_per_byte": {
            "text": _figure(arm, "evaluate", "bpb", "bits_per_byte"),
            **{
                key: _figure(arm, "evaluate", "segmentations", key)
                for key in ("canonical", "canonicalised", "marginal", "spans", "crossed")
            },
        },
        "points": points,
        "curve": {split: _curve(study, arm, split) for split in _curve_splits(study)},
        "by_type": {
            split: {kind: _type(study, arm, split, kind) for kind in _types(study, split)} for split in study.splits
        },
        "retok": _retok(study, arm),
        "consistency": mean_figures([run.answers.get("consistency") for run in arm.runs]),
        "words": {
            "n": _figure(arm, "answers", "words", "n"),
            "single_tokens": _figure(arm, "answers", "words", "single_tokens"),
            "digits_per_token": _figure(arm, "answers", "digits_per_token"),
        },
        "quantities": _quantities(arm),
    }


def _estimated(made: Sample | None) -> dict[str, Any] | None:
    return None if made is None else asdict(estimate(made))


def _split(study: TaskStudy, arm: TaskArm, what: tuple[int, str, str]) -> dict[str, Any]:
    """A split at a point: an estimate of each metric; means over types, plain and above chance, are over seeds."""
    _, split, _ = what
    by_type = [sample(arm, study.measure, what, type=kind) for kind in _types(study, split)]
    means = [None if made is None else float(made.values.mean()) for made in by_type]
    chances = [chance_of(arm.runs[0], what, kind) for kind in _types(study, split)]
    above = [None if m is None or c is None or c == 1 else (m - c) / (1 - c) for m, c in zip(means, chances)]
    return {
        **{metric: _estimated(sample(arm, metric, what)) for metric in MEASURES},
        "macro": _mean(means),
        "norm": _mean(above),
    }


def _type(study: TaskStudy, arm: TaskArm, split: str, kind: str) -> dict[str, Any] | None:
    what = (study.last, split, CANONICAL)
    made = _estimated(sample(arm, study.measure, what, type=kind))
    return made and {**made, "at_chance": _low(made) <= unread(study, split, kind)}


def _curve(study: TaskStudy, arm: TaskArm, split: str) -> dict[str, Any]:
    items = common(arm.runs[0], split, study.curve_points)
    return {
        "auc": _estimated(auc_sample(arm, study.measure, split, study.curve_points)),
        "points": {
            str(point): _estimated(sample(arm, study.measure, (point, split, CANONICAL), items=items))
            for point in study.curve_points
        },
    }


def _retok(study: TaskStudy, arm: TaskArm) -> dict[str, Any]:
    """By encoding of the prompts, the tokenizer's own first (on the same questions): figures at the last point."""
    split, names = _retok_split(study), _variants(study)
    if split is None:
        return {}
    found: dict[str, Any] = {}
    asked = [name for name in names if all((study.last, split, name) in run.parts for run in arm.runs)]
    for name in ([CANONICAL] if asked else []) + asked:
        items = arm.runs[0].column("item", (study.last, split, asked[0] if name == CANONICAL else name))
        what = (study.last, split, name)
        found[name] = {metric: _estimated(sample(arm, metric, what, items=items)) for metric in ("acc", "exact")}
        for key in ("agreement", "stable", "growth"):
            found[name][key] = _figure(arm, "answers", "retok", name, key) if name != CANONICAL else None
        found[name]["n"] = len(items)
    return found


def _quantities(arm: TaskArm) -> dict[str, Any]:
    """What the arms spent and what they are: means over seeds of figures that hardly move between seeds."""
    parameters = "pretrain" if arm.runs[0].pretrain else "finetune"
    questions, tokens = _figure(arm, "finetune", "questions"), _figure(arm, "finetune", "tokens")
    return {
        **{
            f"pretrain_{key}": _figure(arm, "pretrain", key)
            for key in ("flops", "bytes", "unique_bytes", "tokens", "passes", "steps", "lr", "bytes_per_token")
        },
        **{f"finetune_{key}": _figure(arm, "finetune", key) for key in ("questions", "steps", "flops", "tokens", "lr")},
        "tokens_per_question": tokens / questions if questions and tokens is not None else None,
        "parameters_total": _figure(arm, parameters, "parameters", "total"),
        "parameters_body": _figure(arm, parameters, "parameters", "body"),
        "vocabulary_size": _figure(arm, "tokenizer", "vocab_size"),
    }


def _figure(arm: TaskArm, stage: str, *path: str) -> float | None:
    """The mean over seeds of a number in a stage's figures; None where a run does not have it."""
    values: list[float | None] = []
    for run in arm.runs:
        value: Any = getattr(run, stage)
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        values.append(value if isinstance(value, int | float) and not isinstance(value, bool) else None)
    return _mean(values)


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a value is missing; equal values stay as they are."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return known[0] if len(set(known)) == 1 else sum(known) / len(known)


def _low(made: Mapping[str, Any]) -> float:
    """The lower end of the interval over seeds and questions; under three seeds of that over questions alone."""
    if made["interval_with_items"]:
        return float(made["interval_with_items"][0])
    return float(made["mean"]) - 1.96 * (made["se_items"] or 0.0)


def _state(study: TaskStudy, arms: Mapping[str, Any], split: str) -> str:
    """Whether a split can show a difference at the last point."""
    made = {name: arm["points"][str(study.last)][split][study.measure] for name, arm in arms.items()}
    found = [one for one in made.values() if one is not None]
    if found and all(_low(one) <= unread(study, split) for one in found):
        return AT_CHANCE
    base = made[study.baseline]
    return IS_SATURATED if base is not None and base["mean"] >= SATURATED else ""


def _comparisons(study: TaskStudy) -> list[dict[str, Any]]:
    """The primary endpoint first, then every arm against the baseline; each group of figures is one Holm family."""
    found = []
    endpoint, base = study.endpoint, study.arms[study.baseline]
    pair: set[str] = set()
    if endpoint:
        a, b = (study.arms[name] for name in endpoint.arms)
        pair = {a.name, b.name}
        made = [endpoint_sample(study, arm, endpoint.metric, endpoint.split) for arm in (a, b)]
        assert made[0] is not None and made[1] is not None  # held by the check of the endpoint
        result = compare(made[0], made[1], lower_is_better=False, smallest_difference=endpoint.smallest_difference)
        entry = _entry("primary", endpoint.metric, endpoint.split, a, b, result)
        floor = 0.0 if endpoint.metric == EXACT else unread(study, endpoint.split)
        entry["at_chance"] = all(_low(asdict(estimate(one))) <= floor for one in made if one is not None)
        found.append(entry | ({"verdict": CANNOT_TELL} if entry["at_chance"] else {}))
    others = [arm for arm in study.arms.values() if arm.name != base.name]
    for family in _families(study):
        cells = []
        for metric, split, kind, variant in family:
            for arm in others:
                primary = endpoint and (metric, split) == (endpoint.metric, endpoint.split) and not kind and not variant
                if primary and {arm.name, base.name} == pair:
                    continue
                ours, theirs = (_sample(study, one, metric, split, kind, variant) for one in (arm, base))
                if ours is not None and theirs is not None:
                    cells.append((arm, metric, split, kind, variant, ours, theirs))
        compared = [compare(ours, theirs, lower_is_better=False) for *_, ours, theirs in cells]
        for (arm, metric, split, kind, variant, _, _), result in zip(cells, holm(compared)):
            found.append(_entry("exploratory", metric, split, arm, base, result, kind, variant))
    return found


def _families(study: TaskStudy) -> list[list[tuple[str, str, str | None, str]]]:
    """(metric, split, type, variant) of the figures that are compared, by family."""
    main, metric = study.task["main"], METRIC_OF[study.measure]
    retok = _retok_split(study)
    return [
        [(metric, main, None, CANONICAL)],
        [(AUC, split, None, CANONICAL) for split in _curve_splits(study)],
        [(metric, split, None, CANONICAL) for split in study.splits if split != main],
        [(EXACT, split, None, CANONICAL) for split in study.splits] if metric != EXACT else [],
        [(metric, main, kind, CANONICAL) for kind in _types(study, main)] if len(_types(study, main)) > 1 else [],
        [(metric, retok, None, name) for name in _variants(study)] if retok else [],
    ]


def _sample(study: TaskStudy, arm: TaskArm, metric: str, split: str, kind: str | None, variant: str) -> Sample | None:
    if metric == AUC:
        return endpoint_sample(study, arm, metric, split)
    return sample(arm, "exact" if metric == EXACT else "acc", (study.last, split, variant), type=kind)


def _entry(
    kind: str,
    metric: str,
    split: str,
    a: TaskArm,
    b: TaskArm,
    result: Comparison,
    type: str | None = None,
    variant: str = CANONICAL,
) -> dict[str, Any]:
    """`domain` is what the metric was computed over, in words: split, type and encoding."""
    return {
        "kind": kind,
        "metric": metric,
        "split": split,
        "type": type,
        "variant": variant,
        "domain": domain(split, type, variant),
        "arms": [a.name, b.name],
        **asdict(result),
    }


def _provenance(study: TaskStudy, out: Path) -> dict[str, Any]:
    """Where the numbers come from; the only part with paths, as links relative to the report."""
    manifests, configs = {}, {}
    distinct: dict[str, list[str]] = {}
    for arm in study.arms.values():
        for run in arm.runs:
            manifests[f"{arm.name}/{run.seed}"] = {
                stage: link(run.folders[stage] / "manifest.json", out) for stage, made in run.manifests.items() if made
            }
            for made in run.manifests.values():
                for name, value in flat(made.get("provenance", {})).items():
                    values = distinct.setdefault(name, [])
                    if str(value) not in values:
                        values.append(str(value))
        first = arm.runs[0]
        configs[arm.name] = flat({stage: first.manifests.get(stage, {}).get("config", {}) for stage in STAGES})
    return {
        "manifests": manifests,
        "versions": dict(sorted(distinct.items())),
        "overrides": {arm.name: list(arm.overrides) for arm in study.arms.values()},
        "config_differences": config_differences(configs, study.baseline),
    }
