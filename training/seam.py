"""The seam between the loop and what runs it: forward, backward of a micro-batch, update, access to state.

The loop knows nothing of processes or wrappers. `training.torch_engine` is torch's body, for one process and for
several under DDP; `training.deepspeed_engine` is DeepSpeed's. Each scales a rank's loss the same way: it is averaged
over ranks.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from isotok.errors import DataError
from training.checkpoint import Checkpoint, Tensors


class TrainingEngine(Protocol):
    """What the loop needs. Every method is called on all ranks in the same order."""

    module: Any
    device: torch.device
    layout: dict[str, int]

    def forward(
        self,
        ids: torch.Tensor,
        last: bool,
        segments: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
        metas: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (rows, L, vocabulary) of ids (rows, L); `last`: the micro-batch that ends the step's accumulation.

        segments: int64 of (rows, L), an id sees those before it that have its number. kept: the positions, in order,
        that logits are wanted of; they then are (rows, positions, vocabulary). metas: int64 of (rows, M), the places of
        meta tokens among the ids, where all rows have M.
        """
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a micro-batch's share of this rank's loss; ranks are averaged over."""
        ...

    def update(self, lr: float) -> torch.Tensor:
        """Clip, step and clear; the norm of the whole gradient before clipping. Not finite: nothing was changed."""
        ...

    def rehearse(self, step: Callable[[], None]) -> None:
        """Run `step` (forward and backward of a micro-batch), an update where that takes memory, and forget it."""
        ...

    def snapshot(self, kinds: tuple[str, ...], keep: bool) -> Tensors:
        """Copies of whole tensors, where `keep` says so; the other ranks help and get nothing."""
        ...

    def shard(self) -> dict[str, torch.Tensor]:
        """Copies of this rank's own part of the state, for a native checkpoint."""
        ...

    def load(self, checkpoint: Checkpoint) -> None:
        """Put back weights, moments and the optimizer's own step."""
        ...

    @property
    def optimizer_step(self) -> int:
        """Updates that were applied; it parts from the loop's step where one was left out."""
        ...


def inputs_of(
    ids: torch.Tensor,
    segments: torch.Tensor | None = None,
    kept: torch.Tensor | None = None,
    metas: torch.Tensor | None = None,
) -> dict[str, Any]:
    """What a model of transformers is called with, its attention masked to blocks where there are segments.

    A mask of four dimensions is taken as it is: (rows, 1, L, L), True where attention goes. Padding is a segment as
    well, so that no position is left with nothing to attend to.
    """
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if segments is not None:
        before = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        inputs["attention_mask"] = ((segments[:, :, None] == segments[:, None, :]) & before)[:, None]
    if kept is not None:
        inputs["logits_to_keep"] = kept
    if metas is not None:
        inputs["meta_rows"] = metas
    return inputs


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU that later steps do not touch."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


def check_names(checkpoint: Checkpoint, kind: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise DataError where a checkpoint's tensors are not those of the model."""
    names = set(checkpoint.names(kind))
    if names != set(shapes):
        other = sorted(names ^ set(shapes))[0]
        whose = "the checkpoint" if other in names else "the model"
        raise DataError(f"{checkpoint.path}: {kind} of another model (only {whose} has {other})")
