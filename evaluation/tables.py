"""The report's tables as plain data, shared by the HTML page and the Markdown file, and how numbers are written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.caveats import version_differences
from evaluation.gather import BITS_PER_BYTE
from evaluation.stats import A_BETTER, B_BETTER, INTERVAL

MISSING = "–"
NEARLY_EQUAL = 1.01


@dataclass(frozen=True)
class Cell:
    text: str
    sort: float | str | None = None
    muted: bool = False
    link: str = ""
    note: str = ""
    """A second, smaller line."""


@dataclass(frozen=True)
class Table:
    """`columns` are (title, hint); the first column names the row. `numeric` columns are set right."""

    caption: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    sortable: bool = False
    numeric: bool = True


def number(value: float | None, digits: int = 3) -> str:
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    return MISSING if value is None else f"{value:+.{digits}f}".replace("-", "−")


def count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1%}"


def power(value: float | None) -> str:
    """1.23 × 10¹²"""
    if value is None:
        return MISSING
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def span(interval: Sequence[float] | None, digits: int = 3, write: Callable[[float | None, int], str] = signed) -> str:
    return MISSING if interval is None else f"[{write(interval[0], digits)}, {write(interval[1], digits)}]"


def all_tables(results: Mapping[str, Any]) -> dict[str, Table]:
    return {
        "leaderboard": leaderboard(results),
        "comparisons": comparisons(results),
        "quantities": quantities(results),
        "domains": domain_table(results),
        "tasks": task_table(results),
        "falling": falling(results),
        "differences": differences(results),
        "versions": versions(results),
        "manifests": manifests(results),
    }


def top_box(results: Mapping[str, Any]) -> dict[str, Any]:
    """The primary endpoint in words and numbers."""
    primary = next((c for c in results["comparisons"] if c["kind"] == "primary"), None)
    noise = [
        (f"A/A: {c['arms'][0]} against {c['arms'][1]}", f"{signed(c['delta'])} {span(c['interval'])}, {verdict(c)}")
        for c in results["comparisons"]
        if c["kind"] == "A/A"
    ]
    if primary is None:
        return {
            "verdict": "no primary endpoint was declared",
            "tone": "open",
            "question": "Everything below is exploratory.",
            "facts": noise,
        }
    a, b = primary["arms"]
    direction = "lower" if results["endpoint"]["lower_is_better"] else "higher"
    facts = [("Δ = A − B", f"{signed(primary['delta'])} {unit(primary['metric'])}")]
    if primary["rule"] == INTERVAL:
        facts += [
            ("95% interval over seeds and test text", span(primary["interval"])),
            ("degrees of freedom", number(primary["df"], 1)),
            (
                "standard error",
                f"{number(primary['se_seeds'], 4)} from seeds, {number(primary['se_items'], 4)} from test text",
            ),
            ("minimum detectable difference (power .8)", number(primary["minimum_detectable"])),
            ("p", number(primary["p"])),
        ]
    else:
        facts += [("seeds", primary["rule"]), ("range over pairs of seeds", span(primary["range"]))]
    if primary["smallest_difference"]:
        facts.append(("smallest difference that matters (δ)", f"{primary['smallest_difference']:g}"))
        if primary["p_equivalence"] is not None:
            facts.append(("p of equivalence within ±δ (TOST)", number(primary["p_equivalence"])))
    facts.append(("seeds", f"{len(primary['values_a'])} and {len(primary['values_b'])}"))
    facts.append(("groups of test text", f"{primary['groups']}" + (" (few clusters)" if primary["few_groups"] else "")))
    text = verdict(primary)
    return {
        "verdict": text if primary["rule"] == INTERVAL else f"{text}: {primary['rule']}",
        "tone": "clear" if primary["verdict"] != "cannot tell" else "open",
        "question": f"Primary endpoint: {metric_name(primary['metric'])} ({direction} is better), A = {a}, B = {b}.",
        "facts": facts + noise,
    }


def verdict(comparison: Mapping[str, Any]) -> str:
    """The verdict with the arm's name in it."""
    a, b = comparison["arms"]
    named: str = {A_BETTER: f"{a} better", B_BETTER: f"{b} better"}.get(comparison["verdict"], comparison["verdict"])
    return named


def metric_name(metric: str) -> str:
    if metric == BITS_PER_BYTE:
        return "bits per byte on held-out text"
    task, _, measure = metric.rpartition(".")
    names = {
        "acc": "accuracy",
        "acc_bytes": "accuracy per byte",
        "gold_bits_per_byte": "bits per byte of the gold answer",
    }
    return f"{task}, {names[measure]}"


def unit(metric: str) -> str:
    return "bits/byte" if metric.endswith(BITS_PER_BYTE) else "of items"


