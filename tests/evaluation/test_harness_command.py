"""Checkpoints by name: lm-eval's command line, its arguments, several processes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.registry import get_model

from evaluation.harness import IsotokLM
from evaluation.likelihood import Likelihood
from isotok.errors import ConfigError, DataError
from isotok.files import write_json
from scripts.cli import main

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@pytest.fixture(scope="module")
def checkpoint(
    superword_tokenizer: Any, make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """RUN/model with the run.json of training beside it."""
    run = tmp_path_factory.mktemp("run")
    make_model(superword_tokenizer).save_pretrained(run / "model")
    superword_tokenizer.save_pretrained(run / "model")
    write_json(run / "run.json", {"budget": {"context_bytes": 96}})
    return run / "model"


def documents() -> list[dict[str, Any]]:
    nouns = ["king", "queen", "sea", "land", "wind"]
    return [
        {"q": f"Question {i}: the {nouns[i % 5]} of the", "choices": [f" {noun}" for noun in nouns], "gold": i % 3}
        for i in range(9)
    ]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for --include_path: one task of each kind on the same nine documents."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents()))
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder)}}
    common |= {"test_split": "test", "num_fewshot": 0, "target_delimiter": "", "doc_to_text": "{{q}}"}
    mean = {"aggregation": "mean", "higher_is_better": True}
    kinds = {
        "toy_choice": {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc", **mean}, {"metric": "acc_bytes", **mean}],
        },
        "toy_rolling": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{q}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
        "toy_generation": {
            "output_type": "generate_until",
            "doc_to_target": "{{choices[0]}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
            "metric_list": [{"metric": "exact_match", **mean}],
        },
    }
    for name, kind in kinds.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **common, **kind}))  # JSON is YAML
    return folder


def test_arguments_of_lm_eval(checkpoint: Path) -> None:
    """String and object forms, with what lm-eval's command line adds by itself."""
    assert get_model("isotok") is IsotokLM
    assert get_model("hf").__name__ == "HFLM"  # the others are still known
    added = {"batch_size": 1, "max_batch_size": None, "device": "cuda:0" if not torch.cuda.is_available() else "cpu"}
    lm = IsotokLM.create_from_arg_string(f"pretrained={checkpoint},scoring=naive,seed=3", added)
    assert (lm.context_bytes, lm.scoring, lm.seed) == (96, "naive", 3)  # the context of training
    assert next(lm.model.parameters()).dtype == torch.float32
    other = IsotokLM.create_from_arg_obj({"pretrained": checkpoint, "context_bytes": 64, "dtype": "bfloat16"})
    assert other.context_bytes == 64
    assert other.get_model_info()["model_dtype"] == "torch.bfloat16"
    assert other.scoring == IsotokLM.__init__.__kwdefaults__["scoring"]


def test_batch_sizes_are_said_to_be_left_aside(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    IsotokLM.create_from_arg_obj({"pretrained": checkpoint}, {"batch_size": "auto"})
    assert "batch_size" not in capsys.readouterr().err
    IsotokLM.create_from_arg_obj({"pretrained": checkpoint}, {"batch_size": 8})
    assert "batch_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pretrained=FOLDER is missing"),
        ({"pretrained": "gpt2"}, "no such folder; only local"),
        ({"pretrained": "RUN"}, "did you mean .*model"),
        ({"pretrained": "RUN/model", "max_length": 5}, "max_length: unknown.*context_bytes"),
        ({"pretrained": "RUN/model", "context_bytes": 1}, "context_bytes=1"),
        ({"pretrained": "RUN/model", "context_bytes": "many"}, "context_bytes=many"),
        ({"pretrained": "RUN/model", "context_bytes": 64.5}, "context_bytes=64.5"),
        ({"pretrained": "RUN/model", "scoring": "best"}, "scoring='best'"),
        ({"pretrained": "RUN/model", "dtype": "int8"}, "dtype=int8"),
        ({"pretrained": "RUN/model", "trust_remote_code": True}, "trust_remote_code"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str, checkpoint: Path) -> None:
    given = {k: v.replace("RUN", str(checkpoint.parent)) if isinstance(v, str) else v for k, v in arguments.items()}
    with pytest.raises(ConfigError, match=message):
        IsotokLM.create_from_arg_obj(given)


def test_the_context_must_be_known(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "moved")
    with pytest.raises(ConfigError, match="context_bytes: not given.*add context_bytes="):
        IsotokLM.create_from_arg_obj({"pretrained": tmp_path / "moved"})
    assert IsotokLM.create_from_arg_obj({"pretrained": tmp_path / "moved", "context_bytes": 32}).context_bytes == 32


