"""The local executor: builds a graph of artefacts on this machine, independent ones side by side.

Stages run in child processes of one or a few threads each. A Ctrl-C reaches the children once, through the parent
(they sit in sessions of their own), so that training can save a checkpoint before it stops; children end by
themselves when the parent dies.
"""

import concurrent.futures as futures
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from isotok.errors import InterruptedRun, IsotokError
from isotok.progress import say, set_label
from scripts.compose import add_plugins
from scripts.graph import ancestors
from scripts.stages import build_node
from scripts.store import Node, Store
from tokenization.chunks import cores

Failed = dict[Node, BaseException]


def run_graph(targets: Sequence[Node], store: Store, *, jobs: int, threads: int, plugins: Sequence[str] = ()) -> None:
    """Build the targets and whatever they need that is not there yet.

    A stage that fails does not stop those that do not depend on it; what failed is raised at the end.
    """
    needed = _missing(targets, store)
    if not needed:
        return
    alone = jobs == 1 or len(needed) == 1
    available = cores()
    os.environ.update(thread_environment(threads, available if alone else max(1, available // jobs)))
    failed = _run_here(needed, store) if alone else _run_pool(needed, store, jobs, plugins)
    if failed:
        error = next(iter(failed.values()))
        if len(failed) == 1:
            raise error
        reasons = "; ".join(f"{n.stage} {n.name}: {e}" for n, e in failed.items())
        raise IsotokError(f"{len(failed)} stages failed: {reasons}") from error


def thread_environment(threads: int, cores: int) -> dict[str, str]:
    """Environment that holds torch to so many threads, counting and the tokenizer library to so many cores."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) | {
        "RAYON_NUM_THREADS": str(cores),
        "TOKENIZERS_PARALLELISM": "false" if cores == 1 else "true",
    }


def _missing(targets: Sequence[Node], store: Store) -> list[Node]:
    # An input is needed only by something that is itself to be built.
    wanted: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if not store.has(node) and node not in wanted:
            for made in node.inputs.values():
                visit(made)
            wanted[node] = None

    for node in targets:
        visit(node)
    return list(wanted)


def _without_lost(todo: list[Node], failed: Failed) -> list[Node]:
    """What can still be built, given what failed; says what is left out."""
    lost = [node for node in todo if any(made in failed for made in ancestors([node])[:-1])]
    for node in lost:
        say(f"{node.stage} {node.name}: left out, what it needs failed")
    return [node for node in todo if node not in lost]


def _run_here(needed: list[Node], store: Store) -> Failed:
    failed: Failed = {}
    todo = list(needed)
    while todo:
        node = todo.pop(0)
        try:
            build_node(node, store)
        except InterruptedRun:
            raise
        except IsotokError as error:
            failed[node] = error
            if todo:
                say(f"{node.stage} {node.name} failed: {error}")
                todo = _without_lost(todo, failed)
    return failed


def _run_pool(needed: list[Node], store: Store, jobs: int, plugins: Sequence[str]) -> Failed:
    context = multiprocessing.get_context("spawn")
    failed: Failed = {}
    todo = list(needed)
    running: dict[futures.Future[None], Node] = {}
    pool = futures.ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_child, initargs=(os.getpid(), tuple(plugins))
    )
    with pool:
        try:
            while todo or running:
                ready = [
                    n for n in todo if not any(made in todo or made in running.values() for made in n.inputs.values())
                ]
                for node in ready[: jobs - len(running)]:
                    todo.remove(node)
                    running[pool.submit(_build_in_child, node, store.root)] = node
                done, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
                for future in done:
                    node = running.pop(future)
                    error = future.exception()
                    if isinstance(error, InterruptedRun | KeyboardInterrupt):
                        raise error
                    if error is not None:
                        failed[node] = error
                        say(f"{node.stage} {node.name} failed: {error}")
                        todo = _without_lost(todo, failed)
        except KeyboardInterrupt:
            _interrupt(pool)
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _interrupt(pool: futures.ProcessPoolExecutor) -> None:
    """Pass a Ctrl-C on to the children and wait for them; a second one is passed on as well and ends them at once."""
    children = list(getattr(pool, "_processes", None) or {})
    say("interrupted: letting the running stages save and stop (Ctrl-C again to end them at once)")
    for attempt in range(2):
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT if attempt == 0 else signal.SIGKILL)
        try:
            pool.shutdown(wait=True, cancel_futures=True)
            return
        except KeyboardInterrupt:
            continue


_building = False


def _child(parent: int, plugins: tuple[str, ...]) -> None:
    os.setsid()
    add_plugins(plugins)
    signal.signal(signal.SIGINT, _interrupted)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _interrupted(*_: object) -> None:
    if not _building:
        os._exit(0)
    raise KeyboardInterrupt


def _build_in_child(node: Node, root: Path) -> None:
    global _building
    set_label(node.name)
    _building = True
    try:
        build_node(node, Store(root))
    except KeyboardInterrupt:
        raise InterruptedRun(f"{node.stage} {node.name}: interrupted; run the same command again to go on") from None
    finally:
        _building = False
