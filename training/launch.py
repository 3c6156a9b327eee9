"""Ranks on this machine: started together, told of signals together, ended together.

Workers get the environment of torch's elastic launcher, and its store to meet in, so that they need not know whether
they were started here, by torchrun or by srun. That launcher itself is not used: it gives a hung rank 30 seconds after
another's death whatever it is told, keeps the workers' process ids to itself, takes over the signals of the process
and asks the resolver for this machine's name at every turn, which blocks where there is no network.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotok.errors import InterruptedRun, IsotokError
from isotok.interrupts import signal_name
from training.process import ERROR_FILE, LAUNCHER_PID, recorded_error
from training.signals import StopSignals
from training.watchdog import DONE, read_report
from training.watchdog import EXIT_CODE as WATCHDOG_EXIT_CODE

if TYPE_CHECKING:
    from training.recipes import Engine

GRACE_S = 5.0
"""So long the others may take to end by themselves after a rank has failed."""

POLL_S = 0.1


@dataclass
class Worker:
    """A rank's process. code: its exit code once it has ended (negative: a signal's). record: the error it left."""

    rank: int
    process: subprocess.Popen[bytes]
    error_file: Path
    code: int | None = None
    record: dict[str, Any] | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than by finishing or by an agreed stop."""
        return bool(self.code) and not self.stopped

    @property
    def stopped(self) -> bool:
        return self.record is not None and self.record["class"] == "InterruptedRun"

    @property
    def lost_others(self) -> bool:
        return self.record is not None and bool(self.record["communication"])


def launch(run_dir: Path, engine: "Engine", command: Sequence[str]) -> None:
    """Run `command` as `engine.ranks` workers on this machine and wait for them all.

    The first SIGINT, SIGTERM or SIGUSR1 goes on to rank 0 alone, which tells the others; a second one, a second or more
    later, kills them all. A rank that fails takes the others along within GRACE_S. What workers print to stdout is
    dropped; their stderr is this process's.

    Raises the worker's own error (InterruptedRun after an agreed stop), or an IsotokError that names the rank.
    """
    shutil.rmtree(run_dir / "ranks", ignore_errors=True)  # reports of an earlier launch: their processes are others
    ended: list[Worker] = []
    with tempfile.TemporaryDirectory(prefix="isotok-ranks-") as folder:
        workers: list[Worker] = []
        try:
            with StopSignals(promise="telling the ranks to save and stop") as signals:
                store, environment = _environment(engine.ranks, engine.threads)
                for rank in range(engine.ranks):
                    workers.append(_start(rank, command, environment, Path(folder)))
                _wait(run_dir, workers, ended, signals)
                del store  # the ranks met in it
        except KeyboardInterrupt as interrupt:
            name = getattr(interrupt, "signal_name", "SIGINT")
            message = f"{run_dir}: all ranks ended at once by a second {name}; {_kept(run_dir)}"
            raise InterruptedRun(message, name) from None
        finally:
            _kill(workers)
    judge(run_dir, ended)
    shutil.rmtree(run_dir / "ranks", ignore_errors=True)
    if signals.received:
        raise InterruptedRun(
            f"{run_dir}: {signals.received} came when training had just finished; the same command goes on from there",
            signals.received,
        )


def _environment(ranks: int, threads: int) -> tuple[Any, dict[str, str]]:
    """The store of the ranks' meeting, on a free port, and what every rank finds in its environment."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)) | {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": uuid.uuid4().hex,
        LAUNCHER_PID: str(os.getpid()),
    }
    loopback = "lo" if sys.platform == "linux" else "lo0"
    return store, {"GLOO_SOCKET_IFNAME": loopback, **os.environ, **common}


def _start(rank: int, command: Sequence[str], environment: dict[str, str], folder: Path) -> Worker:
    error_file = folder / f"error-{rank}.json"
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), ERROR_FILE: str(error_file)}
    # A session of its own: a Ctrl-C in the terminal reaches this process only, which passes it on once.
    process = subprocess.Popen(
        list(command),
        env={**environment, **own},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    return Worker(rank, process, error_file)


def _wait(run_dir: Path, workers: list[Worker], ended: list[Worker], signals: StopSignals) -> None:
    """Until all have ended, or GRACE_S after one failed; `ended` gets them in the order of their deaths."""
    passed_on, deadline_s = False, None
    while running := [worker for worker in workers if worker.code is None]:
        for worker in running:
            worker.code = worker.process.poll()
            if worker.code is not None:
                worker.record = _read_record(worker.error_file)
                ended.append(worker)
        if signals.received and not passed_on:
            # It is there once rank 0 has its handlers set; before, the signal would just kill it.
            report = read_report(run_dir, 0)
            if report is not None and workers[0].code is None:
                passed_on = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(report.pid, signal.Signals[signals.received])
        now_s = time.monotonic()
        if deadline_s is None and any(worker.failed for worker in ended):
            deadline_s = now_s + GRACE_S
        if deadline_s is not None and now_s > deadline_s:
            return  # `launch` kills what is left
        time.sleep(POLL_S)


def _kill(workers: list[Worker]) -> None:
    running = [worker for worker in workers if worker.process.poll() is None]
    for worker in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGKILL)
    for worker in running:
        with contextlib.suppress(subprocess.TimeoutExpired):  # in a driver not even SIGKILL reaches it
            worker.process.wait(GRACE_S)


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["isotok"])
    except (OSError, ValueError, KeyError):
        return None


def judge(run_dir: Path, ended: list[Worker]) -> None:
    """Raise what the deaths, in their order, say went wrong."""
    failed = [worker for worker in ended if worker.failed]
    stopped = [worker for worker in ended if worker.stopped]
    causes = [worker for worker in failed if not worker.lost_others]
    if causes:
        raise _error(run_dir, causes[0])
    if stopped:  # what others say about lost connections comes of the first having left
        raise _error(run_dir, min(stopped, key=lambda worker: worker.rank))
    if failed:
        raise _error(run_dir, failed[0])


def _error(run_dir: Path, worker: Worker) -> IsotokError:
    record, rank = worker.record, worker.rank
    own = recorded_error(record) if record is not None else None
    if own is not None and worker.code != WATCHDOG_EXIT_CODE:
        return own
    report = read_report(run_dir, rank)
    seen = "never heard of" if report is None else f"last seen at step {report.step}"
    if report is not None and report.phase != DONE:  # written as it left, whatever the reason
        seen += f" in {report.phase}"
    if own is not None:
        return IsotokError(f"{run_dir}: {own}; {_kept(run_dir)}")
    if record is not None:
        what = f"{'lost the other ranks' if worker.lost_others else 'failed'}: {record['text']}"
    elif worker.code is not None and worker.code < 0:
        name = signal_name(-worker.code)
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        what = f"was killed by {name}{hint}"
    else:
        what = f"ended with exit code {worker.code} and said nothing about it: see the lines above"
    return IsotokError(f"{run_dir}: rank {rank} {what} ({seen}); {_kept(run_dir)}")


def _kept(run_dir: Path) -> str:
    from training.checkpoint import steps_saved, what_is_kept

    folder = run_dir / "checkpoints"
    return what_is_kept(folder) + (", the same command resumes" if steps_saved(folder) else "")
