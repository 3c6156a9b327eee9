"""`isotok show` and `isotok segment` as a user runs them: output, artefacts of any stage, errors, hostile text."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from isotok.errors import IsotokError
from scripts.segment import segment_command
from scripts.show import show_command
from tokenization.bpe import byte_level_bpe, merge_vocabulary

MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ġ", "o"), ("Ġo", "f"), ("Ġof", "Ġthe"), (",", "Ġthe")]
METADATA = {
    "algorithm": "superbpe",
    "bytes_seen": 12345,
    "corpus_sha256": "ab" * 32,
    "merges_inherited": 5,
    "vocab_size_at_transition": 261,
    "vocab_size_asked": 263,
    "pretokenizer": "superbpe_stage2",
    "stage1_pretokenizer": "superbpe_stage1",
    "forbid": [": "],
    "max_words": 4,
}
TEXT = "the of the of, the 日\nend"


def run(command: str, *arguments: object, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\nfrom isotok.errors import IsotokError\n"
        f"from scripts.{command} import {command}_command\n"
        f"try: {command}_command(sys.argv[1:])\n"
        "except IsotokError as error:\n"
        "    print(f'isotok: {error}', file=sys.stderr)\n"
        "    sys.exit(error.exit_code)\n"
        "heavy = {'torch', 'transformers', 'numba', 'datasets', 'huggingface_hub', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        check=False,
        env={**os.environ, "COLUMNS": "50", **environment},
        timeout=120,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def save(tokenizer: Tokenizer, folder: Path, metadata: dict[str, object] | None = None) -> Path:
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if metadata is not None:
        (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A store with one superword tokenizer, one of bytes, and artefacts made with them."""
    root = tmp_path_factory.mktemp("store")
    tokenizer = byte_level_bpe(merge_vocabulary(MERGES), MERGES, "superbpe_stage2")
    tokenizer.add_special_tokens(["<|endoftext|>"])
    save(tokenizer, root / "tokenizer" / "super-1", METADATA)
    save(byte_level_bpe(merge_vocabulary([]), [], "none"), root / "tokenizer" / "bytes-1", {})
    manifests = {
        "corpus/text-1": {},
        "encode/super-2": {"corpus": "corpus/text-1", "tokenizer": "tokenizer/super-1"},
        "evaluate/super-3": {"tokenizer": "tokenizer/super-1", "pretrain": "pretrain/super-4"},
        "evaluate/super-4": {"tokenizer": "tokenizer/super-1", "pretrain": "pretrain/super-4"},
        "evaluate/bytes-3": {"tokenizer": "tokenizer/bytes-1", "pretrain": "pretrain/bytes-4"},
        "evaluate/gone-3": {"tokenizer": "tokenizer/gone-1"},
        "comparison/all-1": {"a": "tokenizer/super-1", "b": "encode/super-2", "corpus": "corpus/text-1"},
        "report/all-1": {
            "a/0": "evaluate/super-3",
            "a/1": "evaluate/super-4",
            "b/0": "evaluate/bytes-3",
            "reference": "x/y",
        },
    }
    for name, inputs in manifests.items():
        (root / name).mkdir(parents=True)
        (root / name / "manifest.json").write_text(json.dumps({"inputs": inputs}))
    partial = root / "pretrain" / "super-4.partial"
    partial.mkdir(parents=True)
    (partial / "run.json").write_text(json.dumps({"tokenizer": str(root / "tokenizer" / "super-1")}))
    return root


def test_show_tells_origin_kinds_superwords_and_merges(store):
    done = run("show", store / "tokenizer" / "super-1")
    assert done.returncode == 0 and done.stderr == ""
    assert "\x1b" not in done.stdout and not re.search(r" $", done.stdout, re.MULTILINE)
    for words in (
        "super-1",
        "algorithm superbpe",
        "model BPE, spelling: byte-level",
        "entries 263 and 1 special",
        "specials <|endoftext|> = 263",
        "transition at 261 entries (99.2% of the vocabulary)",
        "pretokenizer superbpe_stage2, in stage 1 superbpe_stage1",
        "vetoes forbid=[': '], max_words=4",
        "corpus sha256 abab",
        "training 12,345 bytes seen",
        'single bytes 256 97.0% 1.0 ! " #',
        "superwords of 2 words 2 0.8% 6.0 ·of·the ,·the",
        "special tokens 1",
        "2 superwords (0.8%), 1 with a newline, 128 that are no valid UTF-8",
        "Superwords by rank (2)",
        "5 261 2 ·of·the",
        "Merges by rank, stage 1 (5)",
        "2 ·t he ·the 258 1",
        "Merges by rank, stage 2 (2)",
        "5 ·of ·the ·of·the 261 2",
        "Longest entries (20 of 263)",
        "Duplicates: none",
    ):
        assert words in re.sub(r" +", " ", done.stdout), words


def test_limits(store):
    folder = store / "tokenizer" / "super-1"
    few = run("show", folder, "limit=1").stdout
    assert "Merges by rank, stage 1 (1 of 5)" in few and few == run("show", folder, "--limit", "1").stdout
    assert few == run("show", folder, "--limit=1", COLUMNS="200").stdout
    assert "Merges" not in run("show", folder, "limit=0").stdout
    assert "Longest entries (263)" in run("show", folder, "limit=all").stdout


