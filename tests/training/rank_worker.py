"""A worker without a model: what the launcher, the watchdog and the signals see of a real one.

    python rank_worker.py RUN_DIR STEPS TIMEOUT_S [BEHAVIOUR]

BEHAVIOUR is `what:rank:step`; see `misbehave`. Each step is a fetch (where it misbehaves), a sum over the ranks and an
agreement on whether to stop.
"""

import os
import signal
import sys
import time
from pathlib import Path

from training.process import die_with_parent, explain_start_failure, ranks_from_slurm, report_error, stdout_to_stderr

die_with_parent()
real_stdout = stdout_to_stderr()
print("printed by a library", flush=True)
ranks_from_slurm()

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from isotok.errors import ConfigError, DataError, InterruptedRun, IsotokError  # noqa: E402
from training.signals import StopSignals  # noqa: E402
from training.watchdog import Watchdog  # noqa: E402


def misbehave(what: str, run_dir: Path) -> None:
    if what == "config":
        raise ConfigError("training.lr=9: too large")
    if what == "data":
        raise DataError("tokens.bin: record 7 is torn")
    if what == "bug":
        raise ZeroDivisionError("a bug")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "exit":
        os._exit(3)
    if what == "sleep":
        time.sleep(600)
    if what == "wait":  # until the test says so
        (run_dir / "waiting").touch()
        while not (run_dir / "go").exists():
            time.sleep(0.02)


def train(run_dir: Path, steps: int, behaviour: str, watchdog: Watchdog, signals: StopSignals) -> None:
    what, who, when = (behaviour or "nothing:-1:-1").split(":")
    try:
        dist.init_process_group("gloo")
    except Exception as error:
        raise explain_start_failure(error) or error from None
    for step in range(steps):
        watchdog.enter("agree", step)
        stop = torch.tensor([float(signals.received is not None)])
        dist.all_reduce(stop)
        if stop.item():
            if signals.received:
                with open(run_dir / "told", "a") as file:
                    file.write(f"{dist.get_rank()} {signals.received}\n")
            name = [signals.received]
            dist.broadcast_object_list(name, src=0)
            raise InterruptedRun(f"stopped by {name[0]} at step {step}", name[0])
        watchdog.enter("fetch", step)
        if dist.get_rank() == int(who) and step == int(when):
            misbehave(what, run_dir)
        watchdog.enter("step", step)
        total = torch.ones(1)
        dist.all_reduce(total)
        assert total.item() == dist.get_world_size()
        if dist.get_rank() == 0:
            (run_dir / "step").write_text(str(step))
        time.sleep(0.02)
    os.write(real_stdout, f"rank {dist.get_rank()} done\n".encode())
    if dist.get_rank() == 0:
        threads = os.environ["OMP_NUM_THREADS"]
        (run_dir / "done").write_text(f"{steps} {dist.get_world_size()} {threads}")


def main() -> int:
    run_dir, steps, timeout_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    behaviour = sys.argv[4] if len(sys.argv) > 4 else ""
    if behaviour == "slow start":
        time.sleep(1.5)
    if behaviour == "no start":
        (run_dir / f"asleep-{os.environ['RANK']}").touch()
        time.sleep(600)
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    with StopSignals(exit_at_once=True) as signals:
        watchdog = Watchdog(run_dir, rank, size, timeout_s)
        try:
            train(run_dir, steps, behaviour if ":" in behaviour else "", watchdog, signals)
        except BaseException as error:
            report_error(error)
            return error.exit_code if isinstance(error, IsotokError) else 1
        watchdog.close()
    return 0


code = main()
sys.stderr.flush()
os._exit(code)