def test_a_tokenizer_of_another_checkpoint(
    checkpoint: Path, byte_tokenizer: Any, superword_tokenizer: Any, tmp_path: Path
) -> None:
    byte_tokenizer.save_pretrained(tmp_path / "bytes")
    with pytest.raises(DataError, match="not the tokenizer that .* was trained with"):
        IsotokLM.create_from_arg_obj({"pretrained": checkpoint, "tokenizer": tmp_path / "bytes"})
    superword_tokenizer.save_pretrained(tmp_path / "same")
    IsotokLM.create_from_arg_obj({"pretrained": checkpoint, "tokenizer": tmp_path / "same"})
    with pytest.raises(DataError, match="no tokenizer.json"):
        IsotokLM.create_from_arg_obj({"pretrained": checkpoint, "tokenizer": tmp_path / "nowhere"})
    # A checkpoint without a tokenizer of its own: too many ids are noticed, more rows than ids are padding.
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare)
    (bare / "tokenizer.json").unlink()
    config = json.loads((bare / "config.json").read_text())
    given = {"pretrained": bare, "tokenizer": tmp_path / "same", "context_bytes": 32}
    IsotokLM.create_from_arg_obj(given)
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(**{**config, "vocab_size": len(superword_tokenizer) - 1})).save_pretrained(bare)
    with pytest.raises(DataError, match=rf"has {len(superword_tokenizer)} ids, the model"):
        IsotokLM.create_from_arg_obj(given)


def test_the_command_hands_its_arguments_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval reads sys.argv, which is given back; errors of the model class are one line and an exit code."""
    import lm_eval.__main__

    seen: list[list[str]] = []

    def fake() -> None:
        seen.append(list(sys.argv))
        IsotokLM.create_from_arg_string("pretrained=nowhere")

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", fake)
    before = list(sys.argv)
    with pytest.raises(SystemExit) as stopped:
        main(["lm-eval", "--model", "isotok", "--help"])
    assert stopped.value.code == 2
    assert seen == [["lm_eval", "--model", "isotok", "--help"]]
    assert capsys.readouterr().err.startswith("isotok: pretrained=nowhere: no such folder")
    assert sys.argv == before


def run_lm_eval(before: list[str], checkpoint: Path, tasks: Path, out: Path, *more: str) -> dict[str, Any]:
    """What lm-eval writes: `results` by task, and the answers of each document by task."""
    command = [*before, "lm-eval", "--model", "isotok", "--tasks", "toy_choice,toy_rolling,toy_generation"]
    command += ["--model_args", f"pretrained={checkpoint},device=cpu", "--include_path", str(tasks)]
    command += ["--output_path", str(out), "--log_samples", *more]
    environment = {**os.environ, **OFFLINE, "HF_HOME": str(tasks / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tasks, env=environment, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("toy_choice") == 1  # one table, from one process
    (found,) = out.glob("*/results_*.json")
    samples = {}
    for name in ("toy_choice", "toy_rolling", "toy_generation"):
        (path,) = out.glob(f"*/samples_{name}_*.jsonl")
        rows = sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda row: row["doc_id"])
        # The last request of a process may have been asked more than once, to keep processes in step.
        samples[name] = [[answers[0] for answers in row["resps"]] for row in rows]
    return {"results": json.loads(found.read_text())["results"], "samples": samples, "stderr": done.stderr}


@pytest.mark.slow
def test_the_command_line_and_two_processes_agree(
    checkpoint: Path, tasks: Path, superword_tokenizer: Any, tmp_path: Path
) -> None:
    """9 documents on 2 processes: one of them asks more often. Items and aggregates are those of one process."""
    isotok = [sys.executable, "-m", "scripts.cli"]
    one = run_lm_eval(isotok, checkpoint, tasks, tmp_path / "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    two = run_lm_eval([*torchrun, "--no-python", *isotok], checkpoint, tasks, tmp_path / "two")
    assert "rank 1" in two["stderr"]

    lm = IsotokLM.create_from_arg_obj({"pretrained": checkpoint, "device": "cpu"})
    items = [(document["q"], document["choices"]) for document in documents()]
    scores = Likelihood(lm.model, superword_tokenizer, context_bytes=96, method=lm.scoring).score(items)
    for found in (one, two):
        answers = [[float(value) for value, _ in own] for own in found["samples"]["toy_choice"]]
        assert len(answers) == 9
        for own, expected in zip(answers, scores):
            assert own == pytest.approx([-score.nats for score in expected], abs=1e-5)
        right = [own.index(max(own)) == document["gold"] for own, document in zip(answers, documents())]
        assert found["results"]["toy_choice"]["acc,none"] == pytest.approx(sum(right) / 9)
    assert two["samples"]["toy_generation"] == one["samples"]["toy_generation"]
    for name, metric in (("toy_rolling", "bits_per_byte,none"), ("toy_choice", "acc_bytes,none")):
        assert two["results"][name][metric] == pytest.approx(one["results"][name][metric], abs=1e-5)


@pytest.mark.slow
def test_the_cache_of_answers_is_refused(checkpoint: Path, tasks: Path, tmp_path: Path) -> None:
    isotok = [sys.executable, "-m", "scripts.cli"]
    with pytest.raises(AssertionError, match="isotok: use_cache: refused"):
        run_lm_eval(isotok, checkpoint, tasks, tmp_path / "out", "--use_cache", str(tmp_path / "answers"))