def test_show_other_models(tmp_path):
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a\x1b[31m", -1.0), ("b", -2.0)], unk_id=0))
    done = run("show", save(unigram, tmp_path / "unigram"))
    assert "Merges: none in this Unigram model" in done.stdout
    assert "a␛[31m" in done.stdout and "\x1b" not in done.stdout
    word_piece = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    shown = run("show", save(word_piece, tmp_path / "wordpiece")).stdout
    assert "continuations of words" in shown and "Superwords by rank: none" in shown


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer/super-1/tokenizer.json",
        "encode/super-2",
        "comparison/all-1",
        "evaluate/super-3",
        "pretrain/super-4.partial",
    ],
)
def test_artefacts_lead_to_their_tokenizer(store, name):
    done = run("show", store / name, "limit=0")
    assert done.stdout.startswith("super-1\n"), done.stderr


def test_a_finished_model_holds_its_tokenizer(store, tmp_path):
    save(byte_level_bpe(merge_vocabulary(MERGES), MERGES, "none"), tmp_path / "llama" / "model")
    assert run("show", tmp_path / "llama", "limit=0").stdout.startswith("llama\n")


def test_a_report_holds_several(store):
    done = run("show", store / "report" / "all-1")
    assert done.returncode == 1 and "made with 2 tokenizers; show one of" in done.stderr
    drawn = run("segment", store / "report" / "all-1", "text=of the").stdout
    assert drawn == "6 bytes, 6 characters\n\nsuper-1  3 tokens, 2.00 bytes/token\no|f|·the|\n\n" + (
        "bytes-1  6 tokens, 1.00 bytes/token, 200.0% of the first\no|f|·|t|h|e|\n"
    )


def test_artefacts_that_name_each_other_lead_nowhere(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / "evaluate" / name).mkdir(parents=True)
        manifest = {"inputs": {"tokenizer": f"evaluate/{other}"}}
        (tmp_path / "evaluate" / name / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IsotokError, match="is not there"):
        show_command([str(tmp_path / "evaluate" / "a")])


def test_files_from_before_tokenizer_json_go_through_transformers(tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n##se\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    segment_command([str(tmp_path), "text=these the"])
    assert "\nthe|se| |the|\n" in capsys.readouterr().out
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NoSuchTokenizer"}))
    with pytest.raises(IsotokError, match="no tokenizer.json, and transformers cannot make one"):
        show_command([str(tmp_path)])


def test_segment_on_a_pipe(store):
    done = run("segment", store / "tokenizer" / "super-1", "--text", TEXT)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == (
        "26 bytes, 24 characters\n\n"
        "super-1  13 tokens, 2.00 bytes/token\n"
        "t|he|·of·the|·of|,·the|·|<E6>|<97>|<A5>|↵|\n"
        "e|n|d|\n"
    )


@pytest.mark.slow
def test_text_from_everywhere_gives_the_same(store, tmp_path):
    folder, file = store / "tokenizer" / "super-1", tmp_path / "text.txt"
    file.write_text(TEXT)
    expected = run("segment", folder, f"text={TEXT}").stdout
    assert run("segment", folder, f"file={file}").stdout == expected
    for dash in ("-", "text=-", "file=-"):
        assert run("segment", folder, dash, stdin=TEXT.encode()).stdout == expected
    assert run("segment", folder, f"text={TEXT}", COLUMNS="7", PYTHONIOENCODING="utf-8").stdout == expected
    assert "\\u21b5" in run("segment", folder, f"text={TEXT}", PYTHONIOENCODING="ascii").stdout


def test_ids_stand_below_their_tokens_and_lines_wrap_between_tokens(store):
    drawn = run("segment", store / "tokenizer" / "super-1", "text=of the of the, the", "ids=true", "width=16").stdout
    assert drawn.splitlines()[3:] == ["o |f |·the|", "78 69 258", "·of·the|,·the|", "261     262"]
    assert run("segment", store / "tokenizer" / "super-1", "text=of", "--ids").stdout.splitlines()[4] == "78 69"


def test_colours_on_a_terminal_and_none_with_no_color(store):
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    drawn = run("segment", store / "tokenizer" / "super-1", "text=of the", **terminal).stdout
    assert re.findall(r"\x1b\[30;48;2;([\d;]+)m([^\x1b]*)", drawn) == [
        ("255;214;165", "o"),
        ("202;255;191", "f"),
        ("168;224;255", "·the"),
    ]
    assert "|" not in drawn
    plain = run("segment", store / "tokenizer" / "super-1", "text=of the", **terminal, NO_COLOR="1").stdout
    assert "o|f|·the|" in plain and "\x1b" not in plain
    assert "\x1b[1m" in run("show", store / "tokenizer" / "super-1", **terminal).stdout


@pytest.mark.parametrize("force", ["", "1"])
def test_escapes_and_controls_in_text_names_and_vocabulary_are_inert(store, tmp_path, force):
    hostile = "\x1b[2J\x1b]0;title\x07\r\x08\x9b31m\u202e [bold]x[/bold] :smile:"
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), (hostile, -1.0)], unk_id=0))
    folder = save(unigram, tmp_path / "n\x1b[31m", {"algorithm": hostile, "forbid": [hostile], "pretokenizer": hostile})
    terminal = {"FORCE_COLOR": force, "TERM": "xterm-256color", "COLORTERM": "truecolor"} if force else {}
    outputs = [
        run("segment", store / "tokenizer" / "super-1", folder, f"text={hostile}", **terminal).stdout,
        run("show", folder, **terminal).stdout,
        run("show", tmp_path / "no\x1b[31m").stderr,
        run("show", folder, "limit=\x1b[31m").stderr,
    ]
    for output in outputs:
        ours = re.sub(r"\x1b\[[\d;]*m", "", output) if force else output
        assert "␛[" in ours
        assert all(char.isprintable() or char == "\n" for char in ours)
    assert "[bold]x[/bold]" in re.sub(r"\x1b\[[\d;]*m", "", outputs[1])


