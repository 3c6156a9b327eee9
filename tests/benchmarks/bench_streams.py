"""Speed of row streams on one core: `python tests/benchmarks/bench_streams.py [--tokens F --tokenizer F] [--rounds 7]`.

Ids a second of `RowStreams.next()`, as the prefetch thread calls it, for three shapes of a batch and three transforms:
none, StochasTok at p = 0.1, BPE-dropout at q = 0.1; and for StochasTok on the same ids cut into documents of 200 and of
65,536. Rounds of all cases go in turn and each case goes on where its last round ended; the first round, in which Numba
loads its kernels, is not counted. Time is the thread's own on the processor, so that other work counts only through
shared caches. Printed are the median, least and most over the rounds, on real text: the token data given, or else the
embedded corpus in a vocabulary of 4,096 that is learned first. `sha256` is of all targets: for the same data
and rounds it may not change.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

SHAPES = ((8, 168), (64, 512), (480, 512))
IDS_A_ROUND = 1_000_000


def embedded(folder: Path) -> tuple[Path, Path]:
    """Token data and tokenizer of the embedded corpus, made in `folder`."""
    from tokenization import BPE, encode_corpus, train_tokenizer
    from tokenization.corpus import build_corpus
    from tokenization.sources import Embedded

    corpus, tokenizer, tokens = (folder / name for name in ("corpus", "tokenizer", "tokens"))
    for made in (corpus, tokenizer, tokens):
        made.mkdir()
    build_corpus(Embedded(), corpus)
    train_tokenizer(BPE(vocab_size=4096), corpus, tokenizer)
    encode_corpus(corpus, tokenizer, tokens)
    return tokens, tokenizer


class Recut:
    """The ids of token data in documents of another length, each with an end-of-text id."""

    def __init__(self, data: Any, document_ids: int) -> None:
        joined = np.concatenate([data.ids(unit)[:-1] for unit in range(len(data))])
        self._ids = [
            np.append(joined[at : at + document_ids - 1], np.array([data.eos_id], joined.dtype))
            for at in range(0, len(joined), document_ids - 1)
        ]
        self.id_bytes, self.vocab_size, self.eos_id = data.id_bytes, data.vocab_size, data.eos_id
        self.n_bytes = np.array([int(data.id_bytes[ids].sum()) for ids in self._ids])
        self.n_tokens = sum(map(len, self._ids))

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, unit: int) -> np.ndarray:
        return self._ids[unit]


def measure(tokens: Path, tokenizer_folder: Path, rounds: int) -> None:
    """Print a line for each case."""
    from tokenization import BPEDropout, NoTransform, StochasTok, TokenData
    from tokenization.tokenizer import load_tokenizer
    from training.streams import RowStreams

    data, tokenizer = TokenData.open(tokens, "train"), load_tokenizer(tokenizer_folder)
    print(f"{data.n_tokens:,} ids in {len(data):,} documents, vocabulary of {data.vocab_size:,}")
    transforms: list[Any] = [NoTransform(), StochasTok(), BPEDropout()]
    wanted: list[tuple[str, Any, Any, int, int]] = [
        (transform.label, transform, data, rows, new_tokens) for transform in transforms for rows, new_tokens in SHAPES
    ]
    wanted += [
        (f"{transforms[1].label}, documents of {size:,}", transforms[1], Recut(data, size), 8, 512)
        for size in (200, 65_536)
    ]
    cases = {
        f"{label}, {rows} x {new_tokens}": RowStreams(units, rows, new_tokens, transform.bind(tokenizer, 0), 0)
        for label, transform, units, rows, new_tokens in wanted
    }
    hashes = {name: hashlib.sha256() for name in cases}
    speeds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, streams in cases.items():
            batches = -(-IDS_A_ROUND // (streams.rows * streams.new_tokens))
            spent_s = 0.0
            for _ in range(batches):
                start = time.thread_time()
                batch = streams.next()
                spent_s += time.thread_time() - start
                hashes[name].update(batch.targets.tobytes())
            speeds[name].append(batches * streams.rows * streams.new_tokens / spent_s / 1e6)
    for name, (_, *counted) in speeds.items():
        print(
            f"{name:46} {statistics.median(counted):6.2f} M ids/s ({min(counted):.2f} to {max(counted):.2f} over "
            f"{rounds}), sha256 {hashes[name].hexdigest()[:12]}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, help="a folder of token data")
    parser.add_argument("--tokenizer", type=Path, help="its tokenizer's folder")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (default 7)")
    given = parser.parse_args()
    if (given.tokens is None) != (given.tokenizer is None):
        parser.error("--tokens and --tokenizer belong together")
    with tempfile.TemporaryDirectory() as scratch:
        tokens, tokenizer = (given.tokens, given.tokenizer) if given.tokens else embedded(Path(scratch))
        measure(tokens, tokenizer, given.rounds)


if __name__ == "__main__":
    main()
