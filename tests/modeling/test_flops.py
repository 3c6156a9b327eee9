"""FLOPs against torch's own counter and against the numbers that SuperBPE publishes."""

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modeling import GPT2, GPT2Rope, Llama, OLMo2
from modeling.flops import (
    forward_flops_per_token,
    inference_flops_per_byte,
    superbpe_training_flops_per_token,
    training_flops_per_token,
)
from modeling.init import build_model, count_parameters

ROWS, CONTEXT, VOCAB = 3, 24, 101
RECIPES = [
    Llama(hidden_size=32, layers=3, heads=4, mlp_size=40),
    Llama(hidden_size=32, layers=2, heads=4, mlp_size=40, kv_heads=2, tied=False),
    OLMo2(hidden_size=32, layers=2, heads=2, mlp_size=72),
    OLMo2(hidden_size=32, layers=2, heads=4, mlp_size=72, kv_heads=2),
    GPT2(hidden_size=48, layers=2, heads=3, mlp_size=100),
    GPT2Rope(hidden_size=48, layers=2, heads=3, mlp_size=100),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_equals_the_flop_counter(recipe: Llama) -> None:
    config = recipe.config(VOCAB, CONTEXT, 0)
    model = build_model(config, 0)
    ids = torch.randint(VOCAB, (ROWS, CONTEXT))
    counts = {}
    # The fused CPU kernel of attention counts as zero: force the one made of matrix products.
    with sdpa_kernel(SDPBackend.MATH):
        for backward in (False, True):
            with FlopCounterMode(display=False) as counter:
                logits = model(input_ids=ids, use_cache=False).logits
                if backward:
                    functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
            by_module = counter.get_flop_counts()
            # Older versions of transformers make the angles of RoPE by a matrix product; it is not the model's work.
            angles = sum(sum(n.values()) for name, n in by_module.items() if name.endswith("rotary_emb"))
            counts[backward] = counter.get_total_flops() - angles
    tokens = ROWS * CONTEXT
    assert counts[False] == tokens * sum(forward_flops_per_token(config, CONTEXT).values())
    assert counts[True] == tokens * training_flops_per_token(config, CONTEXT)


def test_terms() -> None:
    config = Llama(hidden_size=32, layers=3, heads=4, mlp_size=40).config(VOCAB, CONTEXT, 0)
    full, half = forward_flops_per_token(config, CONTEXT), forward_flops_per_token(config, CONTEXT, causal=True)
    assert set(full) == {"attention_projections", "attention_scores", "mlp", "head"}
    assert half["attention_scores"] == full["attention_scores"] / 2
    assert {k: v for k, v in half.items() if k != "attention_scores"} == {
        k: v for k, v in full.items() if k != "attention_scores"
    }
    per_byte = inference_flops_per_byte(config, CONTEXT, 4.0)
    assert per_byte == {"prefill": sum(full.values()) / 4, "decode": sum(half.values()) / 4}


def test_unknown_model_type_is_named() -> None:
    config = Llama(hidden_size=32, layers=1, heads=4, mlp_size=40).config(VOCAB, CONTEXT, 0)
    config.model_type = "mamba"
    with pytest.raises(ValueError, match="mamba"):
        forward_flops_per_token(config, CONTEXT)


def test_superbpe_published_steps() -> None:
    """One budget, that of 76,533 steps of 8B with BPE, gives the steps of the other 8B runs exactly."""
    recipe = OLMo2(hidden_size=4096, layers=32, heads=32, mlp_size=11008)
    parameters = count_parameters(recipe.config(200_064, 4096, 0))

    def step_flops(context: int) -> float:
        config = recipe.config(200_064, context, 0)
        return 1024 * context * superbpe_training_flops_per_token(config, parameters, context)

    budget = 76_533 * step_flops(4096)
    assert budget == pytest.approx(1.717e22, rel=2e-4)
    published = {4096: 76_533, 2756: 118_409, 2884: 112_712, 3000: 107_972}
    assert {context: int(budget // step_flops(context)) for context in published} == published


def test_superbpe_published_inference() -> None:
    recipe = OLMo2(hidden_size=4096, layers=32, heads=32, mlp_size=11008)
    for context, bytes_per_token, published in ((4096, 4.45868, 3.75e9), (3000, 6.08841, 2.66e9)):
        config = recipe.config(200_064, context, 0)
        ours = inference_flops_per_byte(config, context, bytes_per_token)["prefill"]
        assert ours == pytest.approx(published, rel=5e-3)
