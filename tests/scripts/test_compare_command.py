"""`isotok compare`: what its arguments mean and what it says to wrong ones."""

from pathlib import Path

import pytest

from evaluation.intrinsic import Measure
from isotok.errors import ConfigError, DataError
from isotok.files import read_json
from scripts.compare import compare_command
from tests.conftest import tiny_texts
from tokenization import BPE, ByteLevel
from tokenization.tokenizer import save_tokenizer

QUICK = ["passages=10", "cuts=1", "edits=5", "speed_bytes=0"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with tokenizers a/x and b/x, one in a store, and a text."""
    made = BPE(vocab_size=300).train(tiny_texts(20))
    for name in ("a/x", "b/x", "runs/tokenizer/bpe-300-0123456789ab"):
        save_tokenizer(made, tmp_path / name)
    save_tokenizer(ByteLevel().train([]), tmp_path / "bytes")
    (tmp_path / "runs/tokenizer/bpe-300-0123456789ab/manifest.json").write_text("{}")
    (tmp_path / "text.txt").write_text("\n\n".join(tiny_texts(4)))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_names_and_labels_in_their_order(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = compare_command(["bytes", "mine=a/x", "bpe-300", "text=text.txt", *QUICK])
    results = read_json(folder / "compare.json")
    assert results["order"] == ["bytes", "mine", "bpe-300"]
    assert results["text"]["bytes"] == (place / "text.txt").stat().st_size
    assert results["tokenizers"]["mine"]["all"] == results["tokenizers"]["bpe-300"]["all"]
    assert results["options"]["passages"] == 10 != Measure().passages
    shown = capsys.readouterr().out
    assert "mine" in shown and "bytes/token" in shown
    assert compare_command(["bytes", "mine=a/x", "bpe-300", "text=text.txt", *QUICK]) == folder
    assert compare_command(["bytes", "mine=a/x", "text=text.txt", "out=here", *QUICK]) == Path("here")


def test_a_built_corpus_is_read_by_its_test_split(place: Path, tiny_corpus: Path) -> None:
    results = read_json(compare_command(["bytes", f"corpus={tiny_corpus}", *QUICK]) / "compare.json")
    assert results["text"]["bytes"] == read_json(tiny_corpus / "corpus.json")["splits"]["test"]["bytes"]


def test_a_few_files_are_domains_of_their_own(place: Path) -> None:
    (place / "other.txt").write_text("Another text.\n")
    results = read_json(compare_command(["bytes", "text=text.txt,oth*.txt", *QUICK]) / "compare.json")
    assert results["text"]["domains"] == {"other.txt": 14, "text.txt": (place / "text.txt").stat().st_size}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name tokenizers"),
        (["text=text.txt"], "name tokenizers"),
        (["a/x", "b/x"], r"two tokenizers are called 'x' \(a/x and b/x\)"),
        (["y=a/x", "y=b/x"], "two tokenizers are called 'y'"),
        (["a/x", "a/x"], "there twice"),
        (["empty"], "empty: not a tokenizer folder"),
        (["nowhere"], r"nowhere: no such folder.*there: bpe-300-0123456789ab"),
        (["a/x", "txt=text.txt"], "txt=text.txt: no such key; did you mean text"),
        (["a/x", "text=text.txt", "corpus=embedded"], "two sources"),
        (["a/x", "text=text.txt", "text=text.txt"], "text= twice"),
        (["a/x", "text=nothing.txt"], r"text: no file matches 'nothing.txt'"),
        (["a/x", "corpus=nothing"], "nothing"),
        (["a/x", "text=text.txt", "cuts=x"], "cuts='x': needs a whole number"),
        (["a/x", "text=text.txt", "cuts=0"], "cuts"),
        (["a/x", "text=text.txt", "out="], "out= needs a value"),
        (["a/x", "text=text.txt", "parallel=nothing.tsv"], "nothing.tsv: No such file"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str, place: Path) -> None:
    before = set(place.iterdir())
    with pytest.raises((ConfigError, DataError), match=message):
        compare_command(arguments)
    assert {path for path in place.iterdir() if path.name.startswith("comparison")} == set()
    assert set(place.iterdir()) - before <= {place / "runs"}
