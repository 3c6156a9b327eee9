"""Writing checkpoints: in the background from a snapshot, or by every rank at once; pruning; which one is best.

A folder is written beside, flushed, summed up and renamed, in this order, so that it is whole or absent. Errors of the
writer come out of `wait` alone: on one rank of several, an exception in `save` would leave the others in a collective.
"""

import math
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from isotok.errors import IsotokError
from isotok.files import (
    check_free_space,
    fsync_path,
    hash_key,
    is_full,
    publish_dir,
    read_json,
    sha256_file,
    write_json,
)
from isotok.progress import say
from training.checkpoint import BEST_FILE, Tensors, shard_name, step_folder, steps_saved, what_is_kept

if TYPE_CHECKING:
    from isotok.ranks import Ranks

SHARD_BYTES = 4_000_000_000
"""A kind of tensors larger than this goes into several files."""

_HEADROOM = 1.05


def _nothing() -> None:
    pass


class CheckpointWriter:
    """Saves into a folder `checkpoints`, on rank 0. As a context manager it ends like `wait`, then `close`.

    keep_last: newest checkpoints to keep. keep_best: keep the one with the best score as well.
    """

    def __init__(self, folder: Path, keep_last: int, keep_best: bool) -> None:
        self.folder, self.keep_last, self.keep_best = folder, keep_last, keep_best
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, state: Mapping[str, Any], tensors: Tensors, before_publish: Callable[[], None] = _nothing) -> None:
        """Save a checkpoint of state["step"] in the background, after the one before it; then prune. Never raises.

        tensors: a snapshot that nobody changes; it is let go once written. before_publish: called by the other thread
        when all is on disk and nothing visible yet. After a failure nothing is saved until `wait` has raised it.
        """
        self.settle()
        if self.failed:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _check_space(self.folder, sum(map(_size_bytes, tensors.values())))
        except (OSError, IsotokError) as error:
            self._error = error
            return
        self._thread = threading.Thread(target=self._work, args=(dict(state), tensors, before_publish), name="writer")
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether a save failed and `wait` would raise; of a save under way it is not known yet."""
        return self._error is not None

    def settle(self) -> None:
        """Wait for the save under way, whatever becomes of it. Before a snapshot is taken, so that memory holds one."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait(self) -> None:
        """Wait for the save under way; raise the error of the one that failed, once.

        IsotokError for a full disk, naming the checkpoint that is kept; whatever else was raised as it is.
        """
        self.settle()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait, and only warn of an error that nobody waited for: it never takes the place of another one."""
        self.settle()
        if self._error is not None:
            say(f"warning: {self._error}")
            self._error = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.wait()
        self.close()

    def mark_best(self, step: int, score: float) -> None:
        """Remember the score (lower is better, the first of equal ones) of a step whose checkpoint is there.

        Waits for the save under way. Never raises. The note outlives a resume from an earlier step: the run comes to
        the same scores again.
        """
        self.settle()
        if self.failed or not (math.isfinite(score) and step_folder(self.folder, step).is_dir()):
            return
        best = read_best(self.folder)
        if best is not None and best[1] <= score:
            # One that was lost and lies behind would never come back, and must not stand in the way of one that is.
            lost = best[0] <= step and not step_folder(self.folder, best[0]).is_dir()
            if not lost:
                return
        try:
            write_json(self.folder / BEST_FILE, {"step": step, "score": score})
        except (OSError, IsotokError) as error:
            self._error = error

    def prune(self) -> None:
        """Remove all but the last and the best; `save` does, after a native save it is for the caller. Never raises."""
        steps = steps_saved(self.folder)
        best = read_best(self.folder) if self.keep_best else None
        for step in steps[: -self.keep_last]:
            if best is not None and step == best[0]:
                continue
            path = step_folder(self.folder, step)
            doomed = path.with_name(f".removed-{path.name}")
            try:
                # Renamed first: a removal cut short leaves no half of a checkpoint under its name.
                shutil.rmtree(doomed, ignore_errors=True)
                path.rename(doomed)
            except OSError as error:
                say(f"warning: {path}: not removed ({error.strerror}); it is no longer needed")
            shutil.rmtree(doomed, ignore_errors=True)

    def _work(self, state: dict[str, Any], tensors: Tensors, before_publish: Callable[[], None]) -> None:
        try:
            write_checkpoint(self.folder, state, tensors, before_publish)
            self.prune()
        except Exception as error:
            self._error = error


def read_best(folder: Path) -> tuple[int, float] | None:
    """(step, score) of the best validation, None when none is noted."""
    if not (folder / BEST_FILE).exists():
        return None
    try:
        best = read_json(folder / BEST_FILE)
        return int(best["step"]), float(best["score"])
    except (IsotokError, OSError, KeyError, TypeError, ValueError):
        say(f"warning: {folder / BEST_FILE} cannot be read; the best checkpoint so far is not known")
        return None


def write_checkpoint(folder: Path, state: dict[str, Any], tensors: Tensors, before_publish: Callable[[], None]) -> None:
    """Write and publish one checkpoint; where there is one of this step, it is left as it is.

    A failure leaves the checkpoints that are there and nothing else: IsotokError for a full disk.
    """
    final = step_folder(folder, state["step"])
    if final.exists():  # of this very run: damaged ones are set aside before training goes on
        return
    temp = _temp(final)
    try:
        shutil.rmtree(temp, ignore_errors=True)
        temp.mkdir(parents=True)
        files = {}
        for kind, named in tensors.items():
            for name, part in _parts(kind, named):
                files[name] = _write_tensors(temp / name, part)
        _publish(temp, final, state, files, before_publish)
    except BaseException as error:
        shutil.rmtree(temp, ignore_errors=True)
        if isinstance(error, Exception) and is_full(error):
            raise IsotokError(_no_space(folder, state["step"])) from error
        raise


def save_native(
    folder: Path,
    state: dict[str, Any],
    shard: Mapping[str, torch.Tensor],
    ranks: "Ranks",
    before_publish: Callable[[], None] = _nothing,
) -> None:
    """Write and publish a checkpoint of what each rank has, CPU tensors by name; every rank calls it, and waits.

    state["layout"] says which engine on how many ranks can read it. before_publish: called on rank 0 alone. An error
    on any rank is raised as an IsotokError on all of them, naming the rank; the checkpoints that are there stay.
    """
    final = step_folder(folder, state["step"])
    temp = _temp(final)
    sizes = ranks.gather_object(_size_bytes(shard))

    def prepare() -> bool:
        if final.exists():
            return False
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, sum(sizes or []))
        shutil.rmtree(temp, ignore_errors=True)
        temp.mkdir()
        return True

    def write() -> tuple[str, str]:
        name = shard_name(ranks.rank)
        temp.mkdir(exist_ok=True)  # there; on a network file system asking for it makes this rank see it
        return name, _write_tensors(temp / name, shard)

    def attempt(action: Callable[[], Any]) -> tuple[Any, str | None]:
        """What it gives, or the text of its error: an exception here would leave the other ranks waiting."""
        try:
            return action(), None
        except Exception as error:
            if is_full(error):
                return None, _no_space(folder, state["step"])
            if isinstance(error, IsotokError):
                return None, str(error)
            return None, f"{final}: rank {ranks.rank} could not save its part ({type(error).__name__}: {error})"

    def agree(outcomes: list[tuple[Any, str | None]] | None) -> Any:
        """The first error that rank 0 has been told of, raised on every rank; else rank 0's outcomes, for it alone."""
        problem = next((text for _, text in outcomes or [] if text is not None), None)
        if problem is not None:
            shutil.rmtree(temp, ignore_errors=True)
        problem = ranks.broadcast(problem)
        if problem is not None:
            raise IsotokError(problem)
        return [outcome for outcome, _ in outcomes or []]

    on_first = ranks.rank == 0
    fresh = agree([attempt(prepare)] if on_first else None)
    if not ranks.broadcast(fresh[0] if on_first else None):
        return
    files = agree(ranks.gather_object(attempt(write)))
    agree([attempt(lambda: _publish(temp, final, state, dict(files), before_publish))] if on_first else None)


