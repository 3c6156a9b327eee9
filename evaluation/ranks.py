"""Several processes that share one evaluation, as `torchrun` or `accelerate launch` start them.

They exchange small objects on the CPU, whatever device they score on.
"""

import datetime
import os

import torch
import torch.distributed as dist

from isotok.ranks import Ranks

_MEETING = datetime.timedelta(minutes=5)
# Afterwards, ranks wait for the slowest; one that died is noticed by the launcher.
_PATIENCE = datetime.timedelta(days=2)


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
