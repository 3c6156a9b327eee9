"""The optimizer: AdamW with decay on matrices only, its moments there from the start."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from modeling.init import embedding_parameters
from training.recipes import Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adamw(model: "PreTrainedModel", training: Training) -> torch.optim.AdamW:
    """AdamW in two groups, matrices with decay and the rest without; see `seed_moments`."""
    tables = set() if training.decay_embeddings else {id(table) for table in embedding_parameters(model)}
    decayed: list[torch.Tensor] = []
    plain: list[torch.Tensor] = []
    for parameter in model.parameters():
        (decayed if parameter.ndim >= 2 and id(parameter) not in tables else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.lr, betas=training.betas, eps=training.eps, fused=True)


def seed_moments(optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor]) -> None:
    """Moments of zeros at once, so that a checkpoint of step 0 is like any other.

    parameters: what the optimizer updates, which under DeepSpeed are flat parts of many parameters.
    """
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
