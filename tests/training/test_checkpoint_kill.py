"""kill -9 of a process that saves and prunes: there is always a whole checkpoint to load.

Before each file operation in turn, and at random moments. In the latter the process says what it is about to do: `S n`
before the save of step n, `P n` when its folder shows, so that the test knows which kills land inside a save.
"""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from isotok.files import read_json
from tests.training.checkpoints import tensors
from training.checkpoint import KINDS, load_newest, step_folder, steps_saved, verify
from training.writer import CheckpointWriter, read_best

OPERATIONS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")

SCRIPT = """
import os
import sys
from pathlib import Path
import torch
from training.checkpoint import load_newest
from training.writer import CheckpointWriter

folder = Path(sys.argv[1])
found = load_newest(folder)
step = found.state["step"] if found else 0
with CheckpointWriter(folder, keep_last=2, keep_best=True) as writer:
    while True:
        step += 1
        tensors = {kind: {f"p{i}": torch.full((50_000,), float(step)) for i in range(4)}
                   for kind in ("weights", "exp_avg", "exp_avg_sq")}
        os.write(1, f"S {step}\\n".encode())  # in one piece
        writer.save({"step": step}, tensors)
        writer.settle()
        os.write(1, f"P {step}\\n".encode())
        writer.mark_best(step, 1 / step if step % 5 == 0 else 9.0)
        writer.wait()
"""


def save_and_die(folder: Path, step: int, score: float, operation: int) -> None:
    """Save, mark, prune, in a process that kills itself before its n-th file operation. Ends the process."""
    done = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if event in OPERATIONS or (event == "open" and str(arguments[0]).startswith(str(folder))):
            done += 1
            if done == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    try:
        with CheckpointWriter(folder, keep_last=2, keep_best=True) as writer:
            writer.save({"step": step}, tensors(step))
            writer.mark_best(step, score)
        os._exit(0)
    finally:
        os._exit(1)


def test_a_kill_before_any_file_operation_costs_at_most_that_save(tmp_path: Path) -> None:
    base = tmp_path / "base"
    with CheckpointWriter(base, keep_last=2, keep_best=True) as writer:
        for step in (1, 2):
            writer.save({"step": step}, tensors(step))
            writer.mark_best(step, 1.0 / step)
    seen = set()
    for operation in itertools.count(1):
        folder = tmp_path / f"before-{operation}"
        shutil.copytree(base, folder)
        child = os.fork()
        if child == 0:
            save_and_die(folder, 3, 0.1, operation)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        found = load_newest(folder)
        assert found is not None
        for step in steps_saved(folder):  # whole, all of them
            whole = verify(step_folder(folder, step))
            assert all(bool((tensor == step).all()) for kind in KINDS for _, tensor in whole.read(kind))
        best = read_best(folder)
        assert best in ((2, 0.5), (3, 0.1))
        assert best[0] in steps_saved(folder)
        left = {path.name for path in folder.iterdir()}
        assert left - {"best.json", "step-00000001", "step-00000002", "step-00000003"} == set(), "swept"
        seen.add((found.state["step"], best[0], len(steps_saved(folder))))
        with CheckpointWriter(folder, keep_last=2, keep_best=True) as writer:  # the same again
            writer.save({"step": 3}, tensors(3))
            writer.mark_best(3, 0.1)
            writer.save({"step": 4}, tensors(4))
        assert steps_saved(folder) == [3, 4]
        shutil.rmtree(folder)
    # Killed before and after the new one showed, before and after the old one went, before and after it was marked.
    assert seen == {(2, 2, 2), (3, 2, 3), (3, 2, 2), (3, 3, 2)}
    assert operation > 20


@pytest.mark.slow
@pytest.mark.parametrize("kills", [8, pytest.param(60, marks=pytest.mark.soak)])
def test_a_kill_costs_at_most_the_save_it_lands_in(tmp_path: Path, kills: int) -> None:
    folder, rng = tmp_path / "checkpoints", random.Random(7)
    log = tmp_path / "log"
    inside, left_behind, saved = 0, 0, 0
    tries = 0
    while inside < kills:
        tries += 1
        assert tries < 5 * kills, f"only {inside} of {tries} kills landed inside a save"
        log.write_text("")
        with open(log, "w") as stdout:
            process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], stdout=stdout)
        deadline = time.monotonic() + 60
        while "P" not in log.read_text():  # past start-up
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        lines = [line.split() for line in log.read_text().splitlines()]
        assert lines[0] == ["S", str(saved + 1)], "it went on where the last whole checkpoint was"
        what, last = lines[-1][0], int(lines[-1][1])
        inside += what == "S"
        left_behind += any(folder.glob(".step-*")) or any(folder.glob(".removed-*"))
        found = load_newest(folder)
        assert found is not None
        assert found.state["step"] in ((last - 1, last) if what == "S" else (last,))
        saved = found.state["step"]
        for kind in KINDS:
            assert all(bool((tensor == saved).all()) for _, tensor in found.read(kind))
        assert not any(folder.glob("damaged-*")), "a kill damages nothing that shows"
        assert not any(folder.glob(".*step-*")), "and what it left is swept"
        if (folder / "best.json").exists():
            best = read_json(folder / "best.json")["step"]
            assert best in steps_saved(folder)
    assert left_behind, "some kills left a half-written folder"
