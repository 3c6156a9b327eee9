"""The local executor: builds a graph of artefacts on this machine, independent ones side by side.

Stages run in child processes of one or a few threads each. A stop signal reaches the children once, through the parent
(they sit in sessions of their own) and as the same signal, so that training can save a checkpoint before it stops; a
second one kills them. A child that dies fails its own artefact and what needs it; children end by themselves when the
parent dies.
"""

import os
from collections.abc import Sequence

from isotok.errors import InterruptedRun, IsotokError
from isotok.progress import say
from scripts.children import Child, wait_for_news
from scripts.graph import ancestors
from scripts.stages import build_node
from scripts.store import Node, Store
from tokenization.chunks import cores
from training.signals import StopSignals

POLL_S = 0.2
"""So often the parent looks whether a signal has come."""

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
    failed = _run_here(needed, store) if alone else _run_children(needed, store, jobs, plugins)
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


def _run_children(needed: list[Node], store: Store, jobs: int, plugins: Sequence[str]) -> Failed:
    failed: Failed = {}
    interrupted: list[InterruptedRun] = []
    todo = list(needed)
    children: list[Child] = []
    stopping = ""  # the name of the signal
    try:
        with StopSignals(promise="letting the running stages save and stop") as signals:
            while True:
                busy = [child for child in children if child.node is not None]
                told = signals.received or (interrupted[0].signal_name if interrupted else "")
                if told and not stopping:
                    stopping = told
                    for child in busy:
                        child.tell(stopping)
                if not stopping:
                    busy = _start_ready(todo, busy, children, store, jobs, plugins)
                if not busy:
                    break
                for child in wait_for_news(busy, POLL_S):
                    news = child.news()
                    if news is None:
                        continue
                    node, error = news
                    if child.dead:
                        children.remove(child)
                    if isinstance(error, InterruptedRun) or (stopping and child.dead):
                        own = error if isinstance(error, InterruptedRun) else None
                        interrupted.append(own or InterruptedRun(f"{node.stage} {node.name}: interrupted", stopping))
                    elif error is not None:
                        failed[node] = error
                        say(f"{node.stage} {node.name} failed: {error}")
                        todo = _without_lost(todo, failed)
        if stopping:
            raise _interruption(interrupted, stopping)
    except BaseException:
        for child in children:
            if child.node is not None:
                child.kill()
        raise
    finally:
        for child in children:
            child.close()
    return failed


def _start_ready(
    todo: list[Node], busy: list[Child], children: list[Child], store: Store, jobs: int, plugins: Sequence[str]
) -> list[Child]:
    """Give what can be built now to idle children, or to new ones up to `jobs`; returns the busy ones."""
    for child in children.copy():
        if child.node is None and child.dead:
            children.remove(child)
    waiting = {*todo, *(child.node for child in busy)}
    ready = [node for node in todo if not any(made in waiting for made in node.inputs.values())]
    for node in ready[: jobs - len(busy)]:
        idle = next((child for child in children if child.node is None), None) or Child(plugins)
        if idle not in children:
            children.append(idle)
        todo.remove(node)
        idle.build(node, store.root)
        busy.append(idle)
    return busy


def _interruption(interrupted: list[InterruptedRun], signal_name: str) -> InterruptedRun:
    if len(interrupted) == 1:
        return interrupted[0]
    what = f"{len(interrupted)} stages stopped" if interrupted else "nothing was left half-done"
    return InterruptedRun(f"stopped by {signal_name}, {what}; run the same command again to go on", signal_name)
