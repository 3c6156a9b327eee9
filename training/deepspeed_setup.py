"""What DeepSpeed is told before it starts."""

import datetime
import os
import warnings
from typing import Any

import torch

from training.recipes import Engine, Training

WHOLE_BELOW = 100_000
"""ZeRO 3 keeps parameters smaller than this whole on every rank."""


def deepspeed_config(engine: Engine, training: Training, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's own config. Where a step ends is said by the loop, so accumulation counts as one here."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed wants a number; the loop cuts the rows
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.clip,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": training.precision == "bf16"},
        "zero_optimization": {
            "stage": engine.zero,
            "overlap_comm": device.type == "cuda",
            "stage3_param_persistence_threshold": WHOLE_BELOW,
        },
        "steps_per_print": 2**31,
    }


def limit_waiting(timeout_s: float) -> None:
    """DeepSpeed makes process groups of its own with a timeout of 30 minutes; theirs becomes that of the run."""
    c10d: Any = torch.distributed.distributed_c10d
    for group in list(c10d._world.pg_map):
        c10d._set_pg_timeout(datetime.timedelta(seconds=timeout_s), group)


def without_compiling() -> None:
    """Leave out a C++ helper that DeepSpeed builds on a CPU at first start and training never calls.

    The build takes half a minute and a compiler, and a process killed in it leaves a lock that later starts wait for.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Its calls of torch.distributed go by names that torch is about to drop.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
