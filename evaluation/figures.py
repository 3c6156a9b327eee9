"""The report's figures as inline SVG: text stays text, colours follow the page's theme, equal input, equal bytes."""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation import tables
from evaluation.cells import signed, span
from evaluation.curves import Curve, Curves
from evaluation.document_tables import position_names
from evaluation.gather import BITS_PER_BYTE, REFERENCES
from evaluation.stats import INTERVAL

# After Okabe and Ito's colour-blind-safe colours, darkened or lightened for contrast with the page.
# Markers tell arms apart without colour.
PALETTE = ("#0067a5", "#c2510a", "#00785a", "#a8467f", "#8a6a00", "#5b5fc7", "#7a3b12", "#4b6a88")
PALETTE_DARK = ("#5cb3f0", "#ff9a5c", "#3fcf9f", "#f08cc4", "#e3bb4a", "#a9abff", "#d9a07a", "#a3c1dd")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
# Replaced by theme variables in the finished SVG, so each must be a colour that nothing else uses.
INK, FAINT, BAND = "#1c1e21", "#9a9da3", "#e4e6ea"
_THEME = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    BAND: "var(--band)",
    **{c: f"var(--c{i})" for i, c in enumerate(PALETTE)},
}

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "isotok",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Picture:
    title: str
    caption: str
    svg: str


def all_figures(results: Mapping[str, Any], curves: Curves) -> dict[str, Picture]:
    """Pictures by name; those without data are left out."""
    with matplotlib.rc_context(_STYLE):
        pictures = {
            "forest": _forest(results),
            "runs": _runs(results),
            "cost_prefill": _cost(results, "prefill"),
            "cost_decode": _cost(results, "decode"),
            "domains": _domains(results),
            "positions": _positions(results),
        }
        for x, index in (("flops", 0), ("bytes", 1)):
            for part in ("validation", "train"):
                pictures[f"{part}_{x}"] = _learning(results, curves, part, x, index)
    return {name: picture for name, picture in pictures.items() if picture is not None}


def _forest(results: Mapping[str, Any]) -> Picture | None:
    """Δ bits per byte to the baseline with its interval; every seed a dot (seed value minus the baseline's mean)."""
    arms, baseline = results["arms"], results["baseline"]
    base_mean = arms[baseline]["bits_per_byte"]["mean"]
    names = [baseline, *(name for name in tables.by_mean(results) if name != baseline)]
    figure, axes = _axes(7.6, 1.15 + 0.62 * len(names), left=_label_room(names), right=0.71, bottom_in=0.62)
    smallest = (results["endpoint"] or {}).get("smallest_difference") if _about_bits(results) else None
    if smallest:
        axes.axvspan(-smallest, smallest, color=BAND, linewidth=0, zorder=0)
    axes.axvline(0, color=FAINT, linewidth=1, zorder=1)
    for row, name in enumerate(names):
        colour, marker = _look(results, name)
        values = [value - base_mean for value in arms[name]["bits_per_byte"]["values"].values()]
        _dots(axes, values, row - 0.16, colour, marker, hollow=arms[name]["rule"] != INTERVAL)
        entry = tables.against_baseline(results, BITS_PER_BYTE, name)
        if entry is None:
            text = "baseline"
        elif entry["interval"] is None:
            text = entry["rule"]
        else:
            low, high = entry["interval"]
            axes.plot([low, high], [row + 0.12] * 2, color=colour, linewidth=2.2, solid_capstyle="butt", zorder=3)
            axes.plot(
                [entry["delta"]], [row + 0.12], marker="|", markersize=13, markeredgewidth=2.2, color=colour, zorder=4
            )
            text = f"{signed(entry['delta'])} {span(entry['interval'])}\n{tables.verdict(entry)}"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=10, linespacing=1.35)
    _rows(axes, results, names)
    axes.set_xlabel(f"Δ bits per byte to {_short(baseline)} (left is better)")
    caption = (
        "Dots are seeds: each seed's value minus the baseline's mean. Bars: 95% intervals of Δ over seeds and text. "
        + (f"The band is ±{smallest:g}, the smallest difference that matters. " if smallest else "")
        + "Hollow dots: too few seeds for an interval."
    )
    return Picture("Difference to the baseline", caption, _svg(figure, "forest"))


