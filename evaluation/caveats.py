"""What a reader must know beside the numbers: found in the data, never left to memory."""

from collections.abc import Mapping
from typing import Any

from evaluation.gather import Study, missing_tasks
from evaluation.stats import FEW_GROUPS, INTERVAL, ONE_SEED

FEW_STEPS = 500
LEAK_LIMIT = 0.02
NOTABLE = 0.01


def caveats(study: Study, results: Mapping[str, Any]) -> list[str]:
    """Sentences for the top of the report, the weightiest first. No paths, no times."""
    arms = results["arms"]
    base = arms[study.baseline]["quantities"]
    found = []
    short = {name: arm for name, arm in arms.items() if arm["rule"] != INTERVAL}
    for name, arm in short.items():
        found.append(
            f"{name}: {arm['rule']}."
            + (" Seeds alone move a run by more than most tokenizers do." * (arm["rule"] == ONE_SEED))
        )
    for entry in results["comparisons"]:
        if entry.get("opposite_domains"):
            found.append(
                f"{entry['arms'][0]} and {entry['arms'][1]} differ clearly but in opposite directions over domains "
                f"({', '.join(entry['opposite_domains'])}): no pooled claim is made."
            )
    found.extend(_text_read(study.baseline, arms))
    found.extend(_against_counting(results))
    repeated: list[str] = []
    for name, arm in arms.items():
        read, unique = arm["quantities"]["bytes"], arm["quantities"]["unique_bytes"]
        if read is not None and unique is not None and unique < 0.99 * read:
            repeated.append(name)
            found.append(
                f"{name} read {read / 1e6:,.2f} MB, of which {unique / 1e6:,.2f} MB are different text: the rest was "
                "repeated, in an order that differs by seed."
            )
    found.extend(_schedule(arms, base))
    for name, arm in arms.items():
        if arm["transform"] not in ("", "NoTransform"):
            found.append(
                f"{name} trained on varied tokenizations ({arm['transform']}) and is scored on the canonical one: "
                "it also pays for probability it keeps for the others"
                + (" (how much: under Segmentations)." if arm["segmentations"] else ".")
            )
    groups = base["test_groups"]
    if groups < FEW_GROUPS:
        found.append(
            f"Few clusters: the test text comes from {groups} groups (under {FEW_GROUPS}), "
            "so the item part of intervals is rough."
        )
    leaks = max((arm["quantities"]["leak_share"] or 0.0 for arm in arms.values()), default=0.0)
    if leaks >= LEAK_LIMIT:
        found.append(
            f"{leaks:.1%} of the held-out 50-byte shingles also stand in the training text (limit {LEAK_LIMIT:.0%})."
        )
    missing = missing_tasks(study)
    if missing:
        listed = "; ".join(f"{name} ({reason})" for name, reason in missing.items())
        found.append(f"Missing tasks, which no figure makes up for: {listed}.")
    cut = {name: row["shortened"] for name, row in arms[study.baseline]["tasks"].items() if row["shortened"]}
    if cut:
        listed = ", ".join(f"{name} {n:,}" for name, n in cut.items())
        found.append(f"Items longer than the context lost the left of theirs, the same in every arm: {listed}.")
    falling = [name for name, arm in arms.items() if arm["loss_falling"]["falling"]]
    if falling:
        found.append(
            f"Validation loss fell by more than 1% over the last fifth of training ({', '.join(falling)}): "
            "a larger budget would lower it, and may order the arms differently."
        )
    order = {(run.corpus.get("sha256"), run.train.get("rows")) for arm in study.arms.values() for run in arm.runs}
    if len(order) > 1:
        found.append("Arms differ in corpus or in rows a step: they did not read the same documents in the same order.")
    elif not repeated:
        drawn = any(arm["transform"] not in ("", "NoTransform") for arm in arms.values())
        found.append(
            "All arms read the same documents in the same order. Seeds vary the initial weights"
            + (" and the draws of the transform" if drawn else "")
            + ", not the text: intervals over seeds do not cover another draw of training text."
        )
    long = {name: arm["quantities"]["long_windows"] or 0.0 for name, arm in arms.items()}
    if max(long.values()) - min(long.values()) > 0.05:
        found.append(
            "Test windows are equal in bytes, so where text is hard they hold more tokens than training rows did: "
            + ", ".join(f"{name} {value:.0%}" for name, value in long.items())
            + " of the windows. Positions beyond the trained ones cost those arms a little."
        )
    if study.endpoint and not any(entry["kind"] == "A/A" for entry in results["comparisons"]):
        found.append("No A/A row: comparing an arm with itself needs six seeds of one arm.")
    return found


