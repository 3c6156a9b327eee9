"""Budgets: one amount for all arms, from which each arm derives its own steps and context.

Context is matched in bytes and rows are equal, so each step of every arm reads about the same text; what a budget in
FLOPs buys is a number of steps. What an arm ends up with is its `Plan`.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from isotok.errors import ConfigError
from isotok.recipe import Field, recipe
from tokenization.transform import fit_transform
from training.recipes import Training
from training.schedule import warmup_steps

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from modeling import ModelRecipe
    from tokenization.transform import Transform
    from training.streams import UnitData

SAMPLE_BYTES = 8_000_000
MAX_CONTEXT_ERROR = 0.02
ROUND_FROM_TOKENS = 256
ROUND_TO_TOKENS = 8
FEW_STEPS = 500

Positive = Annotated[float, Field(gt=0)]


@recipe
class Budget:
    """How much every arm may spend, and the batch that is equal for all.

    amount, unit: training FLOPs, target tokens, source bytes or optimizer steps. context_bytes: source bytes that a
    row's context holds. rows: sequences a step. max_epochs: passes over the training text that are allowed. stop_at:
    fraction of the budget at which to stop, with the schedule of the whole.
    """

    amount: Positive
    unit: Literal["flops", "tokens", "bytes", "steps"]
    context_bytes: Annotated[int, Field(ge=1)]
    rows: Annotated[int, Field(ge=1)]
    max_epochs: Positive = 1.0
    stop_at: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def label(self) -> str:
        return f"{self.amount:g}-{self.unit}"


@dataclass(frozen=True)
class Keys:
    """What messages call the keys of a kind of run."""

    rows: str
    lr: str


@dataclass(frozen=True)
class Plan:
    """A budget resolved for one arm. flops, tokens, bytes and passes are at stop_step; steps is the schedule's end.

    bytes_per_token: after the transform, end-of-text ids included. bytes is expected from it; the run counts exactly.
    growth: ids after the transform over ids before, less one; 0 where no data was read for the plan.
    meta_tokens: of the context_tokens positions of a row; tokens and bytes are of text.
    flops: full square of attention; flops_causal: half of it; flops_published: SuperBPE's convention.
    """

    keys: ClassVar[Keys] = Keys(rows="budget.rows", lr="training.lr")
    packed: ClassVar[bool] = False

    steps: int
    stop_step: int
    context_tokens: int
    rows: int
    bytes_per_token: float
    context_bytes_error: float
    flops_per_step: float
    flops: float
    flops_causal: float
    flops_published: float
    tokens: int
    bytes: float
    passes: float
    warmup_steps: int
    growth: float
    warnings: tuple[str, ...]
    meta_tokens: int = 0

    @property
    def new_tokens(self) -> int:
        """Text tokens that a row takes at a step."""
        return self.context_tokens - self.meta_tokens

    @property
    def schedule_bytes(self) -> float:
        """Source bytes that the whole schedule is expected to read, also where the run stops before its end."""
        return self.steps * self.rows * self.new_tokens * self.bytes_per_token


def plan_run(
    budget: Budget,
    model: "ModelRecipe",
    training: Training,
    transform: "Transform",
    data: "UnitData",
    tokenizer: "PreTrainedTokenizerFast",
) -> Plan:
    """Resolve a budget for one arm from its training split. Raises ConfigError where the comparison would not hold.

    A transform whose settings come from the data is fitted first.
    """
    transform = fit_transform(transform, data, tokenizer)
    measured = measure_transform(data, transform, tokenizer)
    plan = resolve_budget(
        budget,
        model,
        training,
        vocab_size=data.vocab_size,
        eos_id=data.eos_id,
        bytes_per_token=measured.bytes_per_token,
        train_bytes=float(data.n_bytes.sum()),
        growth=measured.growth,
    )
    if transform.label != "plain" and not measured.changed:
        same = (
            f"transform {transform.label} left all ids of the sample as they are, growth 0: no entry of this "
            "vocabulary can be split, or too few ids a document for its rate"
        )
        plan = replace(plan, warnings=(*plan.warnings, same))
    a_row = plan.bytes / plan.rows
    shortest = min(int(data.n_bytes[row :: plan.rows].sum()) for row in range(plan.rows))
    if plan.passes <= 1 and a_row > shortest:
        early = (
            f"some of the {plan.rows} rows reach the end of their share of the text ({shortest:,} bytes) before "
            "one pass is over and read parts of it again, in an order that differs by seed"
        )
        return replace(plan, warnings=(*plan.warnings, early))
    return plan


def resolve_budget(
    budget: Budget,
    model: "ModelRecipe",
    training: Training,
    *,
    vocab_size: int,
    eos_id: int,
    bytes_per_token: float,
    train_bytes: float,
    growth: float = 0.0,
) -> Plan:
    """`plan_run` from figures instead of data: bytes per token after the transform, bytes of the training text."""
    from modeling.flops import superbpe_training_flops_per_token, training_flops_per_token
    from modeling.init import count_parameters
    from modeling.meta_injection import check_count, meta_count

    if budget.context_bytes > train_bytes:
        raise ConfigError(
            f"budget.context_bytes={budget.context_bytes:,}: longer than the training text ({train_bytes:,.0f} bytes); "
            "lower it or give more text"
        )
    context, error = context_tokens(budget.context_bytes, bytes_per_token)
    config = model.config(vocab_size, context, eos_id)
    check_count(config, context)
    metas = meta_count(config, context)
    step_positions, step_tokens = budget.rows * context, budget.rows * (context - metas)
    step_flops = step_positions * training_flops_per_token(config, context)
    step_cost = {
        "flops": step_flops,
        "tokens": float(step_tokens),
        "bytes": step_tokens * bytes_per_token,
        "steps": 1.0,
    }[budget.unit]
    steps = budget_steps(budget, step_cost)
    stop_step = max(1, round(budget.stop_at * steps))
    passes_a_step = step_tokens * bytes_per_token / train_bytes
    _check_passes(budget, steps, stop_step, passes_a_step, step_cost)
    tokens, positions = stop_step * step_tokens, stop_step * step_positions
    return Plan(
        steps=steps,
        stop_step=stop_step,
        context_tokens=context,
        rows=budget.rows,
        bytes_per_token=bytes_per_token,
        context_bytes_error=error,
        flops_per_step=step_flops,
        flops=stop_step * step_flops,
        flops_causal=positions * training_flops_per_token(config, context, causal=True),
        flops_published=positions * superbpe_training_flops_per_token(config, count_parameters(config), context),
        tokens=tokens,
        bytes=tokens * bytes_per_token,
        passes=stop_step * passes_a_step,
        warmup_steps=warmup_steps(training, steps),
        growth=growth,
        warnings=_warnings(training, config, steps, stop_step * passes_a_step),
        meta_tokens=metas,
    )


class Measured(NamedTuple):
    """bytes_per_token: after a transform. growth: ids after it over ids before, less one. changed: whether any id."""

    bytes_per_token: float
    growth: float
    changed: bool


def measure_transform(data: "UnitData", transform: "Transform", tokenizer: "PreTrainedTokenizerFast") -> Measured:
    """What a transform does to the first SAMPLE_BYTES of the split, in its first epoch.

    The same documents for every arm and seed: a transform is bound to seed 0, so that seeds share one context. One that
    changes over the budget (`anneal`) is measured as it begins.
    """
    apply = transform.bind(tokenizer, 0)
    n_bytes = before = after = 0
    changed = False
    for unit in range(len(data)):
        ids = data.ids(unit)
        out = apply(ids, 0, unit, (0.0, 0.0))
        changed = changed or len(out) != len(ids) or bool((out != ids).any())
        before, after = before + len(ids), after + len(out)
        n_bytes += int(data.n_bytes[unit])
        if n_bytes >= SAMPLE_BYTES:
            break
    return Measured(n_bytes / after, after / before - 1, changed)


def context_tokens(context_bytes: int, bytes_per_token: float) -> tuple[int, float]:
    """(tokens, relative error in bytes) of a context: a multiple of 8 from 256 tokens on, exact below."""
    exact = context_bytes / bytes_per_token
    tokens = round(exact)
    if tokens >= ROUND_FROM_TOKENS:
        tokens = ROUND_TO_TOKENS * round(exact / ROUND_TO_TOKENS)
    error = tokens * bytes_per_token / context_bytes - 1
    if abs(error) > MAX_CONTEXT_ERROR or tokens < 2:
        raise ConfigError(
            f"budget.context_bytes={context_bytes}: {tokens} tokens of {bytes_per_token:.2f} bytes are {error:+.1%} "
            f"off, more than {MAX_CONTEXT_ERROR:.0%}; take at least {round(26 * bytes_per_token)} bytes"
        )
    return tokens, error


def plain_context_tokens(context_bytes: int, data: "UnitData") -> int:
    """The context of a run on plain ids."""
    return context_tokens(context_bytes, float(data.n_bytes.sum()) / data.n_tokens)[0]


def budget_steps(budget: Budget, step_cost: float) -> int:
    """The nearest whole number of steps, at least one."""
    if budget.unit == "steps" and budget.amount != int(budget.amount):
        raise ConfigError(f"budget.amount={budget.amount}: steps are whole")
    steps = round(budget.amount / step_cost)
    if steps < 1:
        raise ConfigError(
            f"budget.amount={budget.amount:g}: less than one step, which costs {step_cost:.3g} {budget.unit}; "
            "raise it, or lower budget.rows or budget.context_bytes"
        )
    return steps


def _check_passes(budget: Budget, steps: int, stop_step: int, passes_a_step: float, step_cost: float) -> None:
    passes = stop_step * passes_a_step
    if passes <= budget.max_epochs:
        return
    fits = int(budget.max_epochs / passes_a_step / budget.stop_at)
    amount = (
        f"budget.amount={_round_down(fits * step_cost):g} fits" if fits else "not even one step fits: lower budget.rows"
    )
    raise ConfigError(
        f"budget.amount={budget.amount:g} {budget.unit} is {steps:,} steps, {passes:.2f} passes over the training "
        f"text; budget.max_epochs={budget.max_epochs:g} allows fewer. "
        f"Set budget.max_epochs={-(-passes // 0.1) / 10:g}, or {amount}, or take a larger corpus"
    )


def _round_down(x: float, digits: int = 3) -> float:
    """To `digits` significant digits, downwards, so that the printed amount really fits."""
    from math import floor, log10

    scale = 10.0 ** (floor(log10(x)) - digits + 1)
    return floor(x / scale) * scale


def _warnings(training: Training, config: "PreTrainedConfig", steps: int, passes: float) -> tuple[str, ...]:
    warnings = []
    if steps < FEW_STEPS:
        warnings.append(f"{steps} steps: under {FEW_STEPS}, differences are mostly noise of the start")
    if passes > 1:
        warnings.append(f"{passes:.2f} passes over the training text: later passes repeat it")
    warmup = warmup_steps(training, steps)
    if warmup < max(round(training.warmup * steps), training.min_warmup_steps):
        warnings.append(f"warmup cut to {warmup} steps, half of the run: training.min_warmup_steps asks for more")
    elif warmup < 50:
        warnings.append(f"warmup of {warmup} steps: under 50, results depend on the first updates")
    return tuple(warnings)
