"""Pretraining with meta tokens: the same text as without, budgets that count them, resuming, learning, loading."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isotok.errors import ConfigError
from isotok.files import read_json
from modeling import Llama, MetaLlama
from modeling.flops import training_flops_per_token
from modeling.meta_injection import IGNORED
from tests.training.engine_lab import column, engine_of, write_run
from tokenization import TokenData
from training.streams import Injection, RowStreams
from training.worker import run as run_worker

PLAIN = Llama(hidden_size=32, layers=2, heads=2, mlp_size=48)
META = MetaLlama(hidden_size=32, layers=2, heads=2, mlp_size=48)


def streams_of(data: TokenData, injection: Injection | None, **keys: Any) -> RowStreams:
    return RowStreams(data, 8, 36, lambda ids, *_: ids, 5, metas=injection, **keys)


@pytest.mark.parametrize("loss", ["target_mask", "skip_shift"])
def test_rows_hold_the_same_text_on_any_ranks_and_from_any_step(artefacts: dict[str, Path], loss: str) -> None:
    data = TokenData.open(artefacts["tokens"], "train")
    injection = Injection(4, data.vocab_size, "random", loss, seed=5)
    plain, meta = streams_of(data, None), streams_of(data, injection)
    whole = []
    for _ in range(6):
        expected, batch = plain.next(), meta.next()
        whole.append(batch)
        assert batch.inputs.shape == batch.targets.shape == (8, 40)
        text = batch.inputs != data.vocab_size
        assert np.array_equal(batch.inputs[text].reshape(8, 36), expected.inputs)
        assert np.array_equal(batch.targets[batch.targets != IGNORED].reshape(8, 36), expected.targets)
        assert np.array_equal(np.nonzero(~text)[1].reshape(8, 4), batch.metas)
        for name in ("n_bytes", "n_tokens", "step_tokens"):
            assert getattr(batch, name) == getattr(expected, name)
        assert np.array_equal(batch.state_after, expected.state_after)
    assert not np.array_equal(whole[0].metas, whole[1].metas)
    state = whole[2].state_after
    for first in (0, 4):
        part = streams_of(data, injection, state=state, subset=range(first, first + 4), step=3)
        for step in range(3, 6):
            batch = part.next()
            for name in ("inputs", "targets", "metas"):
                assert np.array_equal(getattr(batch, name), getattr(whole[step], name)[first : first + 4])


def test_a_budget_counts_positions_in_flops_and_text_in_tokens(artefacts: dict[str, Path], tmp_path: Path) -> None:
    plans = {}
    for name, model in (("plain", PLAIN), ("meta", META), ("none", dataclasses.replace(META, placement="none"))):
        plans[name] = read_json(write_run(artefacts, tmp_path / name, engine_of("single"), model=model) / "run.json")[
            "plan"
        ]
    plain, meta = plans["plain"], plans["meta"]
    length = plain["context_tokens"]
    assert meta["context_tokens"] == length and meta["meta_tokens"] == int(0.1 * length) > 0
    assert (plain["meta_tokens"], plans["none"]["meta_tokens"]) == (0, 0)
    assert meta["tokens"] == plain["tokens"] * (length - meta["meta_tokens"]) // length
    assert meta["bytes"] == pytest.approx(meta["tokens"] * meta["bytes_per_token"])
    config = META.config(290, length, 0)
    assert meta["flops"] == pytest.approx(meta["steps"] * 8 * length * training_flops_per_token(config, length))
    assert plain["flops"] < plans["none"]["flops"] < meta["flops"]


def test_too_few_positions_for_a_meta_token_are_refused_before_training(
    artefacts: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"model.k=0.001: less than one meta token in a context of \d+ tokens"):
        write_run(artefacts, tmp_path / "run", engine_of("single"), model=dataclasses.replace(META, k=0.001))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["target_mask", "skip_shift"])
def test_it_learns_and_counts_and_loads(artefacts: dict[str, Path], tmp_path: Path, loss: str) -> None:
    from evaluation.checkpoint import load_model

    model = dataclasses.replace(META, loss=loss)
    training = {"clip": 1.0, "lr": 1e-2}
    runs = {}
    for name, recipe in (("plain", PLAIN), ("meta", model)):
        runs[name] = write_run(
            artefacts, tmp_path / name, engine_of("single"), model=recipe, training=training, budget={"amount": 40}
        )
        run_worker(runs[name])
    nats = {name: column(run, "train_nats") for name, run in runs.items()}
    assert nats["meta"][-1] < 0.8 * nats["meta"][0]
    figures, plan = (read_json(runs["meta"] / file) for file in ("train.json", "run.json"))
    assert figures["meta_tokens"] == plan["plan"]["meta_tokens"] > 0
    assert figures["tokens"] == plan["plan"]["tokens"] == 40 * figures["targets_per_update"]
    assert figures["bytes"] < read_json(runs["plain"] / "train.json")["bytes"]
    loaded = load_model(runs["meta"] / "model", "cpu")
    assert type(loaded).__name__ == "MetaLlamaForCausalLM" and loaded.config.meta_loss == loss
    logits = loaded(input_ids=torch.tensor([[1, loaded.config.meta_token_id, 2]])).logits
    assert torch.isneginf(logits[..., loaded.config.meta_token_id :]).all()
    assert torch.isfinite(logits[..., : loaded.config.meta_token_id]).all()
