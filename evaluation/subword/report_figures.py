"""The figures of a task's report, in the style of the other reports."""

from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from evaluation.cells import share
from evaluation.figures import (
    _STYLE,
    FAINT,
    INK,
    Picture,
    _axes,
    _dots,
    _label_room,
    _look,
    _rows,
    _short,
    _spread,
    _svg,
)
from evaluation.stats import INTERVAL
from evaluation.subword.report_tables import best_rule, cut

_DASHED = (0, (4, 3))


def all_figures(results: Mapping[str, Any]) -> dict[str, Picture]:
    """Pictures by name: of the main split and the one it is held against, a curve each, or dots where there is only
    one point."""
    task = results["task"]
    splits = {"main": task["main"], "matched": task["matched"].get(task["main"])}
    with matplotlib.rc_context(_STYLE):
        return {
            f"answers_{name}": _curve(results, split, name) if split in task["curve"] else _last(results, split, name)
            for name, split in splits.items()
            if split
        }


def _curve(results: Mapping[str, Any], split: str, name: str) -> Picture:
    """Share right against training questions on a logarithmic axis; seeds as dots, a line through their means."""
    arms = results["arms"]
    lines = _lines(results, split)
    names = [*arms, *(text for text, _ in lines)]
    figure, axes = _axes(5.6, 3.7, left=0.115, right=1 - _label_room(names) * 7.6 / 5.6, bottom_in=0.62)
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.7)
    points = [int(point) for point in next(iter(arms.values()))["curve"][split]["points"]]
    ends = []
    for place, (arm_name, arm) in enumerate(arms.items()):
        colour, marker = _look(results, arm_name)
        made = [arm["curve"][split]["points"][str(point)] for point in points]
        if any(one is None for one in made):
            continue
        shift = 1.02 ** (place - (len(arms) - 1) / 2)
        places = [point * shift for point in points]
        means = [one["mean"] for one in made]
        axes.plot(places, means, color=colour, linewidth=1.5, alpha=0.85)
        for x, one in zip(places, made):
            values = list(one["values"].values())
            hollow = "none" if arm["rule"] != INTERVAL else colour
            axes.plot(
                [x] * len(values), values, marker=marker, linestyle="none", markersize=4.5, color=colour, alpha=0.8,
                markerfacecolor=hollow,
            )  # fmt: skip
        ends.append((means[-1], _short(arm_name), colour, "bold"))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(points))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _thousands(x)))
    axes.set_xlim(points[0] * 0.9, points[-1] * 1.1)
    _shares(axes, lines)
    for text, value in lines:
        axes.axhline(value, color=FAINT, linewidth=1, linestyle=_DASHED, zorder=0)
        ends.append((value, text, INK, "normal"))
    ends.sort(key=lambda end: (end[0], end[1]))
    bottom, top = axes.get_ylim()
    for (_, text, colour, weight), y in zip(
        ends, _spread([end[0] for end in ends], 0.07 * (top - bottom), bottom, top)
    ):
        axes.text(1.015, y, text, transform=axes.get_yaxis_transform(), color=colour, va="center", fontweight=weight)
    axes.set_xlabel("training questions (logarithmic)")
    axes.set_ylabel("share answered right")
    n = results["task"]["curve"][split]["questions"]
    caption = (
        f"Dots are seeds, lines join means; the same {n:,} questions at every point."
        + (" Dashed: without a model." if lines else "")
        + _hollow(results)
    )
    return Picture(_title(results, split), caption, _svg(figure, f"answers-{name}"))


def _last(results: Mapping[str, Any], split: str, name: str) -> Picture:
    """Share right at the only point; seeds as dots, bars are intervals over seeds."""
    arms, task = results["arms"], results["task"]
    names = list(arms)
    figure, axes = _axes(7.6, 1.3 + 0.42 * len(names), left=_label_room(names), right=0.97, bottom_in=0.62, top_in=0.5)
    for row, arm_name in enumerate(names):
        made = arms[arm_name]["points"][str(task["last"])][split][task["measure"]]
        if made is None:
            continue
        colour, marker = _look(results, arm_name)
        if interval := cut(made["interval"]):
            axes.plot(interval, [row] * 2, color=colour, linewidth=2.2, alpha=0.45, solid_capstyle="butt")
        _dots(axes, list(made["values"].values()), row, colour, marker, hollow=arms[arm_name]["rule"] != INTERVAL)
    _rows(axes, results, names)
    lines = sorted(_lines(results, split), key=lambda line: line[1])
    values = [value for _, value in lines]
    low, high = axes.get_xlim()
    low, high = min([low, *(value - 0.02 for value in values)]), max([high, *(value + 0.02 for value in values)])
    axes.set_xlim(low, high)
    for (text, value), x in zip(lines, _spread(values, 0.24 * (high - low), low, high)):
        axes.axvline(value, color=FAINT, linewidth=1, linestyle=_DASHED, zorder=0)
        axes.annotate(
            f"{text}\n{share(value)}",
            (value, 1),
            (x, 1.04),
            xycoords=axes.get_xaxis_transform(),
            textcoords=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=9,
            linespacing=1.2,
        )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}%"))
    axes.set_xlabel("share answered right (right is better)")
    caption = (
        "Dots are seeds, bars 95% intervals over seeds, cut at 0 and 100%."
        + (" Dashed: without a model." * bool(lines))
        + _hollow(results)
    )
    return Picture(_title(results, split), caption, _svg(figure, f"answers-{name}"))


def _lines(results: Mapping[str, Any], split: str) -> list[tuple[str, float]]:
    """Chance and the best rule that does not read the question; one line where they are equal."""
    task = results["task"]
    chance = task["asked"][str(task["last"])][split]["chance"] if task["measure"] == "acc" else None
    rule = best_rule(results, split)
    lines = [] if chance is None else [("chance", float(chance))]
    if rule is not None and (chance is None or abs(rule[1] - chance) > 0.005):
        lines.append((_short(rule[0]), rule[1]))
    return lines


def _shares(axes: Axes, lines: list[tuple[str, float]]) -> None:
    """A vertical axis of shares that shows the dashed lines."""
    bottom, top = axes.get_ylim()
    values = [value for _, value in lines]
    bottom, top = min([bottom, *(v - 0.03 for v in values)]), max([top, *(v + 0.03 for v in values)])
    axes.set_ylim(max(bottom, -0.02), min(top, 1.02))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f}%"))


def _title(results: Mapping[str, Any], split: str) -> str:
    task = results["task"]
    return f"{split}, the main split" if split == task["main"] else f"{split}, in the training distribution"


def _hollow(results: Mapping[str, Any]) -> str:
    few = any(arm["rule"] != INTERVAL for arm in results["arms"].values())
    return " Hollow: too few seeds for an interval." if few else ""


def _thousands(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
