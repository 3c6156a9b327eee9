"""Model recipes and the shipped sizes, counted on the meta device."""

from pathlib import Path

import pytest
import torch
import yaml

from isotok.errors import ConfigError
from isotok.recipe import build, describe
from modeling import GPT2, GPT2Rope, Llama, OLMo2
from modeling.init import build_model, count_parameters

CONFIGS = Path(__file__).parents[2] / "configs" / "model"


def shipped(name: str) -> dict:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "vocab_size", "context", "total"),
    [
        ("olmo2_8b", 200_064, 4096, 8_115_458_048),  # SuperBPE's checkpoints
        ("gpt2_124m", 50_257, 1024, 124_439_808),
        ("gpt2_rope_124m", 50_257, 1024, 123_653_376),
        ("llama_50m", 32_768, 1024, 48_900_608),
        ("llama_tiny", 2048, 168, 1_053_824),
    ],
)
def test_published_parameter_counts(name: str, vocab_size: int, context: int, total: int) -> None:
    config = build(shipped(name), "model").config(vocab_size, context, 0)
    parameters = count_parameters(config)
    assert parameters.total == total
    assert parameters.total == parameters.body + parameters.embedding


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_builds_and_lists_every_key(path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    recipe = build(data, "model")
    assert set(describe(recipe)) == set(data)
    assert build(describe(recipe), "model") == recipe


@pytest.mark.parametrize("name", ["llama_tiny", "gpt2_124m", "olmo2_8b"])
def test_body_does_not_depend_on_vocabulary_or_context(name: str) -> None:
    recipe = build(shipped(name), "model")
    bodies = {count_parameters(recipe.config(v, t, 0)).body for v, t in ((300, 64), (5000, 64), (300, 1000))}
    assert len(bodies) == 1


@pytest.mark.parametrize("recipe", [Llama, OLMo2])
def test_wrong_head_counts_are_refused(recipe: type) -> None:
    fields = {"_target_": f"modeling.recipes.{recipe.__name__}", "hidden_size": 64, "layers": 1, "mlp_size": 64}
    with pytest.raises(ConfigError, match="hidden_size=64 is not a multiple of heads=5"):
        build({**fields, "heads": 5}, "model")
    with pytest.raises(ConfigError, match="heads=4 is not a multiple of kv_heads=3"):
        build({**fields, "heads": 4, "kv_heads": 3}, "model")


def test_no_padding_id_in_the_model() -> None:
    """transformers would freeze the embedding of a padding id."""
    for recipe in (
        Llama(hidden_size=32, layers=1, heads=2, mlp_size=64),
        OLMo2(hidden_size=32, layers=1, heads=2, mlp_size=64),
        GPT2(hidden_size=32, layers=1, heads=2, mlp_size=64),
        GPT2Rope(hidden_size=32, layers=1, heads=2, mlp_size=64),
    ):
        config = recipe.config(100, 16, 99)
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (None, None, 99)
        assert config.max_position_embeddings == 16


def test_gpt2_with_rotary_positions_is_gpt2_at_the_first_position() -> None:
    """There the rotation is by nothing: the same blocks, activation, order of norms and tied head."""
    sizes = {"hidden_size": 32, "layers": 2, "heads": 2, "mlp_size": 64}
    learned, rotary = (build_model(recipe(**sizes).config(50, 8, 0), 0) for recipe in (GPT2, GPT2Rope))
    names = {
        "wte.weight": "embed_in.weight",
        "ln_f": "final_layer_norm",
        "h.": "layers.",
        "ln_1": "input_layernorm",
        "ln_2": "post_attention_layernorm",
        "attn.c_proj": "attention.dense",
        "mlp.c_fc": "mlp.dense_h_to_4h",
        "mlp.c_proj": "mlp.dense_4h_to_h",
        "attn.c_attn": "attention.query_key_value",
    }
    theirs = dict(rotary.named_parameters())
    with torch.no_grad():
        learned.transformer.wpe.weight.zero_()
        for name, parameter in learned.transformer.named_parameters():
            if name.startswith("wpe"):
                continue
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) / 10)
            other = f"gpt_neox.{name}"
            for old, new in names.items():
                other = other.replace(old, new)
            values = parameter.t() if name.endswith(".weight") and ".c_" in name else parameter
            if "c_attn" in name:  # GPT-NeoX puts a head's query, key and value side by side
                values = values.reshape(3, 2, 16, -1).transpose(0, 1).reshape(theirs[other].shape)
            theirs[other].copy_(values)
    ids = torch.arange(50)[:, None]
    ours, others = learned(input_ids=ids).logits, rotary(input_ids=ids).logits
    assert torch.allclose(ours, others, atol=1e-5)
    longer = torch.tensor([[1, 2, 3], [2, 1, 3]])
    at_3 = rotary(input_ids=longer).logits[:, -1]
    assert not torch.allclose(at_3[0], at_3[1], atol=1e-4), "later positions tell orders apart"
