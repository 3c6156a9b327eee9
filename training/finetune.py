"""Fine-tuning resolved for one tokenizer: how many steps, how long the longest row, and what it costs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from isotok.errors import ConfigError
from training.budget import FEW_STEPS, Keys
from training.examples import PADDED_TO, Examples, questions_of
from training.recipes import Finetuning
from training.schedule import warmup_steps

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_STEPS_AT_ONCE = 1_000


@dataclass(frozen=True)
class FinetunePlan:
    """A fine-tuning resolved for one tokenizer. context_tokens: the longest row of any step. rows: of each step.

    tokens: ids of prompts and answers with their end-of-text ids, without padding. flops: every position of every row,
    padding included, with the full square of attention and the head, as pretraining counts them; of a step on average.
    answer_bytes: source bytes of the answers. passes: over the task's training questions.
    """

    keys: ClassVar[Keys] = Keys(rows="finetuning.rows", lr="finetuning.lr")
    packed: ClassVar[bool] = True

    steps: int
    stop_step: int
    context_tokens: int
    rows: int
    flops_per_step: float
    flops: float
    tokens: int
    targets: int
    answer_bytes: int
    passes: float
    warmup_steps: int
    warnings: tuple[str, ...]

    @property
    def meta_tokens(self) -> int:
        """None that all rows have: questions bring their own."""
        return 0


def plan_finetune(finetuning: Finetuning, examples: Examples, config: "PreTrainedConfig", seed: int) -> FinetunePlan:
    """Raises ConfigError where there are too few questions, or one is too long for the model."""
    from modeling.flops import training_flops_per_token

    steps, batch, rows, available = finetuning.steps, finetuning.batch, finetuning.rows, len(examples)
    if finetuning.questions > finetuning.max_epochs * available:
        raise ConfigError(
            f"finetuning.questions={finetuning.questions:,}: the task has {available:,} training questions, and "
            f"finetuning.max_epochs={finetuning.max_epochs:g} allows {int(finetuning.max_epochs * available):,}; lower "
            "finetuning.questions (and finetuning.points), raise max_epochs, or make more questions"
        )
    lengths, targets, passes = examples.lengths, examples.targets, steps * batch / available
    row_tokens = np.zeros(steps, dtype=np.int64)
    tokens = n_targets = n_bytes = 0
    for first in range(0, steps, _STEPS_AT_ONCE):
        count = min(_STEPS_AT_ONCE, steps - first)
        questions = questions_of(first * batch, count * batch, available, seed)
        taken = lengths[questions].reshape(count, -1, rows).sum(axis=1).max(axis=1)
        row_tokens[first : first + count] = -(-taken // PADDED_TO) * PADDED_TO
        tokens += int(lengths[questions].sum())
        n_targets += int(targets[questions].sum())
        n_bytes += int(examples.answer_bytes[questions].sum())
    longest = int(row_tokens.max())
    _check_length(examples, config, longest)
    # Of a row on average: questions bring as many as they have marks.
    metas = passes * examples.marked / (steps * rows)
    flops = 0.0
    for length, count in zip(*np.unique(row_tokens, return_counts=True), strict=True):
        flops += float(rows * length * count) * training_flops_per_token(config, int(length), metas=metas)
    return FinetunePlan(
        steps=steps,
        stop_step=steps,
        context_tokens=longest,
        rows=rows,
        flops_per_step=flops / steps,
        flops=flops,
        tokens=tokens,
        targets=n_targets,
        answer_bytes=n_bytes,
        passes=passes,
        warmup_steps=warmup_steps(finetuning.training(), steps),
        warnings=_warnings(finetuning, steps),
    )


def _check_length(examples: Examples, config: "PreTrainedConfig", longest: int) -> None:
    """A question has to fit in the context of the model; where positions are learned, a row of them as well."""
    from modeling.flops import family_of

    limit = int(config.max_position_embeddings)
    worst = int(examples.lengths.argmax())
    if examples.lengths[worst] > limit:
        raise ConfigError(
            f"training question {examples.names[worst]!r} is {int(examples.lengths[worst]):,} tokens long, the model's "
            f"context is {limit:,}; pretrain with a larger budget.context_bytes or take shorter questions"
        )
    if family_of(config) == "gpt2" and longest > limit:
        raise ConfigError(
            f"finetuning.rows: the longest row of packed questions has {longest:,} tokens, and the model has learned "
            f"{limit:,} positions; raise finetuning.rows or lower finetuning.batch"
        )


def _warnings(finetuning: Finetuning, steps: int) -> tuple[str, ...]:
    warnings = []
    training = finetuning.training()
    if steps < FEW_STEPS:
        warnings.append(f"{steps} steps of fine-tuning: under {FEW_STEPS}, differences are mostly noise of the start")
    warmup = warmup_steps(training, steps)
    if warmup < max(round(training.warmup * steps), training.min_warmup_steps):
        warnings.append(f"warmup cut to {warmup} steps, half of the run: finetuning.min_warmup_steps asks for more")
    return tuple(warnings)
