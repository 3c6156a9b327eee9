"""Initial weights keyed by (seed, parameter name), and parameter counts.

No generator state is shared between parameters, so two arms whose vocabularies differ start from the same body, bit
for bit; of a table they share the rows that both have.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isotok.keyed import keyed_rng
from modeling.flops import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


_INTO_RESIDUAL = {
    "gpt2": ("c_proj.weight",),
    "gpt_neox": ("attention.dense.weight", "meta_attn.dense.weight", "mlp.dense_4h_to_h.weight"),
}
_META_OUT = ("meta_attn.o_proj.weight", "meta_attn.c_proj.weight", "meta_attn.dense.weight")


@dataclass(frozen=True)
class Parameters:
    """total = body + embedding; embedding: input table, head (once when tied) and a table of positions."""

    total: int
    body: int
    embedding: int


def build_model(config: "PreTrainedConfig", seed: int) -> "PreTrainedModel":
    """The causal LM of a config with keyed fp32 weights, on the CPU, in training mode.

    Matrices and tables are normal(0, initializer_range), norms one, biases zero; GPT-2's projections into the
    residual stream, with learned or rotary positions, are scaled by 1/√(2 · layers) (Radford et al., 2019).
    """
    import torch

    model = skeleton(config, "cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(_initial(name, tuple(parameter.shape), config, seed)))
    model.train()
    return model


def count_parameters(config: "PreTrainedConfig") -> Parameters:
    """Count on the meta device: nothing is allocated, whatever the size."""
    model = skeleton(config, "meta")
    shared = {id(p): p.numel() for p in model.parameters()}
    tables = {id(parameter): parameter.numel() for parameter in embedding_parameters(model)}
    total, embedding = sum(shared.values()), sum(tables.values())
    return Parameters(total=total, body=total - embedding, embedding=embedding)


def embedding_parameters(model: "PreTrainedModel") -> list[Any]:
    """The input table, the head and, where there is one, the learned table of positions."""
    import torch

    tables = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    head = model.get_output_embeddings()
    return tables if head is None else [*tables, head.weight]


def skeleton(config: "PreTrainedConfig", device: str) -> "PreTrainedModel":
    """The causal LM of a config in fp32 without initial weights; on `meta` without storage."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    import modeling.meta_models  # noqa: F401  # registers what transformers does not know

    with torch.random.fork_rng(devices=[]), no_init_weights(), torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    model.tie_weights()
    return model


def _initial(name: str, shape: tuple[int, ...], config: "PreTrainedConfig", seed: int) -> Any:
    import numpy as np

    if len(shape) < 2:
        return np.zeros(shape, np.float32) if name.endswith("bias") else np.ones(shape, np.float32)
    if getattr(config, "meta_out_init", "") == "zero" and name.endswith(_META_OUT):
        return np.zeros(shape, np.float32)
    deviation = config.initializer_range
    if name.endswith(_INTO_RESIDUAL.get(family_of(config), ())):
        deviation /= math.sqrt(2 * config.num_hidden_layers)
    draws = keyed_rng("initial weights", seed, name).standard_normal(shape, dtype=np.float32)
    return draws * np.float32(deviation)