def _temp(final: Path) -> Path:
    return final.with_name(f".{final.name}.tmp")


def _parts(kind: str, named: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """(file name, tensors) of a kind: one file, or several of at most SHARD_BYTES, or of one tensor that is larger."""
    if _size_bytes(named) <= SHARD_BYTES:
        yield f"{kind}.safetensors", dict(named)
        return
    parts: list[dict[str, torch.Tensor]] = [{}]
    for name in sorted(named):
        if parts[-1] and _size_bytes(parts[-1]) + _size_bytes({name: named[name]}) > SHARD_BYTES:
            parts.append({})
        parts[-1][name] = named[name]
    for number, part in enumerate(parts, 1):
        yield f"{kind}-{number:05d}.safetensors", part


def _write_tensors(path: Path, named: Mapping[str, torch.Tensor]) -> str:
    """Write one file through to the disk; its sha256."""
    save_file({name: tensor.contiguous() for name, tensor in named.items()}, path)
    fsync_path(path)
    return sha256_file(path)


def _publish(
    temp: Path, final: Path, state: Mapping[str, Any], files: Mapping[str, str], before: Callable[[], None]
) -> None:
    record = {"state": dict(state), "files": dict(files)}
    write_json(temp / "state.json", {**record, "sha256": hash_key(record, 64)})
    before()
    publish_dir(temp, final)


def _size_bytes(named: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in named.values())


def _check_space(folder: Path, size_bytes: int) -> None:
    try:
        check_free_space(folder, _HEADROOM * size_bytes, "a checkpoint")
    except IsotokError as error:
        raise IsotokError(f"{error}; {what_is_kept(folder)}") from None


def _no_space(folder: Path, step: int) -> str:
    return (
        f"{folder}: no space left on the disk for the checkpoint of step {step}; {what_is_kept(folder)}. "
        "Free some and run the same command, or set store=PATH to another disk"
    )
