import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import configs
from evaluation import Evaluation, evaluate
from evaluation.evaluate import choose_documents, sample_prompts
from evaluation.reference import write_reference
from evaluation.tasks.generate import TASKS
from isotok.errors import ConfigError, DataError
from isotok.files import read_json
from isotok.recipe import build, describe
from tokenization.corpus import read_documents
from tokenization.tokenizer import save_tokenizer


@dataclass(frozen=True)
class Doc:
    id: str
    text: str
    domain: str

    @property
    def n_bytes(self) -> int:
        return len(self.text.encode())


def test_documents_are_whole_cover_domains_and_fit() -> None:
    docs = [
        Doc("1", "a" * 50, "x"),
        Doc("2", "a" * 90, "x"),
        Doc("3", "é" * 15, "y"),
        Doc("4", "a" * 20, "x"),
        Doc("5", "", "z"),
    ]
    assert [d.id for d in choose_documents(docs, 100)] == ["1", "3", "4"]
    assert [d.id for d in choose_documents(docs, 1000)] == ["1", "2", "3", "4"]
    assert [d.id for d in choose_documents(docs, 5)] == ["4"]  # none fits: the shortest
    with pytest.raises(DataError, match="no test documents"):
        choose_documents([docs[-1]], 10)


def test_prompts_end_at_a_line_end() -> None:
    docs = [Doc(str(i), "line one\n" * 40, "x") for i in range(5)] + [Doc("5", "é" * 400, "x")]
    assert [p[-1] for p in sample_prompts(docs, 3)] == ["\n"] * 3
    assert len(sample_prompts(docs[5:], 3)[0].encode()) == 200
    assert sample_prompts(docs, 0) == []


def test_recipe_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"evaluation.*iso_clozee.*iso_cloze"):
        build({"_target_": "evaluation.evaluate.Evaluation", "tasks": ["iso_clozee"]}, "evaluation")
    with pytest.raises(ConfigError, match="scoring"):
        build({"_target_": "evaluation.evaluate.Evaluation", "scoring": "bites"}, "evaluation")
    recipe = Evaluation(tasks=("iso_typo",))
    assert build(describe(recipe), "evaluation") == recipe


@pytest.mark.parametrize("name", ["default", "quick", "full"])
def test_configs_list_every_key(name: str) -> None:
    config = yaml.safe_load((Path(configs.__path__[0]) / "evaluation" / f"{name}.yaml").read_text())
    assert set(config) == set(describe(Evaluation()))
    recipe = build(config, "evaluation")
    assert name != "default" or recipe == Evaluation()
    assert name != "full" or recipe.tasks == tuple(TASKS)


