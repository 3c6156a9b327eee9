"""Continued pretraining: weights of a folder in place of the seed's, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from isotok.errors import ConfigError
from isotok.files import read_json
from modeling import GPT2, Llama, MetaGPT2, MetaLlama, MetaOLMo2, OLMo2
from modeling.init import build_model
from tests.training.engine_lab import TIED, write_run
from tokenization import BPE, load_tokenizer, train_tokenizer
from training import Engine
from training.api import init_fingerprint
from training.export import export_model
from training.work import work_of
from training.worker import run

SINGLE = Engine(device="cpu")


@pytest.fixture(scope="module")
def first(artefacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run."""
    out = write_run(artefacts, tmp_path_factory.mktemp("first") / "run", SINGLE)
    run(out)
    return out


def go_on(artefacts: dict[str, Path], out: Path, folder: Path, **changes: Any) -> Path:
    training = {"init_from": str(folder), "lr": 1e-4, **changes.pop("training", {})}
    return write_run(artefacts, out, SINGLE, training=training, **changes)


def exported(artefacts: dict[str, Path], out: Path, recipe: Any, context: int = 64) -> Path:
    tokenizer = load_tokenizer(artefacts["tokenizer"])
    config = recipe.config(len(tokenizer), context, tokenizer.eos_token_id)
    weights = dict(build_model(config, 5).named_parameters())
    export_model(config, weights, artefacts["tokenizer"], out)
    return out


def test_step_0_has_the_weights_of_the_folder(artefacts: dict[str, Path], first: Path, tmp_path: Path) -> None:
    out = go_on(artefacts, tmp_path / "run", first / "model")
    spec = read_json(out / "run.json")
    assert spec["init"] == init_fingerprint(first / "model")
    model = work_of(spec, None).model()
    theirs = load_file(first / "model/model.safetensors")
    assert all(torch.equal(p, theirs[name]) for name, p in model.named_parameters())
    figures = run(out)
    assert figures["init"] == spec["init"]
    assert figures["final_train_bpb"] < read_json(first / "train.json")["final_train_bpb"]
    assert "init" not in read_json(first / "train.json")


@pytest.mark.parametrize("recipe", [TIED, OLMo2(hidden_size=32, layers=1, heads=2, mlp_size=64)])
def test_families_and_a_longer_context(artefacts: dict[str, Path], tmp_path: Path, recipe: Any) -> None:
    folder = exported(artefacts, tmp_path / "model", recipe, context=32)
    out = go_on(artefacts, tmp_path / "run", folder, model=recipe)
    theirs = load_file(folder / "model.safetensors")
    model = work_of(read_json(out / "run.json"), None).model()
    assert all(torch.equal(p, theirs[name]) for name, p in model.named_parameters())


RETROFITS: list[tuple[Any, Any]] = [
    (TIED, MetaLlama(hidden_size=48, layers=2, heads=2, mlp_size=96, meta_out_init="zero")),
    (
        OLMo2(hidden_size=32, layers=1, heads=2, mlp_size=64),
        MetaOLMo2(hidden_size=32, layers=1, heads=2, mlp_size=64, meta_out_init="zero"),
    ),
    (
        GPT2(hidden_size=32, layers=2, heads=2, mlp_size=64),
        MetaGPT2(hidden_size=32, layers=2, heads=2, mlp_size=64, meta_out_init="zero"),
    ),
]


@pytest.mark.parametrize(("plain", "meta"), RETROFITS)
def test_meta_tokens_for_a_trained_model(artefacts: dict[str, Path], tmp_path: Path, plain: Any, meta: Any) -> None:
    """It begins as the model it goes on from: the second attention adds zeros, tables get rows at their end."""
    length = read_json(write_run(artefacts, tmp_path / "plain", SINGLE, model=plain) / "run.json")["plan"][
        "context_tokens"
    ]
    folder = exported(artefacts, tmp_path / "model", plain, context=length)
    out = go_on(artefacts, tmp_path / "run", folder, model=meta)
    ours = work_of(read_json(out / "run.json"), None).model()
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    added = {name for name, _ in ours.named_parameters()} - {name for name, _ in theirs.named_parameters()}
    assert added and all("meta_" in name for name in added)
    size = len(load_tokenizer(artefacts["tokenizer"]))
    ids = torch.randint(size, (2, length))
    with torch.no_grad():
        expected = theirs(input_ids=ids, use_cache=False).logits
        found = ours(input_ids=ids, use_cache=False).logits[..., :size]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        ids[:, 3] = size
        assert torch.isfinite(ours(input_ids=ids, use_cache=False).logits[..., :size]).all()
    assert run(out)["meta_tokens"] > 0
    again = go_on(artefacts, tmp_path / "again", out / "model", model=meta)
    saved = load_file(out / "model/model.safetensors")
    assert all(
        torch.equal(p, saved[name])
        for name, p in work_of(read_json(again / "run.json"), None).model().named_parameters()
    )


