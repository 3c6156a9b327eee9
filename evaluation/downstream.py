"""Tasks on a checkpoint: figures of each task, and one row an item.

Tasks are `TaskSet`s, generated or from a benchmark alike. lm-eval's evaluator asks the questions; what is made of the
answers is worked out here, per item, from the scores of its choices.
"""

import math
from collections.abc import Sequence
from typing import Any

from evaluation.documents import bits_per_byte
from evaluation.tasks.items import Item, TaskSet
from isotok.errors import DataError
from isotok.progress import say

HEADLINE = {"none": "acc", "bytes": "acc_bytes", "pmi": "acc_pmi"}
"""The accuracy that a task's normalization asks for."""
_FIGURES = (
    "acc", "acc_bytes", "acc_pmi", "acc_fewest_tokens", "norm_correct_prob", "gold_bits_per_byte", "greedy",
)  # fmt: skip
PLAIN = "plain"


def run(lm: Any, tasks: Sequence[TaskSet]) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Ask `lm` (an `IsotokLM`) every item of the tasks. Returns (figures by task, one row an item).

    Figures: `n`, `chance`, `scoring`, `version`, `sha256` of the items, `normalization`, `missing` (the reason, and
    then no other figure), `headline` (the name of the figure to look at), `place` among the tasks, and

    - `acc`, `acc_bytes`, `acc_pmi`: share of items whose gold choice has the largest log-probability, the largest per
      byte scored, the largest log P(choice | context) - log P(choice | unconditional) (tasks that name one);
    - `acc_fewest_tokens`: what the choice of fewest tokens gets, which is what a model that knows nothing takes. It is
      above chance where wrong choices are odd text, and differs by tokenizer;
    - `norm_correct_prob`: the gold choice's share of the choices' probabilities per byte, exp(log p / bytes); the mean;
    - `gold_bits_per_byte`: of all gold choices together;
    - `greedy`: share of gold choices that greedy decoding yields, token by token of their canonical encoding;
    - `spans`: share of items of which a choice has a token across its left boundary;
    - `shortened`: items longer than the context, scored with the left of their context cut off (in bytes, so the same
      ones for every tokenizer);
    - `by_variant`, `methods`: see `_by_variant` and `_by_method`.

    Accuracies are None where every item has one choice. Raises DataError naming task and item where a score is not
    finite: nothing is left out silently.
    """
    from evaluation.tasks.generate import COMPARE_METHODS
    from evaluation.tasks.run import run_tasks

    total = sum(len(task.items) for task in tasks)
    if total:
        say(f"evaluate: asking {total:,} questions of {sum(bool(task.items) for task in tasks)} tasks")
    samples = run_tasks(lm, tasks)
    figures: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    for place, task in enumerate(tasks):
        about = {**task.described(), "scoring": lm.scoring, "headline": headline(task), "place": place}
        if not task.items:
            figures[task.name] = {**about, **dict.fromkeys((*_FIGURES, "spans")), "shortened": 0}
            say(f"evaluate: {task.name} is missing: {task.missing}")
            continue
        own = _rows(lm, task, samples[task.name])
        figures[task.name] = {**about, **_figures(own, task.chance is not None)}
        if any(item.variant for item in task.items):
            figures[task.name]["by_variant"] = _by_variant(task, own)
        if task.name in COMPARE_METHODS:
            figures[task.name]["methods"] = _by_method(lm, task)
        say(f"evaluate: {_in_words(task, figures[task.name])}")
        rows += own
    return figures, rows


def headline(task: TaskSet) -> str:
    """The figure to look at first."""
    return "greedy" if task.items and task.chance is None else HEADLINE[task.normalization]


def _rows(lm: Any, task: TaskSet, samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    unconditional: list[list[float]] | None = None
    if task.unconditional is not None and task.chance is not None:
        scored = lm.likelihood.score([(task.unconditional, item.choices) for item in task.items])
        unconditional = [[pair.nats for pair in pairs] for pairs in scored]
    rows = []
    for at, (item, sample) in enumerate(zip(task.items, samples)):
        pairs = [lm.pair_scores[task.name, sample["doc_id"], item.context, choice] for choice in item.choices]
        nats = [pair.nats for pair in pairs]
        free = unconditional[at] if unconditional else None
        bad = [value for value in (*nats, *(free or ())) if not math.isfinite(value)]
        if bad:
            raise DataError(
                f"task {task.name}: item {item.id} has a log-likelihood of {-bad[0]}; "
                "the model's weights or activations are not finite"
            )
        # By the bytes that were scored: under back-off these hold a tail of the context, for superwords alone.
        rates = [pair.nats / pair.n_bytes for pair in pairs]
        tokens = [pair.n_tokens for pair in pairs]
        shortest = [i for i, n in enumerate(tokens) if n == min(tokens)]
        gold, several = item.gold, len(item.choices) > 1
        row = {
            "kind": task.name,
            "item": item.id,
            "group": item.group,
            "domain": item.domain,
            "item_hash": item.hash,
            "bytes": pairs[gold].n_bytes,
            "tokens": pairs[gold].n_tokens,
            "nats": nats[gold],
            "gold": gold,
            "variant": item.variant or None,
            "choice_nats": nats,
            "choice_bytes": [len(choice.encode()) for choice in item.choices],
            "greedy": pairs[gold].greedy,
            "spans": any(getattr(pair, "spans", False) for pair in pairs),
            "shortened": _size(item) > lm.context_bytes,
            "fewest_tokens": (gold in shortest) / len(shortest) if several else None,
            "correct": None,
            "correct_bytes": None,
            "correct_pmi": None,
            "norm_correct_prob": None,
        }
        if task.chance is not None:
            row["correct"] = bool(sample["acc"])
            row["correct_bytes"] = rates.index(min(rates)) == gold
            row["norm_correct_prob"] = _share(rates, gold)
            if free:
                gains = [alone - after for alone, after in zip(free, nats)]
                row["correct_pmi"] = gains.index(max(gains)) == gold
        rows.append(row)
    return rows


def _size(item: Item) -> int:
    return len(item.context.encode()) + max(len(choice.encode()) for choice in item.choices)


def _share(rates: Sequence[float], gold: int) -> float:
    """exp(-rate of gold) / sum of exp(-rate); `rates` in nats a byte."""
    least = min(rates)
    weights = [math.exp(least - rate) for rate in rates]
    return weights[gold] / math.fsum(weights)


def _figures(rows: Sequence[dict[str, Any]], several: bool) -> dict[str, Any]:
    columns = {
        "acc": "correct",
        "acc_bytes": "correct_bytes",
        "acc_pmi": "correct_pmi",
        "acc_fewest_tokens": "fewest_tokens",
        "norm_correct_prob": "norm_correct_prob",
    }
    return {
        **{name: _mean(rows, column) if several else None for name, column in columns.items()},
        "gold_bits_per_byte": bits_per_byte(math.fsum(r["nats"] for r in rows), sum(r["bytes"] for r in rows)),
        "greedy": _mean(rows, "greedy"),
        "spans": _mean(rows, "spans"),
        "shortened": sum(row["shortened"] for row in rows),
    }


def _mean(rows: Sequence[dict[str, Any]], column: str) -> float | None:
    """None where a row has none."""
    values = [row[column] for row in rows]
    return None if None in values else math.fsum(values) / len(values)


def _by_variant(task: TaskSet, rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Figures of each form in which the questions are asked; against the form `plain`, where there is one:

    `gold_bits_per_original_byte`: over the bytes that the plain form's gold choices have, so that a variant is not
    made cheaper by holding more bytes. `relative_drop`: (plain - variant) / plain of the headline accuracy (TokSuite);
    None where the plain form gets none right.
    """
    by_variant: dict[str, dict[str, dict[str, Any]]] = {}
    for item, row in zip(task.items, rows):
        by_variant.setdefault(item.variant, {})[item.source or item.id] = row
    figures = {
        name: {"n": len(own), **_pick(_figures(list(own.values()), task.chance is not None))}
        for name, own in by_variant.items()
    }
    plain, measure = by_variant.get(PLAIN, {}), headline(task)
    for name, own in by_variant.items() if plain else ():
        both = [source for source in own if source in plain]
        nats, original = math.fsum(own[s]["nats"] for s in both), sum(plain[s]["bytes"] for s in both)
        base = figures[PLAIN][measure]
        figures[name]["gold_bits_per_original_byte"] = bits_per_byte(nats, original) if original else None
        figures[name]["relative_drop"] = (base - figures[name][measure]) / base if base else None
    return figures