def _against_counting(results: Mapping[str, Any]) -> list[str]:
    """Which arms pass the order-2 byte Markov model, the line under which a model has learned more than spelling."""
    line = results["references"].get("markov_2")
    if line is None:
        return []
    below = {name: arm["bits_per_byte"]["mean"] < line for name, arm in results["arms"].items()}
    passed = ", ".join(name for name, passes in below.items() if passes)
    missed = [name for name, passes in below.items() if not passes]
    text = f"Below an order-2 byte Markov model ({line:.3f} bits/byte, counted on the training text): "
    if not missed:
        return [text + "every arm."]
    read = {name: results["arms"][name]["quantities"]["bytes"] for name in missed}
    listed = ", ".join(name if read[name] is None else f"{name} ({read[name] / 1e6:.2f} MB read)" for name in missed)
    return [f"{text}{passed or 'none'}. Not below it: {listed}."]


def version_differences(results: Mapping[str, Any]) -> list[str]:
    """Names of versions, commits and machine figures that are not the same for all runs and stages."""
    return [name for name, values in results["provenance"]["versions"].items() if len(values) > 1]


def _text_read(baseline: str, arms: Mapping[str, Any]) -> list[str]:
    amounts = {name: arm["quantities"]["bytes"] for name, arm in arms.items()}
    base = amounts[baseline]
    if not base or any(amount is None for amount in amounts.values()):
        return []
    unequal = [
        f"{name} read {abs(amount / base - 1):.0%} {'less' if amount < base else 'more'} text than {baseline}"
        for name, amount in amounts.items()
        if abs(amount / base - 1) > NOTABLE
    ]
    if not unequal:
        return []
    unique = [arm["quantities"]["unique_bytes"] or arm["quantities"]["bytes"] for arm in arms.values()]
    common = min(unique) / max(unique)
    return [
        f"At this budget {', '.join(unequal)} ({base / 1e6:,.2f} MB). "
        f"The text common to all arms is {common:.0%} of what the arm that read most has seen."
    ]


def _schedule(arms: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    found = []
    rates = {arm["quantities"]["lr"] for arm in arms.values()} - {None}
    if base["lr"] is not None and len(rates) == 1:
        found.append(
            f"One learning rate for all arms ({base['lr']:g}), not tuned per arm: "
            "another one may order the arms differently."
        )
    elif rates:
        found.append("Learning rates differ by arm (see the table of quantities).")
    few = {
        name: arm["quantities"]["steps"]
        for name, arm in arms.items()
        if (arm["quantities"]["steps"] or FEW_STEPS) < FEW_STEPS
    }
    if few:
        found.append(
            f"Under {FEW_STEPS} steps: " + ", ".join(f"{name} {steps:,.0f}" for name, steps in few.items()) + "."
        )
    bodies = {arm["quantities"]["parameters_body"] for arm in arms.values()}
    if len(bodies) == 1:
        found.append(
            "All arms share one body (parameters without embedding and head): statements hold at this fixed body, "
            "not at each arm's best size."
        )
    else:
        found.append("Parameters of the body differ between arms (see the table of quantities).")
    return found
