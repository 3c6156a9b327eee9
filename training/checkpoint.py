"""Checkpoints that any number of ranks can read: fp32 weights and moments by parameter name, and a small state.

checkpoints/step-00000400/{weights,exp_avg,exp_avg_sq}.safetensors and state.json with the sha256 of each. A folder is
whole or absent (written beside, flushed, renamed); the last two are kept, so that a bad disk block costs one.
"""

import errno
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from isotok.errors import IsotokError
from isotok.files import check_free_space, hash_key, publish_dir, read_json, sha256_file, write_json
from isotok.progress import say

KEEP = 2
_PREFIX = "step-"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums were verified."""

    path: Path
    state: dict[str, Any]

    def tensors(self, kind: str) -> dict[str, torch.Tensor]:
        """weights | exp_avg | exp_avg_sq, by parameter name, on the CPU."""
        return load_file(self.path / f"{kind}.safetensors")


def save_checkpoint(folder: Path, state: Mapping[str, Any], tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> Path:
    """Write a checkpoint for `state["step"]`, then prune. A failure leaves the checkpoints that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{_PREFIX}{state['step']:08d}"
    if final.exists():  # of this very run: damaged ones are set aside before training goes on
        return final
    temp = folder / f".{final.name}.tmp"
    shutil.rmtree(temp, ignore_errors=True)
    size = sum(tensor.numel() * tensor.element_size() for kind in tensors.values() for tensor in kind.values())
    check_free_space(folder, 1.05 * size, "a checkpoint")
    try:
        temp.mkdir()
        for kind, named in tensors.items():
            save_file({name: tensor.cpu().contiguous() for name, tensor in named.items()}, temp / f"{kind}.safetensors")
        files = {path.name: sha256_file(path) for path in sorted(temp.iterdir())}
        record = {"state": dict(state), "files": files}
        write_json(temp / "state.json", {**record, "sha256": hash_key(record, 64)})
        publish_dir(temp, final)
    except (OSError, SafetensorError, IsotokError) as error:
        shutil.rmtree(temp, ignore_errors=True)
        if not _is_full(error):
            raise
        kept = steps_saved(folder)
        raise IsotokError(
            f"{folder}: no space left on the disk for the checkpoint of step {state['step']}; "
            + (f"that of step {kept[-1]} is kept. " if kept else "there is none before it. ")
            + "Free some and run the same command, or set store=PATH to another disk"
        ) from error
    for step in steps_saved(folder)[:-KEEP]:
        shutil.rmtree(folder / f"{_PREFIX}{step:08d}")
    return final


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest valid checkpoint, None when there is none; says which ones it passes over and why."""
    for temp in folder.glob(f".{_PREFIX}*.tmp"):
        shutil.rmtree(temp)
    steps = steps_saved(folder)
    for step in reversed(steps):
        path = folder / f"{_PREFIX}{step:08d}"
        problem, state = _verify(path)
        if problem is None:
            return Checkpoint(path, state)
        say(f"warning: checkpoint {path} is damaged ({problem}); falling back to the one before it")
        # Out of the way, so that it neither counts as one to keep nor stands where the step is saved again.
        damaged = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(damaged, ignore_errors=True)
        path.rename(damaged)
    if steps:
        say(f"warning: no valid checkpoint left in {folder}; starting from step 0")
    return None


def steps_saved(folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    names = (path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*"))
    return sorted(int(name) for name in names if name.isdecimal())


def _verify(path: Path) -> tuple[str | None, dict[str, Any]]:
    try:
        record = read_json(path / "state.json")
        if record["sha256"] != hash_key({"state": record["state"], "files": record["files"]}, 64):
            return "state.json does not match its checksum", {}
        for name, expected in record["files"].items():
            if sha256_file(path / name) != expected:
                return f"{name} does not match its checksum", {}
        return None, record["state"]
    except (IsotokError, OSError, KeyError, TypeError) as error:
        return str(error), {}


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "no space left" in str(error).lower()
