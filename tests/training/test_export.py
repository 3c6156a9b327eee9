"""Exported folders: as transformers itself would write them, from weights by name, from any checkpoint of a run."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from isotok.errors import ConfigError, DataError
from isotok.files import read_json, write_json
from isotok.ranks import Ranks
from isotok.recipe import describe
from modeling import GPT2, Llama, OLMo2
from modeling.init import build_model
from tokenization import TokenData
from training import export
from training.checkpoint import KINDS, open_checkpoint
from training.export import export_checkpoint, export_model
from training.writer import CheckpointWriter, save_native

MODELS = {
    "tied": Llama(hidden_size=32, layers=2, heads=2, mlp_size=64),
    "untied": OLMo2(hidden_size=32, layers=2, heads=2, mlp_size=64),
    "positions": GPT2(hidden_size=32, layers=2, heads=2, mlp_size=64),
    "grouped": Llama(hidden_size=32, layers=1, heads=4, mlp_size=64, kv_heads=2, tied=False),
}


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", MODELS)
def test_the_folder_is_what_transformers_writes(artefacts: dict[str, Path], tmp_path: Path, kind: str) -> None:
    from transformers import GenerationConfig

    recipe, vocab_size, eos_id = MODELS[kind], 291, 290
    model = build_model(recipe.config(vocab_size, 64, eos_id), seed=3)
    tokenizer = shutil.copytree(artefacts["tokenizer"], tmp_path / "tokenizer")
    write_json(tokenizer / "manifest.json", {"stage": "tokenizer"})
    export_model(recipe.config(vocab_size, 64, eos_id), weights_of(model), tokenizer, tmp_path / "model")
    model.generation_config = GenerationConfig(eos_token_id=eos_id, pad_token_id=eos_id)
    model.save_pretrained(tmp_path / "theirs")
    made, theirs = files(tmp_path / "model"), files(tmp_path / "theirs")
    assert {name: made[name] for name in theirs} == theirs
    assert {name: made[name] for name in set(made) - set(theirs)} == {
        name: data for name, data in files(artefacts["tokenizer"]).items() if name not in theirs
    }
    # The config may be the one of a live model, too.
    export_model(model.config, weights_of(model), tokenizer, tmp_path / "model")
    assert files(tmp_path / "model") == made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "theirs", "tokenizer"]


def test_it_loads_with_transformers_alone_and_gives_the_same_logits(artefacts: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = build_model(MODELS["tied"].config(291, 64, 290), seed=3).eval()
    export_model(model.config, weights_of(model), artefacts["tokenizer"], tmp_path / "model")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = torch.tensor([tokenizer.encode("the sea was calm")])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_weights_of_another_model_are_refused(artefacts: dict[str, Path], tmp_path: Path) -> None:
    config = MODELS["tied"].config(291, 64, 290)
    weights = weights_of(build_model(config, seed=0))
    name = "model.layers.1.mlp.up_proj.weight"
    for changed, message in (
        ({**weights, name: torch.zeros(3, 2)}, "up_proj.weight is 3×2, the config's model has it as 64×32"),
        ({key: value for key, value in weights.items() if key != name}, "up_proj.weight is missing, .* as 64×32"),
        ({**weights, "lm_head.bias": torch.zeros(2)}, "lm_head.bias is 2, the config's model has it as missing"),
    ):
        with pytest.raises(DataError, match=message):
            export_model(config, changed, artefacts["tokenizer"], tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_model_that_was_there(
    artefacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(MODELS["tied"].config(291, 64, 290), seed=0)
    final = tmp_path / "model"
    export_model(model.config, weights_of(model), artefacts["tokenizer"], final)
    before = files(final)

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export.shutil, "copyfile", fail)
    with pytest.raises(KeyboardInterrupt):
        export_model(model.config, weights_of(model), artefacts["tokenizer"], final)
    assert files(final) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.fixture
def run(artefacts: dict[str, Path], tmp_path: Path) -> Path:
    """A run under way with checkpoints of steps 2 (best), 4 and 6: weights of seeds 2, 4 and 6."""
    data = TokenData.open(artefacts["tokens"], "train")
    config = MODELS["tied"].config(data.vocab_size, 64, data.eos_id)
    run_dir = tmp_path / "pretrain" / "arm-abc.partial"
    run_dir.mkdir(parents=True)
    spec = {"tokenizer": str(artefacts["tokenizer"]), "model": describe(MODELS["tied"]), "plan": {"context_tokens": 64}}
    write_json(run_dir / "run.json", spec)
    with CheckpointWriter(run_dir / "checkpoints", keep_last=2, keep_best=True) as out:
        for step, score in ((2, 1.0), (4, 2.0), (6, 3.0)):
            weights = weights_of(build_model(config, seed=step))
            out.save({"step": step}, dict.fromkeys(KINDS, weights))
            out.mark_best(step, score)
    return run_dir


def test_any_checkpoint_of_a_run_can_be_exported(run: Path, artefacts: dict[str, Path], tmp_path: Path) -> None:
    before = sorted(path for path in run.rglob("*"))
    for which, step in (("last", 6), ("best", 2), ("4", 4)):
        out = tmp_path / which
        assert export_checkpoint(run, which, out).state["step"] == step
        model = build_model(MODELS["tied"].config(291, 64, 290), seed=step)
        export_model(model.config, weights_of(model), artefacts["tokenizer"], tmp_path / "reference")
        assert files(out) == files(tmp_path / "reference")
    assert sorted(path for path in run.rglob("*")) == before


def test_a_store_that_was_moved_still_has_its_tokenizer(run: Path, artefacts: dict[str, Path], tmp_path: Path) -> None:
    spec = read_json(run / "run.json")
    write_json(run / "run.json", {**spec, "tokenizer": "/gone/tokenizer/bpe-290-aaa"})
    with pytest.raises(DataError, match=r"/gone/tokenizer/bpe-290-aaa: the tokenizer that .*run.json names"):
        export_checkpoint(run, "last", tmp_path / "out")
    shutil.copytree(artefacts["tokenizer"], tmp_path / "tokenizer" / "bpe-290-aaa")
    export_checkpoint(run, "last", tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_what_cannot_be_exported_is_named(run: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out", run / "checkpoints"
    for which, message in (
        ("3", r"step=3: .*checkpoints has no checkpoint of step 3; it has \[2, 4, 6\]"),
        ("first", r"step=first: allowed are last, best and the steps \[2, 4, 6\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_checkpoint(run, which, out)
    save_native(folder, {"step": 8}, {"flat": torch.zeros(3)}, Ranks())
    with pytest.raises(DataError, match=r"step-00000008: a native checkpoint .*engine.checkpoint=gathered"):
        export_checkpoint(run, "last", out)
    (folder / "step-00000004" / "exp_avg.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="step-00000004 is damaged .exp_avg.safetensors"):
        export_checkpoint(run, "4", out)
    assert open_checkpoint(folder / "step-00000004"), "a run's own folder is left to the run"
    (folder / "best.json").unlink()
    with pytest.raises(ConfigError, match="step=best: .* names no best checkpoint"):
        export_checkpoint(run, "best", out)
    shutil.rmtree(folder)
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        export_checkpoint(run, "last", out)
    assert not out.exists()
