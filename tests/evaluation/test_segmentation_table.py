"""The report's three numbers: over spans that every run scored, shown only where there are any."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.report import write_report
from tests.evaluation.fake_runs import write_runs

SIZES = (16, 20, 24)
CROSSED = {"superbpe": {1}}  # a superword reaches across the end of the second span
NO_VALIDITY = {"bytes"}  # as for a vocabulary that is no byte-level BPE


def nats(arm: str, seed: int, span: int) -> float | None:
    return None if span in CROSSED.get(arm, ()) else SIZES[span] * (1.0 + 0.1 * seed) + len(arm)


def add_spans(spec: dict[str, Any]) -> None:
    for arm in spec["arms"]:
        for run in arm["runs"]:
            path = Path(run["evaluate"]) / "items.parquet"
            rows = pq.read_table(path).to_pylist()
            for span, size in enumerate(SIZES):
                value = nats(arm["name"], run["seed"], span)
                row: dict[str, Any] = {"kind": "segmentation", "item": f"w:{span}", "group": "g", "bytes": size}
                if value is not None:
                    row |= {
                        "nats": value,
                        "canonicalised_nats": None if arm["name"] in NO_VALIDITY else 0.9 * value,
                        "marginal_nats": 0.8 * value,
                        "marginal_nats_least": 0.799 * value,
                    }
                rows.append(row)
            schema = pq.read_schema(path)
            for column in ("canonicalised_nats", "marginal_nats", "marginal_nats_least"):
                schema = schema.append(pa.field(column, pa.float64()))
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def test_three_numbers_over_the_spans_that_all_runs_scored(tmp_path: Path) -> None:
    spec = write_runs(tmp_path / "runs")
    add_spans(spec)
    out = tmp_path / "out"
    write_report(spec, out)
    arms = json.loads((out / "results.json").read_text())["arms"]
    for name, arm in arms.items():
        found = arm["segmentations"]
        assert (found["spans"], found["shared"], found["bytes"]) == (3, 2, 40)
        for seed in range(3):
            bits = sum(nats(name, seed, span) or 0.0 for span in (0, 2)) / math.log(2) / 40
            assert found["canonical"][str(seed)] == pytest.approx(bits)
            assert found["marginal"][str(seed)] == pytest.approx(0.8 * bits)
            assert found["marginal_least"][str(seed)] == pytest.approx(0.799 * bits)
        assert (found["canonicalised"] is None) == (name in NO_VALIDITY)
    html = (out / "report.html").read_text()
    assert 'id="segmentations"' in html
    assert "2 of 3 spans, 40 bytes" in html
    assert "(how much: under Segmentations)" in html
    mean = sum(arms["stochastok"]["segmentations"]["canonical"].values()) / 3
    assert f"{mean:.3f}" in html


def test_without_spans_there_is_no_table(tmp_path: Path) -> None:
    write_report(write_runs(tmp_path / "runs", seeds=1), tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    assert "segmentations" not in html
    assert "others." in html
