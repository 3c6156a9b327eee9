"""Each generated item is solved again from the documents, without the generator's code."""

import collections
import json
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.model import LM

from evaluation.tasks.generate import TASKS, generate_tasks
from evaluation.tasks.items import Item, TaskSet
from evaluation.tasks.run import run_tasks
from isotok.errors import ConfigError
from isotok.keyed import keyed_rng

NAMES = ("iso_cloze", "iso_wordorder", "iso_typo")


@dataclass(frozen=True)
class Doc:
    id: str
    text: str
    group: str = "g"
    domain: str = "d"


def documents(count: int = 8) -> list[Doc]:
    text = "the king queen sea land ship wind went saw great small night under over brother naïve castle"
    words = text.split()
    made = []
    for i in range(count):
        rng = keyed_rng("task documents", i)
        lines = ["CHAPTER %d" % i, "", "1 2 3 4 5 6 7 8 9 10 11 12"]  # noqa: UP031
        for _ in range(12):
            picked = [words[int(k)] for k in rng.integers(0, len(words), 11)]
            lines.append("  " + " ".join(picked).capitalize() + ".")
        lines.append(
            " ".join(["and then"] * 60) + ". " + " ".join(lines[4].split())
        )  # a long line, cut at its sentence
        lines += ["the same refrain stands in each of these poems"] * 2
        made.append(Doc(f"doc{i}", "\n".join(lines)))
    return made


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[Item, ...]]:
    return {task.name: task.items for task in generate_tasks(documents(), NAMES, 40, 1234)}


def by_id() -> dict[str, Doc]:
    return {d.id: d for d in documents()}


@pytest.mark.parametrize("name", NAMES)
def test_common_shape(made: dict[str, tuple[Item, ...]], name: str) -> None:
    items = made[name]
    assert len(items) == 40
    assert len({i.id for i in items}) == 40
    assert len({i.hash for i in items}) == 40
    for item in items:
        assert len(set(item.choices)) == 4
        assert all(choice.endswith("\n") and choice.count("\n") == 1 for choice in item.choices)
        assert "1 2 3" not in "".join(item.choices)
    golds = collections.Counter(item.gold for item in items)
    assert set(golds) == {0, 1, 2, 3}


def test_cloze_gold_is_the_only_true_ending(made: dict[str, tuple[Item, ...]]) -> None:
    docs = by_id()
    for item in made["iso_cloze"]:
        true = [c for c in item.choices if item.context.split("\n")[-1] + c.rstrip("\n") in docs[item.document].text]
        assert true == [item.choices[item.gold]]
        for i, choice in enumerate(item.choices):
            assert choice.startswith(" ")
            assert len(choice.split()) == 4
            sources = {d.id for d in docs.values() if choice.strip() in d.text}
            assert i == item.gold or sources - {item.document}


def test_wordorder_choices_hold_the_same_words(made: dict[str, tuple[Item, ...]]) -> None:
    docs = by_id()
    for item in made["iso_wordorder"]:
        assert item.context == ""
        assert len({tuple(sorted(c.split())) for c in item.choices}) == 1
        assert [c for c in item.choices if c.strip() in docs[item.document].text] == [item.choices[item.gold]]


def test_typo_changes_one_word_into_no_word(made: dict[str, tuple[Item, ...]]) -> None:
    docs = by_id()
    known = {w.strip(".").lower() for d in docs.values() for w in d.text.split()}
    for item in made["iso_typo"]:
        gold = item.choices[item.gold]
        assert gold.strip() in docs[item.document].text
        for i, choice in enumerate(item.choices):
            if i == item.gold:
                continue
            changed = [(a, b) for a, b in zip(gold.split(), choice.split(), strict=True) if a != b]
            assert len(changed) == 1
            right, wrong = changed[0]
            assert wrong.lower() not in known
            assert len(wrong) == len(right)
            assert sum(a != b for a, b in zip(right, wrong)) <= 2


def test_same_documents_same_bytes() -> None:
    every = list(TASKS)
    one = {t.name: t.text for t in generate_tasks(documents(), every, 20, 1234)}
    # The order of documents and of tasks does not matter.
    two = {t.name: t.text for t in generate_tasks(documents()[::-1], every[::-1], 20, 1234)}
    three = {t.name: t.text for t in generate_tasks(documents(), every, 20, 1)}
    assert one == two
    assert all(one[name] != three[name] for name in every)
    assert all(json.loads(line)["id"] for text in one.values() for line in text.splitlines())


def test_too_little_text_yields_fewer_items() -> None:
    docs = [Doc("a", "short\n"), Doc("b", "one line of eight words is here now\n")]
    made = {task.name: task for task in generate_tasks(docs, NAMES, 10, 1)}
    assert made["iso_cloze"].items == ()  # no other document to take endings from
    assert made["iso_cloze"].missing == "the test split yields no item (1 sentences fit for tasks)"
    assert len(made["iso_wordorder"].items) == 1


def test_unknown_task() -> None:
    with pytest.raises(ConfigError, match=r"iso_other.*iso_cloze"):
        generate_tasks(documents(), ["iso_other"], 3, 1)


class Oracle(LM):
    """Knows the gold choices."""

    def __init__(self, tasks: list[TaskSet], wrong: frozenset[str] = frozenset()):
        super().__init__()
        self.likes = {
            (t.name, i.context, i.choices[(i.gold + (t.name in wrong)) % len(i.choices)])
            for t in tasks
            for i in t.items
        }

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [(-1.0, True) if (r.task_name, *r.args) in self.likes else (-900.0, False) for r in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError


def test_lm_eval_runs_them_offline_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    dates = TaskSet("dates", (Item("2020-01-01", "", "", "", "12", ("2020-01-01", "7", "[3]"), 1),), "2024-02")
    tasks = [*generate_tasks(documents(), list(TASKS), 6, 7), dates]
    random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), torch.rand(1).item()
    random.seed(5)
    torch.manual_seed(5)
    samples = run_tasks(Oracle(tasks, wrong=frozenset({"iso_typo"})), tasks)
    assert (random.random(), torch.rand(1).item()) == expected
    for task in tasks:
        assert [s["doc"]["id"] for s in samples[task.name]] == [item.id for item in task.items]
        assert {s["acc"] for s in samples[task.name]} == {float(task.name != "iso_typo")}
        for item, sample in zip(task.items, samples[task.name]):
            asked = [(context, choice) for context, choice in sample["arguments"]]
            assert asked == [(item.context, choice) for choice in item.choices]
    assert list(tmp_path.iterdir()) == []
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_same_choice_scored_by_the_real_class(byte_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    from evaluation.harness import IsotokLM

    tasks = generate_tasks(documents(), ["iso_cloze"], 4, 7)
    lm = IsotokLM(make_model(byte_tokenizer), byte_tokenizer, context_bytes=512)
    samples = run_tasks(lm, tasks)
    for n, (item, sample) in enumerate(zip(tasks[0].items, samples["iso_cloze"])):
        nats = [lm.pair_scores["iso_cloze", n, item.context, c].nats for c in item.choices]
        asked = sample["resps"]
        assert [-float(r[0][0]) for r in asked] == pytest.approx(nats)
        assert bool(sample["acc"]) == (int(np.argmin(nats)) == item.gold)
