"""The corpus stage: splits by group, duplicates, leaks, determinism, damaged files."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotok.errors import ConfigError, DataError
from isotok.recipe import build, impl_fields, recipe
from tokenization.corpus import SPLITS, build_corpus, corpus_figures, read_documents
from tokenization.dedup import DuplicateFinder, leak, shingles, word_grams
from tokenization.documents import Corpus, Document, Tally, cut, cut_text, group_name
from tokenization.sources import Docstrings, Embedded

WORDS = [f"w{i}" for i in range(5000)]


def prose(seed: int, n_words: int = 400) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), n_words))


@recipe
class Given(Corpus):
    """Documents handed over as (id, text, group, domain) rows."""

    rows: tuple[tuple[str, str, str, str], ...]

    @property
    def label(self) -> str:
        return "given"

    def fingerprint(self) -> dict[str, Any]:
        return {"rows": len(self.rows)}

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        for row in self.rows:
            yield Document(*row)


def rows(n_groups: int = 30, per_group: int = 4) -> list[tuple[str, str, str, str]]:
    return [
        (f"g{g}/{i}", prose(g * 100 + i), f"g{g}", ("plays", "poems")[g % 2])
        for g in range(n_groups)
        for i in range(per_group)
    ]


def read_all(folder: Path) -> dict[str, list[Document]]:
    return {split: list(read_documents(folder, split)) for split in SPLITS}


def folder(tmp_path: Path, name: str = "corpus") -> Path:
    path = tmp_path / name
    path.mkdir()
    return path


def test_every_document_comes_back_once_and_figures_agree(tmp_path: Path) -> None:
    given_rows = rows(60, 2)
    out = folder(tmp_path)
    figures = build_corpus(Given(rows=tuple(given_rows)), out)
    splits = read_all(out)
    got = {d.id: (d.id, d.text, d.group, d.domain) for part in splits.values() for d in part}
    assert sorted(got.values()) == sorted(given_rows)
    assert corpus_figures(out) == figures
    for split, part in splits.items():
        assert figures["splits"][split]["bytes"] == sum(len(d.text.encode()) for d in part) > 0
        assert set(figures["splits"][split]["domains"]) == {"plays", "poems"}
    assert 0.07 * figures["bytes"] <= figures["splits"]["test"]["bytes"] <= 0.12 * figures["bytes"]
    assert figures["leak_share"] < 0.001


def test_groups_never_straddle_splits(tmp_path: Path) -> None:
    out = folder(tmp_path)
    build_corpus(Given(rows=tuple(rows())), out)
    groups = [{d.group for d in part} for part in read_all(out).values()]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]


def test_same_recipe_same_text_in_the_same_order_and_another_seed_another(tmp_path: Path) -> None:
    outs = [folder(tmp_path, name) for name in "abc"]
    first, second = (build_corpus(Given(rows=tuple(rows())), out) for out in outs[:2])
    assert first == second
    assert (outs[0] / "train.parquet").read_bytes() == (outs[1] / "train.parquet").read_bytes()
    assert build_corpus(Given(rows=tuple(rows()), seed=1), outs[2])["sha256"] != first["sha256"]


def test_a_near_duplicate_in_another_group_is_found_and_named(tmp_path: Path) -> None:
    planted = rows()
    words = planted[0][1].split()
    words[100] = "changed"
    planted.append(("copy", " ".join(words).upper(), "elsewhere", "plays"))
    planted.append(("spaced", planted[1][1].replace(" ", "\n\n"), "elsewhere", "plays"))
    figures = build_corpus(Given(rows=tuple(planted)), folder(tmp_path))
    found = figures["duplicates"]
    assert (found["documents"], found["across_groups"]) == (2, 2)
    assert {(pair["dropped"], pair["kept"]) for pair in found["pairs"]} == {("copy", "g0/0"), ("spaced", "g0/1")}
    assert all(pair["similarity"] > 0.8 for pair in found["pairs"])


def test_a_leak_below_the_threshold_is_measured_warned_of_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = build_corpus(Given(rows=tuple(rows())), folder(tmp_path, "first"))
    test = read_all(tmp_path / "first")["test"][0]
    train = read_all(tmp_path / "first")["train"][0]
    planted = [(i, t + " " + test.text[: len(test.text) // 2] if i == train.id else t, g, d) for i, t, g, d in rows()]
    recipe = Given(rows=tuple(planted), dedup_threshold=1.0, leak_threshold=0.9)
    leaky = build_corpus(recipe, folder(tmp_path, "second"))
    assert leaky["leak"]["worst"][0]["id"] == test.id
    assert leaky["leak"]["worst"][0]["share"] == pytest.approx(0.5, abs=0.05)
    assert leaky["leak_share"] >= 0.02 > figures["leak_share"]
    assert any(test.id in warning for warning in leaky["warnings"])
    clean = build_corpus(Given(rows=tuple(planted), dedup_threshold=1.0), folder(tmp_path, "third"))
    assert [named["id"] for named in clean["leak"]["dropped"]["named"]] == [test.id]
    assert clean["leak_share"] < 0.02 <= clean["leak"]["share_before_dropping"]
    assert test.id not in {document.id for document in read_all(tmp_path / "third")["test"]}
    assert "few clusters" in capsys.readouterr().err


def test_long_documents_are_cut_and_their_parts_stay_together(tmp_path: Path) -> None:
    text = prose(1, 5000)
    out = folder(tmp_path)
    figures = build_corpus(Given(rows=(*rows(), ("long", text, "long", "plays")), max_document_bytes=5000), out)
    parts = {d.id: d for part in read_all(out).values() for d in part if d.group == "long"}
    assert figures["reading"]["documents cut"] == 1
    assert "".join(parts[f"long#{i}"].text for i in range(len(parts))) == text
    assert max(d.n_bytes for d in parts.values()) <= 5000
    assert all(d.text[-1] == " " for d in parts.values() if d.id != f"long#{len(parts) - 1}")


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab \n\té漢😀\u00a0"), max_size=300), st.integers(4, 40))
def test_cutting_loses_nothing_and_keeps_to_the_limit(text: str, limit: int) -> None:
    parts = cut_text(text, limit)
    assert "".join(parts) == text
    assert all(len(part.encode()) <= limit for part in parts)
    assert all(parts) or text == ""


def test_a_stretch_without_whitespace_is_cut_between_characters() -> None:
    parts = cut(Document("x", "漢" * 100, "g", "d"), 64)
    assert [p.n_bytes for p in parts] == [63] * 4 + [48]
    assert [p.id for p in parts] == [f"x#{i}" for i in range(5)]


def test_too_few_groups_and_no_text_say_the_way_out(tmp_path: Path) -> None:
    out = folder(tmp_path)
    with pytest.raises(DataError, match=r"2 group.*corpus\.group=document"):
        build_corpus(Given(rows=tuple(rows(2))), out)
    with pytest.raises(DataError, match="empty"):
        build_corpus(Given(rows=(("a", " \n", "g", "d"),)), out)
    with pytest.raises(DataError, match=r"'g0/0'.*unique"):
        build_corpus(Given(rows=tuple(rows()[:1] * 2)), out)


def test_three_equal_groups_give_three_splits(tmp_path: Path) -> None:
    out = folder(tmp_path)
    build_corpus(Given(rows=tuple(rows(3))), out)
    assert all(read_all(out).values())


def test_reading_stops_at_max_bytes_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = build_corpus(Given(rows=tuple(rows()), max_bytes=60_000), folder(tmp_path))
    assert 60_000 <= figures["reading"]["bytes"] < 63_000
    assert "stopped at max_bytes=60000" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "other"])
def test_a_damaged_corpus_file_is_named(tmp_path: Path, damage: str) -> None:
    out = folder(tmp_path)
    build_corpus(Given(rows=tuple(rows())), out)
    path = out / "train.parquet"
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    elif damage == "remove":
        path.unlink()
    else:
        path.write_text("not parquet")
    with pytest.raises(DataError, match=r"train\.parquet"):
        list(read_documents(out, "train"))
    with pytest.raises(DataError, match="no split 'dev'"):
        list(read_documents(out, "dev"))


def test_grams_are_those_of_words() -> None:
    words = prose(3, 60).split()
    assert len(word_grams(" ".join(words).encode())) == 60 - 12
    # The same run of words has the same hashes wherever it stands; other runs do not.
    a, b = word_grams(" ".join(words[:40]).encode()), word_grams(" ".join(["x", *words[20:]]).encode())
    assert len(np.intersect1d(a, b)) == 20 - 12
    assert len(word_grams(b"")) == 0
    assert len(word_grams(b"one")) == 1


def test_similarity_is_near_the_true_one() -> None:
    words = prose(4, 2000).split()
    finder = DuplicateFinder(0.3)
    assert finder.add(Document("a", " ".join(words), "g", "d")) is None
    found = finder.add(Document("b", " ".join(words[:1300]), "g", "d"))
    assert found is not None
    assert found.similarity == pytest.approx(1288 / 1988, abs=0.12)
    assert finder.add(Document("c", prose(5, 2000), "g", "d")) is None


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.binary(min_size=0, max_size=200))
def test_shingles_are_equal_where_the_bytes_are(left: bytes, right: bytes) -> None:
    data = left + b"z" * 10 + right + left
    hashes = np.concatenate([np.zeros(0, np.uint64), *shingles(data)])
    runs = [data[i : i + 50] for i in range(len(data) - 49)]
    assert len(hashes) == len(runs)
    assert len(np.unique(hashes)) == len(set(runs))


def test_shingles_do_not_depend_on_blocks() -> None:
    data = prose(6, 40_000).encode()
    hashes = np.concatenate(list(shingles(data)))
    assert len(data) > 3 * 65536
    for start in (0, 65500, 65536, 131_072, len(data) - 50):
        assert hashes[start] == next(shingles(data[start : start + 50]))[0]


def test_leak_reads_long_held_out_text_by_a_stride(monkeypatch: pytest.MonkeyPatch) -> None:
    train = [Document("t", prose(7, 3000), "t", "d")]
    held_out = [Document("a", train[0].text, "a", "d"), Document("b", prose(8, 3000), "b", "d")]
    full = leak(train, held_out)
    monkeypatch.setattr("tokenization.dedup.MAX_SHINGLES", 5000)
    strided = leak(train, held_out)
    assert (full.stride, strided.stride) == (1, 7)
    assert strided.share == pytest.approx(full.share, abs=0.01)
    assert full.share == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("value", "group"),
    [("https://www.example.org/a?b", "example.org"), ("http://[bad/", "http://[bad/"), ("plain", "plain"), (7, "7")],
)
def test_a_url_counts_as_its_site(value: object, group: str) -> None:
    assert group_name(value) == group


def test_fractions_must_leave_most_for_training() -> None:
    config = {"_target_": "tokenization.sources.Embedded", "test_fraction": 0.4, "validation_fraction": 0.2}
    with pytest.raises(ConfigError, match="at least half"):
        build(config, "corpus")


def test_embedded_text_is_clean_and_splits_well(tmp_path: Path) -> None:
    documents = list(Embedded().documents())
    text = "".join(d.text for d in documents)
    assert not re.search(r"gutenberg|\be-?texts?\b|trademark|\r|\x1a|\ufeff|\ufffd", text, re.IGNORECASE)
    assert {d.domain for d in documents} == {"plays", "poems", "scripture"}
    assert all(1500 <= d.n_bytes <= 20_000 for d in documents)
    out = folder(tmp_path)
    figures = build_corpus(Embedded(test_fraction=0.1), out)
    test = figures["splits"]["test"]
    assert test["bytes"] >= 700_000
    assert set(test["domains"]) == {"plays", "poems", "scripture"}
    assert figures["leak_share"] < 0.02
    assert Embedded().fingerprint()["size"] < 3_500_000
    # Another value here means another corpus under the same name: bump the stage's format version with it.
    assert figures["sha256"] == "d8cde66dc61e1f895eda8221ffa6a426e2079434b2bb0dcacfb082c27dd439f8"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    root = tmp_path / "site" / "fakepkg"
    (root / "sub").mkdir(parents=True)
    (root / "__init__.py").write_text(f'"""Top. {prose(10, 60)}"""\nraise SystemExit("never imported")\n')
    (root / "sub" / "__init__.py").write_text("x = 1\n")
    (root / "sub" / "a.py").write_text(
        f'def f():\n    """First. {prose(11, 60)}"""\n    def g():\n        """Inner."""\n'
        f'class C:\n    """Second. {prose(12, 60)}"""\n    async def h(self):\n        """Inner."""\n'
        'if x:\n    def k():\n        """Under an if."""\n    y = "not a docstring"\n'
    )
    (root / "broken.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield "fakepkg"
    shutil.rmtree(root)


@pytest.mark.parametrize("workers", [1, 2])
def test_docstrings_of_a_package_in_source_order(package: str, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenization.sources._CHUNK", 2)
    tally = Tally()
    documents = list(Docstrings(packages=(package,), workers=workers).documents(tally))
    assert [d.id for d in documents] == ["fakepkg.__init__", "fakepkg.sub.a"]
    assert {d.group for d in documents} == {"fakepkg"}
    assert re.findall("First|Inner|Second|Under", documents[1].text) == ["First", "Inner", "Second", "Under"]
    assert "not a docstring" not in documents[1].text
    assert tally["modules that do not parse"] == 1


def test_docstrings_fingerprint_follows_the_source_and_workers_do_not_count(package: str) -> None:
    source = Docstrings(packages=(package, "numpy"))
    before = json.loads(json.dumps(source.fingerprint()))
    assert before["packages"]["numpy"]["version"] == np.__version__
    assert impl_fields(Docstrings) == {"workers"}
    spec_path = Path(source_path(package))
    spec_path.write_text(spec_path.read_text() + "# changed\n")
    after = source.fingerprint()
    assert after["packages"][package] != before["packages"][package]
    assert after["packages"]["numpy"] == before["packages"]["numpy"]


def source_path(package: str) -> str:
    import importlib.util

    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigError, match="'no_such_package_here'"):
        list(Docstrings(packages=("no_such_package_here",)).documents())
