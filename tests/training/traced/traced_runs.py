"""A user's own recipe, for tests of whole runs: StochasTok in a process that writes down what it is at.

Its import, when a worker builds the recipe, puts notes around saves, validations, waits for data and steps, with short
pauses before their ends so that a signal from outside can land there. From the environment:

TRACE: a file that rank 0 appends lines `PID WHAT begin|end|at` to.
SLOW_UNIT_S: how long every 16th unit takes, so that the loop waits for data although some is read ahead.
TRACE_UNITS: anything, to note the expansion of each unit as well.
FILL: `WHAT:N:FILE`, write FILE until the disk is full when rank 0 comes to the N-th WHAT.
MISBEHAVE: `HOW:RANK:N`, what a rank does when it reads its N-th unit; see `misbehave`.
"""

import contextlib
import functools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np

import training.loop
import training.writer
from isotok.recipe import recipe
from tokenization.stochastok import StochasTok
from training.streams import Prefetch

PAUSE_S = 0.02
SLOW_UNIT_S = float(os.environ.get("SLOW_UNIT_S", "0"))
TRACE = os.environ.get("TRACE", "")
TRACE_UNITS = bool(os.environ.get("TRACE_UNITS", ""))
RANK = int(os.environ.get("RANK", "0"))


def note(what: str, state: str) -> None:
    """One line, in one write: whole or absent."""
    if TRACE and RANK == 0:
        fd = os.open(TRACE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, f"{os.getpid()} {what} {state}\n".encode())
        os.close(fd)


def noted(owner: Any, name: str, what: str, pause_s: float = PAUSE_S) -> None:
    """Put notes around a function, and a pause before its end."""
    inner: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(inner)
    def around(*args: Any, **options: Any) -> Any:
        note(what, "begin")
        _came_to(what)
        result = inner(*args, **options)
        time.sleep(pause_s)
        note(what, "end")
        return result

    setattr(owner, name, around)


_came: Counter[str] = Counter()


def _came_to(what: str) -> None:
    _came[what] += 1
    where, nth, path = os.environ.get("FILL", "nowhere:0:").split(":")
    if RANK == 0 and where == what and _came[what] == int(nth):
        with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))


if TRACE:
    noted(training.writer, "write_checkpoint", "save", 0)
    noted(training.writer, "_write_tensors", "file")
    noted(training.writer, "write_json", "json")
    noted(training.writer, "publish_dir", "rename")
    noted(training.writer.CheckpointWriter, "prune", "prune")
    noted(training.loop, "save_native", "save", 0)
    noted(training.loop, "validate", "validate")
    noted(training.loop, "update", "step")
    noted(Prefetch, "next", "wait", 0)


@recipe
class Traced(StochasTok):
    """StochasTok that may be slow, or hang."""

    def bind(self, tokenizer: Any, seed: int) -> Any:
        note("bound", "at")
        inner = StochasTok(**{field.name: getattr(self, field.name) for field in fields(self)}).bind(tokenizer, seed)

        def apply(ids: np.ndarray, epoch: int, unit: int, spent: Any = (0.0, 0.0), /) -> np.ndarray:
            if TRACE_UNITS:
                note("expand", "begin")
            if unit % 16 == 15:
                time.sleep(SLOW_UNIT_S)
            _came["unit"] += 1
            what, rank, when = os.environ.get("MISBEHAVE", "nothing:-1:-1").split(":")
            if int(rank) == RANK and _came["unit"] == int(when):
                note(what, "at")
                misbehave(what)
            out = inner(ids, epoch, unit, spent)
            if TRACE_UNITS:
                note("expand", "end")
            return out

        return apply


def misbehave(what: str) -> None:
    """hang: for ever. stop: this process, by SIGSTOP."""
    if what == "hang":
        time.sleep(3600)
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)


note("start", "at")
