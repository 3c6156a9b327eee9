"""FLOPs of a causal LM, term by term, from its config.

Only matrix products count, two FLOPs a multiply-add; the backward pass is twice the forward. Attention is counted over
the full T × T square by default, as kernels without a causal skip compute it and most papers report it; `causal=True`
counts half the square. `tests/modeling/test_flops.py` holds the counts against torch's own FlopCounterMode.
"""

from typing import TYPE_CHECKING

from modeling.meta_injection import meta_count

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from modeling.init import Parameters

GATED_MLP = {"llama": True, "olmo2": True, "gpt2": False, "gpt_neox": False}
BACKWARD_OVER_FORWARD = 2


def forward_flops_per_token(
    config: "PreTrainedConfig", context_tokens: int, causal: bool = False, metas: float | None = None
) -> dict[str, float]:
    """Forward FLOPs of one token in a sequence of `context_tokens`: attention_projections, attention_scores, mlp, head.

    attention_scores holds both products with the T positions, queries with keys and weights with values. Models with
    meta tokens have meta_projections and meta_scores besides: a second attention over the M meta tokens among T
    positions (or, without a mask, over all), shared out over the T. metas: M, unless given as many as pretraining has.
    """
    family = family_of(config)
    d, layers = config.hidden_size, config.num_hidden_layers
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or d // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    mlp_size = config.n_inner or 4 * d if family == "gpt2" else config.intermediate_size
    seen = context_tokens / 2 if causal else context_tokens
    mlp_matrices = 3 if GATED_MLP[family] else 2
    projections = 2.0 * (2 * d * heads * head_size + 2 * d * kv_heads * head_size)
    scores = 4.0 * heads * head_size
    terms = {
        "attention_projections": layers * projections,
        "attention_scores": layers * scores * seen,
        "mlp": 2.0 * layers * mlp_matrices * d * mlp_size,
        "head": 2.0 * d * config.vocab_size,
    }
    if config.model_type in GATED_MLP:
        return terms
    among = meta_count(config, context_tokens) if metas is None else metas
    rows = context_tokens if config.meta_mask == "none" else among
    share = len(config.meta_layers) * rows / context_tokens
    return {
        **terms,
        "meta_projections": share * projections,
        "meta_scores": share * scores * (rows / 2 if causal else rows),
    }


def family_of(config: "PreTrainedConfig") -> str:
    """The model type, of a variant with meta tokens that of its family. Raises ValueError where FLOPs are not known."""
    family = str(config.model_type).removeprefix("meta_")
    if family not in GATED_MLP:
        raise ValueError(f"model type {config.model_type!r}: FLOPs are known for {', '.join(GATED_MLP)}")
    return family


def training_flops_per_token(
    config: "PreTrainedConfig", context_tokens: int, causal: bool = False, metas: float | None = None
) -> float:
    """Forward and backward FLOPs of one token: three times the forward."""
    return (1 + BACKWARD_OVER_FORWARD) * sum(forward_flops_per_token(config, context_tokens, causal, metas).values())


def superbpe_training_flops_per_token(
    config: "PreTrainedConfig", parameters: "Parameters", context_tokens: int
) -> float:
    """The convention of SuperBPE (Liu et al., 2025), named so that its published step counts can be recomputed.

    Forward 2 · (parameters without the input table) + 4 · L · d · T, backward 4 · (all parameters) + 8 · L · d · T:
    it charges the backward pass for the input table, which has no matrix product.
    """
    attention = config.num_hidden_layers * config.hidden_size * context_tokens
    input_table = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    forward = 2 * (parameters.total - input_table) + 4 * attention
    backward = 4 * parameters.total + 8 * attention
    return float(forward + backward)


def inference_flops_per_byte(
    config: "PreTrainedConfig", context_tokens: int, bytes_per_token: float
) -> dict[str, float]:
    """Forward FLOPs per byte of text.

    prefill: a full context at once, head at every position, full square. decode: one token at a time with cached keys
    and values, which attends to half the context on average.
    """
    return {
        "prefill": sum(forward_flops_per_token(config, context_tokens).values()) / bytes_per_token,
        "decode": sum(forward_flops_per_token(config, context_tokens, causal=True).values()) / bytes_per_token,
    }
