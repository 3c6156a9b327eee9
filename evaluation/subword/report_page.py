"""A task's report as a page and as Markdown: the box at its top, what to keep in mind, words explained."""

from collections.abc import Mapping
from typing import Any

from evaluation.markdown import _md, _md_table
from evaluation.stats import CANNOT_TELL, FEW_GROUPS, INTERVAL, ONE_SEED
from evaluation.subword.report_runs import AT_CHANCE, IS_SATURATED, MEASURES
from evaluation.subword.report_tables import (
    FEW_DIGITS,
    FEW_SINGLE,
    METRIC_NAMES,
    all_tables,
    best_rule,
    few_digits,
)
from evaluation.tables import endpoint_facts, held_equal, verdict

NOTABLE = 0.01
_PRETRAINING = {
    "pretrain_flops": "pretraining FLOPs",
    "pretrain_bytes": "text read",
    "pretrain_tokens": "pretraining tokens",
    "pretrain_steps": "pretraining steps",
    "pretrain_lr": "pretraining learning rate",
}
_FINE_TUNING = {
    "finetune_questions": "fine-tuning questions",
    "finetune_steps": "fine-tuning steps",
    "finetune_tokens": "fine-tuning tokens",
    "finetune_lr": "fine-tuning learning rate",
    "parameters_total": "all parameters",
}


def render(results: Mapping[str, Any]) -> str:
    """The HTML page: one file, all text escaped, no network."""
    from evaluation.caveats import version_differences
    from evaluation.figures import PALETTE, PALETTE_DARK
    from evaluation.report import page_environment
    from evaluation.subword.report_figures import all_figures

    page = (
        page_environment()
        .get_template("task_report.html.j2")
        .render(
            results=results,
            tables=all_tables(results),
            figures=all_figures(results),
            top=top_box(results),
            glossary=glossary(results),
            versions_differ=version_differences(results),
            palette=PALETTE,
            palette_dark=PALETTE_DARK,
        )
    )
    return str(page)


def markdown(results: Mapping[str, Any]) -> str:
    """The main tables as Markdown."""
    top, tables = top_box(results), all_tables(results)
    parts = [f"# {_md(results['title'])}", f"**{_md(top['verdict'])}**", _md(top["question"])]
    if top["caution"]:
        parts.append(_md(top["caution"]))
    parts.append("\n".join(f"- {_md(name)}: {_md(value)}" for name, value in top["facts"]))
    kept = [*results["notes"], *results["caveats"]]
    parts.append("## What to keep in mind\n\n" + "\n".join(f"- {_md(text)}" for text in kept))
    titles = {
        "arms": "Arms",
        "splits": "Splits",
        "bits": "Bits per byte",
        "curve": "Questions curve",
        "types": "Types",
        "retok": "Other encodings of the prompts",
        "consistency": "Consistency of encodings",
        "words": "Words",
        "quantities": "What was equal, what was not",
    }
    for name, title in titles.items():
        if tables[name].rows:
            parts.append(f"## {title}\n\n{_md(tables[name].caption)}\n\n{_md_table(tables[name])}")
    return "\n\n".join(parts) + "\n"


def top_box(results: Mapping[str, Any]) -> dict[str, Any]:
    """The primary endpoint in words and numbers."""
    arms = results["arms"]
    pretrained = {"arms": {name: arm for name, arm in arms.items() if not arm["untrained"]}}
    made = [held_equal(pretrained, _PRETRAINING), held_equal(results, _FINE_TUNING)]
    equal, unequal = ([text for one in made for text in one[at]] for at in (0, 1))
    primary = next((c for c in results["comparisons"] if c["kind"] == "primary"), None)
    box = {"equal": equal, "unequal": unequal, "caution": "", "facts": [], "tone": "open"}
    if primary is None:
        return box | {"verdict": "no primary endpoint was declared", "question": "Everything below is exploratory."}
    a, b = primary["arms"]
    task, split = results["task"], primary["split"]
    where = f"{task['name']}, split {split}"
    text = verdict(primary)
    if primary["rule"] != INTERVAL:
        text = f"{text}: {primary['rule']}"
    state = results["states"].get(split, "")
    if primary["at_chance"]:
        caution = (
            "At chance: both arms reach down to guessing or a rule that reads no question: no difference can show."
        )
    elif state == IS_SATURATED:
        caution = (
            f"Saturated: {results['baseline']} answers 95% or more of {split} at the last point. Hardly a difference "
            "can show there; before it the curve may."
        )
    elif state == AT_CHANCE:
        caution = (
            f"At chance: at the last point every arm reaches down to guessing or the best rule on {split}: no "
            "difference can show."
        )
    else:
        caution = ""
    return box | {
        "verdict": text,
        "tone": "clear" if primary["verdict"] != CANNOT_TELL else "open",
        "question": f"Primary endpoint: {METRIC_NAMES[primary['metric']]}, {where} (higher is better), "
        f"A = {a}, B = {b}.",
        "facts": [
            *endpoint_facts(primary, "of questions", "questions"),
            ("all other comparisons", "exploratory, Holm within a group"),
        ],
        "caution": caution,
    }


