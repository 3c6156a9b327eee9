"""DeepSpeed's body of the seam: ZeRO 1 to 3 (Rajbhandari et al., 2020), its own backward, clipping and step.

What a checkpoint holds is the same as for any other engine: fp32 weights and moments by parameter name, through
DeepSpeed's gathering and scattering helpers. Names with an underscore and the flat lists are DeepSpeed's internals;
they are used in this file only, and the tests of all pairs of engines watch over them.
"""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from isotok.errors import DataError
from training.checkpoint import KINDS, Checkpoint, Tensors
from training.deepspeed_setup import limit_waiting
from training.optim import adamw, seed_moments
from training.process_group import Processes
from training.recipes import Engine, Training
from training.seam import check_names, copied, inputs_of
from training.watchdog import group_timeout_s

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DeepSpeedEngine:
    """fp32 masters and moments shared out over the ranks; with bf16, working weights are rounded from the masters."""

    def __init__(self, model: "PreTrainedModel", training: Training, engine: Engine, processes: Processes) -> None:
        assert processes.accelerator is not None
        self.device = processes.device
        self.layout = {"zero": engine.zero, "ranks": processes.ranks.size}
        # With bf16 DeepSpeed would round the weights first and take the masters from that.
        exact = {name: copied(p) for name, p in model.named_parameters()} if training.precision == "bf16" else {}
        self._engine: Any = processes.accelerator.prepare(model.to(self.device), adamw(model, training))[0]  # type: ignore[arg-type]
        self.module: Any = self._engine.module
        if engine.compile:
            self._engine.compile()
        limit_waiting(group_timeout_s(engine.timeout_s))
        seed_moments(self._base, self._flat)
        if engine.zero < 3:
            # Without, only the first group's state is found by the helpers after the first step, and they hang.
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()
        self._set_masters(exact.items())
        if exact:
            self._refresh()

    @property
    def _zero(self) -> Any:
        return self._engine.optimizer

    @property
    def _base(self) -> torch.optim.Optimizer:
        return self._zero.optimizer

    @property
    def _flat(self) -> list[torch.Tensor]:
        """This rank's parts of the fp32 weights, one a parameter group, as the base optimizer knows them."""
        zero = self._zero
        return list(zero.fp32_partitioned_groups_flat if self._partitioned else zero.single_partition_of_fp32_groups)

    @property
    def _partitioned(self) -> bool:
        return self.layout["zero"] == 3

    def forward(
        self,
        ids: torch.Tensor,
        last: bool,
        segments: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
        metas: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self._engine.set_gradient_accumulation_boundary(last)
        return self._engine(**inputs_of(ids, segments, kept, metas)).logits

    def backward(self, loss: torch.Tensor) -> None:
        self._engine.backward(loss, scale_wrt_gas=False)

    def update(self, lr: float) -> torch.Tensor:
        for group in self._zero.param_groups:
            group["lr"] = lr
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        # DeepSpeed leaves an update out without a word when a gradient is not finite.
        applied = self._engine.was_step_applied() and norm is not None
        return torch.tensor(float(norm) if applied else math.nan)

    def rehearse(self, step: Callable[[], None]) -> None:
        # There is no dropping of gradients half way: the update is made with a learning rate of zero, and the moments
        # that it leaves are cleared.
        step()
        self.update(0.0)
        for state in self._base.state.values():
            for value in state.values():
                value.zero_()

    def snapshot(self, kinds: tuple[str, ...], keep: bool) -> Tensors:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        tensors: dict[str, dict[str, torch.Tensor]] = {}
        # Every rank takes part for every tensor, in the same order; each holds one whole tensor at a time.
        for kind in kinds:
            for name, parameter in self.module.named_parameters():
                if kind == "weights":
                    whole = safe_get_full_fp32_param(parameter)
                else:
                    whole = safe_get_full_optimizer_state(parameter, kind)
                if keep:
                    tensors.setdefault(kind, {})[name] = copied(whole).reshape(_shape(parameter))
        return tensors

    def shard(self) -> dict[str, torch.Tensor]:
        return {f"{kind}.{i}": copied(self._part(kind, flat)) for i, flat in enumerate(self._flat) for kind in KINDS}

    def _part(self, kind: str, flat: torch.Tensor) -> torch.Tensor:
        return flat if kind == "weights" else self._base.state[flat][kind]

    def load(self, checkpoint: Checkpoint) -> None:
        if checkpoint.native:
            self._load_shard(checkpoint)
        else:
            self._load_whole(checkpoint)
        with torch.no_grad():
            for flat in self._flat:
                self._base.state[flat]["step"].fill_(checkpoint.state["optimizer_step"])
            self._refresh()

    def _set_masters(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        named = dict(self.module.named_parameters())
        for name, tensor in weights:
            safe_set_full_fp32_param(named[name], tensor.to(self.device))

    def _load_whole(self, checkpoint: Checkpoint) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        named = dict(self.module.named_parameters())
        for kind in KINDS:
            check_names(checkpoint, kind, {name: _shape(parameter) for name, parameter in named.items()})
            if kind == "weights":
                self._set_masters(checkpoint.read(kind))
                continue
            for name, tensor in checkpoint.read(kind):
                safe_set_full_optimizer_state(named[name], tensor.to(self.device), kind)

    def _load_shard(self, checkpoint: Checkpoint) -> None:
        import torch.distributed as dist

        parts = checkpoint.shard(dist.get_rank())
        with torch.no_grad():
            for i, flat in enumerate(self._flat):
                for kind in KINDS:
                    part = parts.get(f"{kind}.{i}")
                    if part is None or part.shape != flat.shape:
                        raise DataError(f"{checkpoint.path}: {kind} of another model")
                    self._part(kind, flat).copy_(part)

    def _refresh(self) -> None:
        """Working weights from the masters, which loading writes alone."""
        if self._partitioned:
            for working, master in zip(self._zero.fp16_partitioned_groups_flat, self._flat, strict=True):
                working.data.copy_(master.data)
        else:
            self._zero.update_lp_params()

    @property
    def optimizer_step(self) -> int:
        return int(self._base.state[self._flat[0]]["step"])


def _shape(parameter: Any) -> tuple[int, ...]:
    """The true shape: ZeRO 3 empties a parameter between uses."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
