"""The figures of a finished run: train.json, which the report reads, and timing.json."""

import hashlib
import resource
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from modeling.flops import forward_flops_per_token
from modeling.init import count_parameters
from training.setup import RunPlan, Totals
from training.tracking import bits_per_byte

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TAIL = 0.05
"""final_train_bpb is taken over this share of the steps, at the end."""


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names and raw bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def loss_figures(metrics: list[dict[str, Any]], stop_step: int, validations: list[int]) -> dict[str, Any]:
    """final_train_bpb, final_validation_bpb, and whether the loss still fell over the last half and quarter."""
    steps = [row for row in metrics if "train_nats" in row]
    scores = {row["step"]: row["validation_bpb"] for row in metrics if "validation_bpb" in row}

    def mean(first: float, last: float) -> float | None:
        part = [row for row in steps if first * stop_step < row["step"] <= last * stop_step]
        return bits_per_byte(sum(row["train_nats"] for row in part), sum(row["train_bytes"] for row in part))

    third, fourth = mean(0.5, 0.75), mean(0.75, 1.0)
    at_75 = min(validations[:-1], key=lambda step: abs(step - 0.75 * stop_step), default=None)
    before, end = scores.get(at_75) if at_75 else None, scores.get(stop_step)
    return {
        "final_train_bpb": mean(1 - TAIL, 1.0),
        "final_validation_bpb": end,
        "loss_falling": {
            "train": None if third is None or fourth is None else fourth < third,
            "train_bpb_third_quarter": third,
            "train_bpb_last_quarter": fourth,
            "validation": None if before is None or end is None else end < before,
            "validation_bpb_at_75": before,
            "validation_bpb_end": end,
        },
    }


def parameter_figures(config: "PreTrainedConfig", context_tokens: int) -> dict[str, Any]:
    parameters = count_parameters(config)
    flops = forward_flops_per_token(config, context_tokens)
    return {
        "total": parameters.total,
        "body": parameters.body,
        "embedding": parameters.embedding,
        "head_share": flops["head"] / sum(flops.values()),
    }


def timing_figures(totals: Totals, plan: RunPlan, device: torch.device, ranks: int) -> dict[str, Any]:
    """Seconds in steps only: start-up, validation and checkpoints are left out. Memory is rank 0's."""
    train_s = max(totals.train_s, 1e-9)
    if device.type == "cuda":
        peak_bytes = torch.cuda.max_memory_allocated(device)
    else:
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "wall_s": totals.train_s,
        "tokens_per_s": totals.tokens / train_s,
        "bytes_per_s": totals.bytes / train_s,
        "flops_per_s": plan.flops / train_s,
        "data_wait_share": totals.data_wait_s / train_s,
        "peak_memory_mb": peak_bytes / 1e6,
        "device": str(device),
        "ranks": ranks,
    }
