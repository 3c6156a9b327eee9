"""Corpora from local files and through the Hub's reader: equal content from every format, and named errors."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from isotok.errors import ConfigError, DataError, IsotokError
from isotok.recipe import build, describe
from tokenization.corpus import build_corpus, read_documents
from tokenization.documents import Document, Tally
from tokenization.hub import Hub
from tokenization.local_files import LocalFiles, cut_stream

ROWS = [
    {"text": f"Text {i}: " + "déjà vu 漢 " * (20 + i), "url": f"https://www.site{i % 4}.org/{i}", "lang": "ab"[i % 2]}
    for i in range(24)
]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_bytes(jsonl(ROWS)),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(jsonl(ROWS))),
    # Two frames, as parallel compressors write them.
    "a.jsonl.zst": lambda path: path.write_bytes(
        zstandard.compress(jsonl(ROWS[:9])) + zstandard.compress(jsonl(ROWS[9:]))
    ),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=5),
}


def local(*paths: object, **fields: Any) -> LocalFiles:
    return LocalFiles(paths=tuple(str(path) for path in paths), **fields)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    documents = list(local(tmp_path / "a.*", group="url", domain_field="lang").documents())
    assert [d.text for d in documents] == [row["text"] for row in ROWS]
    assert [d.group for d in documents] == [f"site{i % 4}.org" for i in range(24)]
    assert [d.domain for d in documents] == [row["lang"] for row in ROWS]
    assert len({d.id for d in documents}) == len(documents)


@pytest.mark.parametrize(("group", "n_groups"), [("auto", 24), ("document", 24), ("file", 1), ("lang", 2)])
def test_groups_of_rows(tmp_path: Path, group: str, n_groups: int) -> None:
    WRITERS["a.jsonl"](tmp_path / "a.jsonl")
    assert len({d.group for d in local(tmp_path / "a.jsonl", group=group).documents()}) == n_groups


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gz", "zst"])
def test_one_big_text_file_becomes_documents_in_blocks(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    text = "\n\n".join(f"Paragraph {i}. " + f"word{i} " * 150 for i in range(300)) + "\n"
    path = tmp_path / f"book.txt{ {bytes: '', gzip.compress: '.gz'}.get(pack, '.zst') }"
    path.write_bytes(pack(text.encode()))
    recipe = local(path, target_document_bytes=4000)
    documents = list(recipe.documents())
    assert "".join(d.text for d in documents) == text
    assert all(d.text.startswith("Paragraph") for d in documents)
    assert all(1500 < d.n_bytes <= 4000 for d in documents[:-1])
    blocks = [d.group for d in documents]
    assert blocks == sorted(blocks, key=lambda group: int(group.split("#")[1]))
    assert 20 <= len(set(blocks)) <= 30
    out = tmp_path / "out"
    out.mkdir()
    build_corpus(recipe, out)
    assert all(list(read_documents(out, split)) for split in ("train", "validation", "test"))


def test_blocks_of_a_long_file_are_bounded_and_those_of_a_short_one_are_many(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"Paragraph {i}. " + "word " * 20 for i in range(2000)))
    blocks = [d.group for d in local(path, target_document_bytes=200).documents()]
    assert max(blocks.count(group) for group in set(blocks)) == 8
    path.write_text("\n\n".join(f"Paragraph {i}. " + "word " * 20 for i in range(8)))
    assert len({d.group for d in local(path, target_document_bytes=200).documents()}) >= 4


def test_small_text_files_are_a_group_each(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"Short {i}.\n\nText.\n")
    assert [(d.group, d.text) for d in local(tmp_path / "*.txt").documents()] == [
        (f"{i}.txt", f"Short {i}.\n\nText.\n") for i in range(3)
    ]


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab \n漢😀\r"), max_size=400), st.integers(8, 60))
def test_cutting_a_stream_loses_nothing(tmp_path_factory: pytest.TempPathFactory, text: str, target: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.txt"
    path.write_bytes(text.encode())
    parts = list(cut_stream(path, target, 2 * target))
    assert b"".join(data for _, data in parts).decode() == text
    assert all(len(data) <= 2 * target and data.decode() for _, data in parts)
    assert [offset for offset, _ in parts] == [sum(len(data) for _, data in parts[:i]) for i in range(len(parts))]


def test_one_huge_line_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "line.txt.gz"
    path.write_bytes(gzip.compress("é".encode() * 1_000_000))
    documents = list(local(path).documents())
    assert sum(d.n_bytes for d in documents) == 2_000_000
    assert max(d.n_bytes for d in documents) <= 4 * 16_384


def test_byte_order_mark_is_left_out_and_nul_and_crlf_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\x00two")
    assert [d.text for d in local(tmp_path / "a.txt").documents()] == ["one\r\n\x00two"]


def test_no_match_empty_list_and_unknown_kind_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches .*nothing\*"):
        list(local(tmp_path / "nothing*").documents())
    with pytest.raises(ConfigError, match=r"corpus.*paths is empty"):
        build({"_target_": "tokenization.local_files.LocalFiles", "paths": []}, "corpus")
    for name in ("a.docx", "a.parquet.gz", "noend", "a.gz"):
        (tmp_path / name).write_text("x")
        with pytest.raises(ConfigError, match=name):
            list(local(tmp_path / name).documents())


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "json": ("a.jsonl", b'{"text": "x"}\n\n{"text": \n', "line 3: not valid JSON"),
    "array": ("a.jsonl", b'{"text": "x"}\n[1]\n', "line 2: holds list"),
    "deep": ("a.jsonl", b"[" * 200_000 + b"\n", "line 1: not valid JSON"),
    "field": ("a.jsonl", b'{"body": "x", "id": 1}\n', r"line 1: no field 'text' \(there are body, id\)"),
    "number": ("a.jsonl", b'{"text": 3}\n', "line 1: field 'text' holds int"),
    "latin": ("a.txt", b"x" * 70_000 + b"\xe9t\xe9", "not UTF-8 at byte 70000"),
    "latin json": ("a.jsonl", b'{"text": "ok"}\n{"text": "caf\xe9 au lait"}\n', "line 2: not UTF-8 at byte 3"),
    "surrogate": ("a.jsonl", b'{"text": "a\\ud800"}\n', "line 1: not UTF-8 at character 1"),
    "gz": ("a.txt.gz", gzip.compress(bytes(range(97, 122)) * 9000)[:-20], "truncated"),
    "zst": ("a.jsonl.zst", zstandard.compress(jsonl(ROWS))[:-5], "truncated"),
    "not gz": ("a.txt.gz", b"hello", "broken compressed"),
    "not zst": ("a.txt.zst", b"hello", "broken compressed"),
    "parquet": ("a.parquet", b"PAR1 no", "not a readable Parquet file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named_with_the_place(tmp_path: Path, case: str) -> None:
    name, data, message = BAD_FILES[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        list(local(tmp_path / name).documents())
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_columns_list_those_there_are(tmp_path: Path) -> None:
    WRITERS["a.parquet"](tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"'body'.*there are text, url, lang"):
        list(local(tmp_path / "a.parquet", text_field="body").documents())
    WRITERS["a.jsonl"](tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"line 1: no field 'site'.*corpus\.group"):
        list(local(tmp_path / "a.jsonl", group="site").documents())
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match="plain text"):
        list(local(tmp_path / "a.txt", group="site").documents())


@pytest.mark.parametrize(
    ("policy", "texts", "count"),
    [("replace", ["ok", "caf\ufffd"], "invalid UTF-8 replaced"), ("skip", ["ok"], "invalid UTF-8 skipped")],
)
def test_invalid_utf8_is_repaired_or_skipped_and_counted(
    tmp_path: Path, policy: Any, texts: list[str], count: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "caf\xe9"}\n')
    column = pa.array([b"ok", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        tally = Tally()
        assert [d.text for d in local(tmp_path / name, invalid_utf8=policy).documents(tally)] == texts
        assert tally[count] == 1
    with pytest.raises(DataError, match=r"a\.parquet row 2: not UTF-8 at byte 3"):
        list(local(tmp_path / "a.parquet").documents())


def test_fingerprint_is_of_content_and_paths_are_no_part_of_the_key(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("same")
    one, two = (local(tmp_path / folder / "*.txt") for folder in ("one", "two"))
    assert one.fingerprint() == two.fingerprint()
    assert one.fingerprint()["files"][0].keys() == {"name", "size", "sha256"}
    assert describe(one, with_impl=False) == describe(two, with_impl=False)
    (tmp_path / "two" / "a.txt").write_text("diff")
    assert one.fingerprint() != two.fingerprint()


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "data set"
    folder.mkdir()
    return folder


def hub(path: object, **fields: Any) -> Hub:
    return Hub(path=str(path), **fields)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "saved"])
def test_hub_reads_a_local_folder_and_groups_by_site(hub_folder: Path, kind: str) -> None:
    import datasets

    if kind == "saved":
        datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(str(hub_folder))
    else:
        WRITERS[f"a.{kind}"](hub_folder / f"train.{kind}")
    recipe = hub(hub_folder)
    documents = list(recipe.documents())
    assert [d.text for d in documents] == [row["text"] for row in ROWS]
    assert [d.group for d in documents] == [f"site{i % 4}.org" for i in range(24)]
    assert isinstance(documents[0], Document)
    assert recipe.label == "data_set"
    assert all(file["sha256"] for file in recipe.fingerprint()["files"])


def test_hub_errors_name_dataset_and_way_out(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["a.jsonl"](hub_folder / "train.jsonl")
    with pytest.raises(DataError, match=r"row 1: no field 'body' \(there are text, url, lang\)"):
        list(hub(hub_folder, text_field="body").documents())
    with pytest.raises(DataError, match="split=dev"):
        list(hub(hub_folder, split="dev").documents())
    for fields, message in (({"revision": "main"}, "not pinned"), ({"path": ""}, "path is empty")):
        with pytest.raises(ConfigError, match=message):
            build({"_target_": "tokenization.hub.Hub", "path": "a/b", **fields}, "corpus")

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    with pytest.raises(IsotokError, match=r"owner/unknown: cannot ask the Hub.*corpus\.revision="):
        hub("owner/unknown").fingerprint()
    assert hub("owner/unknown", revision="0" * 40).fingerprint()["revision"] == "0" * 40


def test_every_corpus_config_builds() -> None:
    import yaml

    import configs

    folder = Path(next(iter(configs.__path__))) / "corpus"
    files = sorted(folder.glob("*.yaml"))
    assert len(files) >= 8
    needed = {"local": {"paths": ["x.txt"]}, "hub": {"path": "owner/name"}}
    for path in files:
        config = yaml.safe_load(path.read_text())
        recipe = build({**config, **needed.get(path.stem, {})}, "corpus")
        assert set(config) == set(describe(recipe)), path.name