def test_html_is_written_whole_and_the_same_each_time(store, tmp_path):
    page = tmp_path / "page.html"
    done = run("segment", store / "tokenizer" / "super-1", "text=<b>the</b>", f"html={page}")
    assert "html: " in done.stderr and "bytes/token" in done.stdout
    first = page.read_bytes()
    run("segment", store / "tokenizer" / "super-1", "text=<b>the</b>", f"html={page}")
    assert page.read_bytes() == first and b"<b>" not in first and b"&lt;" in first
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_names_that_are_the_same_become_paths(store, tmp_path):
    other = save(byte_level_bpe(merge_vocabulary([]), [], "none"), tmp_path / "super-1")
    drawn = run("segment", store / "tokenizer" / "super-1", other, "text=a").stdout
    assert f"{other}/tokenizer.json  1 tokens" in drawn


@pytest.mark.parametrize(
    ("command", "arguments", "message", "code"),
    [
        ("show", [], "show: needs one tokenizer", 2),
        ("show", ["{super}", "limit=many"], "limit=many: not a whole number", 2),
        ("show", ["{super}", "limit=-1"], "limit=-1: not a whole number", 2),
        ("show", ["{super}", "--limit"], "--limit: needs a value", 2),
        ("show", ["{super}", "limt=1"], "did you mean limit?", 2),
        ("show", ["{super}", "limit=1", "limit=2"], "limit: given twice", 2),
        ("show", ["{super}", "-v"], "-v: no such option", 2),
        ("show", ["{store}"], "no tokenizer here", 1),
        ("show", ["{store}/corpus/text-1"], "no tokenizer here", 1),
        ("show", ["{store}/evaluate/gone-3"], "gone-1, which is not there; was it removed?", 1),
        ("show", ["{store}/nothing"], "nothing: no such file or folder", 1),
        ("show", ["owner/name"], "owner/name: no such file or folder, and the Hugging Face Hub gives no", 1),
        ("show", ["{bad}/broken"], "broken/tokenizer.json: the tokenizer library cannot read this", 1),
        ("show", ["{bad}/other"], "other/tokenizer.json: the tokenizer library cannot read this", 1),
        ("show", ["{bad}/binary"], "binary/tokenizer.json: cannot be read as a tokenizer.json", 1),
        ("segment", ["text=a"], "segment: needs a tokenizer", 2),
        ("segment", ["{super}"], "needs one text", 2),
        ("segment", ["{super}", "text=a", "-"], "needs one text", 2),
        ("segment", ["{super}", "text="], "text: the text is empty", 1),
        ("segment", ["{super}", "-"], "standard input: the text is empty", 1),
        ("segment", ["{super}", "file={store}/none"], "cannot be read (No such file", 2),
        ("segment", ["{super}", "file={bad}/binary/tokenizer.json"], "not UTF-8 (byte 1 is 0xFF)", 1),
        ("segment", ["{super}", "text=a", "ids=yes"], "ids=yes: allowed are true and false", 2),
        ("segment", ["{super}", "text=a", "width=wide"], "width=wide: not a whole number", 2),
        ("segment", ["{super}", "text=a", "html={store}/no/page.html"], "name a file in a folder that exists", 2),
        ("segment", ["{super}", "text=a", "html={store}"], "name a file in a folder that exists", 2),
    ],
)
def test_wrong_use_is_refused_in_one_line(command, arguments, message, code, store, tmp_path, monkeypatch, capsys):
    for name, data in (("broken", b"{broken"), ("other", b'{"model": 3}'), ("binary", b"a\xff")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_bytes(data)
    places = {"super": store / "tokenizer" / "super-1", "store": store, "bad": tmp_path}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    commands = {"show": show_command, "segment": segment_command}
    with pytest.raises(IsotokError) as refused:
        commands[command]([argument.format(**places) for argument in arguments])
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert refused.value.exit_code == code
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ["show", "segment"])
def test_help(command):
    assert run(command, "--help").stdout.startswith(f"isotok {command} PATH")