def _runs(results: Mapping[str, Any]) -> Picture | None:
    """Bits per byte of every run, with models that need no training beside them."""
    arms, references = results["arms"], results["references"]
    names = tables.by_mean(results)
    figure, axes = _axes(
        7.6, 1.25 + 0.42 * len(names), left=_label_room(names), right=0.98, bottom_in=0.62, top_in=0.62
    )
    for row, name in enumerate(names):
        colour, marker = _look(results, name)
        estimate = arms[name]["bits_per_byte"]
        if estimate["interval"]:
            axes.plot(estimate["interval"], [row] * 2, color=colour, linewidth=2.2, alpha=0.45, solid_capstyle="butt")
        _dots(axes, list(estimate["values"].values()), row, colour, marker)
    for value in references.values():
        axes.axvline(value, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    _rows(axes, results, names)
    low, high = axes.get_xlim()
    order = sorted(references, key=lambda name: references[name])
    for name, x in zip(order, _spread([references[name] for name in order], 0.2 * (high - low), low, high)):
        text = f"{REFERENCES[name]}\n{references[name]:.2f}"
        axes.annotate(
            text,
            (references[name], 1),
            (x, 1.04),
            xycoords=axes.get_xaxis_transform(),
            textcoords=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=9,
            linespacing=1.25,
        )
    axes.set_xlabel("bits per byte on held-out text (left is better)")
    return Picture(
        "Every run beside the reference lines",
        "Dots are seeds, bars 95% intervals over seeds. Dashed: models without training, on the same documents.",
        _svg(figure, "runs"),
    )


def _learning(results: Mapping[str, Any], curves: Curves, part: str, x: str, index: int) -> Picture | None:
    """Bits per byte against FLOPs or bytes of text, one line a seed."""
    lines: dict[str, list[tuple[tuple[float, float, float], ...]]] = {
        name: [points for points in (_points(curve, part) for curve in arm) if points] for name, arm in curves.items()
    }
    lines = {name: arm for name, arm in lines.items() if arm}
    if not lines:
        return None
    names = list(lines)
    figure, axes = _axes(
        5.6, 3.6, left=0.105, right=1 - _label_room([*names, "byte unigram"]) * 7.6 / 5.6, bottom_in=0.62
    )
    ends, early = {}, []
    for name, arm in lines.items():
        colour, marker = _look(results, name)
        for points in arm:
            axes.plot([p[index] for p in points], [p[2] for p in points], color=colour, linewidth=1.2, alpha=0.8)
            axes.plot([points[-1][index]], [points[-1][2]], marker=marker, markersize=4, color=colour)
            early.append(next((p[2] for p in points if p[0] >= 0.12 * points[-1][0]), points[0][2]))
        ends[name] = sum(points[-1][2] for points in arm) / len(arm)
    finals = [points[-1][2] for arm in lines.values() for points in arm]
    lowest, highest = min(finals), max(max(early), max(finals))
    room = max(highest - lowest, 0.02)
    axes.set_ylim(lowest - 0.12 * room, highest + 0.08 * room)
    axes.set_xlim(left=0)
    bottom, top = axes.get_ylim()
    labels = [(y, _short(name), _look(results, name)[0], "bold") for name, y in ends.items()]
    for name, value in results["references"].items():
        if bottom < value < top:
            axes.axhline(value, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
            labels.append((value, REFERENCES[name], INK, "normal"))
    labels.sort()
    places = _spread([label[0] for label in labels], 0.066 * (top - bottom), bottom, top)
    for (_, text, colour, weight), y in zip(labels, places):
        axes.text(1.015, y, text, transform=axes.get_yaxis_transform(), color=colour, va="center", fontweight=weight)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(_scaled(axes.get_xlim()[1]))
    axes.set_xlabel("training FLOPs, full T² attention" if x == "flops" else "bytes of text trained on")
    axes.set_ylabel("bits per byte")
    what = "Validation text" if part == "validation" else "Training text, mean of neighbouring steps"
    by = "training FLOPs" if x == "flops" else "bytes of text"
    note = "" if part == "validation" else " Its nats include end-of-text."
    cut = "The first eighth is cut off above. Dashed: on the test documents."
    caption = f"{what}, one line a seed. {cut}{note}" + _outside(results["references"], bottom, top)
    return Picture(
        f"{'Validation' if part == 'validation' else 'Training'} loss against {by}",
        caption,
        _svg(figure, f"{part}-{x}"),
    )


def _cost(results: Mapping[str, Any], kind: str) -> Picture | None:
    """Test bits per byte against inference FLOPs a byte."""
    arms = results["arms"]
    costs = {name: arm["quantities"][f"inference_flops_per_byte_{kind}"] for name, arm in arms.items()}
    if any(cost is None for cost in costs.values()):
        return None
    figure, axes = _axes(5.6, 3.4, left=0.115, right=0.97, bottom_in=0.62)
    for name, cost in costs.items():
        colour, marker = _look(results, name)
        values = list(arms[name]["bits_per_byte"]["values"].values())
        axes.plot([cost] * len(values), values, marker=marker, linestyle="none", color=colour, markersize=6, alpha=0.75)
    axes.margins(x=0.3, y=0.18)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 0) if low < 0 else low, high)
    bottom, top = axes.get_ylim()
    low, high = axes.get_xlim()
    # Names to the right of their dots, moved apart where arms lie close.
    order = tables.by_mean(results)
    heights = _spread([arms[name]["bits_per_byte"]["mean"] for name in order], 0.08 * (top - bottom), bottom, top)
    for name, y in zip(order, heights):
        x = costs[name] + 0.03 * (high - low)
        axes.text(x, y, _short(name), color=_look(results, name)[0], ha="left", va="center", fontweight="bold")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(_scaled(axes.get_xlim()[1]))
    axes.set_xlabel(f"inference FLOPs a byte, {'prefill' if kind == 'prefill' else 'decoding'}")
    axes.set_ylabel("bits per byte, test text")
    title = "Loss against the cost of reading" if kind == "prefill" else "Loss against the cost of writing"
    return Picture(
        title,
        "Dots are seeds. Lower and further left is better. FLOPs are computed, not measured speed.",
        _svg(figure, f"cost-{kind}"),
    )


