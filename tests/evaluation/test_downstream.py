"""Figures of tasks against a computation from the scores of single strings."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evaluation import downstream
from evaluation.harness import IsotokLM
from evaluation.likelihood import PairScore
from evaluation.tasks.items import Item, TaskSet
from isotok.errors import DataError


def item(id: str, context: str, choices: tuple[str, ...], gold: int = 0, **more: str) -> Item:
    return Item(id, "doc", "group", "domain", context, choices, gold, **more)


MIXED = TaskSet(
    "mixed",
    (
        item("two", "The king of", (" the sea\n", " France\n"), 1),
        item("five", "", ("a\n", "bb\n", "ccc\n", "dddd\n", "eeeee\n"), 3),
        item("digits", "12", ("7", "2020-01-01"), 0),
    ),
    "v3",
)
BROKEN = PairScore(math.inf, False, 1, 1)
ONE = TaskSet("one", (item("a", "Once upon a", (" time\n",)), item("b", "x", ("y",))))
PMI = TaskSet(
    "pmi",
    tuple(
        item(str(i), f"Question {i}?\nAnswer:", (" A\n", " none of the others\n", " B b\n"), i % 3) for i in range(6)
    ),
    normalization="pmi",
    unconditional="Answer:",
)
GONE = TaskSet("gone", (), missing="not on the Hub")


@pytest.fixture(scope="module")
def lm(byte_tokenizer: Any, make_model: Callable[..., Any]) -> IsotokLM:
    return IsotokLM(make_model(byte_tokenizer), byte_tokenizer, context_bytes=64)


def nats(lm: IsotokLM, context: str, choice: str) -> float:
    """-log P(choice | context) by bytes, with a plain pass over the string."""
    ids = [lm.tokenizer.eos_token_id, *(context + choice).encode()]
    with torch.no_grad():
        logp = torch.log_softmax(lm.model(torch.tensor([ids])).logits[0, :-1].double(), -1)
    return -float(logp[range(len(ids) - 1), ids[1:]][len(context.encode()) :].sum())


def test_figures_against_single_strings(lm: IsotokLM) -> None:
    figures, rows = downstream.run(lm, [MIXED, ONE, GONE, PMI])
    assert list(figures) == ["mixed", "one", "gone", "pmi"]
    assert [r["kind"] for r in rows] == ["mixed"] * 3 + ["one"] * 2 + ["pmi"] * 6
    own = figures["mixed"]
    assert (own["n"], own["version"], own["sha256"], own["missing"]) == (3, "v3", MIXED.sha256, None)
    assert own["chance"] == pytest.approx((1 / 2 + 1 / 5 + 1 / 2) / 3)
    right, right_bytes, shares, bits, size = [], [], [], 0.0, 0
    for asked, row in zip(MIXED.items, rows):
        scores = [nats(lm, asked.context, choice) for choice in asked.choices]
        assert row["choice_nats"] == pytest.approx(scores, rel=1e-4)
        sizes = [len(choice.encode()) for choice in asked.choices]
        rates = [score / n for score, n in zip(scores, sizes)]
        right.append(scores.index(min(scores)) == asked.gold)
        right_bytes.append(rates.index(min(rates)) == asked.gold)
        shares.append(math.exp(-rates[asked.gold]) / sum(math.exp(-rate) for rate in rates))
        bits += scores[asked.gold] / math.log(2)
        size += sizes[asked.gold]
    assert own["acc"] == pytest.approx(sum(right) / 3)
    assert own["acc_bytes"] == pytest.approx(sum(right_bytes) / 3)
    assert own["norm_correct_prob"] == pytest.approx(sum(shares) / 3, rel=1e-4)
    assert own["gold_bits_per_byte"] == pytest.approx(bits / size, rel=1e-4)
    assert own["acc_pmi"] is None
    assert own["headline"] == "acc_bytes"


def test_pmi_takes_the_unconditional_away(lm: IsotokLM) -> None:
    figures, rows = downstream.run(lm, [PMI])
    right = []
    for asked in PMI.items:
        gains = [nats(lm, "Answer:", choice) - nats(lm, asked.context, choice) for choice in asked.choices]
        right.append(gains.index(max(gains)) == asked.gold)
    assert [row["correct_pmi"] for row in rows] == right
    assert figures["pmi"]["acc_pmi"] == pytest.approx(sum(right) / 6)
    assert figures["pmi"]["headline"] == "acc_pmi"


def test_single_choices_have_no_accuracy(lm: IsotokLM) -> None:
    text = lm.generate("Once upon a", 3).encode()
    certain = item("c", "Once upon a", (text[:1].decode("latin-1"),)) if text[:1].isascii() and text else None
    task = TaskSet("one", (*ONE.items, *([certain] if certain else [])))
    figures, rows = downstream.run(lm, [task])
    own = figures["one"]
    assert [own[key] for key in ("chance", "acc", "acc_bytes", "acc_fewest_tokens", "norm_correct_prob")] == [None] * 5
    assert own["headline"] == "greedy"
    assert own["greedy"] == sum(row["greedy"] for row in rows) / len(rows)
    assert rows[-1]["greedy"] or not certain
    assert own["gold_bits_per_byte"] > 0


def test_missing_tasks_stay_in_sight(lm: IsotokLM) -> None:
    figures, rows = downstream.run(lm, [GONE])
    assert rows == []
    assert figures["gone"]["missing"] == "not on the Hub"
    assert figures["gone"]["n"] == 0
    assert figures["gone"]["acc"] is None


def test_what_is_longer_than_the_context_is_counted(lm: IsotokLM) -> None:
    long = TaskSet("long", (item("a", "word " * 20, ("x\n", "y\n")), item("b", "e" * 61, ("x\n", "yy\n"))))
    figures, rows = downstream.run(lm, [long])
    assert figures["long"]["shortened"] == 1
    assert [row["shortened"] for row in rows] == [True, False]
    same = ("word " * 20)[-62:]
    assert rows[0]["choice_nats"] == pytest.approx([nats(lm, same, choice) for choice in ("x\n", "y\n")], rel=1e-4)


def test_scores_that_are_no_numbers_are_refused_by_name(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = make_model(byte_tokenizer)
    model.lm_head.weight.data[ord("d")] = float("nan")
    lm = IsotokLM(model, byte_tokenizer, context_bytes=64)
    with pytest.raises(DataError, match="task mixed"):  # the model class looks too
        downstream.run(lm, [MIXED])
    pairs = {("one", 0, "Once upon a", " time\n"): PairScore(1.0, False, 6, 6), ("one", 1, "x", "y"): BROKEN}
    other = SimpleNamespace(pair_scores=pairs, context_bytes=64)
    with pytest.raises(DataError, match="task one: item b has a log-likelihood of -inf"):
        downstream._rows(other, ONE, [{"doc_id": 0, "acc": 1}, {"doc_id": 1, "acc": 0}])


def test_variants_are_compared_with_the_plain_form(lm: IsotokLM) -> None:
    items = []
    for i in range(8):
        for variant, change in (("plain", str), ("upper", str.upper), ("wide", lambda text: text.replace(" ", "   "))):
            choices = tuple(change(choice) for choice in (" of the sea\n", " king\n", " a man\n"))
            items.append(
                item(f"{i}:{variant}", change(f"line {i} the"), choices, i % 3, variant=variant, source=str(i))
            )
    figures, rows = downstream.run(lm, [TaskSet("forms", tuple(items))])
    by_variant = figures["forms"]["by_variant"]
    plain_bytes = sum(r["bytes"] for r in rows if r["variant"] == "plain")
    for variant in ("plain", "upper", "wide"):
        own = [row for row in rows if row["variant"] == variant]
        got = by_variant[variant]
        assert got["n"] == 8
        assert got["acc_bytes"] == sum(row["correct_bytes"] for row in own) / 8
        total = sum(row["nats"] for row in own) / math.log(2)
        assert got["gold_bits_per_original_byte"] == pytest.approx(total / plain_bytes)
        base = by_variant["plain"]["acc_bytes"]
        assert got["relative_drop"] == (pytest.approx(1 - got["acc_bytes"] / base) if base else None)
    assert by_variant["wide"]["gold_bits_per_original_byte"] > by_variant["wide"]["gold_bits_per_byte"]


def test_methods_are_compared_with_the_truest(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    lm = IsotokLM(make_model(superword_tokenizer), superword_tokenizer, context_bytes=200)
    items = tuple(
        item(str(i), f"line {i} of", (" the land\n", " the sea\n", " the king\n"), i % 3, variant="mid-phrase")
        for i in range(6)
    )
    figures, _ = downstream.run(lm, [TaskSet("iso_boundary", items, normalization="none")])
    methods = figures["iso_boundary"]["methods"]
    assert {"naive", "backoff"} <= set(methods)
    truest = methods["naive"]["against"]
    assert methods[truest]["differs"] == methods[truest]["margin_gap"] == 0
    asked = [(one.context, one.choices) for one in items]
    gaps, differ = [], []
    for one, a, b in zip(items, *(lm.likelihood.score(asked, method=method) for method in ("naive", truest))):
        first, second = ([pair.nats for pair in pairs] for pairs in (a, b))
        rest = [i for i in range(3) if i != one.gold]
        gaps.append(
            abs((min(first[i] for i in rest) - first[one.gold]) - (min(second[i] for i in rest) - second[one.gold]))
        )
        differ.append(first.index(min(first)) != second.index(min(second)))
    assert methods["naive"]["margin_gap"] == pytest.approx(sum(gaps) / 6)
    assert methods["naive"]["margin_gap"] > 0.01  # "of the" is one token, which the naive cut breaks
    assert methods["naive"]["differs"] == sum(differ) / 6
