"""What a worker process does at its start and its end, as one of several ranks: whoever started it.

`training.launch`, torchrun, srun and `accelerate launch` start ranks; the environment variables are torch's own.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from isotok.errors import ConfigError, DataError, InterruptedRun, IsotokError

LAUNCHER_PID = "ISOTOK_LAUNCHER_PID"
"""Environment variable: the process that started this rank and that it must not outlive."""

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable of torch's launcher: where a worker leaves its error."""

COMMUNICATION_WAIT_S = 2.0
"""So long a rank that merely lost the others waits before it ends, so that the cause is seen to end first."""

_PR_SET_PDEATHSIG = 1
_CLASSES = {kind.__name__: kind for kind in (InterruptedRun, ConfigError, DataError, IsotokError)}
_LOST_OTHERS = re.compile(
    r"connection (reset|closed|refused)|closed by peer|broken pipe|socket (closed|timeout)|timed out waiting"
    r"|gloo.*(timeout|timed out)|nccl",
    re.IGNORECASE | re.DOTALL,
)


def die_with_parent() -> None:
    """A rank that `training.launch` started ends at once when its launcher does. Call it first of all."""
    launcher = os.environ.get(LAUNCHER_PID)
    if launcher is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if orphaned():  # it ended before the line above
        os._exit(1)


def orphaned() -> bool:
    """Whether the launcher that started this rank is gone (never, where something else started it)."""
    launcher = os.environ.get(LAUNCHER_PID)
    return launcher is not None and os.getppid() != int(launcher)


def stdout_to_stderr() -> int:
    """Send what anything prints, libraries below Python too, to stderr; returns a descriptor of the real stdout."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    return real


def report_error(error: BaseException) -> None:
    """Leave the error where the launcher reads it; the caller then exits with the error's exit code.

    An error that says only that others are gone is left after COMMUNICATION_WAIT_S, so that the launcher sees the rank
    that caused it first.
    """
    if isinstance(error, KeyboardInterrupt):  # a signal before the loop listens to them
        message = "interrupted before training began; the same command goes on"
        error = InterruptedRun(message, getattr(error, "signal_name", "SIGINT"))
    communication = is_communication_error(error)
    if communication:
        time.sleep(COMMUNICATION_WAIT_S)
    record_error(error, communication=communication)


def record_error(error: BaseException, *, communication: bool = False) -> None:
    """Write the error file of torch's launcher, with our own class beside; nothing without a launcher."""
    path = os.environ.get(ERROR_FILE)
    if not path:
        return
    kind = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _CLASSES), None)
    callstack = "".join(traceback.format_exception(error))
    record = {
        "message": {
            "message": f"{type(error).__name__}: {error}",
            "extraInfo": {"py_callstack": callstack, "timestamp": str(int(time.time()))},
        },
        "isotok": {
            "class": kind,
            "text": str(error) if kind else f"{type(error).__name__}: {error}",
            "signal": getattr(error, "signal_name", None),
            "communication": communication,
        },
    }
    # The launcher reports what is there; a full disk must not hide the error itself.
    with contextlib.suppress(OSError):
        temp = Path(f"{path}.tmp")
        temp.write_text(json.dumps(record), encoding="utf-8")
        temp.replace(path)


def recorded_error(record: dict[str, object]) -> IsotokError | None:
    """The error that `record_error` wrote down, of its own class; None where it was none of ours."""
    text, name = str(record["text"]), record["class"]
    if name == "InterruptedRun":
        return InterruptedRun(text, str(record["signal"]))
    return _CLASSES[str(name)](text) if name else None


def is_communication_error(error: BaseException) -> bool:
    """Whether the error says no more than that other ranks, or the way to them, are gone."""
    for one in _with_causes(error):
        if isinstance(one, IsotokError):
            return False
        if any(kind.__name__ == "DistError" for kind in type(one).__mro__):
            return True
        if isinstance(one, RuntimeError) and _LOST_OTHERS.search(str(one)):
            return True
    return False


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__


def explain_start_failure(error: BaseException) -> ConfigError | None:
    """What to do when the process group could not start, as a ConfigError; None for what is not known here."""
    text = str(error)
    address, port = os.environ.get("MASTER_ADDR", "?"), os.environ.get("MASTER_PORT", "?")
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return ConfigError(
            f"MASTER_PORT={port}: another process listens there on {socket.gethostname()}; set MASTER_PORT to a free "
            "port for all ranks (with torchrun: --rdzv-backend=c10d --rdzv-endpoint=localhost:0)"
        )
    if "waiting for clients" in text:
        joined = re.search(r"(\d+/\d+) clients joined", text)
        return ConfigError(
            f"WORLD_SIZE={os.environ.get('WORLD_SIZE', '?')}: only {joined.group(1) if joined else 'some'} ranks came "
            f"to MASTER_ADDR={address} MASTER_PORT={port}; start as many processes as WORLD_SIZE says"
        )
    if "trying to connect" in text or "failed to connect" in text.lower():
        return ConfigError(
            f"MASTER_ADDR={address} MASTER_PORT={port}: rank {os.environ.get('RANK', '?')} gets no answer there; "
            "rank 0 must run on that host, and no firewall stand between"
        )
    return None


def ranks_from_slurm() -> None:
    """Under `srun` with several tasks, say who is who in torch's variables; elsewhere, or where they are set, nothing.

    Only srun sets SLURM_STEP_NUM_TASKS: a worker that an sbatch script calls without srun stays a single one.
    """
    environment = os.environ
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if "RANK" in environment or "SLURM_PROCID" not in environment or tasks <= 1:
        return
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    # With --gpus-per-task SLURM shows each task its own GPU alone, which is then its first.
    one_gpu = environment.get("CUDA_VISIBLE_DEVICES", "").isdecimal()
    one_node = environment.get("SLURM_STEP_NUM_NODES", "1") == "1"
    job, step = int(environment.get("SLURM_JOB_ID", "0")), int(environment.get("SLURM_STEP_ID", "0"))
    environment.update(
        RANK=environment["SLURM_PROCID"],
        WORLD_SIZE=str(tasks),
        LOCAL_RANK="0" if one_gpu else environment.get("SLURM_LOCALID", "0"),
    )
    environment.setdefault("MASTER_ADDR", "127.0.0.1" if one_node else node_address(first_host(nodes)))
    environment.setdefault("MASTER_PORT", str(20_000 + (101 * job + step) % 40_000))


def world_size() -> int:
    """How many ranks whoever started this process asked for: torchrun, srun, accelerate; one without."""
    ranks_from_slurm()
    return int(os.environ.get("WORLD_SIZE", "1"))


def node_address(host: str) -> str:
    """Where SLURM itself reaches a node, which need not be under its name; the name where SLURM cannot be asked."""
    try:
        asked = ["scontrol", "show", "node", host, "--oneliner"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return host
    found = re.search(r"\bNodeAddr=(\S+)", told)
    return found.group(1) if found else host


def first_host(nodes: str) -> str:
    """The first name of a SLURM node list: `gpu[03-05,9],login` → `gpu03`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if first is None:
        raise ConfigError(f"SLURM_JOB_NODELIST={nodes!r}: names no host; set MASTER_ADDR to the host of rank 0")
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first.group())