def against_baseline(
    results: Mapping[str, Any], metric: str, arm: str, domain: str | None = None
) -> dict[str, Any] | None:
    """The comparison arm − baseline, also where the endpoint declared it the other way round."""
    for entry in results["comparisons"]:
        if entry["metric"] != metric or entry["domain"] != domain or entry["kind"] == "A/A":
            continue
        if entry["arms"] == [arm, results["baseline"]]:
            return dict(entry)
        if entry["arms"] == [results["baseline"], arm]:
            turned = dict(entry, arms=[arm, results["baseline"]], delta=-entry["delta"])
            turned.update(values_a=entry["values_b"], values_b=entry["values_a"])
            for key in ("interval", "range"):
                turned[key] = entry[key] and [-entry[key][1], -entry[key][0]]
            turned["verdict"] = {A_BETTER: B_BETTER, B_BETTER: A_BETTER}.get(entry["verdict"], entry["verdict"])
            return turned
    return None


def by_mean(results: Mapping[str, Any]) -> list[str]:
    """Arm names by mean bits per byte. An order to read by, not a ranking."""
    return sorted(results["arms"], key=lambda name: (results["arms"][name]["bits_per_byte"]["mean"], name))


def leaderboard(results: Mapping[str, Any]) -> Table:
    task_names = list(next(iter(results["arms"].values()))["tasks"])
    chances = next(iter(results["arms"].values()))["tasks"]
    columns = [
        ("arm", ""),
        ("bits/byte", "mean over seeds, 95% interval over seeds"),
        ("Δ to baseline", f"minus {results['baseline']}, 95% interval over seeds and test text"),
        ("verdict", "Holm-adjusted over the exploratory rows"),
        ("each seed", "bits/byte"),
        *((task, f"chance {share(chances[task]['chance'])}") for task in task_names),
        ("bytes/token", "on test text"),
        ("FLOPs/byte", "inference, decoding"),
    ]
    rows = []
    for name in by_mean(results):
        arm = results["arms"][name]
        estimate, spent = arm["bits_per_byte"], arm["quantities"]
        half = None if estimate["interval"] is None else (estimate["interval"][1] - estimate["interval"][0]) / 2
        difference = against_baseline(results, BITS_PER_BYTE, name)
        rows.append(
            (
                Cell(name, name, note="baseline" if name == results["baseline"] else ""),
                Cell(
                    number(estimate["mean"]),
                    estimate["mean"],
                    note=arm["rule"] if half is None else f"± {number(half)}",
                ),
                *_difference_cells(difference),
                Cell(" · ".join(number(value) for value in estimate["values"].values()), estimate["mean"]),
                *(_accuracy(arm["tasks"][task]) for task in task_names),
                Cell(number(spent["bytes_per_token"], 2), spent["bytes_per_token"]),
                Cell(power(spent["inference_flops_per_byte_decode"]), spent["inference_flops_per_byte_decode"]),
            )
        )
    return Table(
        "Ordered by mean bits per byte. The order is for reading and is no ranking: only the column “verdict” says "
        "which differences are more than noise. Grey accuracies have an interval that covers chance.",
        tuple(columns),
        tuple(rows),
        sortable=True,
    )


def comparisons(results: Mapping[str, Any]) -> Table:
    rows = []
    for entry in results["comparisons"]:
        label = f"{entry['arms'][0]} − {entry['arms'][1]}"
        what = metric_name(entry["metric"]) + (f", {entry['domain']}" if entry["domain"] else "")
        rows.append(
            (
                Cell(what, what),
                Cell(label, label),
                Cell(entry["kind"], entry["kind"]),
                Cell(signed(entry["delta"]), entry["delta"]),
                Cell(span(entry["interval"]) if entry["interval"] else f"{entry['rule']} {span(entry['range'])}"),
                Cell(number(entry["df"], 1), entry["df"]),
                Cell(number(entry["se_seeds"], 4), entry["se_seeds"]),
                Cell(number(entry["se_items"], 4), entry["se_items"]),
                Cell(number(entry["minimum_detectable"]), entry["minimum_detectable"]),
                Cell(number(entry["p"]), entry["p"]),
                Cell(number(entry["p_holm"]), entry["p_holm"]),
                Cell(verdict(entry), verdict(entry)),
            )
        )
    hints = (
        ("metric", ""), ("difference", ""), ("kind", ""), ("Δ", ""), ("95% interval", "one comparison at a time"),
        ("df", ""), ("SE seeds", ""), ("SE items", ""), ("detectable", "power .8"), ("p", ""),
        ("p Holm", "within its table"), ("verdict", ""),
    )  # fmt: skip
    return Table("Every comparison that was computed.", hints, tuple(rows), sortable=True)


