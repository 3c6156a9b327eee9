"""Which body of the seam runs a model, put in place."""

import os
from typing import TYPE_CHECKING

import torch

from isotok.ranks import Ranks
from training.process_group import Processes, choose_device
from training.recipes import Engine, Training
from training.seam import TrainingEngine
from training.torch_engine import TorchEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def prepare(
    model: "PreTrainedModel", training: Training, engine: Engine, processes: Processes | None = None
) -> TrainingEngine:
    """Put model and optimizer where the engine runs them."""
    if processes is None:
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
