"""Checkpoints that any engine on any number of ranks can read: their format, and reading them.

checkpoints/step-00000400/ holds {weights,exp_avg,exp_avg_sq}.safetensors, fp32 by parameter name (several files a kind,
weights-00001.safetensors …, when a kind is large), and state.json: the state, and the sha256 of every file and of
itself. A native checkpoint holds rank-00000.safetensors … instead, what each rank had, for the same layout only. A
folder is whole or absent; `training.writer` makes them and keeps the last ones and the best, so that a bad disk block
costs one.
"""

import contextlib
import errno
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from isotok.errors import ConfigError, DataError, IsotokError, one_line
from isotok.files import hash_key, read_json, sha256_file
from isotok.progress import say

KINDS = ("weights", "exp_avg", "exp_avg_sq")

Tensors = Mapping[str, Mapping[str, torch.Tensor]]
"""weights | exp_avg | exp_avg_sq → parameter name → fp32 tensor on the CPU."""

BEST_FILE = "best.json"
_PREFIX = "step-"
_SHOWN = 6


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder. `state` is what the run wrote beside its tensors, `files` the names of the tensor files.

    Tensors are fp32 on the CPU, mapped from their file: reading costs the memory of the one that is used.
    """

    path: Path
    state: dict[str, Any]
    files: tuple[str, ...]

    @property
    def native(self) -> bool:
        """Whether it holds what each rank had (`shard`), for the layout in state["layout"], and not whole tensors."""
        return any(name.startswith("rank-") for name in self.files)

    def names(self, kind: str) -> list[str]:
        """The parameters that have a tensor of this kind: weights | exp_avg | exp_avg_sq."""
        return sorted(self._where[kind])

    def tensor(self, kind: str, name: str) -> torch.Tensor:
        """One tensor by parameter name; DataError when the checkpoint has none."""
        try:
            file = self._where[kind][name]
        except KeyError:
            raise DataError(f"{self.path}: holds no {kind} of {name!r}; it was made for another model") from None
        with self._opened(file) as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
        return tensor

    def read(self, kind: str) -> Iterator[tuple[str, torch.Tensor]]:
        """(parameter name, tensor) one at a time, in the order of names."""
        for name in self.names(kind):
            yield name, self.tensor(kind, name)

    def shard(self, rank: int) -> dict[str, torch.Tensor]:
        """What a rank gave to a native save."""
        with self._opened(shard_name(rank)) as opened:
            names: list[str] = opened.keys()
            return {name: opened.get_tensor(name) for name in names}

    @cached_property
    def _where(self) -> dict[str, dict[str, str]]:
        """kind → parameter name → file."""
        if self.native:
            raise DataError(f"{self.path}: holds shards of its ranks, not whole tensors; only the same engine reads it")
        where: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
        for file in self.files:
            kind = re.sub(r"(-\d+)?\.safetensors$", "", file)
            with self._opened(file) as opened:
                where[kind] |= dict.fromkeys(opened.keys(), file)
        return where

    @contextlib.contextmanager
    def _opened(self, file: str) -> Iterator[Any]:
        try:
            with safe_open(self.path / file, framework="pt", device="cpu") as opened:
                yield opened
        except (OSError, SafetensorError) as error:
            raise DataError(f"{self.path / file}: cannot be read ({one_line(error)})") from error


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"{_PREFIX}{step:08d}"


def shard_name(rank: int) -> str:
    """The file of a rank in a native checkpoint."""
    return f"rank-{rank:05d}.safetensors"


def steps_saved(folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    names = (path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*"))
    return sorted(int(name) for name in names if name.isdecimal())


def what_is_kept(folder: Path) -> str:
    """For messages about a run that stops: `the checkpoint of step 400 is kept`, or that there is none."""
    steps = steps_saved(folder)
    return f"the checkpoint of step {steps[-1]} is kept" if steps else "there is no checkpoint yet"


def open_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint that `verify` or `load_newest` found valid, maybe on another rank; DataError without state.json."""
    record = read_json(path / "state.json")
    try:
        return Checkpoint(path, record["state"], tuple(sorted(record["files"])))
    except (KeyError, TypeError):
        raise DataError(f"{path}: state.json is not one of a checkpoint") from None


