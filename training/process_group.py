"""The processes of one run: Accelerate brings them together and gives each its device."""

import contextlib
import datetime
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from isotok.errors import ConfigError
from isotok.ranks import Ranks
from training.process import explain_start_failure, world_size
from training.recipes import Engine, Training
from training.watchdog import group_timeout_s

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Processes:
    """Who this process is among the ranks of a run, and what it computes on. accelerator: None for a plain process."""

    ranks: Ranks
    device: torch.device
    accelerator: "Accelerator | None" = None


def check_engine(engine: Engine) -> str:
    """The kind of device a run is on here, cpu or cuda; ConfigError for an engine that this machine cannot run."""
    if engine.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("engine.device=cuda: torch sees no CUDA device here; take engine.device=cpu or auto")
    if engine.zero:
        from importlib.util import find_spec

        if find_spec("deepspeed") is None:
            raise ConfigError(f"engine.zero={engine.zero}: needs DeepSpeed; pip install -e '.[deepspeed]'")
    return "cpu" if engine.device == "cpu" or not torch.cuda.is_available() else "cuda"


def choose_device(engine: Engine) -> torch.device:
    """This process' own device: its GPU among those of the machine, or the CPU."""
    if check_engine(engine) == "cpu":
        return torch.device("cpu")
    here, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if here >= count:
        raise ConfigError(
            f"engine.ranks: rank {here} of this machine has no GPU, there are {count}; lower engine.ranks"
        )
    return torch.device("cuda", here)


@contextlib.contextmanager
def started(engine: Engine, training: Training) -> Iterator[Processes]:
    """The process group that the launcher's environment asks for (torchrun, srun, accelerate), left at the end.

    One process without DeepSpeed needs none. Raises ConfigError where the ranks cannot meet.
    """
    size = world_size()
    device = choose_device(engine)
    if size == 1 and engine.zero == 0:
        yield Processes(Ranks(), device)
        return
    alone = _be_the_only_rank() if size == 1 else []
    timeout = datetime.timedelta(seconds=group_timeout_s(engine.timeout_s))
    try:
        accelerator = _accelerator(engine, training, device, timeout)
        group = dist.new_group(backend="gloo", timeout=timeout) if size > 1 else None
    except Exception as error:
        raise explain_start_failure(error) or error from None
    try:
        yield Processes(Ranks(dist.get_rank(), size, group), device, accelerator)
    finally:
        _leave()
        for name in alone:
            os.environ.pop(name, None)


def _accelerator(
    engine: Engine, training: Training, device: torch.device, timeout: datetime.timedelta
) -> "Accelerator":
    from accelerate import Accelerator, DeepSpeedPlugin
    from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs

    # `accelerate launch`, from its flags or a config file in the home folder, says precision, compiling and sharding in
    # the environment, and Accelerator obeys; here they are what the recipes say.
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    waiting = InitProcessGroupKwargs(timeout=timeout)
    if not engine.zero:
        ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
        on_cpu = device.type == "cpu"
        return Accelerator(cpu=on_cpu, gradient_accumulation_steps=1, kwargs_handlers=[waiting, ddp])
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from training.deepspeed_setup import deepspeed_config, without_compiling

    if device.type == "cpu":
        if torch.cuda.is_available():
            raise ConfigError(
                f"engine.device=cpu with engine.zero={engine.zero}: DeepSpeed takes the GPU that is here; "
                "hide it (CUDA_VISIBLE_DEVICES=) or take engine.device=cuda"
            )
        without_compiling()
    plugin = DeepSpeedPlugin(hf_ds_config=deepspeed_config(engine, training, device))
    accelerator = Accelerator(deepspeed_plugin=plugin, kwargs_handlers=[waiting])
    # With some of its settings Accelerate goes on as plain DDP without a word.
    assert accelerator.distributed_type == DistributedType.DEEPSPEED
    # With ZeRO 3 transformers would from now on build every model in parts, by collectives that need all ranks.
    unset_hf_deepspeed_config()
    return accelerator


def _be_the_only_rank() -> list[str]:
    """Say what torch's launcher would say to a single process: DeepSpeed wants a process group even there.

    Returns the variables that were not set before.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    added = [name for name in alone if name not in os.environ]
    os.environ.update({name: alone[name] for name in added})
    return added


def _leave() -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    if dist.is_initialized():
        dist.destroy_process_group()
