"""The seam between the loop and what runs it: prepare, backward of a micro-batch, update, access to state.

The loop knows nothing of processes or wrappers; this is the single-process body.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from isotok.errors import ConfigError
from training.optim import adamw
from training.recipes import Engine, Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tensors = dict[str, dict[str, torch.Tensor]]
"""weights | exp_avg | exp_avg_sq → parameter name → tensor."""


class SingleEngine:
    """One process, one device. fp32 weights and moments; bf16 is autocast over them."""

    rank = 0

    def __init__(self, model: "PreTrainedModel", training: Training, device: torch.device, compiled: bool) -> None:
        self.module = model.to(device)  # type: ignore[arg-type]
        self.forward: Any = torch.compile(self.module) if compiled else self.module
        self.device = device
        self.optimizer = adamw(self.module, training)
        self._training = training

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the forward pass."""
        if self._training.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def micro_backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of a micro-batch's share of the loss; `last` ends the step's accumulation."""
        loss.backward()

    def update(self, lr: float) -> torch.Tensor:
        """Clip, step and clear; the gradient's norm before clipping, left on the device.

        A gradient that is not finite leaves weights and moments as they are, without waiting for the device.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._training.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]  # read by fused AdamW
        self.optimizer.step()
        self.clear_gradients()
        return norm

    def clear_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> Tensors:
        """Weights and moments by parameter name, on their device; tied weights appear once."""
        named = dict(self.module.named_parameters())
        moments = {
            key: {name: self.optimizer.state[parameter][key] for name, parameter in named.items()}
            for key in ("exp_avg", "exp_avg_sq")
        }
        return {"weights": {name: parameter.detach() for name, parameter in named.items()}, **moments}

    def load(self, tensors: Mapping[str, Mapping[str, torch.Tensor]], optimizer_step: int) -> None:
        """Put back what `tensors` gave, and the optimizer's own step."""
        with torch.no_grad():
            for kind, own in self.tensors().items():
                for name, tensor in own.items():
                    tensor.copy_(tensors[kind][name])
            for state in self.optimizer.state.values():
                state["step"].fill_(optimizer_step)

    @property
    def optimizer_step(self) -> int:
        """Updates that were applied; it parts from the loop's step where one was left out."""
        return int(next(iter(self.optimizer.state.values()))["step"])


def prepare(model: "PreTrainedModel", training: Training, engine: Engine) -> SingleEngine:
    """Put model and optimizer on the engine's device."""
    device = choose_device(engine)
    torch.set_num_threads(engine.threads)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    return SingleEngine(model, training, device, engine.compile)


def choose_device(engine: Engine) -> torch.device:
    if engine.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("engine.device=cuda: torch sees no CUDA device here; take engine.device=cpu or auto")
    if engine.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(engine.device)
