"""What a run's file says of its transform: the one that is applied, what was asked for, and how much text grows."""

from pathlib import Path

import pytest

from isotok.errors import ConfigError
from isotok.files import read_json
from isotok.recipe import OWN_PACKAGES, build, describe
from modeling import Llama
from tokenization import BPEDropout, ByteLevel, MatchedDropout, NoTransform, StochasTok, TokenData, encode_corpus
from tokenization.tokenizer import load_tokenizer, save_tokenizer
from training import Budget, Engine, Training
from training.api import prepare_run


def prepare(artefacts: dict[str, Path], out: Path, transform) -> dict:
    prepare_run(
        model=Llama(hidden_size=32, layers=1, heads=2, mlp_size=48),
        tokens=artefacts["tokens"],
        tokenizer=artefacts["tokenizer"],
        budget=Budget(amount=10, unit="steps", context_bytes=256, rows=8),
        out=out,
        training=Training(wandb="disabled"),
        transform=transform,
        engine=Engine(device="cpu"),
        label="run",
        seed=3,
    )
    return read_json(out / "run.json")


def test_a_run_keeps_the_fitted_transform(artefacts: dict[str, Path], tmp_path: Path) -> None:
    asked = MatchedDropout(p=0.2, fresh=False)
    spec = prepare(artefacts, tmp_path / "matched", asked)
    assert prepare(artefacts, tmp_path / "matched", asked) == spec, "the same file is written again"
    fitted = build(spec["transform"], "transform", allow=OWN_PACKAGES)
    assert isinstance(fitted, BPEDropout) and not fitted.fresh
    assert spec["transform_asked"] == describe(asked)
    stochastok = prepare(artefacts, tmp_path / "stochastok", StochasTok(p=0.2))
    assert stochastok["transform"] == stochastok["transform_asked"] == describe(StochasTok(p=0.2))
    growths = [one["plan"]["growth"] for one in (spec, stochastok)]
    assert abs(growths[0] - growths[1]) <= 0.002 and growths[1] > 0.05
    data, tokenizer = TokenData.open(artefacts["tokens"], "train"), load_tokenizer(artefacts["tokenizer"])
    apply = StochasTok(p=0.2).bind(tokenizer, 0)
    after = sum(len(apply(data.ids(unit), 0, unit)) for unit in range(len(data)))
    assert growths[1] == pytest.approx(after / data.n_tokens - 1)
    assert prepare(artefacts, tmp_path / "plain", NoTransform())["plan"]["growth"] == 0


def test_an_unsplittable_vocabulary(artefacts: dict[str, Path], tmp_path: Path, capsys) -> None:
    save_tokenizer(ByteLevel().train([]), tmp_path / "tokenizer")
    encode_corpus(artefacts["corpus"], tmp_path / "tokenizer", tmp_path / "tokens")
    folders = {**artefacts, "tokenizer": tmp_path / "tokenizer", "tokens": tmp_path / "tokens"}
    plan = prepare(folders, tmp_path / "run", StochasTok())["plan"]
    assert plan["growth"] == 0
    assert [warning for warning in plan["warnings"] if "stochastok-0.1" in warning and "growth 0" in warning]
    assert "growth 0" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no growth to match"):
        prepare(folders, tmp_path / "matched", MatchedDropout())