def quantities(results: Mapping[str, Any]) -> Table:
    """What is equal and what is not: one row a quantity, one column an arm."""
    lines: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
        ("training FLOPs, full T² attention", "flops", power),
        ("training FLOPs, causal ½T²", "flops_causal", power),
        ("training FLOPs, SuperBPE's published formula", "flops_published", power),
        ("tokens trained on", "tokens", count),
        ("bytes of text trained on", "bytes", count),
        ("unique bytes among them", "unique_bytes", count),
        ("passes over the text", "passes", lambda v: number(v, 2)),
        ("optimizer steps", "steps", count),
        ("target tokens an update", "targets_per_update", count),
        ("parameters, total", "parameters_total", count),
        ("parameters, body", "parameters_body", count),
        ("head's share of forward FLOPs", "head_share", share),
        ("context, bytes", "context_bytes", count),
        ("context, tokens", "context_tokens", count),
        ("learning rate", "lr", lambda v: MISSING if v is None else f"{v:g}"),
        ("inference FLOPs a byte, prefill", "inference_flops_per_byte_prefill", power),
        ("inference FLOPs a byte, decoding", "inference_flops_per_byte_decode", power),
        ("vocabulary size", "vocabulary_size", count),
        ("vocabulary used on test text", "vocabulary_used", count),
        ("superwords among test tokens", "superword_share", share),
        ("bytes a token on test text", "bytes_per_token", lambda v: number(v, 2)),
        ("test documents", "test_documents", count),
        ("groups held out for test", "test_groups", count),
        ("test shingles found in training text", "leak_share", lambda v: MISSING if v is None else f"{v:.2%}"),
    )
    arms = results["arms"]
    rows = []
    for title, key, write in lines:
        values = [arm["quantities"][key] for arm in arms.values()]
        rows.append((Cell(title), *(Cell(write(value)) for value in values), _spread(values)))
    walls = [
        [
            results["timing"][f"{name}/{seed}"].get("wall_s")
            or results["timing"][f"{name}/{seed}"].get("pretrain_wall_s")
            for seed in arm["seeds"]
        ]
        for name, arm in arms.items()
    ]
    means = [None if None in wall else sum(wall) / len(wall) for wall in walls]
    rows.append((Cell("wall time of training, s a run"), *(Cell(count(value)) for value in means), _spread(means)))
    return Table(
        "One quantity can be held equal; the others follow. Means over seeds. Last column: largest over smallest.",
        (("quantity", ""), *((name, "") for name in arms), ("spread", "largest / smallest")),
        tuple(rows),
    )


def domain_table(results: Mapping[str, Any]) -> Table:
    arms = results["arms"]
    rows = []
    for domain in next(iter(arms.values()))["domains"]:
        cells = [Cell(domain)]
        for name, arm in arms.items():
            difference = against_baseline(results, BITS_PER_BYTE, name, domain)
            note = (
                "baseline" if difference is None else f"Δ {signed(difference['delta'])} {span(difference['interval'])}"
            )
            cells.append(Cell(number(arm["domains"][domain]["mean"]), arm["domains"][domain]["mean"], note=note))
        rows.append(tuple(cells))
    return Table(
        "Bits per byte by domain, mean over seeds; below it Δ to the baseline with its 95% interval (exploratory).",
        (("domain", ""), *((name, "") for name in arms)),
        tuple(rows),
        sortable=True,
    )


def task_table(results: Mapping[str, Any]) -> Table:
    rows = []
    for name, arm in results["arms"].items():
        for task, row in arm["tasks"].items():
            difference = against_baseline(results, f"{task}.gold_bits_per_byte", name)
            rows.append(
                (
                    Cell(task, task, note=f"{row['scoring']} scoring, version {row['version']}"),
                    Cell(name, name),
                    Cell(count(row["n"]), row["n"]),
                    Cell(share(row["chance"]), row["chance"]),
                    _accuracy(row),
                    Cell(share(row["acc"]["mean"]), row["acc"]["mean"], muted=row["at_chance"]),
                    Cell(number(row["gold_bits_per_byte"]["mean"]), row["gold_bits_per_byte"]["mean"]),
                    *_difference_cells(difference),
                )
            )
    columns = (
        ("task", ""), ("arm", ""), ("items", ""), ("chance", ""),
        ("accuracy per byte", "95% interval over seeds and items"), ("accuracy", "raw likelihood"),
        ("gold bits/byte", "lower is better"), ("Δ gold bits/byte", "minus the baseline"), ("verdict", "Holm"),
    )  # fmt: skip
    return Table(
        "Grey: the interval covers chance, or there are too few seeds for one. No mean over tasks is formed.",
        columns,
        tuple(rows),
        sortable=True,
    )


