"""Stop signals as an exception: what they do where no loop asks for them between two steps."""

import signal
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

SAME_SIGNAL_S = 1.0
"""SLURM and launchers deliver one signal twice, a moment apart: what comes this soon is no second one."""


class Interrupted(KeyboardInterrupt):
    """A stop signal, by its name; like a Ctrl-C, nothing that catches `Exception` takes it."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name


def signals_to_handle() -> list[signal.Signals]:
    """Those of SIGNALS that are meant for this process: a shell starts background jobs with SIGINT ignored."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def signal_name(number: int) -> str:
    """`SIGKILL`, or the number of a real-time signal, which has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def raise_on_signals() -> None:
    """From now on SIGINT, SIGTERM and SIGUSR1 raise Interrupted in the main thread, from which this is called.

    The same signal delivered twice raises once, so that the clean-up after the first is not cut short.
    """
    last_s = -SAME_SIGNAL_S

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s < SAME_SIGNAL_S:
            return
        last_s = now_s
        raise Interrupted(signal.Signals(number).name)

    for number in signals_to_handle():
        signal.signal(number, handle)
