"""The top of the report as Markdown."""

from collections.abc import Mapping
from typing import Any

from evaluation.cells import Table
from evaluation.gather import REFERENCES
from evaluation.tables import leaderboard, quantities, top_box


def markdown(results: Mapping[str, Any]) -> str:
    """The top of the report as Markdown."""
    top = top_box(results)
    parts = [f"# {_md(results['title'])}", f"**{_md(top['verdict'])}**", _md(top["question"])]
    parts.append("\n".join(f"- {_md(name)}: {_md(value)}" for name, value in top["facts"]))
    if results["references"]:
        parts.append(
            "Reference lines: "
            + ", ".join(f"{REFERENCES[k]} {v:.3f}" for k, v in results["references"].items())
            + " bits/byte"
        )
    parts.append(
        "## What to keep in mind\n\n" + "\n".join(f"- {_md(text)}" for text in [*results["notes"], *results["caveats"]])
    )
    for title, table in (("Arms", leaderboard(results)), ("What was equal, what was not", quantities(results))):
        parts.append(f"## {title}\n\n{_md(table.caption)}\n\n{_md_table(table)}")
    return "\n\n".join(parts) + "\n"


def _md(text: str) -> str:
    """Text that Markdown and HTML leave alone."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")


def _md_table(table: Table) -> str:
    lines = [
        "| " + " | ".join(_md(title) for title, _ in table.columns) + " |",
        "|---" + "|---:" * (len(table.columns) - 1) + "|",
    ]
    for row in table.rows:
        lines.append("| " + " | ".join(_md(f"{c.text} ({c.note})" if c.note else c.text) for c in row) + " |")
    return "\n".join(lines)
