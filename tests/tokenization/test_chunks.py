"""Counting chunks: against a plain count through the library, bad input, what is kept on disk."""

import argparse
import decimal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotok.errors import ConfigError, DataError
from isotok.recipe import build
from tests.tokenization.reference_merges import count_pieces
from tokenization import BPE, Chunking, SuperBPE, chunks, count_chunks, count_corpus, encode_text
from tokenization.chunks import CountedTexts, chunks_of, load_chunks, save_chunks

TEXTS = [str(argparse.__doc__), "", str(decimal.__doc__), "naïve 日本語\r\n\n  x\t\x00 2024", "no newline at the end"]
VOWELS = "regex:[aeiou]+|\\s"


def as_counter(counted: chunks.Chunks) -> Counter[bytes]:
    pieces = np.split(counted.data, counted.ends[:-1]) if len(counted) else []
    counts = Counter({piece.tobytes(): int(count) for piece, count in zip(pieces, counted.counts)})
    assert len(counts) == len(counted)  # each chunk once
    return counts


def expected(texts: list[str], pretokenizer: str, feed: str) -> Counter[bytes]:
    units = texts if feed == "document" else [line for text in texts for line in text.splitlines(keepends=True)]
    return Counter(dict(count_pieces(units, pretokenizer)))


@pytest.mark.parametrize("feed", ["line", "document"])
@pytest.mark.parametrize("pretokenizer", ["gpt2", "superbpe_stage2", "none", VOWELS])
def test_counts_equal_a_plain_count(pretokenizer, feed, monkeypatch):
    monkeypatch.setattr(chunks, "BLOCK_BYTES", 1000)  # several blocks, so several lanes take part
    texts = [text.replace("\r", "") for text in TEXTS]  # str.splitlines would cut at a carriage return
    counted = count_chunks(texts, pretokenizer, feed, threads=2)
    assert as_counter(counted) == expected(texts, pretokenizer, feed)
    assert counted.text_bytes == sum(len(text.encode()) for text in texts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60), max_size=12), st.data())
def test_counts_do_not_depend_on_threads_blocks_or_order(texts, data):
    one = count_chunks(texts, "superbpe_stage1", "document", threads=1)
    size = chunks.BLOCK_BYTES
    chunks.BLOCK_BYTES = data.draw(st.sampled_from([1, 20]))
    try:
        many = count_chunks(data.draw(st.permutations(texts)), "superbpe_stage1", "document", threads=3)
    finally:
        chunks.BLOCK_BYTES = size
    assert as_counter(one) == as_counter(many) == expected(texts, "superbpe_stage1", "document")


def test_tables_that_grow_count_right():
    # Short strings and long ones, many of each, some twice: both tables double several times.
    texts = [f"{i % 40_000}" for i in range(60_000)] + [f"{i % 20_000:020d}" for i in range(30_000)]
    assert as_counter(count_chunks(texts, "none", "document")) == Counter(text.encode() for text in texts)


def test_lone_surrogate_names_the_text():
    with pytest.raises(DataError, match=r"text 1 is not valid Unicode \(surrogates not allowed at character 2"):
        count_chunks(["fine", "no\ud800", "fine"], "gpt2", "line")


@pytest.mark.parametrize("pretokenizer", ["gpt2", VOWELS])
def test_source_that_fails_half_way_ends_the_count(pretokenizer):
    def source():
        yield "a text\n" * 1_000_000
        raise DataError("/data/part-3.parquet: not found")

    with pytest.raises(DataError, match=r"part-3.parquet: not found"):
        count_chunks(source(), pretokenizer, "line")


def test_counts_on_disk_are_checked(tmp_path: Path):
    counted = count_chunks(TEXTS, "gpt2", "line")
    save_chunks(counted, tmp_path)
    again = load_chunks(tmp_path)
    assert as_counter(again) == as_counter(counted) and again.text_bytes == counted.text_bytes
    torn = bytearray((tmp_path / "counts.npy").read_bytes())
    torn[-3] ^= 1
    (tmp_path / "counts.npy").write_bytes(torn)
    with pytest.raises(DataError, match=r"counts\.npy: missing or damaged"):
        load_chunks(tmp_path)
    (tmp_path / "ends.npy").unlink()
    with pytest.raises(DataError, match=r"ends\.npy: missing or damaged"):
        load_chunks(tmp_path)


def test_damaged_corpus_is_named(tiny_corpus: Path, tmp_path: Path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    data = bytearray((tiny_corpus / "train.parquet").read_bytes())
    data[len(data) // 3] ^= 0xFF
    (folder / "train.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"train\.parquet: damaged"):
        count_corpus(folder, Chunking(pretokenizer="gpt2"), tmp_path / "out")
    (folder / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"train\.parquet: not found"):
        count_corpus(folder, Chunking(pretokenizer="gpt2"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_recipes_take_counts_that_are_there(tiny_corpus: Path, tmp_path: Path):
    recipe = SuperBPE(vocab_size=400)
    counted = {chunking: tmp_path / chunking.label for chunking in recipe.chunkings}
    for chunking, folder in counted.items():
        count_corpus(tiny_corpus, chunking, folder)
    texts = CountedTexts(tiny_corpus, counted)
    assert as_counter(chunks_of(texts, recipe.chunkings[0])) == as_counter(load_chunks(counted[recipe.chunkings[0]]))
    fresh = recipe.train(CountedTexts(tiny_corpus, {}))
    assert recipe.train(texts).backend_tokenizer.to_str() == fresh.backend_tokenizer.to_str()


def test_any_regex_is_a_pretokenizer():
    tokenizer = BPE(vocab_size=300, pretokenizer=VOWELS).train(TEXTS)
    text = "an example of the sea"
    assert tokenizer.decode(encode_text(tokenizer, text)) == text
    entries = [entry for entry in tokenizer.get_vocab() if len(entry) > 1 and entry != tokenizer.eos_token]
    assert entries and not any(set(entry) & set("aeiouĠ") and set(entry) - set("aeiou") for entry in entries)


@pytest.mark.parametrize(
    ("name", "message"),
    [("gtp2", "no pretokenizer of that name; allowed: gpt2, llama3"), ("regex:(a", "not a regex that the tokenizer")],
)
def test_wrong_pretokenizers_are_refused_by_name(name, message):
    with pytest.raises(ConfigError, match=rf"tokenizer\.pretokenizer='.*{message}"):
        build({"_target_": "tokenization.bpe.BPE", "pretokenizer": name}, "tokenizer")