@pytest.fixture(scope="module")
def model_dir(
    superword_tokenizer: Any, make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_tokenizer(superword_tokenizer, folder)
    make_model(superword_tokenizer).save_pretrained(folder)
    return folder


THREE = ("iso_cloze", "iso_wordorder", "iso_typo")
RECIPE = Evaluation(tasks=THREE, max_bytes=4000, items=12, samples=2)


def test_end_to_end_without_network(
    model_dir: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        out.mkdir()
        returned = evaluate(RECIPE, model_dir, tiny_corpus, 128, out)
        assert returned == read_json(out / "results.json")
    assert (outs[0] / "results.json").read_bytes() == (outs[1] / "results.json").read_bytes()
    assert (outs[0] / "items.parquet").read_bytes() == (outs[1] / "items.parquet").read_bytes()

    results = read_json(outs[0] / "results.json")
    rows = pq.read_table(outs[0] / "items.parquet").to_pylist()
    documents = [r for r in rows if r["kind"] == "document"]
    raw = {d.id: d for d in read_documents(tiny_corpus, "test")}
    assert results["bpb"]["bytes"] == sum(len(raw[r["item"]].text.encode()) for r in documents) <= RECIPE.max_bytes
    assert any(not raw[r["item"]].text.isascii() for r in documents)
    nats = math.fsum(r["nats"] for r in documents)
    assert results["bpb"]["bits_per_byte"] == pytest.approx(nats / math.log(2) / results["bpb"]["bytes"], rel=1e-12)
    assert results["bpb"]["tokens"] == results["intrinsic"]["tokens"] == sum(r["tokens"] for r in documents)
    assert math.fsum(d["nats"] for d in results["bpb"]["by_domain"].values()) == pytest.approx(nats)
    assert results["bpb"]["cut_windows"] == 0

    for name in RECIPE.tasks:
        own = [r for r in rows if r["kind"] == name]
        figures = results["tasks"][name]
        assert figures["n"] == len(own) > 0
        assert figures["acc"] == pytest.approx(sum(r["correct"] for r in own) / len(own))
        assert figures["acc_bytes"] == pytest.approx(sum(r["correct_bytes"] for r in own) / len(own))
        bits = math.fsum(r["nats"] for r in own) / math.log(2) / sum(r["bytes"] for r in own)
        assert figures["gold_bits_per_byte"] == pytest.approx(bits, rel=1e-12)
        for r in own:
            assert r["correct"] == (min(r["choice_nats"]) == r["choice_nats"][r["gold"]])
            assert r["nats"] == r["choice_nats"][r["gold"]]
            assert r["bytes"] >= r["choice_bytes"][r["gold"]]
    assert len(results["samples"]) == 2
    assert sorted(p.name for p in outs[0].iterdir()) == ["items.parquet", "results.json", "tasks"]


def test_items_are_the_same_for_another_tokenizer(
    model_dir: Path, tiny_corpus: Path, tmp_path: Path, byte_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    other = tmp_path / "bytes"
    other.mkdir()
    save_tokenizer(byte_tokenizer, other)
    make_model(byte_tokenizer).save_pretrained(other)
    results: list[dict[str, Any]] = []
    for folder, scoring in ((model_dir, "backoff"), (other, "backoff"), (model_dir, "naive")):
        out = tmp_path / f"out{len(results)}"
        out.mkdir()
        recipe = Evaluation(max_bytes=2000, items=5, samples=0, scoring=scoring)  # type: ignore[arg-type]
        results.append(evaluate(recipe, folder, tiny_corpus, 128, out))
    assert len({r["evaluation_items_sha256"] for r in results}) == 1
    assert len({r["bpb"]["bytes"] for r in results}) == 1
    assert results[0]["bpb"] == results[2]["bpb"]
    assert results[2]["tasks"]["iso_cloze"]["scoring"] == "naive"


def test_tokenizer_larger_than_the_model(
    tiny_corpus: Path, tmp_path: Path, byte_tokenizer: Any, superword_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    save_tokenizer(superword_tokenizer, tmp_path)
    make_model(byte_tokenizer).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"\d+ ids, the model 257"):
        evaluate(RECIPE, tmp_path, tiny_corpus, 128, tmp_path)
    with pytest.raises(DataError, match="no tokenizer.json"):
        evaluate(RECIPE, tmp_path / "none", tiny_corpus, 128, tmp_path)


def test_reference_is_of_the_same_documents(tiny_corpus: Path, tmp_path: Path) -> None:
    figures = write_reference(RECIPE, tiny_corpus, tmp_path)
    assert figures == read_json(tmp_path / "reference.json")
    chosen = choose_documents(read_documents(tiny_corpus, "test"), RECIPE.max_bytes)
    assert figures["test_bytes"] == sum(d.n_bytes for d in chosen)
    assert 0 < figures["markov_3"] < figures["byte_unigram"] < 8


def test_spans_are_scored_over_their_segmentations_only_when_asked(
    model_dir: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    recipe = Evaluation(max_bytes=3000, tasks=(), items=1, samples=0, segmentations=5)
    results = evaluate(recipe, model_dir, tiny_corpus, 128, tmp_path)
    rows = [r for r in pq.read_table(tmp_path / "items.parquet").to_pylist() if r["kind"] == "segmentation"]
    raw = {d.id: d.text.encode() for d in read_documents(tiny_corpus, "test")}
    assert results["segmentations"]["spans"] == len(rows) == len({r["item"] for r in rows}) == 5
    scored = [r for r in rows if r["nats"] is not None]
    assert results["segmentations"]["crossed"] == 5 - len(scored) < 5
    for row in scored:
        document, _, place = row["item"].rpartition(":")
        begin, end = map(int, place.split("-"))
        assert row["bytes"] == end - begin == len(raw[document][begin:end])
        assert row["marginal_nats_least"] <= row["marginal_nats"] <= row["nats"]
        assert row["canonicalised_nats"] <= row["nats"]
    bits = sum(r["marginal_nats"] for r in scored) / math.log(2) / sum(r["bytes"] for r in scored)
    assert results["segmentations"]["marginal"] == pytest.approx(bits)
    assert Evaluation().segmentations == 0