def falling(results: Mapping[str, Any]) -> Table:
    rows = []
    for name, arm in results["arms"].items():
        state = arm["loss_falling"]
        word = {None: MISSING, True: "still falling", False: "levelled off"}[state["falling"]]
        rows.append((Cell(name), Cell(number(state["fall"])), Cell(share(state["relative"])), Cell(word)))
    return Table(
        "Fall of validation bits per byte over the last fifth of training. A learning rate that decays to its end makes"
        " curves fall late; an arm that still falls by more than 1% would gain from a larger budget.",
        (("arm", ""), ("fall", "bits/byte"), ("of the final value", ""), ("reading", "")),
        tuple(rows),
    )


def differences(results: Mapping[str, Any]) -> Table:
    rows = [
        (
            Cell(row["key"]),
            *(
                _setting(row["values"][name], row["values"][results["baseline"]], name == results["baseline"])
                for name in results["arms"]
            ),
        )
        for row in results["provenance"]["config_differences"]
    ]
    return Table(
        f"Settings that differ from {results['baseline']}, all stages. Grey: as the baseline.",
        (("setting", ""), *((name, "") for name in results["arms"])),
        tuple(rows),
        numeric=False,
    )


def versions(results: Mapping[str, Any]) -> Table:
    mixed = set(version_differences(results))
    rows = [
        (Cell(name), Cell(", ".join(values)), Cell("differs between runs" if name in mixed else ""))
        for name, values in results["provenance"]["versions"].items()
    ]
    return Table(
        "Code, packages and machine of all runs.", (("what", ""), ("version", ""), ("", "")), tuple(rows), numeric=False
    )


def manifests(results: Mapping[str, Any]) -> Table:
    links = results["provenance"]["manifests"]
    stages = list(next(iter(links.values())))
    rows = []
    for key, row in links.items():
        arm, _, seed = key.rpartition("/")
        rows.append((Cell(f"{arm}, seed {seed}"), *(Cell(stage, link=row[stage]) for stage in stages)))
    return Table(
        "The manifest of every artefact: full configuration, inputs, versions, wall time.",
        (("run", ""), *((stage, "") for stage in stages)),
        tuple(rows),
        numeric=False,
    )


def markdown(results: Mapping[str, Any]) -> str:
    """The top of the report as Markdown."""
    top = top_box(results)
    parts = [f"# {_md(results['title'])}", f"**{_md(top['verdict'])}**", _md(top["question"])]
    parts.append("\n".join(f"- {_md(name)}: {_md(value)}" for name, value in top["facts"]))
    if results["references"]:
        parts.append(
            "Reference lines: "
            + ", ".join(f"{_md(k)} {v:.3f}" for k, v in results["references"].items())
            + " bits/byte"
        )
    parts.append(
        "## What to keep in mind\n\n" + "\n".join(f"- {_md(text)}" for text in [*results["notes"], *results["caveats"]])
    )
    for title, table in (("Arms", leaderboard(results)), ("What was equal, what was not", quantities(results))):
        parts.append(f"## {title}\n\n{_md(table.caption)}\n\n{_md_table(table)}")
    return "\n\n".join(parts) + "\n"


def _difference_cells(entry: Mapping[str, Any] | None) -> tuple[Cell, Cell]:
    if entry is None:
        return Cell(MISSING), Cell("baseline", muted=True)
    if entry["interval"] is None:
        return Cell(signed(entry["delta"]), entry["delta"], muted=True, note=entry["rule"]), Cell(
            entry["verdict"], muted=True
        )
    words = {A_BETTER: "better than baseline", B_BETTER: "worse than baseline"}
    text = words.get(entry["verdict"], entry["verdict"])
    return Cell(signed(entry["delta"]), entry["delta"], note=span(entry["interval"])), Cell(
        text, text, muted=text == "cannot tell"
    )


def _accuracy(task: Mapping[str, Any]) -> Cell:
    accuracy = task["acc_bytes"]
    interval = accuracy["interval_with_items"]
    note = "" if interval is None else f"[{share(interval[0])}, {share(interval[1])}]"
    return Cell(share(accuracy["mean"]), accuracy["mean"], muted=task["at_chance"], note=note)


def _spread(values: Sequence[float | None]) -> Cell:
    known = [value for value in values if value is not None]
    if len(known) < 2 or len(known) < len(values):
        return Cell(MISSING, muted=True)
    if min(known) == max(known):
        return Cell("equal", muted=True)
    if min(known) <= 0:
        return Cell(MISSING, muted=True)
    ratio = max(known) / min(known)
    return Cell(f"{ratio:.3f}×", muted=True) if ratio < NEARLY_EQUAL else Cell(f"{ratio:.2f}×")


def _setting(value: Any, base: Any, is_base: bool) -> Cell:
    text = MISSING if value is None else str(value)
    return Cell(text, muted=not is_base and value == base)


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
