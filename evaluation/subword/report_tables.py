"""The tables of a task's report as plain data, shared by the HTML page and the Markdown file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaluation.cells import MISSING, Cell, Table, count, number, power, share, signed
from evaluation.stats import INTERVAL
from evaluation.subword.report_runs import (
    ACCURACY,
    AT_CHANCE,
    AUC,
    CANONICAL,
    EXACT,
    HEURISTICS,
    METRIC_OF,
    STAGES,
)
from evaluation.tables import (
    COMPARISON_COLUMNS,
    against_baseline,
    delta_cells,
    difference_cells,
    differences,
    manifests,
    spread_cell,
    verdict_cells,
    versions,
)

SHOWN_SPLITS = 2
"""In the main table; all are in the table of splits."""
FEW_SINGLE, FEW_DIGITS = 0.85, 2.0
MEASURE_NAMES = {"acc": "accuracy", "acc_bytes": "accuracy per byte", "exact": "exact"}
METRIC_NAMES = {AUC: "area under the questions curve", ACCURACY: "accuracy", EXACT: "exact answers"}
SHORT_NAMES = {AUC: "AUC", ACCURACY: "accuracy", EXACT: "exact"}


def all_tables(results: Mapping[str, Any]) -> dict[str, Table]:
    return {
        "arms": arms_table(results),
        "splits": splits_table(results),
        "bits": bits_table(results),
        "curve": curve_table(results),
        "types": types_table(results),
        "retok": retok_table(results),
        "consistency": consistency_table(results),
        "words": words_table(results),
        "quantities": quantities_table(results),
        "comparisons": comparisons_table(results),
        "settings": settings_table(results),
        "versions": versions(results),
        "manifests": manifests(results, STAGES),
    }


def arms_table(results: Mapping[str, Any]) -> Table:
    """One row an arm, then what needs no model."""
    task, arms = results["task"], results["arms"]
    measure, main, last = task["measure"], task["main"], str(task["last"])
    shown = task["splits"][:SHOWN_SPLITS]
    curve = main in task["curve"]
    more = [metric for metric in task["metrics"] if metric != measure]
    bits = any(arm["bits_per_byte"]["text"] is not None for arm in arms.values())
    columns = [("arm", ""), ("growth", "ids by transform")]
    if bits:
        columns.append(("bits/byte", "canonical"))
    columns += [(split, _about_split(task, split)) for split in shown]
    if curve:
        columns += [("AUC", f"{main}, over ln(questions)"), ("Δ AUC", f"to {results['baseline']}"), ("verdict", "")]
    columns += [(f"Δ {main}", f"to {results['baseline']}"), ("verdict", "")]
    columns += [("per byte", f"accuracy, {main}") if metric == "acc_bytes" else (metric, main) for metric in more]
    rows = []
    for name, arm in arms.items():
        at_last = arm["points"][last]
        cells = [
            Cell(name, name, note=_arm_note(results, name)),
            Cell(_growth(arm["growth"]), arm["growth"], muted=arm["growth"] is None),
        ]
        if bits:
            value = arm["bits_per_byte"]["text"]
            cells.append(Cell(number(value), value, muted=value is None))
        cells += [accuracy_cell(at_last[split][measure], results["states"][split] == AT_CHANCE) for split in shown]
        if curve:
            cells.append(accuracy_cell(arm["curve"][main]["auc"]))
            cells += difference_cells(against_baseline(results, AUC, name, main))
        cells += difference_cells(against_baseline(results, METRIC_OF[measure], name, main))
        cells += [accuracy_cell(at_last[main][metric]) for metric in more]
        rows.append(tuple(cells))
    before, after = 2 + bits, len(columns) - 2 - bits - len(shown)
    for name, values in references(results):
        cells = [Cell(name, note="no model", muted=True), *[Cell(MISSING, muted=True)] * (before - 1)]
        cells += [Cell(share(values.get(split)), values.get(split), muted=True) for split in shown]
        rows.append((*cells, *[Cell(MISSING, muted=True)] * after))
    hidden = task["splits"][SHOWN_SPLITS:]
    asked = f"after {task['last']:,} training questions" if task["last"] else "without fine-tuning"
    caption = (
        f"Share of questions answered right {asked}, below it the 95% interval over seeds (cut at 0 and 100%). "
        "Grey: at chance in every arm. Δ: arm minus baseline, below it the 95% interval over seeds and questions; a "
        "verdict other than the primary endpoint's is exploratory and Holm-adjusted. Last rows: without a model."
        + (f" More splits below: {', '.join(hidden)}." if hidden else "")
    )
    return Table(caption, tuple(columns), tuple(rows), sortable=True)


def references(results: Mapping[str, Any]) -> list[tuple[str, dict[str, float | None]]]:
    """(rule, split → accuracy) of chance and of rules that do not read the question."""
    task = results["task"]
    asked = task["asked"][str(task["last"])]
    found: list[tuple[str, dict[str, float | None]]] = []
    if any(asked[split]["chance"] is not None for split in task["splits"]):
        found.append(("chance", {split: asked[split]["chance"] for split in task["splits"]}))
    rules = dict.fromkeys(rule for made in task["heuristics"].values() for rule in made)
    for rule in rules:
        found.append((rule, {split: task["heuristics"].get(split, {}).get(rule) for split in task["splits"]}))
    return found


def best_rule(results: Mapping[str, Any], split: str, type: str | None = None) -> tuple[str, float] | None:
    """The rule without a model that gets most of a split, or of a type in it, right."""
    by_split, by_type = (results["task"][key].get(split, {}) for key in HEURISTICS)
    rules = by_split if type is None else by_type.get(type, {})
    return max(((rule, float(value)) for rule, value in sorted(rules.items())), key=lambda x: x[1], default=None)


def splits_table(results: Mapping[str, Any]) -> Table:
    """Every split at the last point: one row a split, one column an arm; below it the distance to its match."""
    task, arms = results["task"], results["arms"]
    measure, last = task["measure"], str(task["last"])
    rows = []
    for split in task["splits"]:
        asked, rule, matched = task["asked"][last][split], best_rule(results, split), task["matched"].get(split)
        state = results["states"][split]
        made = [arm["points"][last][split][measure] for arm in arms.values()]
        rows.append(
            (
                Cell(split, note=_state_words(state)),
                Cell(count(asked["n"])),
                Cell(share(asked["chance"])),
                _rule_cell(rule),
                *(accuracy_cell(one, bool(state)) for one in made),
            )
        )
        if matched:
            gaps = [_gap(arm["by_type"][split], arm["by_type"][matched]) for arm in arms.values()]
            rows.append(
                (
                    Cell(f"{split} − {matched}", note="mean of the types in both"),
                    *[Cell("")] * 3,
                    *(Cell(signed(gap), muted=True) for gap in gaps),
                )
            )
    columns = (
        ("split", ""),
        ("questions", ""),
        ("chance", ""),
        ("best rule", "no model"),
        *((name, "") for name in arms),
    )
    return Table(
        "Share answered right at the last point and its 95% interval over seeds; under a split that leaves the "
        "training distribution its distance to the split that stays in it. Grey: every arm at chance, or the baseline "
        "at 95% or more: there a difference cannot or can hardly show.",
        columns,
        tuple(rows),
    )


def _rule_cell(rule: tuple[str, float] | None) -> Cell:
    return Cell(share(rule[1]), note=rule[0]) if rule else Cell(MISSING, muted=True)


def _gap(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float | None:
    """The mean difference over the types that both splits have, None where there are none: a split may lack some."""
    both = [kind for kind, made in ours.items() if made and theirs.get(kind)]
    return sum(ours[kind]["mean"] - theirs[kind]["mean"] for kind in both) / len(both) if both else None


def curve_table(results: Mapping[str, Any]) -> Table:
    """The questions curve in numbers."""
    arms = results["arms"]
    rows = []
    for split, curve in results["task"]["curve"].items():
        points = next(iter(arms.values()))["curve"][split]["points"]
        for point in points:
            cells = [accuracy_cell(arm["curve"][split]["points"][point]) for arm in arms.values()]
            rows.append((Cell(f"{split}, {int(point):,}"), Cell(number(curve["weights"][point])), *cells))
        cells = [accuracy_cell(arm["curve"][split]["auc"]) for arm in arms.values()]
        rows.append((Cell(f"{split}, AUC"), Cell("1.000"), *cells))
    return Table(
        "Share answered right after so many training questions, over the questions that were asked at all points. AUC: "
        "the mean over ln(questions) by trapezoids, that is the points weighted as in the second column.",
        (("split, questions", ""), ("weight", "in AUC"), *((name, "") for name in arms)),
        tuple(rows),
    )


def types_table(results: Mapping[str, Any]) -> Table:
    task, arms = results["task"], results["arms"]
    last, rows = str(task["last"]), []
    for split in task["splits"]:
        if split not in (task["main"], task["matched"].get(task["main"])):
            continue
        for kind, chance in task["types"][split].items():
            made = [arm["by_type"][split][kind] for arm in arms.values()]
            cells = [accuracy_cell(one, one is not None and one["at_chance"]) for one in made]
            rule = _rule_cell(best_rule(results, split, kind))
            rows.append((Cell(f"{split}, {kind}"), Cell(share(chance), muted=True), rule, *cells))
        for title, key in (("mean of types", "macro"), ("mean above chance", "norm")):
            cells = []
            for arm in arms.values():
                value = arm["points"][last][split][key]
                there = [one for one in arm["by_type"][split].values() if one is not None]
                cells.append(Cell(share(value), value, muted=any(one["at_chance"] for one in there)))
            if any(cell.text != MISSING for cell in cells):
                rows.append((Cell(f"{split}, {title}"), *[Cell(MISSING, muted=True)] * 2, *cells))
    return Table(
        "By type at the last point, with 95% intervals over seeds. Grey: the interval over seeds and questions reaches "
        "down to chance or the best rule, or the mean takes in such a type. Mean above chance: of (share − chance) / "
        "(1 − chance).",
        (("split, type", ""), ("chance", ""), ("best rule", "no model"), *((name, "") for name in arms)),
        tuple(rows),
    )


def retok_table(results: Mapping[str, Any]) -> Table:
    arms, measure = results["arms"], results["task"]["measure"]
    names = list(dict.fromkeys(name for arm in arms.values() for name in arm["retok"]))
    rows = []
    for name in names:
        cells = []
        for arm in arms.values():
            made = arm["retok"].get(name)
            if made is None or made[measure] is None:
                cells.append(Cell(MISSING, muted=True))
                continue
            notes = [
                f"{share(made['agreement'])} as canonical" if made["agreement"] is not None else "",
                f"{share(made['stable'])} in all draws" if made["stable"] is not None else "",
                f"{_growth(made['growth'])} ids" if made["growth"] is not None else "",
            ]
            estimate = made[measure]
            cells.append(Cell(share(estimate["mean"]), estimate["mean"], note=", ".join(n for n in notes if n)))
        rows.append((Cell(name or "canonical", note="the tokenizer's own" if name == CANONICAL else ""), *cells))
    split = results["task"]["retok_split"]
    n = max((made["n"] for arm in arms.values() for made in arm["retok"].values()), default=0)
    return Table(
        f"The same {n:,} questions of {split} with the prompt in other ids of the same vocabulary, mean over seeds: "
        "share answered right; below it the share that got the answer of the canonical encoding, the share answered "
        "alike in every draw, and how many more ids the prompt has.",
        (("prompts as", ""), *((arm, "") for arm in arms)),
        tuple(rows),
    )


def consistency_table(results: Mapping[str, Any]) -> Table:
    """One row a figure, one column an arm; figures that no arm has are left out."""
    arms = results["arms"]
    probes = {name: arm["consistency"] or {} for name, arm in arms.items()}

    def types(*path: str) -> list[str]:
        return list(dict.fromkeys(kind for made in probes.values() for kind in _at(made, *path) or {}))

    lines: list[tuple[str, str, tuple[str, ...], Callable[[float | None], str]]] = [
        ("words looked at", "static", ("static", "words"), count),
        ("encodings a word, log₂", "static", ("static", "log2_encodings"), lambda v: number(v, 2)),
        ("words with several encodings", "static", ("static", "several"), share),
        *((f"exposed: {t}", "share of words", ("static", "exposed", t), share) for t in types("static", "exposed")),
        ("words scored", "phantom mass", ("phantom", "words"), count),
        ("words not scored", "a token reaches across", ("phantom", "crossed"), count),
        ("phantom mass, mean", "of a word's", ("phantom", "mean"), share),
        ("phantom mass, at most", "bound of the mean", ("phantom", "mean_most"), share),
        ("phantom mass, median", "", ("phantom", "median"), share),
        ("words sampled", "written", ("generation", "words"), count),
        ("words written in other ids", "of sampled words", ("generation", "phantom"), share),
        *((f"written: {t}", "words", ("generation", "types", t), lambda v: number(v, 1))
          for t in types("generation", "types")),
        *((f"answered alike: {v}", "share of questions", ("agreement", v), share) for v in types("agreement")),
    ]  # fmt: skip
    rows = []
    for title, note, path, write in lines:
        values = [_at(made, *path) for made in probes.values()]
        if any(isinstance(value, int | float) for value in values):
            rows.append((Cell(title, note=note), *(Cell(write(v), v, muted=v is None) for v in values)))
    return Table(
        "Whether a model minds in which ids a word comes, means over seeds. Static: of frequent words of the test "
        "text, what the vocabulary allows. Phantom mass: of the probability that a model gives a word's bytes after "
        "their context, the share on other ids than the encoding's. Written: words of sampled text whose ids are not "
        "those of encoding that text. A type of edit is a rule's, not a judgement.",
        (("figure", ""), *((name, "") for name in arms)),
        tuple(rows),
    )


def words_table(results: Mapping[str, Any]) -> Table:
    rows = []
    for name, arm in results["arms"].items():
        words, quantities = arm["words"], arm["quantities"]
        single, digits = words["single_tokens"], words["digits_per_token"]
        rows.append(
            (
                Cell(name),
                Cell(count(quantities["vocabulary_size"])),
                Cell(count(words["n"]) if words["n"] else MISSING),
                Cell(share(single), single, note=f"under {FEW_SINGLE:.0%}" if _few(single, FEW_SINGLE) else ""),
                Cell(number(digits, 2), digits, note=f"under {FEW_DIGITS:g}" if few_digits(arm) else ""),
            )
        )
    return Table(
        "What the arm's tokenizer makes of the words that the task asks about: the share that is one token after a "
        "space, and digits a token in the numbers of its prompts. A word in several tokens shows its letters anyway.",
        (
            ("arm", ""),
            ("vocabulary", ""),
            ("words", "of the task"),
            ("single tokens", "of words"),
            ("digits/token", "of prompts"),
        ),
        tuple(rows),
    )


def few_digits(arm: Mapping[str, Any]) -> bool:
    """Whether a subword arm has about one digit a token; one of bytes or characters is meant to."""
    size = arm["quantities"]["pretrain_bytes_per_token"]
    return _few(arm["words"]["digits_per_token"], FEW_DIGITS) and (size is None or size > 1.0001)


def quantities_table(results: Mapping[str, Any]) -> Table:
    """What is equal and what is not: one row a quantity, one column an arm."""

    def times(value: float | None) -> str:
        return number(value, 2)

    def rate(value: float | None) -> str:
        return MISSING if value is None else f"{value:g}"

    lines: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
        ("pretraining FLOPs, full T² attention", "pretrain_flops", power),
        ("pretraining text, bytes", "pretrain_bytes", count),
        ("unique bytes among them", "pretrain_unique_bytes", count),
        ("pretraining tokens", "pretrain_tokens", count),
        ("passes over the text", "pretrain_passes", times),
        ("pretraining steps", "pretrain_steps", count),
        ("bytes a token while pretraining", "pretrain_bytes_per_token", times),
        ("pretraining learning rate", "pretrain_lr", rate),
        ("fine-tuning questions", "finetune_questions", count),
        ("fine-tuning steps", "finetune_steps", count),
        ("fine-tuning FLOPs", "finetune_flops", power),
        ("fine-tuning tokens", "finetune_tokens", count),
        ("tokens a question", "tokens_per_question", times),
        ("fine-tuning learning rate", "finetune_lr", rate),
        ("parameters, total", "parameters_total", count),
        ("parameters, body", "parameters_body", count),
        ("vocabulary size", "vocabulary_size", count),
    )
    walls = (("pretraining", "pretrain"), ("fine-tuning", "finetune"), ("asking", "answers"))
    arms, rows = results["arms"], []
    made = [(title, write, [arm["quantities"][key] for arm in arms.values()]) for title, key, write in lines]
    for title, stage in walls:
        made.append((f"wall time of {title}, s a run", count, [_wall(results, name, stage) for name in arms]))
    for title, write, values in made:
        if any(value is not None for value in values):
            known = [value for value in values if value is not None]
            rows.append(
                (Cell(title), *(Cell(write(value), muted=value is None) for value in values), spread_cell(known))
            )
    return Table(
        "Means over seeds; a dash where an arm does not have the stage. Last column: largest over smallest of those "
        "that have it.",
        (("quantity", ""), *((name, "") for name in arms), ("spread", "largest / smallest")),
        tuple(rows),
    )


def comparisons_table(results: Mapping[str, Any]) -> Table:
    rows = []
    for entry in results["comparisons"]:
        what = f"{SHORT_NAMES[entry['metric']]}, {entry['domain']}"
        label = f"{entry['arms'][0]} − {entry['arms'][1]}"
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
        "Every comparison that was computed; higher is better. Intervals hold for one comparison at a time; p Holm is "
        "adjusted within a group of figures (curves, splits, types, encodings). Detectable: the true difference that "
        "would be found with power .8.",
        COMPARISON_COLUMNS,
        tuple(rows),
        sortable=True,
    )


def settings_table(results: Mapping[str, Any]) -> Table:
    """The overrides of each arm, then the settings that differ."""
    table = differences(results)
    given = results["provenance"]["overrides"]
    row = (Cell("overrides"), *(Cell(" ".join(given[name]) or MISSING) for name in results["arms"]))
    return replace(table, rows=(row, *table.rows))


def cut(interval: Sequence[float] | None) -> tuple[float, float] | None:
    """An interval of a share, within 0 and 1."""
    if interval is None:
        return None
    low, high = (min(max(end, 0.0), 1.0) for end in interval)
    return low, high


def accuracy_cell(estimate: Mapping[str, Any] | None, muted: bool = False) -> Cell:
    """A share with its interval over seeds, cut at 0 and 1."""
    if estimate is None:
        return Cell(MISSING, muted=True)
    interval = cut(estimate["interval"])
    note = "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}%"
    return Cell(share(estimate["mean"]), estimate["mean"], muted=muted, note=note)


def _about_split(task: Mapping[str, Any], split: str) -> str:
    if split == task["main"]:
        return f"main, {MEASURE_NAMES[task['measure']]}"
    return "in distribution" if split in task["matched"].values() else ""


def _state_words(state: str) -> str:
    return f"{state}: no difference can show" if state == AT_CHANCE else state


def _arm_note(results: Mapping[str, Any], name: str) -> str:
    arm = results["arms"][name]
    parts = ["baseline"] * (name == results["baseline"]) + ["no pretraining"] * arm["untrained"]
    seeds = len(arm["seeds"])
    return ", ".join([*parts, f"{seeds} seeds" if arm["rule"] == INTERVAL else arm["rule"]])


def bits_table(results: Mapping[str, Any]) -> Table:
    """What arms that know several encodings are charged for (`evaluation.stochastic`); no row without a figure, none at
    all without spans."""
    keys = ("text", "canonical", "canonicalised", "marginal")
    known = any(arm["bits_per_byte"]["spans"] is not None for arm in results["arms"].values())
    rows = []
    for name, arm in results["arms"].items() if known else ():
        bits = arm["bits_per_byte"]
        if bits["text"] is not None:
            values = [Cell(number(bits[key]), muted=bits[key] is None) for key in keys]
            scored = None if bits["spans"] is None else bits["spans"] - (bits["crossed"] or 0)
            rows.append((Cell(name), *values, Cell(count(scored))))
    return Table(
        "Bits per byte of test text, means over seeds. On short spans of it, all after the same context: in the "
        "canonical encoding; with each softmax renormalised over what keeps an encoding (canonicalised); over all "
        "token sequences that spell the span (marginal). Scored on the canonical encoding alone, an arm "
        "also pays for what it keeps for others.",
        (
            ("arm", ""),
            ("text", "canonical"),
            ("spans", "canonical"),
            ("spans", "canonicalised"),
            ("spans", "marginal"),
            ("spans", "number scored"),
        ),
        tuple(rows),
    )


def _growth(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.1%}".replace("-", "−")


def _wall(results: Mapping[str, Any], name: str, stage: str) -> float | None:
    times = [results["timing"][f"{name}/{seed}"][stage] for seed in results["arms"][name]["seeds"]]
    return None if None in times else sum(times) / len(times)


def _few(value: float | None, least: float) -> bool:
    return value is not None and value < least


def _at(made: Any, *path: str) -> Any:
    for key in path:
        made = made.get(key) if isinstance(made, Mapping) else None
    return made