def verify(path: Path) -> Checkpoint:
    """Read every file and compare its sha256; DataError names the folder and the first file that is damaged.

    Raises an IsotokError that is no DataError where the disk does not let itself be read, which says nothing of the
    checkpoint.
    """
    try:
        record = read_json(path / "state.json") if (path / "state.json").is_file() else None
        if record is None:
            raise DataError("state.json is missing or empty")
        if not isinstance(record, dict) or set(record) != {"state", "files", "sha256"}:
            raise DataError("state.json is not one of a checkpoint")
        if record["sha256"] != hash_key({"state": record["state"], "files": record["files"]}, 64):
            raise DataError("state.json does not match its checksum")
        for name, expected in record["files"].items():
            if sha256_file(path / name) != expected:
                raise DataError(f"{name} does not match its checksum")
    except (PermissionError, BlockingIOError, TimeoutError) as error:
        raise IsotokError(unreadable(path, error)) from error
    except OSError as error:
        if error.errno in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise IsotokError(unreadable(path, error)) from error
        raise DataError(f"checkpoint {path} is damaged ({one_line(error)})") from error
    except IsotokError as error:
        raise DataError(f"checkpoint {path} is damaged ({one_line(error)})") from error
    return open_checkpoint(path)


def unreadable(path: Path, error: OSError) -> str:
    return (
        f"checkpoint {path} cannot be read now ({one_line(error)}); nothing was changed. Look at the disk and run the "
        "same command again, or remove that folder to go on from the one before it"
    )


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest valid checkpoint, None when there is none; says which ones it passes over and why.

    For one process alone, before training: it sweeps what a crash left, and sets damaged ones aside.
    """
    sweep(folder)
    steps = steps_saved(folder)
    for step in reversed(steps):
        path = step_folder(folder, step)
        try:
            return verify(path)
        except DataError as error:
            say(f"warning: {error}; falling back to the one before it")
        # Out of the way, so that it neither counts as one to keep nor stands where the step is saved again.
        damaged = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(damaged, ignore_errors=True)
        path.rename(damaged)
    if steps:
        say(f"warning: no valid checkpoint left in {folder}; starting from step 0")
    return None


def sweep(folder: Path) -> None:
    """Remove what a crash in the middle of a save or of a removal left."""
    for pattern in (f".{_PREFIX}*.tmp", f".removed-{_PREFIX}*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f".{BEST_FILE}.*.tmp"):
        path.unlink(missing_ok=True)


def check_made_for(checkpoint: Checkpoint, made_for: Mapping[str, Any]) -> None:
    """Compare what a checkpoint says it was made for with what a run asks, nested mappings key by key.

    Raises ConfigError that names each part that differs, the checkpoint, and what to do.
    """
    theirs = checkpoint.state.get("made_for")
    ours = json.loads(json.dumps(made_for))
    if not isinstance(theirs, dict):
        differences = ["it does not say what it was made for"]
    else:
        differences = list(_differences(ours, theirs))
    if differences:
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise ConfigError(
            f"{checkpoint.path}: a checkpoint of another run: {'; '.join(differences[:_SHOWN])}{more}. "
            f"Take another folder, or remove {checkpoint.path.parent} to start over"
        )


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        name = above + key
        if key not in theirs:
            yield f"{name} {json.dumps(ours[key])}, the checkpoint has none"
        elif key not in ours:
            yield f"{name} not asked for, the checkpoint has {json.dumps(theirs[key])}"
        elif isinstance(ours[key], dict) and isinstance(theirs[key], dict):
            yield from _differences(ours[key], theirs[key], f"{name}.")
        elif ours[key] != theirs[key]:
            yield f"{name} {json.dumps(ours[key])}, the checkpoint has {json.dumps(theirs[key])}"