def _domains(results: Mapping[str, Any]) -> Picture | None:
    """Δ to the baseline by domain: seeds as dots."""
    arms, baseline = results["arms"], results["baseline"]
    names = list(next(iter(arms.values()))["domains"])
    others = [name for name in arms if name != baseline]
    if len(names) < 2 or not others:
        return None
    step = 0.74 / len(others)
    figure, axes = _axes(
        7.6,
        1.2 + (0.2 + 0.21 * len(others)) * len(names),
        left=_label_room(names),
        right=0.98,
        bottom_in=0.62,
        top_in=0.4,
    )
    axes.axvline(0, color=FAINT, linewidth=1, zorder=1)
    for row, domain in enumerate(names):
        base_mean = arms[baseline]["domains"][domain]["mean"]
        for place, name in enumerate(others):
            colour, marker = _look(results, name)
            y = row + (place - (len(others) - 1) / 2) * step
            values = [value - base_mean for value in arms[name]["domains"][domain]["values"].values()]
            _dots(axes, values, y, colour, marker, label=_short(name) if row == 0 else None)
            entry = tables.against_baseline(results, BITS_PER_BYTE, name, domain)
            if entry and entry["interval"]:
                axes.plot(entry["interval"], [y] * 2, color=colour, linewidth=2, alpha=0.45, solid_capstyle="butt")
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=min(4, len(others)),
        frameon=False,
        fontsize=10,
        handletextpad=0.2,
        borderaxespad=0,
    )
    axes.set_xlabel(f"Δ bits per byte to {_short(baseline)} (left is better)")
    caption = (
        "Dots are seeds: each seed's value minus the baseline's mean in that domain. "
        "Bars are 95% intervals of Δ, one domain at a time."
    )
    return Picture("Difference to the baseline by domain", caption, _svg(figure, "domains"))


