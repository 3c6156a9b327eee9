"""Keyed initial weights: shared across arms, independent of global state."""

import math

import pytest
import torch

from modeling import GPT2, GPT2Rope, Llama, OLMo2
from modeling.init import build_model, embedding_parameters

RECIPES = [
    Llama(hidden_size=32, layers=2, heads=2, mlp_size=48, kv_heads=1),
    OLMo2(hidden_size=32, layers=2, heads=2, mlp_size=48),
    GPT2(hidden_size=32, layers=2, heads=2, mlp_size=48),
    GPT2Rope(hidden_size=32, layers=2, heads=2, mlp_size=48),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.label)
def test_body_is_bitwise_equal_across_vocabularies(recipe: Llama) -> None:
    small = build_model(recipe.config(100, 16, 0), seed=3)
    large = build_model(recipe.config(277, 24, 0), seed=3)
    tables = {id(p) for model in (small, large) for p in embedding_parameters(model)}
    shared = 0
    for (name, a), (other, b) in zip(small.named_parameters(), large.named_parameters()):
        assert name == other
        if id(a) in tables:
            rows = min(len(a), len(b))
            assert torch.equal(a[:rows], b[:rows]), "tables share the rows that both have"
        else:
            assert torch.equal(a, b), name
            shared += 1
    assert shared > 10


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.label)
def test_seed_and_name_decide(recipe: Llama) -> None:
    torch.manual_seed(1)
    a = build_model(recipe.config(100, 16, 0), seed=0)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)), "building leaves the global generator alone"
    b = build_model(recipe.config(100, 16, 0), seed=0)
    c = build_model(recipe.config(100, 16, 0), seed=1)
    matrices = [name for name, p in a.named_parameters() if p.ndim >= 2]
    ours, same, other = (dict(model.named_parameters()) for model in (a, b, c))
    assert all(torch.equal(ours[name], same[name]) for name in ours)
    assert not any(torch.equal(ours[name], other[name]) for name in matrices)
    flat = [ours[name].flatten()[:50] for name in matrices]
    assert not any(torch.equal(x, y) for i, x in enumerate(flat) for y in flat[:i])


@pytest.mark.parametrize("recipe", [GPT2, GPT2Rope])
def test_scales(recipe: type[GPT2]) -> None:
    model = build_model(recipe(hidden_size=64, layers=8, heads=2, mlp_size=256).config(500, 64, 0), seed=0)
    into_residual = ("c_proj.weight", "attention.dense.weight", "dense_4h_to_h.weight")
    scaled = 0
    for name, p in model.named_parameters():
        if p.ndim < 2:
            assert bool((p == (0 if name.endswith("bias") else 1)).all()), name
        else:
            expected = 0.02 / math.sqrt(16) if name.endswith(into_residual) else 0.02
            scaled += name.endswith(into_residual)
            assert p.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(p.mean().item()) < 0.001
    assert scaled == 16


def test_tied_weights_are_one_tensor_and_buffers_are_there() -> None:
    config = Llama(hidden_size=32, layers=1, heads=2, mlp_size=48).config(100, 16, 0)
    model = build_model(config, 0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    inverse = model.model.rotary_emb.inv_freq
    assert torch.allclose(inverse, 1.0 / 10_000 ** (torch.arange(0, 16, 2) / 16))
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
