"""What each stage gives on a tiny input. When a line here changes, bump that stage in scripts/graph.py FORMATS.

Figures that pass through floating point are held to four digits, as processors round differently.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.benchmarks import BigBench, build_benchmark
from evaluation.compare import write_comparison
from scripts.graph import FORMATS
from tests.evaluation.bigbench_archive import TASKS, write_archive
from tests.scripts.test_golden_tasks import TASK_GOLDEN
from tokenization import TokenData
from tokenization.chunks import load_chunks

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]

GOLDEN: dict[str, tuple[int, object]] = {
    "corpus": (1, "db3a33ea904b860a"),
    "count": (1, "2d14be0044bba753"),
    "tokenizer": (2, "13aa37c9bc13189b"),
    "encode": (2, "d239cc8ee5645fb3"),
    "pretrain": (2, [20, 84, 6720, 20480, 8353013760.0, "2.355"]),
    "benchmark": (1, "a9089483910ba01c"),
    "evaluate": (2, ["f8f179aa3030c381", "1.77"]),
    "reference": (
        1,
        {
            "byte_unigram": "4.496",
            "markov_2": "1.51",
            "markov_3": "1.449",
            "test_bytes": "6635",
            "train_bytes": "2.491e+04",
        },
    ),
    "comparison": (1, "18c7dc26bc12cb5e"),
    "report": (
        3,
        [
            "arms",
            "baseline",
            "caveats",
            "comparisons",
            "endpoint",
            "evaluation_items_sha256",
            "experiment",
            "format",
            "missing_tasks",
            "notes",
            "provenance",
            "references",
            "timing",
            "title",
        ],
    ),
}


def benchmark_hash(scratch: Path) -> str:
    path = scratch / "bigbench.tar.gz"
    scratch.mkdir()
    recipe = BigBench(tasks=tuple(TASKS), items=3, shots=1, archive=str(path), sha256=write_archive(path))
    build_benchmark(recipe, recipe.fingerprint(), scratch / "tasks")
    listed = json.loads((scratch / "tasks" / "tasks.json").read_text())["tasks"]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def outputs(runs: Path, scratch: Path) -> dict[str, object]:
    def one(stage: str, pattern: str = "*") -> Path:
        return next(path for path in sorted((runs / stage).glob(pattern)) if path.is_dir())

    def data(path: Path) -> dict:
        return json.loads(path.read_text())

    tokens = TokenData.open(one("encode", "superbpe*"), "train")
    ids = hashlib.sha256(b"".join(tokens.ids(unit).tobytes() for unit in range(len(tokens)))).hexdigest()
    made = {name: one("tokenizer", f"{name}*") for name in ("bpe", "superbpe")}
    write_comparison(made, one("corpus"), scratch)
    chunks = load_chunks(one("count", "*stage2*"))
    pieces = np.split(chunks.data, chunks.ends[:-1])
    counted = [(piece.tobytes(), int(count)) for piece, count in zip(pieces, chunks.counts)]
    trained = data(one("pretrain", "*stochastok*") / "train.json")
    evaluated = data(one("evaluate", "*superbpe*") / "results.json")
    return {
        "corpus": data(one("corpus") / "corpus.json")["sha256"][:16],
        "count": hashlib.sha256(repr(sorted(counted)).encode()).hexdigest()[:16],
        "comparison": hashlib.sha256((scratch / "compare.csv").read_bytes()).hexdigest()[:16],
        "tokenizer": hashlib.sha256((one("tokenizer", "superbpe*") / "tokenizer.json").read_bytes()).hexdigest()[:16],
        "encode": ids[:16],
        "pretrain": [trained[key] for key in ("steps", "context_tokens", "tokens", "bytes", "flops")]
        + [f"{trained['final_train_bpb']:.4g}"],
        "benchmark": benchmark_hash(scratch / "benchmark"),
        "evaluate": [evaluated["evaluation_items_sha256"][:16], f"{evaluated['bpb']['bits_per_byte']:.4g}"],
        "reference": {k: f"{v:.4g}" for k, v in data(one("reference") / "reference.json").items() if k != "xz"},
        "report": sorted(data(one("report") / "results.json")),
    }


@pytest.fixture(scope="module")
def made(first, tmp_path_factory) -> dict[str, object]:
    return outputs(first[0] / "runs", tmp_path_factory.mktemp("comparison"))


@pytest.mark.parametrize("stage", [stage for stage in FORMATS if stage not in TASK_GOLDEN])
def test_result_changes_only_with_its_format(made, stage):
    assert (FORMATS[stage], made[stage]) == GOLDEN[stage]
