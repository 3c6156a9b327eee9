"""Counting, learning and encoding as stages: shared by arms, killed at any moment, and the same files afterwards."""

import hashlib
import signal
import time
from pathlib import Path

import pytest

from scripts.compose import build_run, compose
from scripts.graph import Graph, ancestors
from tests.scripts.smoke import isotok, start

ARMS = [
    ["tokenizer=superbpe", "tokenizer.transition=0.5"],
    ["tokenizer=superbpe", "tokenizer.transition=0.9"],
    ["tokenizer=superbpe", "tokenizer.vocab_size=4096"],
    ["tokenizer=bpe"],
]


def counts_of(arms: list[list[str]]) -> set[str]:
    graph = Graph()
    nodes = ancestors(graph.tokenizer(build_run(compose(arm))) for arm in arms)
    return {node.key for node in nodes if node.stage == "count"}


def test_arms_that_cut_text_alike_share_their_counts():
    assert len(counts_of(ARMS)) == 2  # words for stage 1 and BPE, lines for stage 2
    assert len(counts_of([*ARMS, ["tokenizer=bpe", "tokenizer.feed=document"]])) == 3
    assert len(counts_of([*ARMS, ["tokenizer=bpe", "tokenizer.pretokenizer=gpt2"]])) == 3
    assert counts_of([["tokenizer=byte_level"]]) == set()


@pytest.mark.slow
@pytest.mark.xdist_group("pipeline")
def test_killed_while_counting_learning_and_encoding_gives_the_same_files(tmp_path):
    command = ["encode", "tokenizer=superbpe", "tokenizer.vocab_size=6000"]
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    isotok(tmp_path, *command, f"store={clean}")
    isotok(tmp_path, "corpus", f"store={killed}")
    for stage in ("count", "tokenizer", "encode"):
        process = start(tmp_path, *command, f"store={killed}")
        deadline = time.monotonic() + 120
        while not list((killed / stage).glob("*.partial")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        assert list((killed / stage).glob("*.partial")), "the kill must land in the stage"
    isotok(tmp_path, *command, f"store={killed}")
    assert files_of(killed) == files_of(clean)
    assert not list(killed.rglob("*.partial")) and not list(killed.rglob("*.lock"))


def files_of(store: Path) -> dict[str, str]:
    """Hashes of the tokenizer's, the counts' and the token data's files."""
    paths = [
        path for stage in ("count", "tokenizer", "encode") for path in (store / stage).rglob("*") if path.is_file()
    ]
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.name != "manifest.json"
    }
