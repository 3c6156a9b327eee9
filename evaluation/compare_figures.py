"""The comparison page's figures, in the style of the report's."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from evaluation.compare_page import in_order
from evaluation.figures import (
    _STYLE,
    MARKERS,
    PALETTE,
    Picture,
    _axes,
    _label_room,
    _short,
    _spread,
    _svg,
)

NAMES = {"bpe": "BPE", "superbpe": "SuperBPE", "byte_level": "bytes"}
USUAL = "superbpe_stage1"  # the pretokenizer that goes without saying
SMALLEST = 257  # entries; bytes as they are would only stretch the axes of the curve


def all_figures(results: Mapping[str, Any]) -> dict[str, Picture]:
    """Pictures by name; those without data are left out."""
    with matplotlib.rc_context(_STYLE):
        pictures = {
            "bytes": _bytes(results),
            "stability": _stability(results),
            "curve": _curve(results),
            "published_curve": _published_curve(results),
            "transition": _transition(results),
            "published_transition": _published_transition(results),
        }
    return {name: picture for name, picture in pictures.items() if picture is not None}


def families(results: Mapping[str, Any]) -> dict[str, str]:
    """label → family: tokenizers that differ in vocabulary size alone (SuperBPE: at one share of stage 1)."""
    named = {}
    for label, entry in in_order(results):
        if not entry["made_here"]:
            named[label] = label
            continue
        name = NAMES.get(entry["algorithm"], entry["algorithm"])
        if entry["pretokenizer"] not in (None, USUAL):
            name += f" {entry['pretokenizer'].removesuffix('_stage1').removeprefix(entry['algorithm'])}"
        if entry["vocab_size_at_transition"] is not None:
            name += f" t={entry['vocab_size_at_transition'] / entry['vocabulary']['size']:.0%}"
        named[label] = name
    return named


def _bytes(results: Mapping[str, Any]) -> Picture:
    """Bytes a token of every tokenizer, pooled and by domain."""
    made = dict(in_order(results))
    names = sorted(made, key=lambda label: -made[label]["all"]["bytes_per_token"])
    figure, axes = _axes(7.6, 1.0 + 0.36 * len(names), left=_label_room(names), right=0.97, bottom_in=0.62)
    for row, name in enumerate(names):
        colour, marker = _look(list(made).index(name))
        by_domain = [figures["bytes_per_token"] for figures in made[name]["domains"].values()]
        if len(by_domain) > 1:
            axes.plot([min(by_domain), max(by_domain)], [row] * 2, color=colour, linewidth=1, alpha=0.5)
            axes.plot(by_domain, [row] * len(by_domain), marker="|", linestyle="none", markersize=9, color=colour)
        axes.plot([made[name]["all"]["bytes_per_token"]], [row], marker=marker, markersize=7, color=colour, zorder=5)
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("bytes a token (right: fewer tokens for the same text)")
    several = len(results["text"]["domains"]) > 1
    return Picture(
        "Bytes a token",
        "Marker: all text pooled." + (" Strokes: its domains." if several else ""),
        _svg(figure, "bytes"),
    )


def _stability(results: Mapping[str, Any]) -> Picture | None:
    """Compression against prefix stability at word ends."""
    made = dict(in_order(results))
    points = {
        label: (entry["all"]["bytes_per_token"], entry["all"]["prefix_stability"]["word_end"])
        for label, entry in made.items()
    }
    points = {label: (x, y) for label, (x, y) in points.items() if x is not None and y is not None}
    if len(points) < 2:
        return None
    figure, axes = _axes(
        7.6, max(3.4, 0.75 + 0.2 * len(points)), left=0.09, right=1 - _label_room(points), bottom_in=0.62
    )
    for label, (x, y) in points.items():
        colour, marker = _look(list(made).index(label))
        axes.plot([x], [y], marker=marker, linestyle="none", markersize=7, color=colour)
    axes.margins(x=0.08, y=0.15)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0%}"))
    axes.set_xlabel("bytes a token")
    axes.set_ylabel("prefix stability at word ends")
    _names(axes, {label: (y, _look(list(made).index(label))[0]) for label, (_, y) in points.items()})
    caption = (
        "How often a prompt that ends after a word is cut as the text it begins. What superwords gain in length "
        "they can lose here. Names are level with their markers."
    )
    return Picture("Compression against stable prefixes", caption, _svg(figure, "stability"))


def _curve(results: Mapping[str, Any]) -> Picture | None:
    """Bytes a token against vocabulary size: curves of the first merges, and every tokenizer's own size."""
    made, curves, named = dict(in_order(results)), results["curves"], families(results)
    own: dict[str, list[tuple[float, float]]] = {}
    for label, entry in made.items():
        if entry["vocabulary"]["size"] < SMALLEST:
            continue
        own.setdefault(named[label], []).append((entry["vocabulary"]["size"], entry["all"]["bytes_per_token"]))
    lines = {
        label: [(p["vocabulary"], p["bytes_per_token"]) for p in curves[label]]
        for label in made
        if label in curves and named[label] in own
    }
    if not own or (not lines and not any(len(points) > 1 for points in own.values())):
        return None
    order = list(own)
    height = max(4.0, 0.75 + 0.2 * len(order))
    figure, axes = _axes(5.6, height, left=0.105, right=1 - _label_room(order) * 7.6 / 5.6, bottom_in=0.62)
    for label, points in lines.items():
        axes.plot(*zip(*points), color=_look(order.index(named[label]))[0], linewidth=1.2, alpha=0.85)
    ends = {}
    for index, (family, points) in enumerate(own.items()):
        colour, marker = _look(index)
        points.sort()
        axes.plot(*zip(*points), color=colour, marker=marker, markersize=5, linestyle=(0, (1, 2)), linewidth=1)
        ends[family] = (points[-1][1], colour)
    _log_x(axes, "vocabulary, entries without specials")
    axes.set_ylabel("bytes a token")
    _names(axes, ends)
    caption = (
        "Lines: the first merges of a tokenizer alone (alphabet and merges up to that size). Markers: tokenizers as "
        f"they are, those of one kind joined by dots. Text: {results['text']['name'] or 'the given documents'}."
    )
    return Picture("Compression against vocabulary size: here", caption, _svg(figure, "curve"))


