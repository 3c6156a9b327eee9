"""Whole runs as processes: prepared, started, watched through their trace, killed, compared bit for bit."""

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotok.files import read_json, write_json
from modeling import Llama
from tests.training.forked import PLUGGED, context, live
from tokenization import StochasTok
from training import Budget, Engine, Training
from training.api import prepare_run
from training.checkpoint import step_folder, steps_saved

MODEL = Llama(hidden_size=64, layers=2, heads=2, mlp_size=128)
SINGLE = Engine(device="cpu")
DDP = Engine(device="cpu", ranks=2, timeout_s=60)


def prepare(
    artefacts: dict[str, Path],
    out: Path,
    engine: Engine = SINGLE,
    steps: int = 60,
    model: Llama = MODEL,
    transform: StochasTok = StochasTok(),  # noqa: B008
    **training: Any,
) -> Path:
    """A run's folder with its run.json; the transform is made the traced one."""
    settings = {"save_every_steps": 7, "validations": steps // 10, "validation_bytes": 2000, "wandb": "disabled"}
    prepare_run(
        model=model,
        tokens=artefacts["tokens"],
        tokenizer=artefacts["tokenizer"],
        budget=Budget(amount=steps, unit="steps", context_bytes=256, rows=8, max_epochs=999),
        out=out,
        training=Training(**{**settings, **training}),
        transform=transform,
        engine=engine,
        label="run",
        seed=0,
        corpus=str(artefacts["corpus"]),
    )
    spec = read_json(out / "run.json")
    # Not imported here, where its notes would go around the functions of the process that tests.
    spec["transform"]["_target_"] = "traced_runs.Traced"
    write_json(out / "run.json", spec)
    return out


@dataclass
class Run:
    """A started command on a run's folder, and where it writes down what it says and what it is at."""

    run_dir: Path
    process: Any
    pid: int
    stderr: Path
    notes: Path

    def ended(self) -> bool:
        self.process.join(0)
        return self.process.exitcode is not None

    def wait(self, timeout_s: float = 120) -> int:
        """Its exit code (negative: a signal's)."""
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.kill()
            raise AssertionError(f"still running after {timeout_s} s:\n{self.said()}")
        return int(self.process.exitcode)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.join(30)

    def said(self) -> str:
        """What it wrote to stderr."""
        return self.stderr.read_text(encoding="utf-8") if self.stderr.exists() else ""

    def trace(self) -> list[tuple[int, str, str]]:
        """(pid, what, state) of everything that its folder's processes noted since it was started."""
        text = self.notes.read_text() if self.notes.exists() else ""
        lines = [line.split() for line in text.splitlines()]
        return [(int(pid), what, state) for pid, what, state in lines]

    def noted(self, what: str, state: str) -> int:
        """How often it came to the begin or end of something."""
        return sum(event[1:] == (what, state) for event in self.trace())

    def at(self) -> list[str]:
        """What rank 0 has begun and not ended."""
        begun: list[str] = []
        for _, what, state in self.trace():
            if state == "begin":
                begun.append(what)
            elif state == "end":
                begun.remove(what)
        return begun

    def until(self, condition: Callable[[], Any], timeout_s: float = 90) -> None:
        """Wait for a condition, which must come true while it runs."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert not self.ended(), f"ended with {self.process.exitcode} before its moment came:\n{self.said()}"
            assert time.monotonic() < deadline, f"waited in vain at {self.trace()[-5:]}:\n{self.said()}"
            time.sleep(0.002)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def ranks(self) -> dict[int, int]:
        """rank → pid of the ranks that said who they are."""
        found = {}
        for path in (self.run_dir / "ranks").glob("rank-*.json"):
            with contextlib.suppress(OSError, ValueError):
                report = json.loads(path.read_text())
                found[int(report["rank"])] = int(report["pid"])
        return found


def kill_at(cut: Path, kinds: Iterable[str], moments: random.Random) -> Counter[str]:
    """Start the run and kill -9 it at a moment of each kind in turn; what it was doing when it died, counted."""
    landings: Counter[str] = Counter()
    for kind in kinds:
        with started(cut, SLOW_UNIT_S="0.15") as run:
            wait_for(run, kind, moments)
            run.signal(signal.SIGKILL)
            assert run.wait() == -signal.SIGKILL, "the kill landed in a run"
            landings.update(landed(run))
        assert not (cut / "train.json").exists()
    return landings


@contextlib.contextmanager
def started(
    run_dir: Path, *, ranks: bool = False, fresh: bool = False, alias: str = "", **environment: str
) -> Iterator[Run]:
    """`isotok worker RUN_DIR` in the background, or its launcher. Nothing of it outlives the block.

    fresh: ranks are processes from the start, not forks. alias: where two run in one folder.
    """
    # Beside the folder, whose disk may be full.
    trace, stderr = (run_dir.with_name(f"{run_dir.name}{alias}.{what}") for what in ("trace", "stderr"))
    for path in (trace, stderr):
        path.unlink(missing_ok=True)
    arguments = ["launch", str(run_dir)] if ranks else ["worker", str(run_dir), *PLUGGED]
    environment = {"TRACE": str(trace), **environment}
    process = context.Process(target=live, args=(arguments, environment, str(stderr), fresh))
    process.start()
    run = Run(run_dir, process, process.pid or 0, stderr, trace)
    try:
        yield run
    finally:
        others = [] if run.ended() else list(run.ranks().values())
        run.kill()
        for pid in others:
            gone(pid)


def gone(pid: int, timeout_s: float = 20) -> None:
    """Wait until a process that somebody else has to reap is no more."""
    deadline = time.monotonic() + timeout_s
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} outlives its parent"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def finish(run_dir: Path, **options: Any) -> str:
    """Run to the end; what was said."""
    with started(run_dir, **options) as run:
        assert run.wait() == 0, run.said()
        return run.said()


_IN_SAVE = (
    ("save", "begin"),
    ("file", "begin"),
    ("file", "end"),
    ("json", "begin"),
    ("json", "end"),
    ("rename", "begin"),
)


def wait_for(run: Run, kind: str, moments: random.Random) -> None:
    """Let a run come to a moment of a kind, and past the first saves or validations where chance has it."""
    if kind == "random":
        events = moments.randint(1, 80)
        run.until(lambda: len(run.trace()) >= events)
        return
    nth = moments.randint(1, 2)
    mark = moments.choice(_IN_SAVE) if kind == "save" else (kind, "begin")
    run.until(lambda: run.noted(*mark) >= nth)
    if kind == "wait":
        run.until(lambda: _lasts(run))


def _lasts(run: Run) -> bool:
    """Whether it waits for data, and did a moment ago: most waits are over at once."""
    nth = run.noted("wait", "begin")
    if "wait" not in run.at():
        return False
    time.sleep(0.005)
    return "wait" in run.at() and run.noted("wait", "begin") == nth


def landed(run: Run) -> set[str]:
    """What a run that is dead was at; a save goes on beside other things."""
    begun = set(run.at()) & {"save", "prune", "validate", "wait", "step"}
    if "save" in begun and not list((run.run_dir / "checkpoints").glob(".step-*.tmp")):
        begun = begun - {"save"} | {"save, before or after its files"}
    if not any(what == "bound" for _, what, _ in run.trace()):
        begun.add("start-up")
    return begun or {"between"}


def same_bits(ours: Path, theirs: Path) -> None:
    """Assert that two runs ended with the same weights, moments, figures, metrics and place in the data."""
    best = "checkpoints/best.json"
    assert (ours / best).exists() == (theirs / best).exists()
    names = ["train.json", "metrics.jsonl", "model/model.safetensors", *([best] if (ours / best).exists() else [])]
    for name in names:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert not list((ours / "checkpoints").glob(".*")), "something half-written was left"
    saved = steps_saved(theirs / "checkpoints")
    assert steps_saved(ours / "checkpoints") == saved
    for step in saved:
        a, b = (step_folder(run / "checkpoints", step) for run in (ours, theirs))
        assert sorted(path.name for path in a.iterdir()) == sorted(path.name for path in b.iterdir())
        for path in a.glob("*.safetensors"):
            assert path.read_bytes() == (b / path.name).read_bytes(), path
        states = [read_json(folder / "state.json")["state"] for folder in (a, b)]
        for state in states:
            for key in ("train_s", "data_wait_s", "wandb_id"):
                del state[key]
        assert states[0] == states[1]
