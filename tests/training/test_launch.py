"""Ranks as processes: what the launcher reports of their deaths, and what signals do to them. No model."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from isotok.errors import ConfigError, DataError, InterruptedRun, IsotokError
from tests.processes import running, until
from training.launch import Worker, judge, launch

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("rank_worker.py")
ROOT = WORKER.parents[2]
PARENT = """
import sys
from pathlib import Path
from types import SimpleNamespace
from isotok.errors import IsotokError
from training.launch import Worker, judge, launch
try:
    launch(Path(sys.argv[1]), SimpleNamespace(ranks=2, threads=1), [sys.executable, *sys.argv[2:]])
except IsotokError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture(autouse=True)
def _workers_find_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def command(run_dir: Path, steps: int = 10, timeout_s: float = 60, behaviour: str = "") -> list[str]:
    return [sys.executable, str(WORKER), str(run_dir), str(steps), str(timeout_s), behaviour]


def run(run_dir: Path, ranks: int = 2, **options: object) -> None:
    launch(run_dir, SimpleNamespace(ranks=ranks, threads=1), command(run_dir, **options))  # type: ignore[arg-type]


@contextmanager
def parent(run_dir: Path, behaviour: str = "", steps: int = 100_000) -> Iterator[subprocess.Popen[str]]:
    """A process that launches two ranks; no rank may outlive the block."""
    arguments = command(run_dir, steps, 60, behaviour)[1:]
    try:
        with running(PARENT, str(run_dir), *arguments) as process:
            yield process
    finally:
        until(lambda: not workers_of(run_dir))


