"""Small checkpoints to save, damage and compare."""

from pathlib import Path

import torch

from training.checkpoint import KINDS, step_folder
from training.writer import CheckpointWriter


def tensors(value: float, size: int = 6) -> dict[str, dict[str, torch.Tensor]]:
    """Two parameters; every number in them is `value`."""
    return {kind: {"a.weight": torch.full((size,), value), "b": torch.full((2, 3), value)} for kind in KINDS}


def save(folder: Path, step: int, keep_last: int = 2) -> Path:
    """Save and wait."""
    with CheckpointWriter(folder, keep_last=keep_last, keep_best=True) as writer:
        writer.save({"step": step, "rows": [[step, 0]]}, tensors(step))
    return step_folder(folder, step)
