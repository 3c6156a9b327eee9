"""What the README shows runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)


@pytest.mark.slow
def test_python_example_ends_in_a_report(tmp_path):
    code = max((text for kind, text in BLOCKS if kind == "python"), key=len)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "from-python" / "report" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_own_tokenizer_example_trains(tmp_path):
    files = {text.splitlines()[0].removeprefix("# "): text for _, text in BLOCKS if text.startswith("# mine/")}
    assert set(files) == {"mine/lowercase_vocab.py", "mine/configs/tokenizer/lowercase.yaml"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    lines = [f"Line {i} of A BOOK, and the {i * 7} words in it." for i in range(3000)]
    (tmp_path / "book.txt").write_text("\n\n".join(lines))
    options = ["plugins=[mine]", "tokenizer=lowercase", "tokenizer.vocab_size=300"]
    corpus = ["corpus=local", "corpus.paths=[book.txt]", "corpus.dedup_threshold=1"]
    command = [sys.executable, "-m", "scripts.cli", "tokenizer", *options, *corpus]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.splitlines()[-1] / "tokenizer.json").exists()


@pytest.mark.parametrize("target", ["demo", "test", "check"])
def test_make_help_lists_the_targets(target):
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"make {target} " in done.stdout


def test_files_that_are_linked_exist():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
