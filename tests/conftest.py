"""Shared fixtures: no network, one thread, a tiny corpus."""

import os
import signal
import socket
from collections.abc import Iterator

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
os.environ.update(dict.fromkeys(THREADS + OFFLINE, "1"), TOKENIZERS_PARALLELISM="false", WANDB_MODE="offline")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the tests run in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402

from isotok.keyed import keyed_rng  # noqa: E402
from tokenization import build_corpus  # noqa: E402
from tokenization.local_files import LocalFiles  # noqa: E402

WORDS = """
the a king queen sea land ship wind and of to in by said went saw old red great small day night way end
""".split()  # noqa: SIM905


def tiny_texts(count: int = 60) -> list[str]:
    """Keyed pseudo-sentences, no two alike; some with letters beyond ASCII."""
    texts = []
    for index in range(count):
        rng = keyed_rng("tiny text", index)
        lines = []
        for _ in range(12):
            words = [WORDS[int(i)] for i in rng.integers(0, len(WORDS), 9)]
            lines.append(" ".join(words).capitalize() + (" naïve é—" if index % 5 == 0 else "") + f" {index}.")
        texts.append("\n".join(lines) + "\n")
    return texts


class NetworkUsed(BaseException):
    """A test reached out of this machine. No Exception: what it calls might take that for a missing network."""


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Sockets of this process connect to this machine only; commands that tests start are told to stay offline."""
    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex"):
        real = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any, real: Any = real) -> Any:
            host = address[0] if isinstance(address, tuple) else ""  # a path: a socket of this machine
            if host not in ("", "localhost", "::1") and not str(host).startswith("127."):
                raise NetworkUsed(f"a test connects to {address}")
            return real(self, address)

        patch.setattr(socket.socket, name, guarded)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small text files, one document each."""
    folder = tmp_path_factory.mktemp("texts")
    for index, text in enumerate(tiny_texts()):
        (folder / f"{index:03d}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_corpus(tiny_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built corpus folder of about 35 kB."""
    out = tmp_path_factory.mktemp("corpus")
    build_corpus(LocalFiles(paths=[str(tiny_files / "*.txt")], validation_fraction=0.1, test_fraction=0.2), out)
    return out
