"""`isotok worker RUN_DIR` under other launchers than ours: torchrun, `accelerate launch`, variables set by hand."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.worker import start_worker
from tests.training.engine_lab import ROOT, engine_of, in_one_place, write_run

pytestmark = [pytest.mark.slow, in_one_place]

WORKER = ["-m", "scripts.cli", "worker"]


def make_run(artefacts: dict[str, Path], out: Path) -> Path:
    training = {"validations": 2, "validation_bytes": 2000}
    corpus = str(artefacts["corpus"])
    return write_run(artefacts, out, engine_of("ddp"), training=training, budget={"amount": 6}, corpus=corpus)


def start(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, *command]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def ours(artefacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that isotok started itself, by engine.ranks=2."""
    run = make_run(artefacts, tmp_path_factory.mktemp("ours") / "run")
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(ROOT))
    start_worker(run, engine_of("ddp"), [])
    patch.undo()
    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# It is told of precision and compiling, as a config file might; here the recipes say that.
ACCELERATE = (
    "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision bf16 "
    "--dynamo_backend inductor --main_process_port {port}"
)
TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 2"


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_other_launchers_give_the_same_bits(
    artefacts: dict[str, Path], ours: Path, tmp_path: Path, launcher: str
) -> None:
    run = make_run(artefacts, tmp_path / "run")
    done = start([*launcher.format(port=free_port()).split(), *WORKER, str(run)])
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run}\n", "the folder, once, and nothing else"
    for file in ("train.json", "metrics.jsonl", "model/model.safetensors"):
        assert (run / file).read_bytes() == (ours / file).read_bytes(), file
    assert "step 6/6: validation" in done.stderr
    assert done.stderr.count("step 6/6: validation") == 1, "one rank speaks"


def test_a_port_in_use_is_named(artefacts: dict[str, Path], tmp_path: Path) -> None:
    run = make_run(artefacts, tmp_path / "run")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        done = start([*WORKER, str(run)], **rank)
    assert done.returncode == 2, done.stderr
    assert f"MASTER_PORT={port}: another process listens there" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
