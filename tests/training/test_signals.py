"""Stop signals: a flag for the loop, an exception elsewhere, and the end of the process on a second one."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isotok.errors import InterruptedRun
from isotok.interrupts import Interrupted, raise_on_signals
from training.signals import SIGNALS, StopSignals

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands where its only entry says."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def handlers_come_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("exit_at_once", [False, True])
@pytest.mark.parametrize("number", SIGNALS)
def test_signal_sets_a_flag_and_handlers_come_back(number: signal.Signals, exit_at_once: bool) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with StopSignals(exit_at_once=exit_at_once) as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 5
        while signals.received is None and time.monotonic() < deadline:
            time.sleep(0.001)
        assert signals.received == number.name
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_stops_at_once_and_one_delivered_twice_does_not(
    second: signal.Signals, clock: list[float]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as caught, StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        clock[0] += 0.9
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == "SIGTERM"
        clock[0] += 0.2
        signal.raise_signal(second)
    assert caught.value.signal_name == second.name
    assert signal.getsignal(signal.SIGINT) is before


RANK = """
import sys, threading
from training.signals import StopSignals
with StopSignals(exit_at_once=True) as signals:
    print("ready", flush=True)
    lock = threading.Lock()
    lock.acquire()
    {wait}
"""


@pytest.mark.parametrize(
    "wait",
    [
        "import ctypes; ctypes.CDLL(None).sleep(60); ctypes.CDLL(None).sleep(60); ctypes.CDLL(None).sleep(60)",
        "lock.acquire()",
    ],
    ids=["below Python", "lock"],
)
def test_a_rank_ends_at_once_where_python_runs_no_handlers(wait: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", RANK.format(wait=wait)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert "SIGUSR1: saving a checkpoint" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(1.1)
    assert process.poll() is None, "the second came within a second"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    process.communicate()


def test_no_handlers_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with StopSignals(exit_at_once=True):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.usefixtures("handlers_come_back")
def test_a_signal_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received is None
    raise_on_signals()
    signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("handlers_come_back")
def test_signals_raise_once_a_second(clock: list[float]) -> None:
    raise_on_signals()
    with pytest.raises(Interrupted) as caught:
        signal.raise_signal(signal.SIGUSR1)
    assert caught.value.signal_name == "SIGUSR1"
    clock[0] += 0.9
    signal.raise_signal(signal.SIGTERM)
    clock[0] += 0.2
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 75), ("SIGUSR1", 75)])
def test_exit_codes_say_whether_to_run_again_and_pass_between_processes(name: str, code: int) -> None:
    error = pickle.loads(pickle.dumps(InterruptedRun("stopped", name)))
    assert (str(error), error.signal_name, error.exit_code) == ("stopped", name, code)


def test_an_interruption_without_a_name_is_a_users() -> None:
    assert InterruptedRun("stopped").exit_code == 130
