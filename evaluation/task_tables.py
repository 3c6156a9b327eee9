"""The report's tables of tasks: one row a task first, then every figure, forms of a question, methods of scoring."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evaluation.cells import MISSING, Cell, Table, count, number, share, signed
from evaluation.downstream import PLAIN
from evaluation.tables import against_baseline, difference_cells, task_cell

MEASURES = {
    "acc": "accuracy, sum of log p",
    "acc_bytes": "accuracy per byte",
    "acc_pmi": "accuracy, PMI",
    "greedy": "greedy match",
}
"""Headline figures and how they are called."""


def task_tables(results: Mapping[str, Any]) -> dict[str, Table]:
    return {
        "tasks": task_table(results),
        "task-figures": figures_table(results),
        "task-variants": variants_table(results),
        "task-methods": methods_table(results),
    }


def task_table(results: Mapping[str, Any]) -> Table:
    """One row a task, one column an arm; missing tasks with their reason."""
    arms = results["arms"]
    first = next(iter(arms.values()))["tasks"]
    rows: list[tuple[Cell, ...]] = []
    for task, stated in first.items():
        cells = []
        for arm in arms.values():
            row = arm["tasks"][task]
            bits = f"{number(row['gold_bits_per_byte']['mean'], 2)} bits/byte"
            cell = task_cell(row)
            cells.append(replace(cell, note=f"{cell.note} · {bits}" if cell.note else bits))
        rows.append(
            (
                Cell(task, task),
                Cell(MEASURES[stated["headline"]], stated["headline"]),
                Cell(count(stated["n"]), stated["n"]),
                Cell(share(stated["chance"]), stated["chance"]),
                *cells,
            )
        )
    for task, reason in results["missing_tasks"].items():
        rows.append((Cell(task, task), Cell("missing", muted=True), Cell("0"), Cell(MISSING), *_missing(reason, arms)))
    return Table(
        "The figure a task is read by, with its 95% interval over seeds and items, and bits per byte of the gold "
        "answer. Grey: the interval reaches down to chance, or to what always taking the choice of fewest tokens gets, "
        "or there are too few seeds for one. Greedy match: share of items whose answer greedy decoding gives, where "
        "there is no choice. Figures of different tasks are not averaged.",
        (("task", ""), ("figure", ""), ("items", ""), ("chance", ""), *((name, "") for name in arms)),
        tuple(rows),
        sortable=True,
    )


def _missing(reason: str, arms: Mapping[str, Any]) -> list[Cell]:
    return [Cell(reason if at == 0 else MISSING, muted=True) for at in range(len(arms))]


def figures_table(results: Mapping[str, Any]) -> Table:
    rows = []
    for task in next(iter(results["arms"].values()))["tasks"]:
        for name, arm in results["arms"].items():
            row = arm["tasks"][task]
            difference = against_baseline(results, f"{task}.gold_bits_per_byte", name)
            rows.append(
                (
                    Cell(task, task, note=f"{row['scoring']} scoring, version {row['version']}"),
                    Cell(name, name),
                    Cell(share(row["fewest_tokens"]), row["fewest_tokens"]),
                    *(_mean(row, measure) for measure in MEASURES),
                    Cell(number(row["norm_correct_prob"]), row["norm_correct_prob"]),
                    Cell(share(row["spans"]), row["spans"]),
                    Cell(number(row["gold_bits_per_byte"]["mean"]), row["gold_bits_per_byte"]["mean"]),
                    *difference_cells(difference),
                )
            )
    columns = (
        ("task", ""), ("arm", ""), ("fewest tokens", "no model"), ("accuracy", "sum of log p"),
        ("accuracy", "per byte"), ("accuracy", "PMI"), ("greedy", "match"), ("gold's share", "of p per byte"),
        ("spans", "the cut"), ("gold bits/byte", "lower is better"), ("Δ gold bits/byte", "minus the baseline"),
        ("verdict", "Holm"),
    )  # fmt: skip
    return Table(
        "Fewest tokens: accuracy of always taking the choice with the fewest tokens, which needs no model and differs "
        "by tokenizer; differences in accuracy hold that too. Gold's share: probability per byte of the gold choice "
        "over that of all choices. Spans: items of which a choice has a token across its left boundary.",
        columns,
        tuple(rows),
        sortable=True,
    )


def variants_table(results: Mapping[str, Any]) -> Table:
    arms = results["arms"]
    rows = []
    for task, stated in next(iter(arms.values()))["tasks"].items():
        for variant in sorted(stated["by_variant"] or {}, key=lambda name: (name != PLAIN, name)):
            rows.append(
                (
                    Cell(f"{task}, {variant}", f"{task}, {variant}"),
                    *(_variant(arm["tasks"][task], variant) for arm in arms.values()),
                )
            )
    return Table(
        "The same questions in other forms, mean over seeds: the task's figure; below it the relative loss against the "
        "plain form and bits per byte of the gold answer, over the bytes of the plain form.",
        (("task, form", ""), *((name, "") for name in arms)),
        tuple(rows),
    )


def _variant(row: Mapping[str, Any], variant: str) -> Cell:
    figures = row["by_variant"][variant]
    value, bits = figures[row["headline"]], figures.get("gold_bits_per_original_byte")
    note = f"{number(figures['gold_bits_per_byte'], 2)} bits/byte"
    if bits is not None:
        drop = figures.get("relative_drop")
        loss = "" if not drop else f"{signed(-100 * drop, 0)}% · "
        note = f"{loss}{number(bits, 2)} bits/byte"
    return Cell(share(value), value, note=note)


def methods_table(results: Mapping[str, Any]) -> Table:
    arms = results["arms"]
    rows = []
    for task, stated in next(iter(arms.values()))["tasks"].items():
        for method, compared in (stated["methods"] or {}).items():
            if method == compared["against"]:
                continue
            cells = []
            for arm in arms.values():
                figures = arm["tasks"][task]["methods"][method]
                note = f"{number(figures['margin_gap'], 2)} nats · accuracy {share(figures['acc'])}"
                cells.append(Cell(share(figures["differs"]), figures["differs"], note=note))
            rows.append((Cell(task, note=f"{method} against {compared['against']}"), *cells))
    return Table(
        "How much the method of scoring matters where a cut falls inside a token: share of items whose likeliest "
        "choice is another one; below it the mean change of the gold choice's margin over the best other one, and the "
        "accuracy under the method. Means over seeds.",
        (("task", "method"), *((name, "") for name in arms)),
        tuple(rows),
    )


def _mean(row: Mapping[str, Any], measure: str) -> Cell:
    estimate = row[measure]
    if estimate is None:
        return Cell(MISSING, muted=True)
    return Cell(share(estimate["mean"]), estimate["mean"], muted=measure != "greedy" and row["at_chance"])
