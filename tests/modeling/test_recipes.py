"""Model recipes and the shipped sizes, counted on the meta device."""

from pathlib import Path

import pytest
import yaml

from isotok.errors import ConfigError
from isotok.recipe import build, describe
from modeling import GPT2, Llama, OLMo2
from modeling.init import count_parameters

CONFIGS = Path(__file__).parents[2] / "configs" / "model"


def shipped(name: str) -> dict:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "vocab_size", "context", "total"),
    [
        ("olmo2_8b", 200_064, 4096, 8_115_458_048),  # SuperBPE's checkpoints
        ("gpt2_124m", 50_257, 1024, 124_439_808),
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
    ):
        config = recipe.config(100, 16, 99)
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (None, None, 99)
        assert config.max_position_embeddings == 16
