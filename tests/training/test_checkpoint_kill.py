"""kill -9 of a real process that saves and prunes, at random moments: there is always a whole checkpoint to load.

The process says what it is about to do: `S n` before the save of step n, `P n` when its folder shows, so that the
test knows which kills land inside a save.
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isotok.files import read_json
from training.checkpoint import KINDS, load_newest, steps_saved

SCRIPT = """
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
        print("S", step, flush=True)
        writer.save({"step": step}, tensors)
        writer.settle()
        print("P", step, flush=True)
        writer.mark_best(step, 1 / step if step % 5 == 0 else 9.0)
        writer.wait()
"""


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
