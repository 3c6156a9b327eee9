"""Tokenizers side by side: files agree, the page is inert and whole, curves equal tokenizers that stopped earlier."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evaluation.compare import Comparison, compare, write_comparison
from evaluation.compare_figures import families
from evaluation.compression_curve import PUBLISHED, compression_curve, curve_sizes
from isotok.errors import ConfigError, DataError
from isotok.files import read_json
from tests.conftest import tiny_texts
from tests.evaluation.conftest import merged_tokenizer
from tokenization import BPE, SuperBPE, encode_text, load_tokenizer
from tokenization.bpe import byte_level_bpe, merge_vocabulary, merges_of
from tokenization.tokenizer import save_tokenizer

DOCUMENTS = [(text, "odd" if i % 2 else "even") for i, text in enumerate(tiny_texts(12))]
QUICK = Comparison(passages=20, cuts=2, edits=10, speed_bytes=2000)
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """BPE and SuperBPE of two sizes and transitions, one with a name that is markup, a unigram without end-of-text."""
    root = tmp_path_factory.mktemp("tokenizers")
    texts = tiny_texts(40)
    recipes = {
        EVIL: BPE(vocab_size=400),
        "bpe-320": BPE(vocab_size=320),
        "s-400-300": SuperBPE(vocab_size=400, transition=300),
        "s-400-330": SuperBPE(vocab_size=400, transition=330),
        "s-400-370": SuperBPE(vocab_size=400, transition=370),
    }
    made = {}
    for index, (label, recipe) in enumerate(recipes.items()):
        made[label] = root / str(index)
        save_tokenizer(recipe.train(texts), made[label])
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    unigram.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>").save_pretrained(root / "unigram")
    return {**made, "unigram": root / "unigram"}


@pytest.fixture(scope="module")
def compared(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("comparison")
    parallel = out / "p.tsv"
    parallel.write_text(f"en\t{EVIL}\nthe sea\tla mer\n")
    return out, compare(folders, DOCUMENTS, out, parallel=[parallel], options=QUICK, text_name=EVIL)


def rows(out: Path) -> Iterator[dict[str, str]]:
    return csv.DictReader(io.StringIO((out / "compare.csv").read_text(encoding="utf-8")))


def test_files_agree_with_each_other_and_with_the_tokenizers(
    compared: tuple[Path, dict[str, Any]], folders: dict[str, Path]
) -> None:
    out, results = compared
    assert read_json(out / "compare.json") == json.loads(json.dumps(results))
    table = {(row["tokenizer"], row["domain"]): row for row in rows(out)}
    assert len(table) == len(folders) * 3
    tokenizer = load_tokenizer(folders["s-400-330"])
    tokens = {d: sum(len(encode_text(tokenizer, t)) for t, e in DOCUMENTS if e == d) for d in ("odd", "even")}
    for domain, n in {**tokens, "all": sum(tokens.values())}.items():
        assert int(table["s-400-330", domain]["tokens"]) == n
        chosen = sum(len(t.encode()) for t, d in DOCUMENTS if domain in ("all", d))
        assert float(table["s-400-330", domain]["bytes_per_token"]) == pytest.approx(chosen / n)
    assert table["s-400-330", "all"]["vocab_size_at_transition"] == "330"
    assert table["unigram", "all"]["algorithm"] == "unigram"
    assert float(table["s-400-330", "all"]["superword_share"]) > float(table["bpe-320", "all"]["superword_share"]) == 0


def test_everything_but_timing_repeats(
    compared: tuple[Path, dict[str, Any]], folders: dict[str, Path], tmp_path: Path
) -> None:
    out, results = compared
    again = compare(folders, DOCUMENTS, tmp_path, parallel=[out / "p.tsv"], options=QUICK, text_name=EVIL)
    assert {**again, "timing": None} == {**results, "timing": None}
    assert (tmp_path / "compare.csv").read_bytes() == (out / "compare.csv").read_bytes()
    assert "mb_per_s" not in (out / "compare.csv").read_text()


def test_the_page_is_one_file_without_network_and_foreign_text_is_inert(compared: tuple[Path, dict[str, Any]]) -> None:
    page = (compared[0] / "compare.html").read_text(encoding="utf-8")
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 3
    assert page.count("<script>") == 1
    assert not re.search(r"(src|href)=\"(?!#|compare\.(json|csv)\")", page)
    assert "url(http" not in page and "@import" not in page
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert not [link for link in re.findall(r'href="#([^"]+)"', page) if link not in ids]


def test_the_page_shows_the_published_curve_as_the_papers(compared: tuple[Path, dict[str, Any]]) -> None:
    page = (compared[0] / "compare.html").read_text(encoding="utf-8")
    assert "2503.13423" in page and "Not measured here" in page
    for values in PUBLISHED["bytes_per_token"].values():
        assert len(values) == len(PUBLISHED["merges"])
        assert all(f"{value:.3f}" in page for value in values)
    for title in ("Compression against vocabulary size: here", "Where stage 2 begins: here", "several languages"):
        assert title in page
    assert "unigram" in page and "not byte-level" in page  # why a figure is missing


@pytest.mark.parametrize("name", [EVIL, "s-400-330"])
def test_a_curve_is_what_the_same_merges_cut_short_give(folders: dict[str, Path], name: str) -> None:
    texts = [text for text, _ in DOCUMENTS]
    curve = compression_curve(folders[name], texts, sizes=[256, 300, 350, 9999])
    merges = merges_of(load_tokenizer(folders[name]).backend_tokenizer)
    pretokenizer = read_json(folders[name] / "metadata.json")["pretokenizer"]
    assert [point["merges"] for point in curve] == [0, 44, 94, len(merges)]
    for point in curve:
        first = merges[: point["merges"]]
        shorter = byte_level_bpe(merge_vocabulary(first), first, pretokenizer)
        assert point["tokens"] == sum(len(shorter.encode(text).ids) for text in texts)
        assert point["vocabulary"] == len(merge_vocabulary(first))
        assert point["bytes_per_token"] == sum(len(text.encode()) for text in texts) / point["tokens"]


def test_a_curve_of_a_tokenizer_from_elsewhere(tmp_path: Path) -> None:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=357, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(tiny_texts(30), trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>").save_pretrained(tmp_path)
    texts = [text for text, _ in DOCUMENTS]
    curve = compression_curve(tmp_path, texts, sizes=[256, 300])
    assert [point["vocabulary"] for point in curve] == [256, 300, 356]
    assert curve[0]["tokens"] == curve[0]["bytes"]
    assert curve[-1]["tokens"] == sum(len(backend.encode(text).ids) for text in texts)


def test_curves_need_merges(folders: dict[str, Path], compared: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="no BPE model"):
        compression_curve(folders["unigram"], ["x"])
    # One curve for each kind: the larger BPE stands for the smaller.
    assert sorted(compared[1]["curves"]) == sorted([EVIL, "s-400-300", "s-400-330", "s-400-370"])


def test_default_sizes_are_closest_after_the_transition() -> None:
    sizes = curve_sizes(256, 32768, 16384)
    assert sizes[0] == 512 and sizes[-1] == 32768 and 16384 in sizes and len(sizes) == 17
    assert sum(16384 < size < 20000 for size in sizes) >= 2
    assert curve_sizes(256, 256) == [256]


def test_families_differ_in_more_than_size(compared: tuple[Path, dict[str, Any]]) -> None:
    named = families(compared[1])
    assert named[EVIL] == named["bpe-320"] == "BPE"
    assert named["unigram"] == "unigram"
    assert [named[f"s-400-{t}"] for t in (300, 330, 370)] == [f"SuperBPE t={t / 400:.0%}" for t in (300, 330, 370)]


def test_one_tokenizer_and_no_curve(tmp_path: Path) -> None:
    save_tokenizer(merged_tokenizer("of the"), tmp_path / "toy")
    results = compare({"toy": tmp_path / "toy"}, [("of the sea", "x")], tmp_path / "out", options=QUICK)
    assert results["tokenizers"]["toy"]["all"]["tokens"] == 5
    assert (tmp_path / "out" / "compare.html").is_file()


def test_bad_input_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        compare({}, DOCUMENTS, tmp_path)
    with pytest.raises(DataError, match=str(tmp_path)):
        compare({"x": tmp_path}, DOCUMENTS, tmp_path / "out")
    with pytest.raises(DataError, match="no text"):
        compare(folders, [], tmp_path / "out")
    (tmp_path / "a.txt").write_text("1\n2\n")
    (tmp_path / "b.txt").write_text("1\n")
    with pytest.raises(DataError, match="unequal length"):
        compare(folders, DOCUMENTS, tmp_path / "out", parallel=[tmp_path / "a.txt", tmp_path / "b.txt"])
    assert not (tmp_path / "out").exists()


def test_the_stage_reads_the_test_split(folders: dict[str, Path], tiny_corpus: Path, tmp_path: Path) -> None:
    figures = write_comparison({"bpe-320": folders["bpe-320"]}, tiny_corpus, tmp_path, QUICK)
    results = read_json(tmp_path / "compare.json")
    expected = read_json(tiny_corpus / "corpus.json")["splits"]["test"]
    assert results["text"]["bytes"] == expected["bytes"]
    assert figures == {"bytes_per_token": {"bpe-320": results["tokenizers"]["bpe-320"]["all"]["bytes_per_token"]}}
