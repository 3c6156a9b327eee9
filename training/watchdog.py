"""A thread in each rank that ends a run in which nothing moves any more, and names the rank that holds it up.

Each rank writes a small file about itself into RUN_DIR/ranks every few seconds and reads those of the others when it
has made no progress for too long. Nothing here needs a working process group.
"""

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from isotok.errors import IsotokError
from isotok.progress import say
from training.process import orphaned, record_error

COLLECTIVE = frozenset({"agree"})
"""Phases that only wait for the other ranks: a rank in one of them is never the cause."""

ALONE = frozenset({"fetch"})
"""Phases that never wait for other ranks: a rank that stays in one of them is the cause."""

DONE = "done"
"""The phase of a rank that has nothing left to do."""

EXIT_CODE = 76


@dataclass(frozen=True)
class Report:
    """What a rank says about itself. phase_s: how long it has been in the phase. time: seconds since the epoch.

    verdict: why this rank is about to end the run, as far as it has come to that.
    """

    rank: int
    pid: int
    host: str
    step: int
    phase: str
    phase_s: float
    time: float
    verdict: str = ""

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"


def report_path(run_dir: Path, rank: int) -> Path:
    return run_dir / "ranks" / f"rank-{rank}.json"


def read_report(run_dir: Path, rank: int) -> Report | None:
    """What a rank last said; None where it said nothing (yet)."""
    try:
        return Report(**json.loads(report_path(run_dir, rank).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def group_timeout_s(timeout_s: float) -> float:
    """A timeout for process groups, seconds: longer than a watchdog's, which can say what was wrong."""
    return timeout_s + 2 * _grace_s(timeout_s) + 30


class Watchdog:
    """Ends this process with EXIT_CODE when `enter` was not called for `timeout_s` seconds and does not come soon.

    Make it after the handlers of stop signals are set: its file tells the launcher that rank 0 takes signals. `close`
    ends the thread; it leaves a last word for the other ranks, or nothing where there are none.
    """

    def __init__(self, run_dir: Path, rank: int, size: int, timeout_s: float) -> None:
        self._run_dir, self._rank, self._size, self._timeout_s = run_dir, rank, size, timeout_s
        self._at = ("start", 0, time.monotonic())
        self._host = socket.gethostname()
        self._stop = threading.Event()
        report_path(run_dir, rank).parent.mkdir(parents=True, exist_ok=True)
        self._write()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def enter(self, phase: str, step: int) -> None:
        """Say that this rank goes on: it is now in `phase` of `step`."""
        self._at = (phase, step, time.monotonic())

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._size > 1:
            self.enter(DONE, self._at[1])
            self._write()
            return
        path = report_path(self._run_dir, self._rank)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # files of an earlier start with more ranks
            path.parent.rmdir()

    def _watch(self) -> None:
        beat_s, grace_s = _beat_s(self._timeout_s), _grace_s(self._timeout_s)
        written_s = time.monotonic()
        alarm: tuple[float, tuple[str, int, float], dict[int, Report]] | None = None
        while not self._stop.wait(min(1.0, beat_s / 2)):
            if orphaned():
                os._exit(1)
            now_s, at = time.monotonic(), self._at
            if now_s - written_s >= beat_s:
                written_s = now_s
                self._write()
            if now_s - at[2] < self._timeout_s:
                alarm = None
            elif alarm is None or alarm[1] is not at:
                alarm = (now_s, at, self._read())
            elif now_s - alarm[0] >= grace_s:
                self._end(alarm[2])

    def _report(self, verdict: str = "") -> Report:
        phase, step, since_s = self._at
        phase_s = round(time.monotonic() - since_s, 3)
        return Report(self._rank, os.getpid(), self._host, step, phase, phase_s, time.time(), verdict)

    def _write(self, verdict: str = "") -> None:
        path = report_path(self._run_dir, self._rank)
        temp = path.with_suffix(f".{os.getpid()}.tmp")
        with contextlib.suppress(OSError):  # a full disk is for the checkpoint to complain about
            temp.write_text(json.dumps(asdict(self._report(verdict))), encoding="utf-8")
            temp.replace(path)

    def _read(self) -> dict[int, Report]:
        found = {rank: read_report(self._run_dir, rank) for rank in range(self._size)}
        return {rank: report for rank, report in found.items() if report is not None}

    def _end(self, before: Mapping[int, Report]) -> None:
        after = {**self._read(), self._rank: self._report()}
        rank, reason = find_culprit(before, after, self._size, self._host)
        self._write(reason)
        text = f"no progress for {self._timeout_s:g} s (engine.timeout_s): {reason}"
        if rank == self._rank or rank is None:
            faulthandler.dump_traceback(all_threads=True)
        if rank == self._rank or self._rank == min(after):  # one line, not one a rank
            say(f"rank {self._rank}: {text}")
        record_error(IsotokError(text))
        sys.stderr.flush()
        os._exit(EXIT_CODE)


def find_culprit(
    before: Mapping[int, Report], after: Mapping[int, Report], size: int, host: str
) -> tuple[int | None, str]:
    """Who holds the others up, and one line about it; None where it is no rank, or none can be told from the rest.

    before and after: what the ranks said at two moments with at least one more report between. Only whether a report is
    a new one is compared across hosts, never their clocks. host: that of this process, where it can look for others'.
    """
    for report in after.values():
        if report.verdict:  # it was quicker to see, and may be gone by now
            return None, report.verdict
    at_work = [rank for rank in range(size) if rank not in after or after[rank].phase != DONE]
    gone = [rank for rank in at_work if _is_gone(before.get(rank), after.get(rank), host)]
    if gone:
        last = after.get(gone[0])
        more = f"; nor have ranks {', '.join(map(str, gone[1:]))}" if len(gone) > 1 else ""
        if last is None:
            return gone[0], f"rank {gone[0]} has never been heard of{more}"
        silent_s = max(0.0, time.time() - last.time)
        seen = f"last at step {last.step} in {last.phase}"
        return gone[0], f"{last} has not been heard of for {silent_s:.0f} s, {seen}{more}"

    behind = min(after[rank].step for rank in at_work)
    last_step = [after[rank] for rank in at_work if after[rank].step == behind]
    phases = sorted({report.phase for report in last_step})
    suspects = [after[rank] for rank in at_work if after[rank].phase in ALONE]
    if not suspects and (len(phases) > 1 or len(last_step) < len(at_work) or len(at_work) == 1):
        # Not where all are in one phase of one step: each of them may wait for another.
        suspects = [report for report in last_step if report.phase not in COLLECTIVE] or last_step
    if suspects:
        stuck = max(suspects, key=lambda report: report.phase_s)
        return stuck.rank, f"{stuck} is stuck in {stuck.phase} at step {stuck.step} for {stuck.phase_s:.0f} s"
    return (
        None,
        f"the ranks wait for each other in {', '.join(phases)} at step {behind}: look at the network between them",
    )


def _is_gone(before: Report | None, after: Report | None, host: str) -> bool:
    if after is None or (before is not None and before.time == after.time):
        return True
    return after.host == host and not _alive(after.pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _beat_s(timeout_s: float) -> float:
    return min(10.0, timeout_s / 4)


def _grace_s(timeout_s: float) -> float:
    # At least two more reports of every rank; where there is time, enough for a network file system to show them.
    return max(2.2 * _beat_s(timeout_s), min(60.0, timeout_s / 4))
