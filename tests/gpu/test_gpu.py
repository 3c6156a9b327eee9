"""What only a GPU can show; skipped aloud without CUDA. Written on a CPU: see the README for what has run where."""

from pathlib import Path

import pytest
import torch

from evaluation import Evaluation, evaluate
from isotok.files import read_json
from modeling import Llama
from tests.scripts.smoke import arguments, isotok
from tokenization import BPE, encode_corpus, train_tokenizer
from training import Budget, Engine, Training, pretrain

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: the GPU paths were not run"),
]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs here: NCCL paths were not run")
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_gpus_agree_with_one(tiny_files: Path, tmp_path: Path, zero: int, precision: str) -> None:
    options = [*arguments(tiny_files), f"training.precision={precision}", "engine.micro_rows=1"]
    scores = []
    for name, engine in (("one", []), ("two", ["engine.ranks=2", f"engine.zero={zero}"])):
        folder = tmp_path / name
        folder.mkdir()
        made = folder / isotok(folder, "pretrain", *options, *engine).stdout.splitlines()[-1]
        scores.append(read_json(made / "train.json")["final_train_bpb"])
    assert scores[1] == pytest.approx(scores[0], rel=0.01 if precision == "bf16" else 1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_pretrain_and_evaluate_agree_with_the_cpu(tiny_corpus: Path, tmp_path: Path, precision, compiled):
    train_tokenizer(BPE(vocab_size=350), tiny_corpus, tmp_path / "tokenizer")
    encode_corpus(tiny_corpus, tmp_path / "tokenizer", tmp_path / "tokens")

    def run(device: str) -> float:
        pretrain(
            model=Llama(hidden_size=64, layers=2, heads=2, mlp_size=128),
            tokens=tmp_path / "tokens",
            tokenizer=tmp_path / "tokenizer",
            budget=Budget(amount=30, unit="steps", context_bytes=256, rows=4, max_epochs=9),
            training=Training(wandb="disabled", precision=precision if device == "cuda" else "fp32"),
            engine=Engine(device=device, compile=compiled and device == "cuda"),
            out=tmp_path / device,
        )
        return float(read_json(tmp_path / device / "train.json")["final_train_bpb"])

    assert run("cuda") == pytest.approx(run("cpu"), rel=0.03 if precision == "bf16" else 1e-3)
    scored = {
        device: evaluate(
            Evaluation(items=5), tmp_path / "cuda" / "model", tiny_corpus, 256, tmp_path / f"e-{device}", device
        )
        for device in ("cuda", "cpu")
    }
    assert scored["cuda"]["bpb"]["nats"] == pytest.approx(scored["cpu"]["bpb"]["nats"], rel=1e-4)