def caveats(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know besides the numbers, the weightiest first. No paths, no times."""
    arms, task = results["arms"], results["task"]
    found = []
    for name, arm in arms.items():
        if arm["rule"] != INTERVAL:
            lucky = " Seeds alone move a run by more than most tokenizers do." * (arm["rule"] == ONE_SEED)
            found.append(f"{name}: {arm['rule']}.{lucky}")
    tuned = any(arm["fine_tuned"] for arm in arms.values())
    untrained = [name for name, arm in arms.items() if arm["untrained"]]
    if tuned and not untrained:
        found.append(
            "No arm was fine-tuned from random weights (finetuning.init=random): how much of the task needs no "
            "pretraining is not known here."
        )
    found.extend(_untrained(results, untrained))
    for split, state in results["states"].items():
        if state == AT_CHANCE:
            found.append(f"{split}: every arm is at chance at the last point, so no difference can show.")
        elif state == IS_SATURATED:
            found.append(f"{split}: the baseline is saturated at the last point (95% or more), so hardly any can show.")
    found.extend(_rules(results))
    found.extend(_words(arms))
    found.extend(_growths(arms))
    found.extend(_text_read(results))
    found.extend(_early(task))
    primary = next((c for c in results["comparisons"] if c["kind"] == "primary"), None)
    if primary and primary["few_groups"]:
        found.append(
            f"Few clusters: the questions fall into {primary['groups']} groups (under {FEW_GROUPS}), so the part of "
            "intervals that comes from questions is rough."
        )
    rates = {arm["quantities"][f"{stage}_lr"] for arm in arms.values() for stage in ("pretrain", "finetune")} - {None}
    if rates:
        found.append(
            "Learning rates were not tuned by arm: others may order the arms differently "
            f"({', '.join(f'{rate:g}' for rate in sorted(rates))})."
        )
    found.append("Seeds vary weights and draws; all arms and seeds are asked the same questions.")
    return found


def glossary(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Terms and their denominators, those that this page uses."""
    task, arms = results["task"], results["arms"]
    found = [
        ("accuracy", "Share of questions whose answer has the largest summed log-probability of the options, the end "
         "of the answer included where the task learns it. Denominator: questions with options."),
        ("accuracy per byte", "The same with log-probabilities divided by the option's bytes. Denominator: the same."),
        ("exact", "Share of questions whose greedy continuation, up to the task's stop, is the answer and nothing "
         "else. Denominator: all questions."),
    ]  # fmt: skip
    found = [entry for entry, metric in zip(found, MEASURES) if metric in task["metrics"]]
    if task["curve"]:
        found.append(
            ("AUC", "Area under the questions curve: the mean of the share right over ln(training questions) between "
             "the first and the last point, by trapezoids. Denominator: the questions asked at every point.")
        )  # fmt: skip
    found += [
        ("main, matched", "The split of the headline, and the split of the training distribution that it is held "
         "against: the same kinds of question without what is held out."),
        ("chance", "The mean over questions of 1 / options."),
        ("best rule", "The most that a rule without a model gets. Rules of a choice look at the options but not at the "
         "question, such as taking the longest. Denominator: questions."),
        ("growth", "Ids after the arm's transform over ids before, minus 1, on a sample of its training text."),
        ("Δ", "Difference of seed means, first arm minus second, on the same questions."),
        ("95% interval of Δ", "Student's t with Satterthwaite's degrees of freedom over two variances: between seeds "
         "(on seed-level values) and between groups of questions (on differences of seed means)."),
        ("interval of one arm", "Student's t over its seeds; the questions are taken as given."),
        ("groups of questions", "What shares an answer's word, or whatever the task names; questions in a group count "
         "as one draw."),
        ("minimum detectable difference", "The true difference that this many seeds and groups would find four times "
         "out of five."),
        ("exploratory", "Not declared as the primary endpoint. “Better” and “worse” then need Holm's adjusted p under "
         "5% within a group of figures."),
        ("at chance, saturated", "At chance: in every arm the interval over seeds and questions reaches down to "
         "chance or to the best rule that reads no question. Saturated: the baseline answers 95% or more. Both at the "
         "last point."),
        ("mean of types", "The mean over types of the share right, every type alike. Above chance: of (share − 1/n) / "
         "(1 − 1/n) with n options."),
        ("single tokens", "Share of the task's words that are one token after a space. Denominator: its words."),
        ("digits a token", "Digits over the tokens that show them, in the numbers of the main split's prompts."),
    ]  # fmt: skip
    if any(arm["retok"] for arm in arms.values()):
        found.append(
            ("prompts as …", "The prompt's ids replaced by others that spell the same; options as always. Draws "
             "depend on seed and question alone. Denominator: the questions asked so.")
        )  # fmt: skip
    if any(arm["bits_per_byte"]["text"] is not None for arm in arms.values()):
        found.append(
            ("bits/byte", "Σ −log₂ p(token) over test text by its bytes, in the canonical encoding. On spans also "
             "canonicalised (each softmax renormalised over tokens that keep the sequence an encoding) and marginal "
             "(all token sequences that spell the span).")
        )  # fmt: skip
    if any(arm["consistency"] for arm in arms.values()):
        found += [
            ("exposed", "Share of frequent words of the test text that a type of edit can befall: it leads from "
             "their encoding to another in the vocabulary. Denominator: words."),
            ("phantom mass", "1 − P(the word's encoding) / P(its bytes in any ids), after the word's context. Mean "
             "over words that no token reaches across."),
        ]  # fmt: skip
    return found


def _untrained(results: Mapping[str, Any], names: list[str]) -> list[str]:
    task = results["task"]
    last, main, measure = str(task["last"]), task["main"], task["measure"]
    found = []
    for name in names:
        made = results["arms"][name]["points"][last][main][measure]
        if made is not None:
            found.append(
                f"{name} was fine-tuned from random weights and gets {made['mean']:.1%} of {main}: what other arms "
                "get up to there needs no pretraining."
            )
    return found


def _rules(results: Mapping[str, Any]) -> list[str]:
    """Arms that do not pass the best rule without a model on the main split."""
    task = results["task"]
    main, rule = task["main"], best_rule(results, task["main"])
    if rule is None:
        return []
    means = {name: arm["points"][str(task["last"])][main][task["measure"]] for name, arm in results["arms"].items()}
    below = [name for name, made in means.items() if made is not None and made["mean"] <= rule[1]]
    if not below:
        return []
    return [f"Not above the rule “{rule[0]}” ({rule[1]:.1%} of {main}), which needs no model: {', '.join(below)}."]


def _words(arms: Mapping[str, Any]) -> list[str]:
    """Tokenizers for which the task is another one; arms with one tokenizer share a sentence."""
    single: dict[float, list[str]] = {}
    digits: dict[float, list[str]] = {}
    for name, arm in arms.items():
        words = arm["words"]
        if words["n"] and words["single_tokens"] is not None and words["single_tokens"] < FEW_SINGLE:
            single.setdefault(words["single_tokens"], []).append(name)
        if few_digits(arm):
            digits.setdefault(words["digits_per_token"], []).append(name)
    return [
        f"Only {value:.1%} of the task's words are single tokens ({', '.join(names)}; {FEW_SINGLE:.0%} wanted): the "
        "others show some of their letters, which makes the task easier."
        for value, names in single.items()
    ] + [
        f"{value:.2f} digits a token ({', '.join(names)}), under {FEW_DIGITS:g}: hardly a test of digits inside tokens."
        for value, names in digits.items()
    ]


def _growths(arms: Mapping[str, Any]) -> list[str]:
    known = {name: arm["growth"] for name, arm in arms.items() if arm["growth"] is not None}
    varied = {name: value for name, value in known.items() if arms[name]["transform"] not in ("", "NoTransform")}
    found = []
    for name, value in varied.items():
        if value == 0:
            found.append(f"{name}: its transform changed nothing (growth 0): it is the untransformed arm again.")
    if len(varied) > 1 and max(varied.values()) - min(varied.values()) > NOTABLE:
        listed = ", ".join(f"{name} {value:+.1%}".replace("-", "−") for name, value in varied.items())
        found.append(
            f"Transforms lengthen text by different amounts ({listed}): a difference may come from that alone."
        )
    return found


def _text_read(results: Mapping[str, Any]) -> list[str]:
    amounts = {name: arm["quantities"]["pretrain_bytes"] for name, arm in results["arms"].items()}
    base = amounts[results["baseline"]]
    if not base:
        return []
    than = results["baseline"]
    unequal = [
        f"{name} read {abs(amount / base - 1):.1%} {'less' if amount < base else 'more'} text than {than}"
        for name, amount in amounts.items()
        if amount and abs(amount / base - 1) > NOTABLE
    ]
    return [f"While pretraining, {', '.join(unequal)} ({base / 1e6:,.2f} MB)."] if unequal else []


def _early(task: Mapping[str, Any]) -> list[str]:
    """Points before the last that were asked fewer questions."""
    for split, curve in task["curve"].items():
        n = task["asked"][str(task["last"])][split]["n"]
        if curve["questions"] < n and split == task["main"]:
            return [
                f"The questions curve and its area are over {curve['questions']:,} questions of {split}, those asked "
                f"at every point; figures of the last point over all {n:,}."
            ]
    return []
