"""A plain transformers folder from weights by parameter name: no training module, and no second copy of the weights."""

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from isotok.errors import ConfigError, DataError, IsotokError
from isotok.files import is_full, publish_dir, read_json
from isotok.recipe import OWN_PACKAGES
from modeling.init import skeleton
from training.checkpoint import Checkpoint, step_folder, steps_saved, verify
from training.work import config_of
from training.writer import read_best

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def export_model(config: "PreTrainedConfig", weights: Mapping[str, torch.Tensor], tokenizer: Path, final: Path) -> None:
    """Write the folder that `AutoModelForCausalLM` and `AutoTokenizer` load: fp32 safetensors, the tokenizer's files.

    weights: CPU tensors under the names of `named_parameters`, so tied ones once. final: replaced where it is there,
    whole or as it was. Raises DataError where names or shapes are not those of the config's model.
    """
    from transformers import GenerationConfig
    from transformers.utils import logging as hf_logging

    model = skeleton(config, "meta")
    _check(model, weights)
    eos_id = model.config.eos_token_id
    # The model's config names no padding id (see modeling.recipes); generation needs one.
    model.generation_config = GenerationConfig(eos_token_id=eos_id, pad_token_id=eos_id)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        # transformers imports DeepSpeed where it is installed, which then talks, on stdout.
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        with contextlib.redirect_stdout(sys.stderr):
            model.save_pretrained(partial, state_dict=dict(weights))
        for path in sorted(tokenizer.iterdir()):
            if path.is_file() and path.name != "manifest.json" and not (partial / path.name).exists():
                shutil.copyfile(path, partial / path.name)
        shutil.rmtree(final, ignore_errors=True)
        publish_dir(partial, final)
    except Exception as error:
        if is_full(error):
            raise IsotokError(f"{final}: no space left on the disk for the model; free some and try again") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if bars:
            hf_logging.enable_progress_bar()


def export_checkpoint(
    run_dir: Path, which: str, final: Path, *, allow: tuple[str, ...] | None = OWN_PACKAGES
) -> Checkpoint:
    """`export_model` of a run's checkpoint, finished or under way; returns the checkpoint. Nothing of the run changes.

    which: `last`, `best` or a step. allow: packages whose model recipes run.json may name. Raises ConfigError for a
    step without a checkpoint, DataError for a damaged or native one and for a tokenizer that is gone.
    """
    spec = read_json(run_dir / "run.json")
    checkpoint = verify(_choose(run_dir / "checkpoints", which))
    if checkpoint.native:
        raise DataError(
            f"{checkpoint.path}: a native checkpoint holds what each rank had, not whole weights; resume the run with "
            "engine.checkpoint=gathered and export the next one it saves"
        )
    tokenizer = _tokenizer(run_dir, Path(spec["tokenizer"]))
    config = config_of({**spec, "tokenizer": str(tokenizer)}, allow)
    export_model(config, dict(checkpoint.read("weights")), tokenizer, final)
    return checkpoint


def _check(model: "PreTrainedModel", weights: Mapping[str, torch.Tensor]) -> None:
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name in [*expected, *weights]:
        asked, given = expected.get(name), tuple(weights[name].shape) if name in weights else None
        if asked != given:
            raise DataError(
                f"weights of another model: {name} is {_shape(given)}, the config's model has it as {_shape(asked)}"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape)) or "a scalar"


def _choose(folder: Path, which: str) -> Path:
    steps = steps_saved(folder)
    if not steps:
        raise ConfigError(f"{folder}: no checkpoint yet; the first one comes after training.save_every_steps steps")
    if which == "last":
        return step_folder(folder, steps[-1])
    if which == "best":
        best = read_best(folder)
        if best is None:
            raise ConfigError(f"step=best: {folder} names no best checkpoint; take step=last or one of {steps}")
        step = best[0]
    elif which.isascii() and which.isdigit():
        step = int(which)
    else:
        raise ConfigError(f"step={which}: allowed are last, best and the steps {steps}")
    if step not in steps:
        raise ConfigError(f"step={which}: {folder} has no checkpoint of step {step}; it has {steps}")
    return step_folder(folder, step)


def _tokenizer(run_dir: Path, named: Path) -> Path:
    """The run's tokenizer where run.json says, or beside the run where the whole store was moved."""
    for folder in (named, run_dir.resolve().parent.parent / "tokenizer" / named.name):
        if folder.is_dir():
            return folder
    raise DataError(f"{named}: the tokenizer that {run_dir / 'run.json'} names is not there; was it removed?")