def test_meta_attention_is_not_made_up_unasked(artefacts: dict[str, Path], first: Path, tmp_path: Path) -> None:
    plain = MetaLlama(hidden_size=48, layers=2, heads=2, mlp_size=96)
    with pytest.raises(ConfigError, match="has no weights of meta-attention; with model.meta_out_init=zero"):
        go_on(artefacts, tmp_path / "run", first / "model", model=plain)


def test_positions_are_stretched_from_a_trained_model(artefacts: dict[str, Path], tmp_path: Path) -> None:
    size: dict[str, Any] = {"hidden_size": 32, "layers": 1, "heads": 2, "mlp_size": 64}
    short = MetaLlama(**size)
    folder = exported(artefacts, tmp_path / "model", short, context=32)
    out = go_on(artefacts, tmp_path / "run", folder, model=MetaLlama(**size, yarn_scale=4, yarn_from=32))
    assert work_of(read_json(out / "run.json"), None).config.rope_parameters["factor"] == 4
    with pytest.raises(ConfigError, match="rope_parameters"):
        go_on(artefacts, tmp_path / "other", folder, model=MetaLlama(**size, rope_theta=5e5))


def test_another_model_or_tokenizer_is_refused_by_name(artefacts: dict[str, Path], first: Path, tmp_path: Path) -> None:
    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(ConfigError, match=match):
            go_on(artefacts, tmp_path / "run", first / "model", **changes)

    refused("hidden_size is 48, this run's model has 32", model=Llama(hidden_size=32, layers=2, heads=2, mlp_size=64))
    refused("num_attention_heads is 2, this run's", model=Llama(hidden_size=48, layers=2, heads=4, mlp_size=96))
    refused("model_type is 'llama', this run's", model=OLMo2(hidden_size=48, layers=2, heads=2, mlp_size=96))
    refused("rope_parameters", model=Llama(hidden_size=48, layers=2, heads=2, mlp_size=96, rope_theta=5e5))
    refused("tie_word_embeddings is True", model=Llama(hidden_size=48, layers=2, heads=2, mlp_size=96, tied=False))
    wider = go_on(
        artefacts, tmp_path / "wide", first / "model", model=Llama(hidden_size=48, layers=2, heads=2, mlp_size=128)
    )
    with pytest.raises(ConfigError, match=r"gate_proj\.weight is 96×48, this run's model has 128×48"):
        run(wider)
    learned = GPT2(hidden_size=32, layers=1, heads=2, mlp_size=64)
    short = go_on(artefacts, tmp_path / "short", exported(artefacts, tmp_path / "gpt2", learned, 16), model=learned)
    with pytest.raises(ConfigError, match=r"wpe\.weight is 16×32, this run's model has \d+×32"):
        run(short)
    with pytest.raises(ConfigError, match=r"training\.init_from=.*nowhere: no transformers folder"):
        go_on(artefacts, tmp_path / "run", tmp_path / "nowhere")
    (tmp_path / "tokenizer").mkdir()
    train_tokenizer(BPE(vocab_size=280), artefacts["corpus"], tmp_path / "tokenizer")
    same_size = shutil.copytree(first / "model", tmp_path / "other")
    saved = json.loads((same_size / "tokenizer.json").read_text())
    saved["model"]["merges"] = saved["model"]["merges"][::-1]
    (same_size / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match="was trained with another tokenizer"):
        go_on(artefacts, tmp_path / "run", same_size)


def test_resume_refuses_other_weights(artefacts: dict[str, Path], first: Path, tmp_path: Path) -> None:
    out = go_on(artefacts, tmp_path / "run", first / "model")
    run(out)
    with pytest.raises(ConfigError, match="holds another run"):
        write_run(artefacts, out, SINGLE, training={"lr": 1e-4})
    other = exported(artefacts, tmp_path / "model", TIED)
    with pytest.raises(ConfigError, match="holds another run"):
        go_on(artefacts, out, other)
    moved = shutil.copytree(first / "model", tmp_path / "moved")
    go_on(artefacts, out, moved)
    run(out)
    spec = read_json(out / "run.json")
    spec["training"]["init_from"] = str(other)
    (out / "run.json").write_text(json.dumps(spec))
    with pytest.raises(ConfigError, match=r"training\.init_from=.*are not those that run\.json was written for"):
        run(out)
    spec["init"] = init_fingerprint(other)
    (out / "run.json").write_text(json.dumps(spec))
    with pytest.raises(ConfigError, match=r"a checkpoint of another run: init\.config .*init\.weights\.model"):
        run(out)
