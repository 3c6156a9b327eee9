"""Training proper: reads RUN_DIR/run.json, writes only into RUN_DIR, and resumes what it finds there."""

import hashlib
import json
import resource
import shutil
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from isotok.errors import ConfigError, DataError
from isotok.files import hash_key, publish_dir, read_json, write_json, write_text
from isotok.progress import say
from isotok.recipe import OWN_PACKAGES, build
from modeling.flops import forward_flops_per_token, inference_flops_per_byte
from modeling.init import build_model, count_parameters
from tokenization.encode import TokenData
from tokenization.tokenizer import load_tokenizer
from training.budget import Plan
from training.checkpoint import load_newest
from training.engines import prepare
from training.loop import Setup, Totals, Validate, dry_run, train
from training.schedule import validation_steps
from training.streams import RowStreams, unique_bytes
from training.tracking import Tracker, bits_per_byte, read_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TAIL = 0.05
"""final_train_bpb is taken over this share of the steps, at the end."""


def run(
    run_dir: Path, validate: Validate | None = None, *, allow: tuple[str, ...] | None = OWN_PACKAGES
) -> dict[str, Any]:
    """Train what `run_dir/run.json` says, from its newest valid checkpoint; returns the figures of train.json.

    validate: model → bits per byte, called at the validation points. allow: packages whose recipes run.json may name.
    Leaves metrics.jsonl, timing.json, checkpoints/, model/ (loads with transformers alone) and train.json.
    """
    spec = read_json(run_dir / "run.json")
    plan = plan_from(spec["plan"])
    training = build(spec["training"], "training", allow=allow)
    engine_recipe = build(spec["engine"], "engine", allow=allow)
    transform = build(spec["transform"], "transform", allow=allow)
    model_recipe = build(spec["model"], "model", allow=allow)
    seed = int(spec["seed"])

    threads = torch.get_num_threads()
    data = TokenData.open(Path(spec["tokens"]), "train")
    tokenizer = load_tokenizer(Path(spec["tokenizer"]))
    if len(tokenizer) != data.vocab_size:
        raise DataError(
            f"{spec['tokens']}: made for a vocabulary of {data.vocab_size}, {spec['tokenizer']} has {len(tokenizer)}"
        )
    config = model_recipe.config(data.vocab_size, plan.context_tokens, data.eos_id)
    engine = prepare(build_model(config, seed), training, engine_recipe)

    totals, rows = Totals(), None
    checkpoint = load_newest(run_dir / "checkpoints")
    wandb_id = hash_key({"run": {**spec, "engine": None}, "dir": str(run_dir)})
    if checkpoint is not None:
        state = checkpoint.state
        engine.load({k: checkpoint.tensors(k) for k in ("weights", "exp_avg", "exp_avg_sq")}, state["optimizer_step"])
        totals = Totals(**{field.name: state[field.name] for field in fields(Totals)})
        rows, wandb_id = np.array(state["rows"], dtype=np.int64), state["wandb_id"]
        say(f"resuming from step {totals.step:,} of {plan.stop_step:,}")
    streams = RowStreams(data, plan.rows, plan.context_tokens, transform.bind(tokenizer, seed), seed, rows)

    tracker = Tracker(run_dir, totals.step, training.wandb, wandb_id, str(spec["label"]))
    try:
        micro_rows = plan.rows
        if totals.step < plan.stop_step:
            micro_rows = dry_run(engine, plan, data.vocab_size, engine_recipe.micro_rows)
        setup = Setup(run_dir, seed, plan, training, engine, micro_rows, streams, tracker, wandb_id, validate)
        rows = train(setup, totals)
        _export_model(engine.module, Path(spec["tokenizer"]), run_dir / "model")
        figures = {
            "label": spec["label"],
            "seed": seed,
            "steps": plan.stop_step,
            "context_tokens": plan.context_tokens,
            "rows": plan.rows,
            "bytes_per_token": totals.bytes / totals.tokens,
            "flops": plan.flops,
            "flops_causal": plan.flops_causal,
            "flops_published": plan.flops_published,
            "tokens": totals.tokens,
            "bytes": totals.bytes,
            "unique_bytes": unique_bytes(data, rows, streams),
            "passes": plan.passes,
            "warmup_share": plan.warmup_steps / plan.steps,
            "targets_per_update": plan.rows * plan.context_tokens,
            "parameters": _parameters(config, plan.context_tokens),
            "lr": training.lr,
            "inference_flops_per_byte": inference_flops_per_byte(
                config, plan.context_tokens, totals.bytes / totals.tokens
            ),
            "weights_sha256": weights_sha256(engine.tensors()["weights"]),
            **loss_figures(
                read_metrics(run_dir / "metrics.jsonl"), plan.stop_step, validation_steps(training, plan.stop_step)
            ),
        }
    finally:
        tracker.close()
        torch.set_num_threads(threads)
    write_json(run_dir / "timing.json", _timing(totals, plan, engine.device))
    write_json(run_dir / "train.json", figures)
    return figures