def _published_curve(results: Mapping[str, Any]) -> Picture:
    """The paper's curve, with its own text and vocabularies."""
    published = results["published"]
    columns: dict[str, Sequence[float]] = {name: published["bytes_per_token"][name] for name in published["order"]}
    figure, axes = _axes(5.6, 4.0, left=0.105, right=1 - _label_room(columns) * 7.6 / 5.6, bottom_in=0.62)
    ends = {}
    for index, (name, values) in enumerate(columns.items()):
        colour, marker = _look(index)
        axes.plot(published["merges"], values, color=colour, marker=marker, markersize=4, linewidth=1.2, alpha=0.85)
        ends[name] = (values[-1], colour)
    _log_x(axes, "merges")
    axes.set_ylabel("bytes a token")
    _names(axes, ends)
    caption = f"Not measured here: {published['source']}. {published['text']}. Compare shapes, not heights."
    return Picture("Compression against vocabulary size: published", caption, _svg(figure, "published-curve"))


def _transition(results: Mapping[str, Any]) -> Picture | None:
    """SuperBPE: bytes a token against the share of stage 1, one line a vocabulary size (usual pretokenizer)."""
    sizes: dict[int, list[tuple[float, float]]] = {}
    for entry in dict(in_order(results)).values():
        t, size = entry["vocab_size_at_transition"], entry["vocabulary"]["size"]
        if t is not None and entry["pretokenizer"] == USUAL:
            sizes.setdefault(size, []).append((t / size, entry["all"]["bytes_per_token"]))
    sizes = {size: sorted(points) for size, points in sorted(sizes.items()) if len(points) > 2}
    if not sizes:
        return None
    names = [f"{size:,}" for size in sizes]
    figure, axes = _axes(5.6, 3.4, left=0.105, right=1 - _label_room(names) * 7.6 / 5.6, bottom_in=0.62)
    ends = {}
    for index, (name, points) in enumerate(zip(names, sizes.values())):
        colour, marker = _look(index)
        axes.plot(*zip(*points), color=colour, marker=marker, markersize=5, linewidth=1.2)
        ends[name] = (points[-1][1], colour)
    _share_x(axes)
    _names(axes, ends)
    return Picture(
        "Where stage 2 begins: here",
        "SuperBPE by vocabulary size (named at the right): bytes a token on the text of this page.",
        _svg(figure, "transition"),
    )


def _published_transition(results: Mapping[str, Any]) -> Picture | None:
    if _transition(results) is None:
        return None
    swept = results["published"]["by_transition"]
    figure, axes = _axes(5.6, 3.4, left=0.105, right=1 - _label_room(["200,000"]) * 7.6 / 5.6, bottom_in=0.62)
    colour, marker = _look(0)
    x = [t / swept["merges"] for t in swept["transition"]]
    axes.plot(x, swept["bytes_per_token"], color=colour, marker=marker, markersize=5, linewidth=1.2)
    _share_x(axes)
    _names(axes, {"200,000": (swept["bytes_per_token"][-1], colour)})
    caption = f"Not measured here: {results['published']['source']}. {results['published']['text']}."
    return Picture("Where stage 2 begins: published", caption, _svg(figure, "published-transition"))


def _names(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Names at the right edge, level with their lines' ends or moved apart where these lie close."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top)
    height = axes.get_figure().get_size_inches()[1] * axes.get_position().height  # type: ignore[union-attr]
    order = sorted(ends, key=lambda name: ends[name][0])
    places = _spread([ends[name][0] for name in order], 0.19 / height * (top - bottom), bottom, top)
    for name, y in zip(order, places):
        place = axes.get_yaxis_transform()
        axes.text(1.015, y, _short(name), transform=place, color=ends[name][1], va="center", fontweight="bold")


def _log_x(axes: Axes, label: str) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [m * 10**e for e in range(1, 8) for m in (1, 2, 5) if low <= m * 10**e <= high]
    if len(ticks) > 6:
        ticks = [tick for tick in ticks if not str(tick).startswith("2")]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
    axes.grid(axis="y", color=matplotlib.rcParams["axes.edgecolor"], linewidth=0.4, alpha=0.5)
    axes.set_xlabel(label)


def _share_x(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0%}"))
    axes.margins(y=0.12)
    axes.set_xlabel("entries when stage 2 begins, share of the vocabulary")
    axes.set_ylabel("bytes a token")


def _look(place: int) -> tuple[str, str]:
    return PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
