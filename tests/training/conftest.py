"""A corpus, a tokenizer and token data that are small enough to train on within a test."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenization import BPE, encode_corpus, train_tokenizer

if TYPE_CHECKING:
    from tests.training.engine_lab import Lab

TEXT = "the sea was calm and a ship sailed over it to an island of old stone where no one had been before"
WORDS = TEXT.split()


def write_corpus(folder: Path, documents: int = 120, seed: int = 0) -> None:
    """Sentences of a small Markov source: there is something to learn within a few steps."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", documents), ("validation", 8), ("test", 8)):
        texts = []
        for _ in range(count):
            at, words = int(rng.integers(len(WORDS))), []
            for _ in range(int(rng.integers(5, 120))):
                words.append(WORDS[at])
                at = (at + int(rng.integers(1, 4))) % len(WORDS)
            texts.append(" ".join(words) + ".\n")
        table = pa.table(
            {
                "id": [f"{split}-{i}" for i in range(count)],
                "text": texts,
                "group": [f"{split}-{i}" for i in range(count)],
                "domain": ["sea"] * count,
                "n_bytes": pa.array([len(text.encode()) for text in texts], pa.int64()),
            }
        )
        pq.write_table(table, folder / f"{split}.parquet", compression="zstd")


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders: corpus, tokenizer, tokens."""
    root = tmp_path_factory.mktemp("artefacts")
    folders = {name: root / name for name in ("corpus", "tokenizer", "tokens")}
    for folder in folders.values():
        folder.mkdir()
    write_corpus(folders["corpus"])
    train_tokenizer(BPE(vocab_size=290), folders["corpus"], folders["tokenizer"])
    encode_corpus(folders["corpus"], folders["tokenizer"], folders["tokens"])
    return folders


@pytest.fixture(scope="module")
def lab(artefacts: dict[str, Path]) -> "Lab":
    """Runs of all engines, made once; see `engine_lab`."""
    from tests.training.engine_lab import get_lab

    return get_lab(artefacts)
