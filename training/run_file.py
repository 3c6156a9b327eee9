"""run.json: all that a worker needs to know of a run, and what makes it the same run as another."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isotok.errors import ConfigError, DataError
from isotok.files import read_json, sha256_file, write_text
from isotok.recipe import impl_fields
from training.budget import Plan
from training.recipes import Training


def write_run(run_dir: Path, spec: Mapping[str, Any]) -> None:
    """Write run.json, or check that the one that is there asks for the same result."""
    path = run_dir / "run.json"
    if path.exists() and _result_keys(read_json(path)) != _result_keys(json.loads(json.dumps(spec))):
        raise ConfigError(f"{run_dir}: holds another run (its run.json differs); take another folder or remove it")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(spec, indent=2, sort_keys=True) + "\n")


def plan_from(data: Mapping[str, Any]) -> Plan:
    """A Plan read back from run.json."""
    try:
        return Plan(**{**data, "warnings": tuple(data["warnings"])})
    except (TypeError, KeyError) as error:
        raise DataError(f"run.json: plan: {error}; remove the run's folder and start again") from None


def made_for(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint must agree with to be gone on from."""
    same = {key: spec[key] for key in ("model", "transform", "seed")}
    batch = {"rows": spec["budget"]["rows"], "context_tokens": spec["plan"]["context_tokens"]}
    tokenizer = sha256_file(Path(spec["tokenizer"]) / "tokenizer.json")[:16]
    tokens = sha256_file(Path(spec["tokens"]) / "token_data.json")[:16]
    return {**same, "batch": batch, "tokenizer": tokenizer, "tokens": tokens}


def _result_keys(spec: Mapping[str, Any]) -> dict[str, Any]:
    """run.json without what changes only speed, and without where the inputs lie: their names hold their keys."""
    speed = impl_fields(Training)
    training = {key: value for key, value in spec["training"].items() if key not in speed}
    inputs = {key: Path(spec[key]).name for key in ("tokens", "tokenizer", "corpus") if key in spec}
    return {**spec, **inputs, "training": training, "engine": None}
