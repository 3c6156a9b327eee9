"""A whole experiment in seconds, as the command line runs it."""

import signal
import subprocess
import sys
from pathlib import Path


def arguments(tiny_files: Path) -> list[str]:
    return [
        "experiment=smoke",
        "corpus=local",
        f"corpus.paths=[{tiny_files}/*.txt]",
        "corpus.test_fraction=0.2",
        "tokenizer.vocab_size=380",
        'arms.superbpe=["tokenizer=superbpe"]',
        'arms.stochastok=["tokenizer=bpe","transform=stochastok"]',
        "training.wandb=disabled",
    ]


def isotok(cwd: Path, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.cli", *args]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=500)
    assert not check or done.returncode == 0, done.stderr
    return done


def start(cwd: Path, *args: str) -> subprocess.Popen[str]:
    """The command in the background, with stderr to read. Ctrl-C works in it even where the tests run without."""
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", *args],
        cwd=cwd,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
