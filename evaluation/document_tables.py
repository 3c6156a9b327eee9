"""The report's tables of scored text: bits per byte by domain, by position, over segmentations."""

from collections.abc import Mapping
from typing import Any

from evaluation import positions
from evaluation.cells import Cell, Table, number, signed, span
from evaluation.gather import BITS_PER_BYTE, position_metric
from evaluation.segmentation_table import segmentation_table
from evaluation.stats import ONE_SEED
from evaluation.tables import against_baseline


def document_tables(results: Mapping[str, Any]) -> dict[str, Table]:
    return {
        "domains": domain_table(results),
        "positions": position_table(results),
        "segmentations": segmentation_table(results),
    }


def domain_table(results: Mapping[str, Any]) -> Table:
    arms = results["arms"]
    rows = [
        (Cell(name), *(_mean_cell(results, arm, arms[arm]["domains"][name], BITS_PER_BYTE, name) for arm in arms))
        for name in next(iter(arms.values()))["domains"]
    ]
    return Table(
        "Bits per byte by domain, mean over seeds; below it Δ to the baseline with its 95% interval (exploratory).",
        (("domain", ""), *((name, "") for name in arms)),
        tuple(rows),
        sortable=True,
    )


def position_table(results: Mapping[str, Any]) -> Table:
    arms = results["arms"]
    rows = [
        (Cell(name), *(_mean_cell(results, arm, arms[arm]["positions"][name], position_metric(name)) for arm in arms))
        for name in position_names(results)
    ]
    return Table(
        "Bits per byte by how many bytes of the document stand before a byte, mean over seeds; below it Δ to the "
        "baseline with its 95% interval (exploratory). A token's bits are spread evenly over its bytes, so all arms "
        "are scored on the same bytes in each row. Models see no more than their context, whatever stood before.",
        (("bytes before", ""), *((name, "") for name in arms)),
        tuple(rows),
    )


def position_names(results: Mapping[str, Any]) -> list[str]:
    """The bins of byte positions that hold text, in order."""
    there = next(iter(results["arms"].values()))["positions"]
    return [name for name in positions.labels() if name in there]


def _mean_cell(
    results: Mapping[str, Any], arm: str, estimate: Mapping[str, Any], metric: str, domain: str | None = None
) -> Cell:
    """An arm's mean, below it Δ to the baseline."""
    difference = against_baseline(results, metric, arm, domain)
    if difference is None or difference["rule"] == ONE_SEED:
        note = "baseline" if arm == results["baseline"] else ONE_SEED
    else:
        note = f"Δ {signed(difference['delta'])} {span(difference['interval'])}"
    return Cell(number(estimate["mean"]), estimate["mean"], note=note)
