"""The two kinds of work that a worker does, from run.json: pretraining on a text, fine-tuning on questions.

Each says what is trained, from which weights, what its steps read, which models are kept on the way, and its figures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isotok.errors import ConfigError, DataError
from isotok.recipe import build
from modeling.flops import inference_flops_per_byte
from modeling.init import build_model, skeleton
from modeling.meta_injection import meta_id_of
from tokenization.encode import TokenData
from tokenization.tokenizer import load_tokenizer
from training.budget import Plan
from training.examples import ExampleStreams, read_examples
from training.figures import parameter_figures
from training.finetune import FinetunePlan
from training.initial import config_of_folder, init_fingerprint, load_initial
from training.run_file import made_for, plan_from
from training.setup import RunPlan, Totals
from training.streams import Injection, RowStreams, Streams, unique_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Work:
    """What a run is made of. made_for: what a checkpoint must agree with to be gone on from.

    model: its initial weights. streams: (state of all rows or None, the rows this rank reads, steps taken) → what steps
    read.
    points: step → the folder, under the run's, for the model after it. figures: (totals, streams, state of all rows at
    the end) → what train.json says of this kind of run.
    """

    plan: RunPlan
    config: "PreTrainedConfig"
    made_for: dict[str, Any]
    model: Callable[[], "PreTrainedModel"]
    streams: Callable[[np.ndarray | None, Sequence[int], int], Streams]
    figures: Callable[[Totals, Any, np.ndarray], dict[str, Any]]
    points: Mapping[int, str] = field(default_factory=dict)


def work_of(spec: Mapping[str, Any], allow: tuple[str, ...] | None) -> Work:
    """What run.json asks for. Raises ConfigError and DataError for inputs that are not what it was written for."""
    return _finetuning(spec, allow) if "finetuning" in spec else _pretraining(spec, allow)


def config_of(spec: Mapping[str, Any], allow: tuple[str, ...] | None) -> "PreTrainedConfig":
    """The config of the model that a run trains."""
    tokenizer = load_tokenizer(Path(spec["tokenizer"]))
    if spec["model"] is None:
        return config_of_folder(Path(spec["init_model"]), tokenizer, "init_model")
    context = spec["context_tokens"] if "finetuning" in spec else spec["plan"]["context_tokens"]
    config: PreTrainedConfig = build(spec["model"], "model", allow=allow).config(
        len(tokenizer), int(context), tokenizer.eos_token_id
    )
    return config


def _pretraining(spec: Mapping[str, Any], allow: tuple[str, ...] | None) -> Work:
    seed, plan = int(spec["seed"]), plan_from(spec["plan"], Plan)
    transform = build(spec["transform"], "transform", allow=allow)
    data = TokenData.open(Path(spec["tokens"]), "train")
    tokenizer = load_tokenizer(Path(spec["tokenizer"]))
    if len(tokenizer) != data.vocab_size:
        raise DataError(
            f"{spec['tokens']}: made for a vocabulary of {data.vocab_size}, {spec['tokenizer']} has {len(tokenizer)}"
        )
    config = config_of(spec, allow)
    init_from = str(spec["training"].get("init_from", ""))
    if init_from:
        _check_init(spec, init_from, "training.init_from")

    def model() -> "PreTrainedModel":
        if not init_from:
            return build_model(config, seed)
        # A model with meta tokens may keep some of the seed's weights.
        start = build_model(config, seed) if config.model_type.startswith("meta_") else skeleton(config, "cpu")
        return _from_folder(start, init_from, "training.init_from")

    def streams(state: np.ndarray | None, subset: Sequence[int], step: int) -> RowStreams:
        apply = transform.bind(tokenizer, seed)
        metas = injection_of(config, plan.meta_tokens, seed)
        return RowStreams(
            data, plan.rows, plan.new_tokens, apply, seed, state, subset, plan.schedule_bytes, metas, step
        )

    def figures(totals: Totals, read: RowStreams, rows: np.ndarray) -> dict[str, Any]:
        bytes_per_token = totals.bytes / totals.tokens
        return {
            "context_tokens": plan.context_tokens,
            "rows": plan.rows,
            "bytes_per_token": bytes_per_token,
            "growth": plan.growth,
            "flops": plan.flops,
            "flops_causal": plan.flops_causal,
            "flops_published": plan.flops_published,
            "tokens": totals.tokens,
            "bytes": totals.bytes,
            "unique_bytes": unique_bytes(read.data, rows, read),
            "passes": plan.passes,
            "warmup_share": plan.warmup_steps / plan.steps,
            "targets_per_update": plan.rows * plan.new_tokens,
            **({"meta_tokens": plan.meta_tokens} if plan.meta_tokens else {}),
            "parameters": parameter_figures(config, plan.context_tokens),
            "inference_flops_per_byte": inference_flops_per_byte(config, plan.context_tokens, bytes_per_token),
            **({"init": spec["init"]} if init_from else {}),
        }

    return Work(plan, config, made_for(spec), model, streams, figures)


def _finetuning(spec: Mapping[str, Any], allow: tuple[str, ...] | None) -> Work:
    seed, plan = int(spec["seed"]), plan_from(spec["plan"], FinetunePlan)
    finetuning = build(spec["finetuning"], "finetuning", allow=allow)
    config, folder = config_of(spec, allow), spec["init_model"]
    tokenizer = load_tokenizer(Path(spec["tokenizer"]))
    examples = read_examples(Path(spec["questions"]), tokenizer, meta_id_of(config))
    if folder is not None:
        _check_init(spec, folder, "init_model")

    def model() -> "PreTrainedModel":
        return (
            build_model(config, seed) if folder is None else _from_folder(skeleton(config, "cpu"), folder, "init_model")
        )

    def streams(state: np.ndarray | None, subset: Sequence[int], step: int) -> ExampleStreams:
        return ExampleStreams(examples, finetuning.rows, finetuning.batch, seed, state, subset)

    def figures(totals: Totals, read: ExampleStreams, rows: np.ndarray) -> dict[str, Any]:
        return {
            "init": spec["init"] or "random",
            "questions": finetuning.questions,
            "questions_sha256": spec["questions_sha256"],
            "batch": finetuning.batch,
            "rows": plan.rows,
            "context_tokens": plan.context_tokens,
            "passes": plan.passes,
            "tokens": totals.tokens,
            "targets": plan.targets,
            "answer_bytes": totals.bytes,
            "flops": plan.flops,
            "warmup_share": plan.warmup_steps / plan.steps,
            "parameters": parameter_figures(config, plan.context_tokens),
            "points": [
                {"questions": point, "step": step, "read": step * finetuning.batch}
                for step, point in finetuning.point_steps.items()
            ],
        }

    points = {step: f"points/{point:08d}" for step, point in finetuning.point_steps.items()}
    return Work(plan, config, made_for(spec), model, streams, figures, points)


def injection_of(config: "PreTrainedConfig", count: int, seed: int) -> Injection | None:
    """What puts `count` meta tokens into each row of pretraining, as a model's config says; None for none."""
    if not count:
        return None
    meta: Any = config
    return Injection(count, int(meta.meta_token_id), meta.meta_placement, meta.meta_loss, seed)


def _from_folder(model: "PreTrainedModel", folder: str, where: str) -> "PreTrainedModel":
    load_initial(model, Path(folder), where)
    return model.train()


def _check_init(spec: Mapping[str, Any], folder: str, where: str) -> None:
    if init_fingerprint(folder, where) != spec["init"]:
        raise ConfigError(
            f"{where}={folder}: its config or weights are not those that run.json was written for; "
            "take another folder for this run, or remove its own and start again"
        )
