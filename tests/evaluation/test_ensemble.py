"""Mixtures of checkpoints on documents, against a walk from byte to byte."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from evaluation.bytewise import ByteStream, Mixture
from evaluation.documents import score_documents
from evaluation.ensemble import ensemble, print_ensemble
from evaluation.evaluate import choose_documents
from isotok.errors import ConfigError, DataError
from isotok.files import sha256_file
from tokenization import WordPiece
from tokenization.corpus import read_documents
from tokenization.tokenizer import save_tokenizer


def saved(folder: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory,
    superword_tokenizer: Any,
    byte_tokenizer: Any,
    make_model: Callable[..., Any],
) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("checkpoints")
    return {
        "superwords": saved(out / "a", make_model(superword_tokenizer), superword_tokenizer),
        "bytes": saved(out / "b", make_model(byte_tokenizer, seed=3), byte_tokenizer),
    }


@pytest.mark.slow
def test_a_mixture_against_a_walk_over_bytes(folders: dict[str, Path], tiny_corpus: Path, tmp_path: Path) -> None:
    results = ensemble(folders, tiny_corpus, 8192, tmp_path, max_bytes=700, gaps=0)
    documents = choose_documents(read_documents(tiny_corpus, "test"), 700)
    import evaluation.ensemble as module

    models = [module._load(name, folder, "cpu") for name, folder in folders.items()]
    rows = pq.read_table(tmp_path / "documents.parquet").to_pylist()
    assert len(rows) == 3 * len(documents)
    nats = dict.fromkeys(["superwords", "bytes", "mixture"], 0.0)
    for document in documents:
        streams = [ByteStream(model) for model in models]
        mixture = Mixture(streams)
        for byte in document.text.encode():
            for model, stream in zip(models, streams):
                nats[model.name] -= math.log(stream.distribution()[byte])
            nats["mixture"] -= math.log(mixture.distribution()[byte])
            mixture.push(byte)
    total = sum(document.n_bytes for document in documents)
    for name, own in nats.items():
        assert results["bits_per_byte"][name]["bits_per_byte"] == pytest.approx(own / total / math.log(2), abs=1e-4)
        assert sum(row["nats"] for row in rows if row["model"] == name) == pytest.approx(own, rel=1e-4)
    for model in models:
        scores = score_documents(model.model, [model.encoder(d.text) for d in documents], 8192, model.eos_id)
        tokens = results["bits_per_byte"][model.name]["by_tokens"]["bits_per_byte"]
        assert tokens == pytest.approx(sum(s.nats for s in scores) / total / math.log(2), rel=1e-6)
    best = min(("superwords", "bytes"), key=nats.__getitem__)
    assert results["best_single"] == best
    difference = results["mixture_minus"][best]["difference"]
    assert difference == pytest.approx((nats["mixture"] - nats[best]) / total / math.log(2), abs=2e-4)


def test_a_model_with_itself_is_the_model(folders: dict[str, Path], tiny_corpus: Path, tmp_path: Path) -> None:
    twice = {"one": folders["superwords"], "two": folders["superwords"]}
    results = ensemble(twice, tiny_corpus, 256, tmp_path, max_bytes=4000, gaps=4)
    alone = results["bits_per_byte"]["one"]
    assert results["bits_per_byte"]["mixture"]["bits_per_byte"] == pytest.approx(alone["bits_per_byte"], abs=1e-6)
    filled = results["filling"]
    middle = filled["models"]["one"]["middle_bits_per_byte"]
    assert filled["mixture"]["middle_bits_per_byte"] == pytest.approx(middle, abs=1e-4)


@pytest.mark.slow
def test_intervals_are_paired_over_groups(
    folders: dict[str, Path], tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ensemble(folders, tiny_corpus, 256, tmp_path, max_bytes=5000, gaps=4, caveats=["mind the step"])
    rows = pq.read_table(tmp_path / "documents.parquet").to_pylist()
    own = {(row["model"], row["item"]): row for row in rows}
    items = sorted({row["item"] for row in rows})
    sizes = np.array([own["mixture", i]["bytes"] for i in items])
    for name in folders:
        bits = np.array([own["mixture", i]["nats"] - own[name, i]["nats"] for i in items]) / math.log(2)
        moved = (bits - bits.sum() / sizes.sum() * sizes) / sizes.sum()
        groups = [own["mixture", i]["group"] for i in items]
        sums = [sum(m for m, g in zip(moved, groups) if g == group) for group in set(groups)]
        se = math.sqrt(len(sums) / (len(sums) - 1) * sum(s * s for s in sums))
        found = results["mixture_minus"][name]
        assert found["se"] == pytest.approx(se, rel=1e-6)
        low, high = found["interval"]
        assert low < found["difference"] < high and high - low > 2 * 1.96 * se
    print_ensemble(results)
    shown = capsys.readouterr().out
    for text in ("mixture - superwords", "prompt of tokens", "mind the step", "item noise only"):
        assert text in shown


@pytest.mark.slow
def test_the_same_files_twice(folders: dict[str, Path], tiny_corpus: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "a", tmp_path / "b"):
        ensemble(folders, tiny_corpus, 256, out, max_bytes=1500, gaps=3)
    for name in ("ensemble.json", "documents.parquet", "gaps.parquet"):
        assert sha256_file(tmp_path / "a" / name) == sha256_file(tmp_path / "b" / name)


def test_one_model_alone(folders: dict[str, Path], tiny_corpus: Path, tmp_path: Path) -> None:
    results = ensemble({"bytes": folders["bytes"]}, tiny_corpus, 256, tmp_path, max_bytes=1500, gaps=3)
    assert set(results["bits_per_byte"]) == {"bytes"} and results["mixture_minus"] is None
    assert "mixture" not in results["filling"]
    own = results["bits_per_byte"]["bytes"]
    assert own["bits_per_byte"] == pytest.approx(own["by_tokens"]["bits_per_byte"], rel=1e-4)
    print_ensemble(results)


def test_what_cannot_be_mixed(
    folders: dict[str, Path], tiny_corpus: Path, tmp_path: Path, make_model: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match="at least one model"):
        ensemble({}, tiny_corpus, 256, tmp_path)
    with pytest.raises(ConfigError, match="called 'mixture'"):
        ensemble({"mixture": folders["bytes"]}, tiny_corpus, 256, tmp_path)
    with pytest.raises(ConfigError, match="gaps=200: they need a context of 176 bytes, not 64"):
        ensemble(folders, tiny_corpus, 64, tmp_path)
    with pytest.raises(DataError, match=r"test\.parquet: not found"):
        ensemble(folders, tmp_path, 256, tmp_path)
    made = WordPiece(vocab_size=300).train(d.text for d in read_documents(tiny_corpus, "train"))
    other = saved(tmp_path / "wordpiece", make_model(made), made)
    with pytest.raises(ConfigError, match=r"other cannot be mixed by bytes: .*byte-level BPE[^;]*$"):
        ensemble({**folders, "other": other}, tiny_corpus, 256, tmp_path)
    assert not (tmp_path / "ensemble.json").exists()


def test_no_test_documents(folders: dict[str, Path], tiny_corpus: Path, tmp_path: Path) -> None:
    table = pq.read_table(tiny_corpus / "test.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "test.parquet")
    with pytest.raises(DataError, match="no test documents"):
        ensemble(folders, tmp_path, 256, tmp_path / "out")
