"""A worker process as one of several ranks: who it is, what it says when it fails."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isotok.errors import ConfigError, DataError, InterruptedRun, IsotokError
from isotok.interrupts import Interrupted
from training.process import (
    COMMUNICATION_WAIT_S,
    explain_start_failure,
    first_host,
    is_communication_error,
    ranks_from_slurm,
    recorded_error,
    report_error,
)

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without launchers; what is set in it goes with the test."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def found() -> dict[str, str]:
    return {name: os.environ[name] for name in NAMES if name in os.environ}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "3 4 1 gpu07"),
        ({"SLURM_STEP_NUM_NODES": "1"}, "3 4 1 127.0.0.1"),
        ({"MASTER_ADDR": "head"}, "3 4 1 head"),
    ],
)
def test_srun_says_who_is_who(changed: dict[str, str], expected: str, environment: pytest.MonkeyPatch) -> None:
    for name, value in {**SRUN, **changed}.items():
        environment.setenv(name, value)
    ranks_from_slurm()
    *others, port = (os.environ[name] for name in NAMES)
    assert " ".join(others) == expected
    assert 20_000 <= int(port) < 60_000
    environment.setenv("SLURM_STEP_ID", "3")
    environment.delenv("RANK")
    environment.delenv("MASTER_PORT")
    ranks_from_slurm()
    assert os.environ["MASTER_PORT"] != port, "steps side by side meet at ports of their own"


@pytest.mark.parametrize(
    "changed", [{"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_NUM_TASKS": None, "SLURM_NTASKS": "4"}, {"RANK": "0"}]
)
def test_a_single_task_stays_single(changed: dict[str, str | None], environment: pytest.MonkeyPatch) -> None:
    for name, value in {**SRUN, **changed}.items():
        environment.delenv(name, raising=False) if value is None else environment.setenv(name, value)
    before = found()
    ranks_from_slurm()
    assert found() == before


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu01", "gpu01"),
        ("gpu[03-05,9],login", "gpu03"),
        ("a-1,b[1-2]", "a-1"),
        ("rack[2-3]n[10,12]-ib", "rack2n10-ib"),
    ],
)
def test_first_host_of_a_node_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_an_empty_node_list_is_refused() -> None:
    with pytest.raises(ConfigError, match="SLURM_JOB_NODELIST=''"):
        first_host("")


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("training.lr=9: too large"),
        DataError("a torn record"),
        IsotokError("no space left"),
        InterruptedRun("stopped", "SIGUSR1"),
    ],
)
def test_an_error_comes_back_as_it_was(error: IsotokError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    report_error(error)
    record = json.loads((tmp_path / "error.json").read_text())
    again = recorded_error(record["isotok"])
    assert (type(again), str(again), again.exit_code) == (type(error), str(error), error.exit_code)  # type: ignore[union-attr]
    assert set(record["message"]) == {"message", "extraInfo"}


def test_a_bug_is_recorded_as_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    report_error(KeyError("lr"))
    record = json.loads((tmp_path / "error.json").read_text())["isotok"]
    assert recorded_error(record) is None
    assert record["text"] == "KeyError: 'lr'"


def test_an_interruption_before_the_loop_is_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    report_error(Interrupted("SIGTERM"))
    again = recorded_error(json.loads((tmp_path / "error.json").read_text())["isotok"])
    assert isinstance(again, InterruptedRun)
    assert again.exit_code == 75


def test_without_a_launcher_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    report_error(DataError("x"))
    assert list(tmp_path.iterdir()) == []


def test_who_only_lost_the_others_waits_to_let_the_cause_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    report_error(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242"))
    report_error(RuntimeError("shape mismatch"))
    report_error(DataError("connection reset, says a record"))
    assert waits == [COMMUNICATION_WAIT_S]


def test_errors_of_torch_about_other_ranks() -> None:
    from torch.distributed import DistBackendError, DistNetworkError

    assert is_communication_error(DistBackendError("NCCL error: unhandled"))
    assert is_communication_error(DistNetworkError("x"))
    wrapped = ValueError("in the loop")
    wrapped.__cause__ = RuntimeError("Timed out waiting 8000ms for recv operation to complete")
    assert is_communication_error(wrapped)
    assert not is_communication_error(ValueError("connection reset"))


def test_start_failures_name_the_variable(environment: pytest.MonkeyPatch) -> None:
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment.setenv("MASTER_PORT", str(store.port))
    with pytest.raises(dist.DistNetworkError) as caught:
        dist.TCPStore("127.0.0.1", store.port, is_master=True, wait_for_workers=False)
    explained = explain_start_failure(caught.value)
    assert f"MASTER_PORT={store.port}: another process listens there" in str(explained)
    assert explain_start_failure(RuntimeError("something else")) is None


def test_stdout_goes_to_stderr_and_the_real_one_is_kept() -> None:
    code = (
        "import os\nfrom training.process import stdout_to_stderr\nreal = stdout_to_stderr()\n"
        "print('noise', flush=True)\nos.system('echo below')\nos.write(real, b'result')"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "result"
    assert done.stderr == "noise\nbelow\n"
