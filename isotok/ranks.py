"""Several processes that work as one: who this one is, and small exchanges between all of them on the CPU.

They run over a gloo group, whatever device the work itself is on, so that no exchange waits for a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; `group` is None for one process. Every method is called on all ranks."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks, entry by entry, in float64; the same bits on every rank."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return [float(x) for x in total]

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all ranks (same shape on each), joined along the first dimension; on the CPU."""
        own = tensor.detach().cpu().reshape(1) if tensor.ndim == 0 else tensor.detach().cpu()
        if self.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own.contiguous(), group=self.group)
        return torch.cat(parts)

    def rows(self, own: np.ndarray) -> np.ndarray:
        """The rows that each rank has of an array, joined in the order of ranks."""
        return self.all_gather(torch.from_numpy(np.ascontiguousarray(own))).numpy()

    def gather_object(self, thing: Any, dst: int = 0) -> list[Any] | None:
        """The objects of all ranks in order, on rank `dst`; None elsewhere."""
        if self.size == 1:
            return [thing]
        found = [None] * self.size if self.rank == dst else None
        dist.gather_object(thing, found, dst=dst, group=self.group)
        return found

    def broadcast(self, thing: Any) -> Any:
        """Rank 0's object, on every rank."""
        if self.size == 1:
            return thing
        box = [thing]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(group=self.group)
