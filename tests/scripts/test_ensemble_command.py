"""`isotok evaluate ensemble=[A,B]`: what its arguments mean and what it says to wrong ones."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from isotok.errors import ConfigError, DataError
from isotok.files import read_json, write_json
from scripts.cli import _dispatch
from scripts.ensemble import ensemble_command
from tests.evaluation.conftest import merged_tokenizer
from tokenization import ByteLevel
from tokenization.corpus import build_corpus
from tokenization.local_files import LocalFiles
from tokenization.tokenizer import save_tokenizer

QUICK = ["max_bytes=1500", "gaps=3"]
STORE = Path("runs")
NAMES = {"bytes-s0": "0123456789ab", "words-s0": "ba9876543210", "long-s0": "aaaaaaaaaaaa", "other-s0": "bbbbbbbbbbbb"}


@pytest.fixture(scope="module")
def made(tiny_corpus: Path, tiny_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with four checkpoints: one of another context, one of another corpus; and one folder outside it."""
    root = tmp_path_factory.mktemp("ensemble")
    shutil.copytree(tiny_corpus, root / "runs/corpus/local-111111111111")
    build_corpus(LocalFiles(paths=[str(tiny_files / "00*.txt")]), root / "runs/corpus/local-222222222222")
    tokenizers = {"bytes-s0": ByteLevel().train([]), "words-s0": merged_tokenizer("of the", "king", " sea")}
    for name, key in NAMES.items():
        tokenizer = tokenizers.get(name, tokenizers["bytes-s0"])
        artefact = root / f"runs/pretrain/{name}-{key}"
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=len(tokenizer),
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
        LlamaForCausalLM(config).save_pretrained(artefact / "model")
        save_tokenizer(tokenizer, artefact / "model")
        write_json(artefact / "run.json", {"budget": {"context_bytes": 512 if name == "long-s0" else 256}})
        corpus = "corpus/local-222222222222" if name == "other-s0" else "corpus/local-111111111111"
        write_json(artefact / "manifest.json", {"stage": "pretrain", "inputs": {"corpus": corpus}})
    shutil.copytree(root / f"runs/pretrain/bytes-s0-{NAMES['bytes-s0']}/model", root / "elsewhere/model")
    write_json(root / "elsewhere/run.json", {"budget": {"context_bytes": 256}})
    (root / "empty").mkdir()
    return root


@pytest.fixture
def place(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def test_names_keys_and_folders(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _dispatch(["evaluate", "ensemble=[bytes-s0,ba9876543210]", *QUICK])
    shown = capsys.readouterr().out.splitlines()
    folder = Path(shown[-1])
    results = read_json(folder / "ensemble.json")
    assert list(read_json(folder / "ensemble.json")["bits_per_byte"]) == ["bytes-s0", "mixture", "words-s0"]
    assert results["context_bytes"] == 256 and results["filling"]["gaps"] == 3
    assert len(results["caveats"]) == 1
    again = f"ensemble=runs/pretrain/bytes-s0-{NAMES['bytes-s0']},runs/pretrain/words-s0-{NAMES['words-s0']}/model"
    assert ensemble_command([again, *QUICK]) == folder
    assert read_json(folder / "ensemble.json") == results | {"models": read_json(folder / "ensemble.json")["models"]}
    assert ensemble_command(["ensemble=[bytes-s0]", "out=alone", "gaps=0", "max_bytes=1500"]) == Path("alone")
    assert json.loads(Path("alone/ensemble.json").read_text())["filling"] is None


def test_a_given_corpus_and_what_may_have_been_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = f"corpus={STORE / 'corpus/local-111111111111'}"
    folder = ensemble_command(["ensemble=[words-s0,other-s0,elsewhere]", given, "out=given", *QUICK])
    caveats = read_json(folder / "ensemble.json")["caveats"]
    assert len(caveats) == 3
    assert caveats[0].startswith("other-s0: trained on another corpus (local-222222222222)")
    assert caveats[1].startswith("elsewhere: what it was trained on is not known")
    assert "another corpus" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ensemble=[]"], r"ensemble=\[\]: name one checkpoint or more"),
        (["ensemble="], "ensemble= needs a value"),
        (["ensemble=[bytes-s0,nowhere]"], r"nowhere: no such folder, and no checkpoint .*there: bytes-s0-0123456789ab"),
        (["ensemble=[bytes-s0,0123456789ab]"], "0123456789ab is there twice"),
        (["ensemble=[empty]"], "empty: not a checkpoint"),
        (["ensemble=[bytes-s0,long-s0]"], r"different context_bytes \(bytes-s0 256, long-s0 512\)"),
        (
            ["ensemble=[bytes-s0,other-s0]"],
            "bytes-s0 was trained on .*local-11+, other-s0 on .*local-22+",
        ),
        (["ensemble=[bytes-s0,elsewhere]"], "elsewhere does not say what it was trained on; give corpus="),
        (["ensemble=[bytes-s0]", "max_byte=9"], "max_byte=9: no such key; did you mean max_bytes"),
        (["ensemble=[bytes-s0]", "max_bytes=many"], "max_bytes='many': needs a whole number"),
        (["ensemble=[bytes-s0]", "max_bytes=0"], "max_bytes=0: at least 1"),
        (["ensemble=[bytes-s0]", "gaps=1", "gaps=2"], "gaps= twice"),
        (["ensemble=[bytes-s0]", "out=given.txt"], "given.txt is a file"),
        (["ensemble=[bytes-s0]", "corpus=empty"], r"test\.parquet: not found"),
        (["ensemble=[bytes-s0]", "corpus=nothing"], "nothing"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str, place: Path) -> None:
    (place / "given.txt").touch()
    before = set(place.iterdir())
    with pytest.raises((ConfigError, DataError), match=message):
        ensemble_command(arguments)
    assert set(place.iterdir()) == before
