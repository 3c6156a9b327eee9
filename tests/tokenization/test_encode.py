"""Token data: exact ids and bytes, loadable by `datasets`, torn shards named."""

import hashlib
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest

from isotok.errors import DataError
from tokenization import (
    BPE,
    ByteLevel,
    SuperBPE,
    TokenData,
    encode_corpus,
    encode_text,
    load_tokenizer,
    read_documents,
    shards,
)
from tokenization import encode as encode_module
from tokenization.tokenizer import save_tokenizer


@pytest.fixture(
    scope="module", params=[ByteLevel(), BPE(vocab_size=330), SuperBPE(vocab_size=400)], ids=lambda r: r.label
)
def data(request, tiny_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "tokenizer").mkdir()
    (folder / "tokens").mkdir()
    save_tokenizer(request.param.train([d.text for d in read_documents(tiny_corpus, "train")]), folder / "tokenizer")
    encode_corpus(tiny_corpus, folder / "tokenizer", folder / "tokens")
    return folder


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_ids_are_the_tokenizers_and_bytes_are_the_sources(data, tiny_corpus, split):
    tokenizer = load_tokenizer(data / "tokenizer")
    tokens = TokenData.open(data / "tokens", split)
    documents = list(read_documents(tiny_corpus, split))
    assert len(tokens) == len(documents)
    for unit, document in enumerate(documents):
        assert list(tokens.ids(unit)) == [*encode_text(tokenizer, document.text), tokenizer.eos_token_id]
        assert tokens.n_bytes[unit] == len(document.text.encode())
        assert tokens.id_bytes[tokens.ids(unit)].sum() == tokens.n_bytes[unit]
    assert tokens.n_tokens == sum(len(tokens.ids(unit)) for unit in range(len(tokens)))
    assert tokens.vocab_size == len(tokenizer)


def test_loads_with_datasets(data):
    loaded = datasets.load_from_disk(str(data / "tokens"))
    tokens = TokenData.open(data / "tokens", "train")
    assert set(loaded) == {"train", "validation", "test"}
    assert loaded["train"][3]["ids"] == list(tokens.ids(3))
    assert loaded["train"].features["ids"].feature.dtype == "uint16"


def test_view_is_zero_copy_and_index_is_checked(data):
    tokens = TokenData.open(data / "tokens", "train")
    assert not tokens.ids(0).flags.owndata
    with pytest.raises(IndexError):
        tokens.ids(len(tokens))


def test_many_shards_read_as_one(tiny_corpus, data, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_TOKENS", 500)
    encode_corpus(tiny_corpus, data / "tokenizer", tmp_path)
    assert len(list((tmp_path / "train").glob("*.arrow"))) > 3
    whole, split = TokenData.open(data / "tokens", "train"), TokenData.open(tmp_path, "train")
    assert all(np.array_equal(whole.ids(u), split.ids(u)) for u in range(len(whole)))
    assert len(datasets.load_from_disk(str(tmp_path))["train"]) == len(whole)


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("stop_after", [1, 17, 40])
def test_stopped_encoding_goes_on_behind_its_whole_shards(tiny_corpus, data, tmp_path, monkeypatch, stop_after):
    monkeypatch.setattr(shards, "SHARD_TOKENS", 2000)
    monkeypatch.setattr(encode_module, "_BATCH_BYTES", 2000)
    encode_corpus(tiny_corpus, data / "tokenizer", tmp_path / "clean")

    added: list[int] = []
    add = shards.ShardWriter.add

    def stop(self, ids, n_bytes):
        if len(added) == stop_after:
            raise KeyboardInterrupt
        added.append(self.units)
        add(self, ids, n_bytes)

    monkeypatch.setattr(shards.ShardWriter, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(tiny_corpus, data / "tokenizer", tmp_path / "cut")
    whole = len(list((tmp_path / "cut" / "train").glob("data-*.arrow")))
    again: list[int] = []

    def note(self, ids, n_bytes):
        again.append(self.units)
        add(self, ids, n_bytes)

    monkeypatch.setattr(shards.ShardWriter, "add", note)
    encode_corpus(tiny_corpus, data / "tokenizer", tmp_path / "cut")
    assert hashes(tmp_path / "cut") == hashes(tmp_path / "clean")
    assert (again[0] > 0) == (whole > 0)  # nothing in whole shards is encoded again


def test_shard_that_is_damaged_before_the_rest_is_written_is_written_again(tiny_corpus, data, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_TOKENS", 2000)
    encode_corpus(tiny_corpus, data / "tokenizer", tmp_path / "clean")
    encode_corpus(tiny_corpus, data / "tokenizer", tmp_path / "hurt")
    shard = tmp_path / "hurt" / "train" / "data-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-9] + b"123456789")
    encode_corpus(tiny_corpus, data / "tokenizer", tmp_path / "hurt")
    assert hashes(tmp_path / "hurt") == hashes(tmp_path / "clean")


def test_shards_of_another_tokenizer_or_corpus_are_not_gone_on_behind(tiny_corpus, data, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    save_tokenizer(BPE(vocab_size=350).train([d.text for d in read_documents(tiny_corpus, "train")]), other)
    encode_corpus(tiny_corpus, data / "tokenizer", tmp_path / "out")
    encode_corpus(tiny_corpus, other, tmp_path / "out")
    encode_corpus(tiny_corpus, other, tmp_path / "clean")
    assert hashes(tmp_path / "out") == hashes(tmp_path / "clean")
    shorter = tmp_path / "shorter"
    shutil.copytree(tiny_corpus, shorter)
    shutil.copy(tiny_corpus / "test.parquet", shorter / "train.parquet")
    encode_corpus(shorter, other, tmp_path / "out")
    assert TokenData.open(tmp_path / "out", "train").n_tokens == TokenData.open(tmp_path / "out", "test").n_tokens


def test_ids_with_gaps_are_refused(tiny_corpus, tmp_path):
    tokenizer = BPE(vocab_size=300).train([d.text for d in read_documents(tiny_corpus, "train")])
    save_tokenizer(tokenizer, tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["model"]["vocab"] = {entry: index + 70_000 * (index > 290) for entry, index in spec["model"]["vocab"].items()}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(DataError, match=r"ids go up to 70\d+, but there are only"):
        encode_corpus(tiny_corpus, tmp_path, tmp_path / "out")


def test_an_encoder_that_goes_wrong_later_is_found(tiny_corpus, data, tmp_path, monkeypatch):
    from tokenization import encoder

    right = encoder.KernelEncoder.encode

    def wrong_on_documents(self, texts):
        encoded = right(self, texts)
        if sum(map(len, texts)) > 5000 and len(encoded[0]) > 3:
            encoded[0][:2] = encoded[0][:2][::-1]  # the same bytes in number, another text
        return encoded

    monkeypatch.setattr(encoder.KernelEncoder, "encode", wrong_on_documents)
    with pytest.raises(DataError, match="the own encoder's ids are not the tokenizer library's"):
        encode_corpus(tiny_corpus, data / "tokenizer", tmp_path)


def test_torn_and_missing_shards_are_named(tiny_corpus, data, tmp_path):
    encode_corpus(tiny_corpus, data / "tokenizer", tmp_path)
    shard: Path = tmp_path / "train" / "data-00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="data-00000.arrow"):
        TokenData.open(tmp_path, "train")
    shard.unlink()
    with pytest.raises(DataError, match="data-00000.arrow"):
        TokenData.open(tmp_path, "train")
