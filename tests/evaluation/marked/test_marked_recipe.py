"""The recipe of a marked task: what is refused, and the shipped configs, read by a vocabulary that has words whole."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.marked.levels import parse_level, pieces
from evaluation.marked.task import MarkedTask
from evaluation.subword.questions import parts
from isotok.errors import ConfigError, DataError
from isotok.recipe import build, describe
from scripts.compose import CONFIG_DIR
from tests.evaluation.marked.solver import shown, solve

KINDS = ("recall", "counting", "parity", "copying")


def recipe(**keys: Any) -> MarkedTask:
    made: MarkedTask = build({"_target_": "evaluation.marked.task.MarkedTask", **keys}, "task")
    return made


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "sorting"}, "task.kind='sorting'"),
        ({"levels": []}, "levels is empty"),
        ({"levels": ["3x"]}, "levels: '3x' is no level"),
        ({"levels": ["0x3"]}, "levels: '0x3' is no level"),
        ({"levels": [True]}, "task.levels"),
        ({"levels": [47]}, "levels: '47'.*48 pieces"),
        ({"levels": ["4x4", 128]}, "all shapes, or all lengths"),
        ({"levels": [128, 64]}, "each has to be larger"),
        ({"levels": ["4x4", "2x8"]}, "each has to be larger"),
        ({"test_levels": ["3x3"]}, "test_levels=.*larger than the last trained, 3x3"),
        ({"test_levels": ["6x4", "6x4"]}, "test_levels=.*different"),
        ({"test_levels": ["51x4"]}, "test_levels: 51x4 of recall: 51 lists need as many names, there are 50.*names=50"),
        ({"levels": ["3x51"]}, "levels: 3x51 of recall: lists of 51 need as many different items.*items=50"),
        ({"levels": ["1x3"]}, "levels: 1x3 of recall: at least two lists"),
        ({"levels": [2048]}, "levels: 2048 of recall: 9 names.*fill no lists"),
        ({"kind": "parity", "levels": ["4x4"]}, "levels: 4x4 of parity: at least one of 4 bits"),
        ({"kind": "copying", "levels": ["4x7"]}, "levels: 4x7 of copying: spans of up to 4 words need 8"),
        ({"kind": "copying", "placement": "none"}, "placement=none.*kind=copying"),
        ({"kind": "parity", "levels": ["3x4"], "held_out": True}, "held_out=true: parity"),
        ({"held_out": True, "levels": ["12x3"]}, "held_out=true: the split at 12x3 has .* names.*raise names=50"),
        ({"train_questions": 1, "levels": ["3x3", "4x4"]}, "train_questions=1"),
        ({"replay": 1.0}, "task.replay=1.0"),
        ({"names": 201}, "task.names=201"),
        ({"items": 2001}, "task.items=2001"),
        ({"placement": "random"}, "task.placement='random'"),
        ({"spans": 3}, "task.spans"),
    ],
)
def test_bad_keys_are_named(keys: dict[str, Any], message: str) -> None:
    if "9 names" in message:
        keys = {**keys, "names": 9}
    with pytest.raises(ConfigError, match=message):
        recipe(**{"kind": "recall", "levels": ["3x3"], **keys})


def test_more_questions_than_there_are() -> None:
    with pytest.raises(DataError, match="no further question of level 2x3 for train-2x3.*task.levels"):
        recipe(kind="parity", levels=["2x3"], train_questions=30, test_questions=2).data(Path())


def test_a_length_is_the_same_level_as_text() -> None:
    assert recipe(kind="recall", levels=[64, 128]) == recipe(kind="recall", levels=["64", "128"])
    assert describe(recipe(kind="recall", levels=[64]))["levels"] == ["64"]
    assert recipe(kind="recall", levels=[64]).fine_tuned


@given(st.sampled_from(KINDS), st.integers(48, 600), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_any_length_can_be_drawn(kind: str, length: int, seed: int) -> None:
    task = recipe(
        kind=kind, levels=[length], names=200, items=200, seed=seed, train_questions=5, test_questions=5
    ).data(Path())
    assert parse_level(str(length)).size == length
    for question in (*task.train, *task.splits[task.main]):
        assert solve(shown(question)) == question.answer
        assert length / 2 < pieces(question.prompt + question.answer) + len(question.marks) + 1 <= length


@given(st.integers(1, 12), st.integers(1, 24), st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None)
def test_any_shape_is_drawn_or_refused(a: int, b: int, kind: str) -> None:
    keys: dict[str, Any] = {"kind": kind, "levels": [f"{a}x{b}"], "train_questions": 3, "test_questions": 1}
    if {"parity": a >= b, "copying": 2 * a > b}.get(kind, min(a, b) < 2):
        with pytest.raises(ConfigError, match=f"levels: {a}x{b} of {kind}"):
            recipe(**keys)
        return
    for question in recipe(**keys).data(Path()).train:
        assert solve(shown(question)) == question.answer


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_configs_are_of_toy_size_and_tokens_are_pieces(kind: str) -> None:
    """A vocabulary of corpus=marked reads a question as as many tokens as it has pieces."""
    from tokenization.bpe import BPE
    from tokenization.marked import MarkedCorpus
    from tokenization.tokenizer import encode_texts

    config = yaml.safe_load((CONFIG_DIR / "task" / f"{kind}.yaml").read_text())
    corpus = yaml.safe_load((CONFIG_DIR / "corpus" / "marked.yaml").read_text())
    made = build(config, "task")
    assert set(config) == set(describe(made))
    assert (made.label, made.names, made.items) == (kind, corpus["names"], corpus["items"])
    task = build({**config, "train_questions": 300, "test_questions": 100}, "task").data(Path())
    tokenizer = BPE(vocab_size=1024, pretokenizer="gpt2").train(
        document.text for document in MarkedCorpus(texts=200).documents()
    )
    for questions in (task.train, *task.splits.values()):
        texts = [[*parts(question), question.answer] for question in questions]
        tokens = [sum(map(len, encode_texts(tokenizer, own))) for own in texts]
        assert tokens == [sum(map(pieces, own)) for own in texts]
    assert all(len(question.prompt.split()) <= 64 for question in task.train)
