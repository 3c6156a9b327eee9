"""kill -9 of a real process, in the middle of training, and the same command again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isotok.files import read_json
from training.tracking import read_metrics

STEPS = 60
SCRIPT = f"""
import sys
from pathlib import Path
from modeling import Llama
from training import Budget, Engine, Training, pretrain

pretrain(
    model=Llama(hidden_size=64, layers=2, heads=2, mlp_size=128),
    tokens=Path(sys.argv[1]), tokenizer=Path(sys.argv[2]), out=Path(sys.argv[3]),
    budget=Budget(amount={STEPS}, unit="steps", context_bytes=256, rows=8, max_epochs=9),
    training=Training(save_every_steps=7, wandb="disabled"), engine=Engine(device="cpu"),
)
"""


def start(artefacts: dict[str, Path], out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, artefacts["tokens"], artefacts["tokenizer"], out]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})


def last_step(out: Path) -> int:
    rows = read_metrics(out / "metrics.jsonl")
    return rows[-1]["step"] if rows else 0


@pytest.mark.slow
def test_kill_and_resume_gives_the_same_bits(artefacts: dict[str, Path], tmp_path: Path) -> None:
    assert start(artefacts, tmp_path / "whole").wait(120) == 0
    out = tmp_path / "killed"
    for kill_from in (4, 16, 37):
        process = start(artefacts, out)
        deadline = time.monotonic() + 60
        # Wait for a line that the worker wrote, so that the kill lands in training and not in start-up.
        while last_step(out) < kill_from:
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        assert kill_from <= last_step(out) < STEPS, "the kill landed in the middle of the run"
        assert not (out / "train.json").exists()
    assert start(artefacts, out).wait(120) == 0
    for name in ("train.json", "metrics.jsonl", "model/model.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert read_json(out / "train.json")["steps"] == STEPS
