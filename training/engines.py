"""The seam between the loop and what runs it: forward, backward of a micro-batch, update, access to state.

The loop knows nothing of processes or wrappers. This is torch's body, for one process and for several under DDP;
`training.deepspeed_engine` is DeepSpeed's. Each scales a rank's loss the same way: sums over ranks become sums over the
whole step.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch

from isotok.errors import DataError
from training.checkpoint import Checkpoint
from training.optim import adamw, seed_moments
from training.process_group import Processes
from training.recipes import Engine, Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tensors = dict[str, dict[str, torch.Tensor]]
"""weights | exp_avg | exp_avg_sq → parameter name → fp32 tensor on the CPU."""

MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingEngine(Protocol):
    """What the loop needs. Every method is called on all ranks in the same order."""

    module: Any
    device: torch.device
    layout: dict[str, int]

    def forward(self, ids: torch.Tensor, last: bool) -> torch.Tensor:
        """Logits (rows, L, vocabulary) of ids (rows, L); `last`: the micro-batch that ends the step's accumulation."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a micro-batch's share of this rank's mean loss; ranks are averaged over."""
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

    def forward(self, ids: torch.Tensor, last: bool) -> torch.Tensor:
        if self._ddp is not None:
            self._ddp.require_backward_grad_sync = last
        with autocast(self._training, self.device):
            return self._forward(input_ids=ids, use_cache=False).logits

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
            for kind in ("weights", *MOMENTS):
                check_names(checkpoint, kind, {name: tuple(p.shape) for name, p in named.items()})
                for name, tensor in checkpoint.read(kind):
                    self._tensor(kind, named[name]).copy_(tensor)
            for state in self.optimizer.state.values():
                state["step"].fill_(checkpoint.state["optimizer_step"])

    @property
    def optimizer_step(self) -> int:
        return int(next(iter(self.optimizer.state.values()))["step"])


def prepare(
    model: "PreTrainedModel", training: Training, engine: Engine, processes: Processes | None = None
) -> TrainingEngine:
    """Put model and optimizer where the engine runs them."""
    if processes is None:
        from isotok.ranks import Ranks
        from training.process_group import choose_device

        processes = Processes(Ranks(), choose_device(engine))
    torch.set_num_threads(engine.threads)
    if processes.device.type == "cuda":
        torch.cuda.set_device(processes.device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    if engine.zero and processes.accelerator is not None:
        from training.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(model, training, engine, processes)
    return TorchEngine(model, training, engine, processes)


def autocast(training: Training, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of torch's forward pass."""
    if training.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


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
