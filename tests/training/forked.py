"""Commands in processes that a fork server starts, with the libraries loaded: seconds less a start than a fresh one."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "tests/training/traced"
PLUGGED = [f"plugins=[{PLUGIN}]", "allow=[traced_runs]"]

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "scripts.cli",
        "evaluation.documents",
        "training.worker",
        "training.launch",
        "accelerate",
        "transformers.models.llama.modeling_llama",
        "tokenization.stochastok_kernel",
    ]
)


def live(arguments: Sequence[str], environment: dict[str, str], stderr: str, fresh_ranks: bool) -> None:
    """`isotok ARGUMENTS`, the whole life of a process. `launch RUN_DIR` is what `pretrain` does once run.json is there.

    fresh_ranks: ranks are real commands; otherwise forks of this process, which loaded the libraries already.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment, PYTHONPATH=str(ROOT))
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    if not fresh_ranks:
        import training.launch

        training.launch.subprocess.Popen = Forked  # type: ignore[misc,assignment]
    _exit_like(arguments)


def _exit_like(arguments: Sequence[str]) -> None:
    code = 1
    try:
        if arguments[0] == "launch":
            _launch(Path(arguments[1]))
        else:
            from scripts.cli import main

            main(arguments)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def _launch(run_dir: Path) -> None:
    from isotok.errors import IsotokError
    from isotok.files import read_json
    from isotok.interrupts import raise_on_signals
    from isotok.recipe import build
    from scripts.worker import start_worker

    raise_on_signals()
    try:
        start_worker(run_dir, build(read_json(run_dir / "run.json")["engine"], "engine"), [str(PLUGIN)])
    except IsotokError as error:
        print(f"isotok: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


class Forked:
    """As much of subprocess.Popen as the launcher uses, for `python -m scripts.cli ARGUMENTS`."""

    def __init__(self, command: Sequence[str], *, env: dict[str, str], **options: Any) -> None:
        assert options.pop("start_new_session") and set(options) == {"stdin", "stdout"}
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.clear()
            os.environ.update(env)
            _exit_like(command[command.index("scripts.cli") + 1 :])

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("rank", timeout_s)
            time.sleep(0.01)
        return code