def _positions(results: Mapping[str, Any]) -> Picture | None:
    """Bits per byte against how much of the document came before: seeds as dots, a line through their means."""
    arms = results["arms"]
    bins = position_names(results)
    if len(bins) < 2:
        return None
    figure, axes = _axes(7.6, 3.2, left=0.1, right=1 - _label_room(arms), bottom_in=0.62)
    step = min(0.09, 0.5 / len(arms))
    for place, (name, arm) in enumerate(arms.items()):
        colour, marker = _look(results, name)
        shift = (place - (len(arms) - 1) / 2) * step
        xs = [i + shift for i in range(len(bins))]
        axes.plot(xs, [arm["positions"][b]["mean"] for b in bins], color=colour, linewidth=1.2, alpha=0.8)
        for x, b in zip(xs, bins):
            values = list(arm["positions"][b]["values"].values())
            axes.plot([x] * len(values), values, marker=marker, linestyle="none", markersize=5, color=colour, alpha=0.8)
    bottom, top = axes.get_ylim()
    ends = sorted((arm["positions"][bins[-1]]["mean"], name) for name, arm in arms.items())
    heights = _spread([y for y, _ in ends], 0.075 * (top - bottom), bottom, top)
    for (_, name), y in zip(ends, heights):
        colour = _look(results, name)[0]
        axes.text(
            1.015, y, _short(name), transform=axes.get_yaxis_transform(), color=colour, va="center", fontweight="bold"
        )
    axes.set_xticks(range(len(bins)), bins)
    axes.set_xlabel("bytes of the document before the scored byte")
    axes.set_ylabel("bits per byte")
    caption = "Dots are seeds, lines join means. The same bytes for every arm in each bin; k is 1,024 bytes."
    return Picture("How the score depends on how much text came before", caption, _svg(figure, "positions"))


def _axes(
    width: float, height: float, *, left: float, right: float, bottom_in: float, top_in: float = 0.12
) -> tuple[Figure, Axes]:
    """A figure of inches with one pair of axes; left and right are shares of the width."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left, bottom_in / height, right - left, 1 - (bottom_in + top_in) / height))
    axes.grid(axis="x", color=BAND, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _dots(
    axes: Axes,
    values: Sequence[float],
    y: float,
    colour: str,
    marker: str,
    *,
    hollow: bool = False,
    label: str | None = None,
) -> None:
    axes.plot(
        values,
        [y] * len(values),
        marker=marker,
        linestyle="none",
        markersize=6,
        color=colour,
        alpha=0.85,
        markerfacecolor="none" if hollow else colour,
        label=label,
        zorder=5,
    )


def _rows(axes: Axes, results: Mapping[str, Any], names: Sequence[str]) -> None:
    """One named row an arm, first on top."""
    axes.set_yticks(range(len(names)), [_short(name) for name in names], fontweight="bold")
    for label, name in zip(axes.get_yticklabels(), names):
        label.set_color(_look(results, name)[0])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)


def _look(results: Mapping[str, Any], name: str) -> tuple[str, str]:
    place = list(results["arms"]).index(name)
    return PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]


def _about_bits(results: Mapping[str, Any]) -> bool:
    return bool(results["endpoint"]) and results["endpoint"]["metric"] == BITS_PER_BYTE


def _points(curve: Curve, part: str) -> tuple[tuple[float, float, float], ...]:
    return curve.validation if part == "validation" else curve.train


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"


def _label_room(names: Iterable[str]) -> float:
    """Share of a 7.6 inch figure that the longest name needs."""
    return 0.03 + 0.0145 * max(5, max(len(_short(name)) for name in names))


def _outside(references: Mapping[str, float], bottom: float, top: float) -> str:
    outside = [f"{REFERENCES[name]} {value:.2f}" for name, value in references.items() if not bottom < value < top]
    return f" Reference lines beyond the axis: {', '.join(outside)}." if outside else ""


def _spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places moved apart to at least `gap`, within [low, high] where they fit."""
    moved = list(places)
    for _ in range(100):
        for i in range(1, len(moved)):
            lack = gap - (moved[i] - moved[i - 1])
            if lack > 1e-9:
                moved[i - 1] -= lack / 2
                moved[i] += lack / 2
        if moved:
            moved[0] = max(moved[0], low)
            moved[-1] = min(moved[-1], high)
    return moved


def _scaled(largest: float) -> Callable[[float, float], str]:
    """Tick labels such as 1.5 × 10¹² without mathtext."""
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    if 0 <= exponent < 3:
        return lambda x, _: f"{x:g}"
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return lambda x, _: "0" if x == 0 else f"{x / 10**exponent:g}×10{raised}"


def _svg(figure: Figure, name: str) -> str:
    """Inline SVG: ids made unique on the page, no metadata, no namespaces, page fonts, theme colours."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()  # type: ignore[union-attr]
    svg = re.sub(
        r"<svg[^>]*>", f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="caption-{name}">', svg, count=1
    )
    svg = re.sub(r'(\sid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"font: ([\w ]*?[\d.]+px) [^;\"]*", r"font: \1 var(--sans)", svg)
    for colour, variable in _THEME.items():
        svg = svg.replace(f": {colour}", f": {variable}")
    return re.sub(r"\s+\n", "\n", svg).strip()
