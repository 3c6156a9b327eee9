"""run.json: all that a worker needs to know of a run, and what makes it the same run as another."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from isotok.errors import ConfigError, DataError
from isotok.files import read_json, sha256_file, write_text
from isotok.recipe import impl_fields
from training.recipes import Finetuning, Training

P = TypeVar("P")
_INPUTS = ("tokens", "tokenizer", "corpus", "questions")


def write_run(run_dir: Path, spec: Mapping[str, Any]) -> None:
    """Write run.json, or check that the one that is there asks for the same result."""
    path = run_dir / "run.json"
    if path.exists() and _result_keys(read_json(path)) != _result_keys(json.loads(json.dumps(spec))):
        raise ConfigError(f"{run_dir}: holds another run (its run.json differs); take another folder or remove it")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(spec, indent=2, sort_keys=True) + "\n")


def plan_from(data: Mapping[str, Any], kind: type[P]) -> P:
    """A Plan or FinetunePlan read back from run.json."""
    try:
        return kind(**{**data, "warnings": tuple(data["warnings"])})
    except (TypeError, KeyError) as error:
        raise DataError(f"run.json: plan: {error}; remove the run's folder and start again") from None


def made_for(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint must agree with to be gone on from."""
    tokenizer = sha256_file(Path(spec["tokenizer"]) / "tokenizer.json")[:16]
    if "finetuning" in spec:
        same = {key: spec[key] for key in ("model", "seed", "init")}
        batch = {key: spec["finetuning"][key] for key in ("rows", "batch")}
        questions = sha256_file(Path(spec["questions"]) / "train.jsonl")[:16]
        return {**same, "batch": batch, "tokenizer": tokenizer, "questions": questions}
    same = {key: spec[key] for key in ("model", "transform", "seed", "init") if key in spec}
    batch = {"rows": spec["budget"]["rows"], "context_tokens": spec["plan"]["context_tokens"]}
    tokens = sha256_file(Path(spec["tokens"]) / "token_data.json")[:16]
    return {**same, "batch": batch, "tokenizer": tokenizer, "tokens": tokens}


def _result_keys(spec: Mapping[str, Any]) -> dict[str, Any]:
    """run.json without what changes only speed, and without where the inputs lie: their names hold their keys."""
    kept = dict(spec)
    for group, recipe in (("training", Training), ("finetuning", Finetuning)):
        if group in spec:
            speed = impl_fields(recipe)
            kept[group] = {key: value for key, value in spec[group].items() if key not in speed}
    inputs = {key: Path(spec[key]).name for key in _INPUTS if key in spec}
    # Weights to begin with are told by their sha256.
    return {**kept, **inputs, "engine": None, "init_model": None}
