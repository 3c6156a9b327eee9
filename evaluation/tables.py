"""The report's tables as plain data, shared by the HTML page and the Markdown file."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluation.caveats import version_differences
from evaluation.cells import MISSING, Cell, Table, count, number, p_value, power, share, signed, span
from evaluation.gather import BITS_PER_BYTE, STAGES
from evaluation.stats import A_BETTER, B_BETTER, CANNOT_TELL, INTERVAL, ONE_SEED

NEARLY_EQUAL = 1.01
_SHORT = {
    BITS_PER_BYTE: "bits/byte",
    "gold_bits_per_byte": "gold bits/byte",
    "acc": "accuracy",
    "acc_bytes": "accuracy per byte",
    "acc_pmi": "accuracy by PMI",
    "greedy": "greedy match",
}
_HELD = {
    "flops": "training FLOPs",
    "bytes": "text read",
    "tokens": "tokens",
    "steps": "steps",
    "targets_per_update": "tokens an update",
    "context_bytes": "context in bytes",
    "parameters_body": "body parameters",
    "parameters_total": "all parameters",
    "lr": "learning rate",
}
SHOWN_TASKS = 3  # in the leaderboard: the first ones with an accuracy; all are in the tables of tasks


def all_tables(results: Mapping[str, Any]) -> dict[str, Table]:
    return {
        "leaderboard": leaderboard(results),
        "comparisons": comparisons(results),
        "quantities": quantities(results),
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
    equal, unequal = held_equal(results)
    if primary is None:
        return {
            "verdict": "no primary endpoint was declared",
            "tone": "open",
            "question": "Everything below is exploratory.",
            "facts": noise,
            "equal": equal,
            "unequal": unequal,
        }
    a, b = primary["arms"]
    direction = "lower" if results["endpoint"]["lower_is_better"] else "higher"
    facts = endpoint_facts(primary, unit(primary["metric"]), "test text")
    text = verdict(primary)
    return {
        "verdict": text if primary["rule"] == INTERVAL else f"{text}: {primary['rule']}",
        "tone": "clear" if primary["verdict"] != CANNOT_TELL else "open",
        "question": f"Primary endpoint: {metric_name(primary['metric'])} ({direction} is better), A = {a}, B = {b}.",
        "facts": facts + noise,
        "equal": equal,
        "unequal": unequal,
    }


def endpoint_facts(primary: Mapping[str, Any], unit: str, items: str) -> list[tuple[str, str]]:
    """The primary comparison in numbers, as far as its seeds allow them. items: what it was computed over."""
    facts = []
    if primary["rule"] != ONE_SEED:
        facts.append(("Δ = A − B", f"{signed(primary['delta'])} {unit}"))
    if primary["rule"] == INTERVAL:
        facts += [
            (f"95% interval over seeds and {items}", span(primary["interval"])),
            ("degrees of freedom", number(primary["df"], 1)),
            (
                "standard error",
                f"{number(primary['se_seeds'], 4)} from seeds, {number(primary['se_items'], 4)} from {items}",
            ),
            ("minimum detectable difference (power .8)", number(primary["minimum_detectable"])),
            ("p", p_value(primary["p"])),
        ]
    elif primary["rule"] != ONE_SEED:
        facts.append(("range over pairs of seeds", span(primary["range"])))
    if primary["smallest_difference"]:
        facts.append(("smallest difference that matters (δ)", f"{primary['smallest_difference']:g}"))
        if primary["p_equivalence"] is not None:
            facts.append(("p of equivalence within ±δ (TOST)", p_value(primary["p_equivalence"])))
    facts.append(("seeds", f"{len(primary['values_a'])} and {len(primary['values_b'])}"))
    facts.append((f"groups of {items}", f"{primary['groups']}" + (" (few clusters)" if primary["few_groups"] else "")))
    return facts


def held_equal(results: Mapping[str, Any], names: Mapping[str, str] = _HELD) -> tuple[list[str], list[str]]:
    """What the arms share within 1%, and what they do not, the latter with its largest over smallest."""
    equal, unequal = [], []
    for key, name in names.items():
        values = [arm["quantities"][key] for arm in results["arms"].values()]
        if len(values) < 2 or any(not value for value in values):
            continue
        ratio = max(values) / min(values)
        if ratio < NEARLY_EQUAL:
            equal.append(name)
        else:
            unequal.append(f"{name} {ratio:.2f}×")
    return equal, unequal


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
        "acc_pmi": "accuracy by PMI",
        "greedy": "share of answers that greedy decoding gives",
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
    chances = next(iter(results["arms"].values()))["tasks"]
    task_names = [task for task, row in chances.items() if row["chance"] is not None][:SHOWN_TASKS]
    columns = [
        ("arm", ""),
        ("bits/byte", "mean"),
        ("Δ to baseline", f"arm − {results['baseline']}"),
        ("verdict", f"against {results['baseline']}"),
        ("each seed", "bits/byte"),
        ("bytes/token", "test text"),
        ("FLOPs/byte", "decoding"),
        *((task, f"chance {_percent(chances[task]['chance'])}") for task in task_names),
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
                *difference_cells(difference),
                Cell(" · ".join(number(value) for value in estimate["values"].values()), estimate["mean"]),
                Cell(number(spent["bytes_per_token"], 2), spent["bytes_per_token"]),
                Cell(power(spent["inference_flops_per_byte_decode"]), spent["inference_flops_per_byte_decode"]),
                *(task_cell(arm["tasks"][task]) for task in task_names),
            )
        )
    return Table(
        "Ordered by mean bits per byte. The order is for reading and is no ranking: only the column “verdict” says "
        "which differences are more than noise (Holm-adjusted but for the primary endpoint). Intervals are 95%: of "
        "bits/byte over seeds, of Δ over seeds and text. Tasks (the first ones, all are below): accuracy, grey if the "
        "interval reaches down to chance or to what counting tokens alone would score.",
        tuple(columns),
        tuple(rows),
        sortable=True,
    )


COMPARISON_COLUMNS = (
    ("metric", ""), ("difference", ""), ("kind", ""), ("Δ", ""), ("95% interval", ""), ("verdict", ""),
    ("p", ""), ("p Holm", ""), ("detectable", ""), ("df", ""), ("SE seeds", ""), ("SE items", ""),
)  # fmt: skip


def verdict_cells(entry: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Of a comparison what stands after its interval: the verdict and the figures behind it."""
    return (
        Cell(verdict(entry), verdict(entry), muted=entry["verdict"] == CANNOT_TELL),
        Cell(p_value(entry["p"]), entry["p"]),
        Cell(p_value(entry["p_holm"]), entry["p_holm"]),
        Cell(number(entry["minimum_detectable"]), entry["minimum_detectable"]),
        Cell(number(entry["df"], 1), entry["df"]),
        Cell(number(entry["se_seeds"], 4), entry["se_seeds"]),
        Cell(number(entry["se_items"], 4), entry["se_items"]),
    )


