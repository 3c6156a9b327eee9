"""The report's three numbers of arms that know several segmentations of a text (evaluation.stochastic)."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from evaluation.cells import MISSING, Cell, Table, number
from evaluation.gather import Run, Study

KIND = "segmentation"
COLUMNS = {
    "canonical": "nats",
    "canonicalised": "canonicalised_nats",
    "marginal": "marginal_nats",
    "marginal_least": "marginal_nats_least",
}


def shared_spans(study: Study) -> dict[str, Any]:
    """By arm: bits per byte by seed of each number, over the spans that every run could score.

    Empty where no spans were scored. A number is None where a run does not have it.
    """
    runs = [(arm.name, run) for arm in study.arms.values() for run in arm.runs]
    columns = [_columns(run) for _, run in runs]
    if any(found is None for found in columns):
        return {}
    found = [values for values in columns if values is not None]
    shared = np.logical_and.reduce([~np.isnan(values["canonical"]) for values in found])
    size = int(found[0]["bytes"][shared].sum())
    if not size:
        return {}
    arms: dict[str, Any] = {}
    for (name, run), values in zip(runs, found):
        entry = arms.setdefault(
            name, {"spans": len(shared), "shared": int(shared.sum()), "bytes": size, **{key: {} for key in COLUMNS}}
        )
        for key in COLUMNS:
            total = float(values[key][shared].sum()) / math.log(2) / size
            if math.isnan(total):
                entry[key] = None
            elif entry[key] is not None:
                entry[key][run.seed] = total
    return arms


def _columns(run: Run) -> dict[str, np.ndarray] | None:
    """The spans' figures in the order of their items, NaN for what is missing; None without spans."""
    if not set(COLUMNS.values()) <= set(run.items.column_names):
        return None
    rows = run.items.filter(pc.equal(run.items["kind"], KIND))
    if not rows.num_rows:
        return None
    values = {key: np.array(rows[column].to_pylist(), dtype=np.float64) for key, column in COLUMNS.items()}
    return {**values, "bytes": np.array(rows["bytes"].to_pylist(), dtype=np.int64)}


def segmentation_table(results: Mapping[str, Any]) -> Table:
    rows, counts = [], ""
    for name, arm in results["arms"].items():
        found = arm["segmentations"]
        if not found:
            continue
        counts = f"{found['shared']} of {found['spans']} spans, {found['bytes']:,} bytes"
        means = {key: None if found[key] is None else sum(found[key].values()) / len(found[key]) for key in COLUMNS}
        rows.append(
            (
                Cell(name, name, note="" if arm["transform"] in ("", "NoTransform") else "trained on varied tokens"),
                *(_cell(means[key], found[key]) for key in ("canonical", "canonicalised", "marginal")),
                _cell(_minus(means["canonical"], means["marginal"])),
                _cell(_minus(means["marginal"], means["marginal_least"]), digits=4),
            )
        )
    columns = (
        ("arm", ""), ("canonical", "bits/byte"), ("canonicalised", "bits/byte"), ("marginal", "bits/byte"),
        ("paid for segmentation", "canonical − marginal"), ("not explored", "marginal is lower by at most"),
    )  # fmt: skip
    return Table(
        "What arms pay for knowing several segmentations, on short spans of test text after the same context "
        f"({counts}; spans that some arm's token reaches across are left out for all). Canonical: the tokens of "
        "the encoding, as everywhere else on this page. Canonicalised: the same, with each softmax renormalised over "
        "tokens that keep the sequence an encoding of some text. Marginal: all token sequences that spell the span. "
        "Both are at most the canonical number; which of the two is lower depends on the text, and on text like the "
        "model's own it is the marginal. Below means: each seed.",
        columns,
        tuple(rows),
        sortable=True,
    )


def _cell(value: float | None, seeds: Mapping[Any, float] | None = None, digits: int = 3) -> Cell:
    if value is None:
        return Cell(MISSING, muted=True)
    note = " · ".join(number(v, digits) for v in seeds.values()) if seeds and len(seeds) > 1 else ""
    return Cell(number(value, digits), value, note=note)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
