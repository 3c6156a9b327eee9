"""Stop signals as a flag that the loop reads between steps."""

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from isotok.interrupts import SAME_SIGNAL_S, SIGNALS, Interrupted, signals_to_handle
from isotok.progress import say

__all__ = ["SIGNALS", "StopSignals"]


class StopSignals:
    """While entered, the first of SIGINT, SIGTERM and SIGUSR1 sets `received` to its name; a second ends the work.

    A signal within a second of the first counts as the same one. The second raises Interrupted (a KeyboardInterrupt)
    in the main thread or, with `exit_at_once`, ends the process with 128 + its number. That is for ranks: their main
    thread may sit in a collective, where Python runs no handler, so a thread of its own hears the signals.

    promise: what the message to the user says will happen. Handlers, and the wakeup descriptor, are set in the main
    thread only (Python allows no other) and put back on leaving.
    """

    def __init__(self, *, exit_at_once: bool = False, promise: str = "saving a checkpoint after this step") -> None:
        self.received: str | None = None
        self._since_s = 0.0
        self._exit_at_once = exit_at_once
        self._promise = promise
        self._previous: dict[signal.Signals, Any] = {}
        self._listener: _Listener | None = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            numbers = signals_to_handle()
            if self._exit_at_once:
                self._listener = _Listener(numbers, self._hear)
            handler = _nothing if self._exit_at_once else self._handle
            for number in numbers:
                self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._hear(number)

    def _hear(self, number: int) -> None:
        name, now_s = signal.Signals(number).name, time.monotonic()
        if self.received is None:
            self._since_s = now_s
            self.received = name
            with contextlib.suppress(RuntimeError):  # the handler came in the middle of another print
                say(f"{name}: {self._promise} (a second signal stops at once)")
        elif now_s - self._since_s >= SAME_SIGNAL_S:
            if self._exit_at_once:
                os._exit(128 + number)
            raise Interrupted(name)


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler has to be there for the interpreter to write to the wakeup descriptor."""


class _Listener:
    """A thread that is told of signals by the interpreter's C handler, whatever the main thread does."""

    def __init__(self, numbers: list[signal.Signals], hear: Any) -> None:
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        self._numbers, self._hear = numbers, hear
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._previous_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)

    def _listen(self) -> None:
        while heard := os.read(self._read_fd, 64):
            for number in heard:
                if number in self._numbers:
                    self._hear(number)

    def close(self) -> None:
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._write_fd)
        self._thread.join()
        os.close(self._read_fd)