def _pick(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: figures[key] for key in _FIGURES}


def _by_method(lm: Any, task: TaskSet) -> dict[str, dict[str, Any]]:
    """The task under every method of scoring there is, against the truest of them (the last).

    `differs`: share of items whose choice (by the sum of log-probabilities) is another one. `margin_gap`: mean over
    items of the absolute difference, in nats, in the gold choice's margin over the best other one; margins can be
    compared across methods, because bytes of the context that a method scores along are the same for all choices.
    `margin_gap_per_byte`: that over the mean bytes of a gold choice.
    """
    from evaluation.likelihood import METHODS

    known = [method for method in reversed(METHODS) if method != "bytes" or lm.scoring == "bytes"]
    asked = [(item.context, item.choices) for item in task.items]
    nats = {
        method: [[pair.nats for pair in pairs] for pairs in lm.likelihood.score(asked, method=method)]
        for method in known
    }

    def margin(item: Item, own: Sequence[float]) -> float:
        return min(value for i, value in enumerate(own) if i != item.gold) - own[item.gold]

    truest = nats[known[-1]]
    size = sum(len(item.choices[item.gold].encode()) for item in task.items) / len(task.items)
    figures: dict[str, dict[str, Any]] = {}
    for method, own in nats.items():
        gaps = [abs(margin(item, a) - margin(item, b)) for item, a, b in zip(task.items, own, truest)]
        gap = math.fsum(gaps) / len(gaps)
        figures[method] = {
            "against": known[-1],
            "acc": sum(a.index(min(a)) == item.gold for item, a in zip(task.items, own)) / len(own),
            "differs": sum(a.index(min(a)) != b.index(min(b)) for a, b in zip(own, truest)) / len(own),
            "margin_gap": gap,
            "margin_gap_per_byte": gap / size,
        }
    return figures


def _in_words(task: TaskSet, figures: dict[str, Any]) -> str:
    measure, end = figures["headline"], f"{figures['gold_bits_per_byte']:.3f} bits per byte, {figures['n']} items"
    if measure == "greedy":
        return f"{task.name} greedy {figures['greedy']:.3f}, {end}"
    floor = f"chance {figures['chance']:.2f}, fewest tokens {figures['acc_fewest_tokens'] or 0:.2f}"
    return f"{task.name} {measure} {figures[measure]:.3f} ({floor}), {end}"