def workers_of(run_dir: Path) -> list[int]:
    """Ids of live worker processes of a run folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            state = (path / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if str(WORKER).encode() in words[1:2] and str(run_dir).encode() in words and state != "Z":
            found.append(int(path.name))
    return found


def step(run_dir: Path) -> int:
    try:
        return int((run_dir / "step").read_text() or -1)
    except FileNotFoundError:
        return -1


def test_all_ranks_finish_and_leave_nothing_behind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    assert (tmp_path / "done").read_text() == "10 2 1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done", "step"]
    out, err = capfd.readouterr()
    assert out == "", "what a worker prints must not get among the results"
    assert "printed by a library" in err
    assert "warn" not in err.lower()


def ended(rank: int, code: int, **record: object) -> Worker:
    return Worker(rank, None, Path(), code, record or None)  # type: ignore[arg-type]


def test_the_cause_is_told_from_what_it_led_to(tmp_path: Path) -> None:
    """Whatever the order in which the deaths were seen."""
    lost = ended(0, 1, **{"class": None, "text": "Connection closed by peer", "communication": True})
    torn = ended(2, 1, **{"class": "DataError", "text": "torn", "communication": False})
    saved = ended(0, 75, **{"class": "InterruptedRun", "text": "saved", "signal": "SIGTERM", "communication": False})
    with pytest.raises(IsotokError, match="rank 1 was killed by SIGKILL"):
        judge(tmp_path, [lost, ended(1, -9), torn])
    with pytest.raises(DataError, match="torn"):
        judge(tmp_path, [lost, torn, ended(1, -9)])
    with pytest.raises(InterruptedRun, match="saved"):
        judge(tmp_path, [lost, ended(1, 0), saved])
    with pytest.raises(IsotokError, match="rank 0 lost the other ranks: Connection closed by peer"):
        judge(tmp_path, [ended(1, 0), lost])
    judge(tmp_path, [ended(1, 0), ended(0, 0)])


def test_a_thread_can_launch(tmp_path: Path) -> None:
    thread = threading.Thread(target=run, args=(tmp_path,))
    thread.start()
    thread.join()
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("behaviour", "kind", "message"),
    [
        ("config:1:3", ConfigError, r"^training.lr=9: too large$"),
        ("data:0:3", DataError, r"^tokens.bin: record 7 is torn$"),
        ("bug:1:3", IsotokError, r"rank 1 failed: ZeroDivisionError: a bug \(last seen at step"),
        ("kill:0:3", IsotokError, r"rank 0 was killed by SIGKILL \(out of memory\?\) .*; there is no checkpoint yet$"),
        ("exit:1:3", IsotokError, r"rank 1 ended with exit code 3 and said nothing"),
    ],
)
def test_a_rank_that_fails_is_named_and_ends_the_others(
    behaviour: str, kind: type[IsotokError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(IsotokError, match=message) as caught:
        run(tmp_path, behaviour=behaviour)
    assert type(caught.value) is kind
    assert workers_of(tmp_path) == []


def test_the_kept_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000012").mkdir(parents=True)
    with pytest.raises(IsotokError, match="the checkpoint of step 12 is kept, the same command resumes$"):
        run(tmp_path, behaviour="kill:1:3")


def test_a_rank_that_sleeps_is_named_with_its_phase(tmp_path: Path) -> None:
    with pytest.raises(IsotokError, match=r"no progress for 3 s.*: rank 1 \(.*\) is stuck in fetch at step 4 for"):
        run(tmp_path, timeout_s=3, behaviour="sleep:1:4")
    assert workers_of(tmp_path) == []


def test_a_rank_that_is_frozen_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(IsotokError, match=r"no progress for 3 s.*: rank 1 \(.*\) has not been heard of for \d+ s"):
        run(tmp_path, timeout_s=3, behaviour="stop:1:4")
    assert workers_of(tmp_path) == [], "a frozen process has to be killed"
    assert capfd.readouterr().err.count("no progress for 3 s") == 1


def test_a_single_rank_that_sleeps_shows_its_stack(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(IsotokError, match=r"rank 0 \(.*\) is stuck in fetch at step 4"):
        run(tmp_path, ranks=1, timeout_s=2, behaviour="sleep:0:4")
    assert "in misbehave" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_reaches_rank_0_alone_and_all_stop(number: signal.Signals, code: int, tmp_path: Path) -> None:
    with parent(tmp_path) as process:
        until(lambda: step(tmp_path) >= 3)
        process.send_signal(number)
        process.send_signal(number)  # as SLURM does
        out, err = process.communicate(timeout=30)
        assert process.returncode == code, err
        assert re.fullmatch(rf"stopped by {number.name} at step \d+", err.splitlines()[-1])
        assert (tmp_path / "told").read_text() == f"0 {number.name}\n"
        assert out == ""


def test_a_signal_before_the_ranks_can_take_it_is_kept_for_them(tmp_path: Path) -> None:
    with parent(tmp_path, "slow start") as process:
        until(lambda: workers_of(tmp_path))
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 75
        assert (tmp_path / "told").read_text() == "0 SIGTERM\n"
        assert step(tmp_path) < 100, "it is told as soon as it can be"


def test_a_second_signal_ends_all_ranks_though_rank_0_waits_in_a_collective(tmp_path: Path) -> None:
    with parent(tmp_path, "wait:1:3") as process:
        until((tmp_path / "waiting").exists)
        process.send_signal(signal.SIGTERM)
        time.sleep(1.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        err = process.communicate(timeout=5)[1]
        assert process.returncode == 75
        assert "all ranks ended at once by a second SIGTERM" in err
        assert workers_of(tmp_path) == []


def test_a_rank_in_a_collective_ends_at_once_on_a_second_signal_of_its_own(tmp_path: Path) -> None:
    with parent(tmp_path, "wait:1:3") as process:
        until((tmp_path / "waiting").exists)
        time.sleep(0.2)
        rank_0 = json.loads((tmp_path / "ranks" / "rank-0.json").read_text())["pid"]
        os.kill(rank_0, signal.SIGTERM)
        time.sleep(1.2)
        os.kill(rank_0, signal.SIGTERM)
        err = process.communicate(timeout=20)[1]
        assert f"rank 0 ended with exit code {128 + signal.SIGTERM}" in err


def test_ranks_end_when_their_launcher_is_killed(tmp_path: Path) -> None:
    with parent(tmp_path) as process:
        until(lambda: step(tmp_path) >= 3)
        assert len(workers_of(tmp_path)) == 2
        process.kill()
        process.wait()
        until(lambda: not workers_of(tmp_path), 3)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_launcher_killed_while_its_ranks_start(at_once: bool, tmp_path: Path) -> None:
    with parent(tmp_path, "no start") as process:
        until(lambda: len(workers_of(tmp_path) if at_once else list(tmp_path.glob("asleep-*"))) == 2)
        process.kill()
        process.wait()
        until(lambda: not workers_of(tmp_path), 5)


def test_the_end_comes_before_the_signal(tmp_path: Path) -> None:
    """A signal that finds nothing left to stop still stops what would come after training."""
    with parent(tmp_path, "wait:0:9", steps=10) as process:
        until((tmp_path / "waiting").exists)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        (tmp_path / "go").touch()
        err = process.communicate(timeout=30)[1]
        assert process.returncode == 75
        assert "SIGTERM came when training had just finished" in err
        assert (tmp_path / "done").exists()


def test_torchrun_starts_the_same_worker(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    options = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    done = subprocess.run([*torchrun, *options, *command(tmp_path)[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").read_text() == "10 2 1"
    assert sorted(done.stdout.splitlines()) == ["rank 0 done", "rank 1 done"]
    failed = subprocess.run(
        [*torchrun, *options, *command(tmp_path, behaviour="data:1:3")[1:]], capture_output=True, text=True, check=False
    )
    assert "record 7 is torn" in failed.stderr, "torch's launcher reads our error files"


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        error_file = tmp_path / "error.json"
        environment["TORCHELASTIC_ERROR_FILE"] = str(error_file)
        done = subprocess.run(command(tmp_path), env=environment, check=False, timeout=60)
    assert done.returncode == ConfigError.exit_code
    message = json.loads(error_file.read_text())["message"]["message"]
    assert message.startswith(f"ConfigError: MASTER_PORT={port}: another process listens there")