def plan_from(data: Mapping[str, Any]) -> Plan:
    """A Plan read back from run.json."""
    try:
        return Plan(**{**data, "warnings": tuple(data["warnings"])})
    except (TypeError, KeyError) as error:
        raise DataError(f"run.json: plan: {error}; remove the run's folder and start again") from None


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names and raw bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def loss_figures(metrics: list[dict[str, Any]], stop_step: int, validations: list[int]) -> dict[str, Any]:
    """final_train_bpb, final_validation_bpb, and whether the loss still fell over the last half and quarter."""
    steps = [row for row in metrics if "train_nats" in row]
    scores = {row["step"]: row["validation_bpb"] for row in metrics if "validation_bpb" in row}

    def mean(first: float, last: float) -> float | None:
        part = [row for row in steps if first * stop_step < row["step"] <= last * stop_step]
        return bits_per_byte(sum(row["train_nats"] for row in part), sum(row["train_bytes"] for row in part))

    third, fourth = mean(0.5, 0.75), mean(0.75, 1.0)
    at_75 = min(validations[:-1], key=lambda step: abs(step - 0.75 * stop_step), default=None)
    before, end = scores.get(at_75) if at_75 else None, scores.get(stop_step)
    return {
        "final_train_bpb": mean(1 - TAIL, 1.0),
        "final_validation_bpb": end,
        "loss_falling": {
            "train": None if third is None or fourth is None else fourth < third,
            "train_bpb_third_quarter": third,
            "train_bpb_last_quarter": fourth,
            "validation": None if before is None or end is None else end < before,
            "validation_bpb_at_75": before,
            "validation_bpb_end": end,
        },
    }


def _parameters(config: "PreTrainedConfig", context_tokens: int) -> dict[str, Any]:
    parameters = count_parameters(config)
    flops = forward_flops_per_token(config, context_tokens)
    return {
        "total": parameters.total,
        "body": parameters.body,
        "embedding": parameters.embedding,
        "head_share": flops["head"] / sum(flops.values()),
    }


def _timing(totals: Totals, plan: Plan, device: torch.device) -> dict[str, Any]:
    """Seconds in steps only: start-up, validation and checkpoints are left out."""
    train_s = max(totals.train_s, 1e-9)
    if device.type == "cuda":
        peak_bytes = torch.cuda.max_memory_allocated(device)
    else:
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "wall_s": totals.train_s,
        "tokens_per_s": totals.tokens / train_s,
        "bytes_per_s": totals.bytes / train_s,
        "flops_per_s": plan.flops / train_s,
        "data_wait_share": totals.data_wait_s / train_s,
        "peak_memory_mb": peak_bytes / 1e6,
        "device": str(device),
    }


def _export_model(model: Any, tokenizer: Path, final: Path) -> None:
    """The folder that `AutoModelForCausalLM` and `AutoTokenizer` load: fp32 safetensors and the tokenizer's files."""
    from transformers import GenerationConfig
    from transformers.utils import logging as hf_logging

    partial = final.with_name("model.partial")
    shutil.rmtree(partial, ignore_errors=True)
    eos_id = model.config.eos_token_id
    # The model's config names no padding id (see modeling.recipes); generation needs one.
    model.generation_config = GenerationConfig(eos_token_id=eos_id, pad_token_id=eos_id)
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    model.save_pretrained(partial)
    if bars:
        hf_logging.enable_progress_bar()
    for path in sorted(tokenizer.iterdir()):
        if path.is_file() and path.name != "manifest.json" and not (partial / path.name).exists():
            shutil.copyfile(path, partial / path.name)
    shutil.rmtree(final, ignore_errors=True)
    publish_dir(partial, final)


def write_run(run_dir: Path, spec: Mapping[str, Any]) -> None:
    """Write run.json, or check that the one that is there asks for the same result."""
    path = run_dir / "run.json"
    if path.exists() and _result_keys(read_json(path)) != _result_keys(json.loads(json.dumps(spec))):
        raise ConfigError(f"{run_dir}: holds another run (its run.json differs); take another folder or remove it")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(spec, indent=2, sort_keys=True) + "\n")


def _result_keys(spec: Mapping[str, Any]) -> dict[str, Any]:
    """run.json without what changes only speed, and without where the inputs lie: their names hold their keys."""
    speed = {"save_every_steps", "log_every_s", "wandb"}
    training = {key: value for key, value in spec["training"].items() if key not in speed}
    inputs = {key: Path(spec[key]).name for key in ("tokens", "tokenizer", "corpus") if key in spec}
    return {**spec, **inputs, "training": training, "engine": None}
