"""torch's body of the seam: one process, or several under DistributedDataParallel."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from training.checkpoint import KINDS, Checkpoint, Tensors
from training.optim import adamw, seed_moments
from training.process_group import Processes
from training.recipes import Engine, Training
from training.seam import check_names, copied, inputs_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TorchEngine:
    """fp32 weights and moments on one device, or whole on each rank under DDP; bf16 is autocast over them."""

    def __init__(self, model: "PreTrainedModel", training: Training, engine: Engine, processes: Processes) -> None:
        self.device = processes.device
        self.module: Any = model.to(self.device)  # type: ignore[arg-type]
        self.layout = {"zero": 0, "ranks": processes.ranks.size}
        self.optimizer = adamw(self.module, training)
        seed_moments(self.optimizer, list(self.module.parameters()))
        self._training = training
        self._ddp: Any = None
        if processes.accelerator is not None:
            self._ddp = processes.accelerator.prepare(self.module)
        runs = self.module if self._ddp is None else self._ddp
        self._forward: Any = torch.compile(runs) if engine.compile else runs

    def forward(
        self,
        ids: torch.Tensor,
        last: bool,
        segments: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
        metas: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if self._ddp is not None:
            self._ddp.require_backward_grad_sync = last
        with autocast(self._training, self.device):
            return self._forward(**inputs_of(ids, segments, kept, metas)).logits

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def update(self, lr: float) -> torch.Tensor:
        # A gradient that is not finite leaves weights and moments as they are, without waiting for the device.
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._training.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]  # read by fused AdamW
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def rehearse(self, step: Callable[[], None]) -> None:
        # Under DDP this also settles how gradients are bundled, so that a resumed run sums them as the first one did.
        try:
            step()
        finally:
            self.optimizer.zero_grad(set_to_none=True)

    def snapshot(self, kinds: tuple[str, ...], keep: bool) -> Tensors:
        if not keep:
            return {}
        named = dict(self.module.named_parameters())
        return {
            kind: {name: copied(self._tensor(kind, parameter)) for name, parameter in named.items()} for kind in kinds
        }

    def _tensor(self, kind: str, parameter: torch.Tensor) -> torch.Tensor:
        return parameter if kind == "weights" else self.optimizer.state[parameter][kind]

    def shard(self) -> dict[str, torch.Tensor]:
        raise NotImplementedError("every rank holds the whole state: the recipe refuses native checkpoints here")

    def load(self, checkpoint: Checkpoint) -> None:
        named = dict(self.module.named_parameters())
        with torch.no_grad():
            for kind in KINDS:
                check_names(checkpoint, kind, {name: tuple(p.shape) for name, p in named.items()})
                for name, tensor in checkpoint.read(kind):
                    self._tensor(kind, named[name]).copy_(tensor)
            for state in self.optimizer.state.values():
                state["step"].fill_(checkpoint.state["optimizer_step"])

    @property
    def optimizer_step(self) -> int:
        return int(next(iter(self.optimizer.state.values()))["step"])


def autocast(training: Training, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of torch's forward pass."""
    if training.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
