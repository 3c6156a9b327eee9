"""Child processes that build artefacts, one after another; each reports what came of it through a pipe.

Not a pool of concurrent.futures: there one child that is killed takes all others along.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

from isotok.errors import InterruptedRun, IsotokError
from isotok.interrupts import Interrupted, raise_on_signals, signal_name
from isotok.progress import set_label
from scripts.compose import add_plugins
from scripts.stages import build_node
from scripts.store import Node, Store

_READY = "ready"
_CLOSE_S = 10.0
_WATCH_S = 0.5


class Child:
    """A process in a session of its own, which ends by itself when this one does. node: what it builds now."""

    def __init__(self, plugins: Sequence[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, os.getpid(), tuple(plugins)))
        self.process.start()
        theirs.close()
        self.node: Node | None = None
        self._takes_signals = False

    def build(self, node: Node, root: Path) -> None:
        """Have it build a node whose inputs exist; the pipe becomes readable when there is news of it."""
        self.node = node
        with contextlib.suppress(OSError):  # it died when it was idle; `news` finds out
            self.pipe.send((node, root))

    def news(self) -> tuple[Node, BaseException | None] | None:
        """What came of its node; None if it has only started. A child that died fails its node, and has to be left."""
        node = self.node
        assert node is not None
        try:
            message = self.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return node, self._death(node)
        if message == _READY:
            self._takes_signals = True
            return None
        self.node = None
        return node, message

    @property
    def dead(self) -> bool:
        return self.process.exitcode is not None

    def tell(self, signal_name: str) -> None:
        """Pass a stop signal on; what has begun nothing yet is ended."""
        if not self._takes_signals:
            self.kill()
        elif not self.dead:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid or 0, signal.Signals[signal_name])

    def kill(self) -> None:
        """End it, and what it started, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()  # it has no group of its own in its first moments

    def close(self) -> None:
        """Let it end, when it is idle."""
        self.pipe.close()
        self.process.join(_CLOSE_S)
        if not self.dead:
            self.kill()
            self.process.join()

    def _death(self, node: Node) -> IsotokError:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # while its id is still taken
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()
        code = self.process.exitcode or 0
        for name in ("SIGINT", "SIGTERM"):
            interrupted = InterruptedRun(
                f"{node.stage} {node.name}: interrupted; run the same command again to go on", name
            )
            if code == interrupted.exit_code:
                return interrupted
        if code >= 0:
            how = f"ended with exit code {code}; see the lines above"
        else:
            name = signal_name(-code)
            how = f"was killed by {name}" + (" (out of memory? jobs= sets how many run)" if name == "SIGKILL" else "")
        return IsotokError(f"{node.stage} {node.name}: its process {how}; run the same command again to go on")


def wait_for_news(children: Iterable[Child], timeout_s: float) -> list[Child]:
    """Those of the children that have news within the time."""
    by_pipe = {child.pipe: child for child in children}
    return [by_pipe[pipe] for pipe in wait(list(by_pipe), timeout_s) if isinstance(pipe, Connection)]


def _serve(pipe: Connection, parent: int, plugins: tuple[str, ...]) -> None:
    """The life of a child: nodes come in, errors or None go out, until the pipe closes."""
    os.setsid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    raise_on_signals()
    try:
        add_plugins(plugins)
        pipe.send(_READY)
        while True:
            node, root = pipe.recv()
            pipe.send(_build(node, root))
    except (EOFError, BrokenPipeError):
        return
    except Interrupted as interrupt:  # it was idle, or just done
        raise SystemExit(InterruptedRun("", interrupt.signal_name).exit_code) from None


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os.killpg(os.getpid(), signal.SIGKILL)  # itself, and what its stage has started


def _build(node: Node, root: Path) -> BaseException | None:
    set_label(node.name)
    try:
        build_node(node, Store(root))
    except Interrupted as interrupt:
        message = f"{node.stage} {node.name}: interrupted; run the same command again to go on"
        return InterruptedRun(message, interrupt.signal_name)
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))  # shown where the parent shows a traceback
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(f"{type(error).__name__}: {error}")
        return error
    return None
