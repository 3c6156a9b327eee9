"""Several processes that share one evaluation, as `torchrun` or `accelerate launch` start them.

They exchange small objects on the CPU (gloo), whatever device they score on.
"""

import datetime
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

_MEETING = datetime.timedelta(minutes=5)
# Afterwards, ranks wait for the slowest; one that died is noticed by the launcher.
_PATIENCE = datetime.timedelta(days=2)


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; `group` is None for one process."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all ranks (same shape on each), joined along the first dimension; on the CPU."""
        own = tensor.detach().cpu().reshape(1) if tensor.ndim == 0 else tensor.detach().cpu()
        if self.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own.contiguous(), group=self.group)
        return torch.cat(parts)

    def gather_object(self, thing: Any, dst: int = 0) -> list[Any] | None:
        """The objects of all ranks in order, on rank `dst`; None elsewhere."""
        if self.size == 1:
            return [thing]
        found = [None] * self.size if self.rank == dst else None
        dist.gather_object(thing, found, dst=dst, group=self.group)
        return found

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(group=self.group)


def join_ranks() -> Ranks:
    """Meet the other processes that the launcher announced in RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Ranks()
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=_MEETING)
    group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    return Ranks(dist.get_rank(), dist.get_world_size(), group)


def leave_ranks() -> None:
    """Part from the other processes, at the end."""
    if dist.is_initialized():
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """`auto` or `cuda` as this process' own GPU, where several processes share a machine."""
    if device in ("auto", "cuda") and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return device
