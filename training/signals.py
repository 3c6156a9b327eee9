"""Stop signals as a flag that the loop reads between steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from isotok.progress import say

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGUSR1 set `received`; a second SIGINT stops at once.

    Handlers are set in the main thread only (Python allows no other) and put back on leaving.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # A shell starts background jobs with SIGINT ignored: a Ctrl-C in its terminal is not meant for them.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        say(f"{self.received}: saving a checkpoint after this step (interrupt again to stop at once)")