def comparisons(results: Mapping[str, Any]) -> Table:
    rows = []
    for entry in results["comparisons"]:
        label = f"{entry['arms'][0]} − {entry['arms'][1]}"
        task, _, measure = entry["metric"].rpartition(".")
        what = ", ".join(part for part in (task, _SHORT.get(measure, measure), entry["domain"]) if part)
        rows.append(
            (
                Cell(what, what),
                Cell(label, label),
                Cell(entry["kind"], entry["kind"]),
                *delta_cells(entry),
                *verdict_cells(entry),
            )
        )
    return Table(
        "Every comparison that was computed. Intervals hold for one comparison at a time; p Holm is adjusted within a "
        "metric (all arms, domains or tasks). Detectable: the true difference that would be found with power .8.",
        COMPARISON_COLUMNS,
        tuple(rows),
        sortable=True,
    )


_META = ("meta_tokens", "bits_per_byte_with_metas")
"""Of models with meta tokens alone."""


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
        ("meta tokens among them", "meta_tokens", count),
        ("bits/byte with meta tokens in contexts", "bits_per_byte_with_metas", number),
        ("warmup, share of the steps", "warmup_share", share),
        ("learning rate", "lr", lambda v: MISSING if v is None else f"{v:g}"),
        ("inference FLOPs a byte, prefill", "inference_flops_per_byte_prefill", power),
        ("inference FLOPs a byte, decoding", "inference_flops_per_byte_decode", power),
        ("vocabulary size", "vocabulary_size", count),
        ("vocabulary used on test text", "vocabulary_used", count),
        ("superwords among test tokens", "superword_share", share),
        ("bytes a token on test text", "bytes_per_token", lambda v: number(v, 2)),
        ("test windows longer than trained on", "long_windows", share),
        ("test documents", "test_documents", count),
        ("nats of the closing end-of-text, a document (not in bits/byte)", "separator_nats", lambda v: number(v, 2)),
        ("groups held out for test", "test_groups", count),
        ("test shingles found in training text", "leak_share", lambda v: MISSING if v is None else f"{v:.2%}"),
    )
    arms = results["arms"]
    rows = []
    for title, key, write in lines:
        values = [arm["quantities"][key] for arm in arms.values()]
        if key in _META and not any(values):
            continue
        rows.append((Cell(title), *(Cell(write(value)) for value in values), spread_cell(values)))
    walls = [
        [
            results["timing"][f"{name}/{seed}"].get("wall_s")
            or results["timing"][f"{name}/{seed}"].get("pretrain_wall_s")
            for seed in arm["seeds"]
        ]
        for name, arm in arms.items()
    ]
    means = [None if None in wall else sum(wall) / len(wall) for wall in walls]
    rows.append((Cell("wall time of training, s a run"), *(Cell(count(value)) for value in means), spread_cell(means)))
    return Table(
        "One quantity can be held equal; the others follow. Means over seeds. Last column: largest over smallest.",
        (("quantity", ""), *((name, "") for name in arms), ("spread", "largest / smallest")),
        tuple(rows),
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


def manifests(results: Mapping[str, Any], stages: Sequence[str] = STAGES) -> Table:
    links = results["provenance"]["manifests"]
    rows = []
    for key, row in links.items():
        arm, _, seed = key.rpartition("/")
        rows.append(
            (
                Cell(f"{arm}, seed {seed}"),
                *(Cell(stage if stage in row else MISSING, link=row.get(stage, "")) for stage in stages),
            )
        )
    return Table(
        "The manifest of every artefact: full configuration, inputs, versions, wall time.",
        (("run", ""), *((stage, "") for stage in stages)),
        tuple(rows),
        numeric=False,
    )


def delta_cells(entry: Mapping[str, Any]) -> tuple[Cell, Cell]:
    """Δ and its interval, or what the number of seeds allows instead."""
    if entry["rule"] == ONE_SEED:
        return Cell(MISSING), Cell(ONE_SEED)
    interval = span(entry["interval"]) if entry["interval"] else f"{entry['rule']} {span(entry['range'])}"
    return Cell(signed(entry["delta"]), entry["delta"]), Cell(interval)


def difference_cells(entry: Mapping[str, Any] | None) -> tuple[Cell, Cell]:
    if entry is None:
        return Cell(MISSING), Cell("baseline", muted=True)
    if entry["rule"] == ONE_SEED:
        return Cell(MISSING, muted=True, note=ONE_SEED), Cell(entry["verdict"], muted=True)
    if entry["interval"] is None:
        return Cell(signed(entry["delta"]), entry["delta"], muted=True, note=entry["rule"]), Cell(
            entry["verdict"], muted=True
        )
    words = {A_BETTER: "better", B_BETTER: "worse"}
    text = words.get(entry["verdict"], entry["verdict"])
    return Cell(signed(entry["delta"]), entry["delta"], note=span(entry["interval"])), Cell(
        text, text, muted=text == CANNOT_TELL
    )


def task_cell(task: Mapping[str, Any]) -> Cell:
    """A task's headline figure with its interval."""
    estimate = task[task["headline"]]
    interval = estimate["interval_with_items"]
    note = "" if interval is None else f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f}%"
    return Cell(share(estimate["mean"]), estimate["mean"], muted=task["at_chance"], note=note)


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.3g}%"


def spread_cell(values: Sequence[float | None]) -> Cell:
    """Largest over smallest, where all are known."""
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
