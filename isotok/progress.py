"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere. stdout is for results."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

PLAIN_EVERY_S = 10.0
_label = ""
_silent = False


def set_label(label: str) -> None:
    """Name this process in its lines, as several arms may write to one terminal."""
    global _label
    _label = label


def silence() -> None:
    """Let this process say nothing more: one of several ranks that do the same."""
    global _silent
    _silent = True


def say(message: str) -> None:
    """One line for the user, on stderr."""
    if _silent:
        return
    prefix = f"[{_label}] " if _label else ""
    print(prefix + message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(description: str, total: float | None = None, unit: str = "") -> Iterator[Callable[[float], None]]:
    """Yield `advance(amount)`. `unit="B"` shows megabytes and MB/s.

    Short work stays silent off a terminal: the first plain line comes after PLAIN_EVERY_S seconds.
    """
    if sys.stderr.isatty() and not _label:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        state = TextColumn("{task.fields[state]}")
        columns = (TextColumn("{task.description}"), BarColumn(), state, TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(description, total=total, state="")
            start, done = time.monotonic(), 0.0

            def advance(amount: float) -> None:
                nonlocal done
                done += amount
                bar.update(task, advance=amount, state=_state(done, total, unit, time.monotonic() - start))

            yield advance
        return

    start = last = time.monotonic()
    done = 0.0

    def advance_plain(amount: float) -> None:
        nonlocal done, last
        done += amount
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S:
            last = now
            say(f"{description}: {_state(done, total, unit, now - start)}")

    yield advance_plain


def track(items: Iterable[T], description: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    """Iterate with progress, one unit an item."""
    with progress(description, total, unit) as advance:
        for item in items:
            yield item
            advance(1)


def _state(done: float, total: float | None, unit: str, elapsed_s: float) -> str:
    rate = done / max(elapsed_s, 1e-9)
    if unit == "B":
        of = f"/{total / 1e6:.1f}" if total else ""
        return f"{done / 1e6:.1f}{of} MB, {rate / 1e6:.2f} MB/s"
    of = f"/{total:,.0f}" if total else ""
    return f"{done:,.0f}{of} {unit}".rstrip() + f", {rate:,.1f}/s"
