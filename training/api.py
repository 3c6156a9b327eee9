"""Pretraining and fine-tuning from Python, without Hydra or the artefact store."""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotok.progress import say
from isotok.recipe import describe
from tokenization.transform import NoTransform, Transform, fit_transform
from training.budget import Budget, plan_run
from training.initial import check_same, init_fingerprint
from training.recipes import Engine, Finetuning, Training

if TYPE_CHECKING:
    from modeling import ModelRecipe


def pretrain(
    *,
    model: "ModelRecipe",
    tokens: Path,
    tokenizer: Path,
    budget: Budget,
    out: Path,
    training: Training | None = None,
    transform: Transform | None = None,
    engine: Engine | None = None,
    validate: Callable[[Any], float] | None = None,
    label: str = "run",
    seed: int = 0,
) -> dict[str, Any]:
    """Train a model on a token data folder and return the figures of `out/train.json`.

    The same call resumes a run that was stopped. `out/model` loads with `AutoModelForCausalLM` and `AutoTokenizer`.
    validate: model → bits per byte, called at the validation points of `training`, on every rank.

    It trains in this process. For several ranks, start the script that calls it with torchrun, srun or accelerate.
    """
    from training.worker import run

    prepare_run(
        model=model,
        tokens=tokens,
        tokenizer=tokenizer,
        budget=budget,
        out=out,
        training=training or Training(),
        transform=transform or NoTransform(),
        engine=engine or Engine(),
        label=label,
        seed=seed,
    )
    return run(out, validate, allow=None)


def prepare_run(
    *,
    model: "ModelRecipe",
    tokens: Path,
    tokenizer: Path,
    budget: Budget,
    out: Path,
    training: Training,
    transform: Transform,
    engine: Engine,
    label: str,
    seed: int,
    **notes: Any,
) -> None:
    """Resolve the budget and write `out/run.json`, all that `training.worker.run` needs to know.

    notes: further entries of run.json, for whoever calls the worker with a validation of its own.
    """
    from tokenization import TokenData, load_tokenizer
    from training.process_group import check_engine
    from training.rehearsal import micro_rows_of
    from training.run_file import write_run

    on_cpu = check_engine(engine) == "cpu"
    init_from = str(Path(training.init_from).resolve()) if training.init_from else ""
    resolved = replace(training, init_from=init_from)
    data, loaded = TokenData.open(tokens, "train"), load_tokenizer(tokenizer)
    fitted = fit_transform(transform, data, loaded)
    plan = plan_run(budget, model, training, fitted, data, loaded)
    micro_rows_of(engine, plan, data.vocab_size, int(os.environ.get("WORLD_SIZE", engine.ranks)), on_cpu)
    init = init_fingerprint(init_from) if init_from else None
    if init is not None:
        config = model.config(data.vocab_size, plan.context_tokens, data.eos_id)
        check_same(config, Path(init_from), loaded, "training.init_from")
    for warning in plan.warnings:
        say(f"warning: {warning}")
    spec = {
        "label": label,
        "seed": seed,
        "tokens": str(tokens.resolve()),
        "tokenizer": str(tokenizer.resolve()),
        "model": describe(model),
        "transform": describe(fitted),
        "transform_asked": describe(transform),
        "budget": describe(budget),
        "training": describe(resolved),
        "engine": describe(engine),
        "plan": asdict(plan),
        **({} if init is None else {"init": init}),
        **notes,
    }
    write_run(out, spec)


def prepare_finetune(
    *,
    finetuning: Finetuning,
    init_model: Path | None,
    model: "ModelRecipe | None",
    context_tokens: int | None,
    questions: Path,
    tokenizer: Path,
    engine: Engine,
    out: Path,
    label: str,
    seed: int,
    **notes: Any,
) -> None:
    """Resolve a fine-tuning and write `out/run.json`, all that `training.worker.run` needs to know.

    init_model: the transformers folder whose config and weights are gone on from. None: `model` with the weights that
    pretraining with this seed begins with, for a context of `context_tokens`. questions: a task folder, of which
    train.jsonl is read. The run leaves `out/model` and, for each point, `out/points/<questions>`.
    """
    from modeling.meta_injection import meta_id_of
    from tokenization import load_tokenizer
    from training.examples import questions_sha256, read_examples
    from training.finetune import plan_finetune
    from training.process_group import check_engine
    from training.rehearsal import micro_rows_of
    from training.run_file import write_run
    from training.work import config_of

    if (init_model is None) == (model is None or context_tokens is None):
        raise TypeError("prepare_finetune: give init_model, or model and context_tokens")
    on_cpu = check_engine(engine) == "cpu"
    spec = {
        "label": label,
        "seed": seed,
        "questions": str(questions.resolve()),
        "questions_sha256": questions_sha256(questions),
        "tokenizer": str(tokenizer.resolve()),
        "init_model": None if init_model is None else str(init_model.resolve()),
        "init": None if init_model is None else init_fingerprint(init_model, "init_model"),
        "model": None if init_model is not None else describe(model),
        "context_tokens": context_tokens,
        "finetuning": describe(finetuning),
        "training": describe(finetuning.training()),
        "engine": describe(engine),
        **notes,
    }
    config = config_of(spec, None)
    examples = read_examples(questions, load_tokenizer(tokenizer), meta_id_of(config))
    plan = plan_finetune(finetuning, examples, config, seed)
    micro_rows_of(engine, plan, config.vocab_size, int(os.environ.get("WORLD_SIZE", engine.ranks)), on_cpu)
    for warning in plan.warnings:
        say(f"warning: {warning}")
    write_run(out, {**spec, "plan": asdict(plan)})


__all__ = ["init_fingerprint", "prepare_finetune", "prepare_run", "pretrain"]
