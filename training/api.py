"""Pretraining from Python, without Hydra or the artefact store."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotok.progress import say
from isotok.recipe import describe
from tokenization.transform import NoTransform, Transform, fit_transform
from training.budget import Budget, plan_run
from training.recipes import Engine, Training

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
    data, loaded = TokenData.open(tokens, "train"), load_tokenizer(tokenizer)
    fitted = fit_transform(transform, data, loaded)
    plan = plan_run(budget, model, training, fitted, data, loaded)
    micro_rows_of(engine, plan, data.vocab_size, int(os.environ.get("WORLD_SIZE", engine.ranks)), on_cpu)
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
        "training": describe(training),
        "engine": describe(engine),
        "plan": asdict(plan),
        **notes,
    }
    write_run(out, spec)
