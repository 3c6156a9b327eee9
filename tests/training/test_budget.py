"""Budgets, plans and schedules."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isotok.errors import ConfigError
from isotok.recipe import build, describe, impl_fields
from modeling import Llama
from modeling.flops import training_flops_per_token
from tokenization import NoTransform
from training import Budget, Engine, Training, plan_run
from training.budget import context_tokens, measure_transform
from training.schedule import learning_rate, validation_steps, warmup_steps

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL = Llama(hidden_size=32, layers=2, heads=2, mlp_size=64)


class Data:
    """`units` documents of `tokens` ids and `n_bytes` bytes each."""

    vocab_size, eos_id = 300, 0

    def __init__(self, units: int = 1000, tokens: int = 100, n_bytes: int = 400) -> None:
        self.n_bytes = np.full(units, n_bytes, dtype=np.int64)
        self.n_tokens, self.tokens = units * tokens, tokens
        self.id_bytes = None

    def __len__(self) -> int:
        return len(self.n_bytes)

    def ids(self, unit: int) -> np.ndarray:
        return np.zeros(self.tokens, dtype=np.uint16)


class Doubling:
    """A transform that doubles the ids of each document but its last."""

    label = "doubling"

    def bind(self, tokenizer, seed):
        return lambda ids, epoch, unit, spent: np.concatenate([np.repeat(ids[:-1], 2), ids[-1:]])


def plan(data=None, transform=None, training=None, model=MODEL, **budget):
    fields = {"amount": 100, "unit": "steps", "context_bytes": 400, "rows": 4, **budget}
    return plan_run(
        Budget(**fields), model, training or Training(), transform or NoTransform(), data or Data(), tokenizer=None
    )


@pytest.mark.parametrize("group", ["budget", "training", "engine"])
def test_every_config_builds_and_lists_every_key(group: str) -> None:
    paths = sorted((CONFIGS / group).glob("*.yaml"))
    assert paths
    for path in paths:
        data = yaml.safe_load(path.read_text())
        recipe = build(data, group)
        assert set(describe(recipe)) == set(data), path


def test_default_yaml_is_the_default_recipe() -> None:
    assert build(yaml.safe_load((CONFIGS / "training/default.yaml").read_text()), "training") == Training()
    assert build(yaml.safe_load((CONFIGS / "engine/single.yaml").read_text()), "engine") == Engine()


def test_impl_fields() -> None:
    assert impl_fields(Training) == {"save_every_steps", "keep_last", "keep_best", "log_every_s", "wandb", "init_from"}
    assert impl_fields(Engine) == {field.name for field in dataclasses.fields(Engine)}, "no engine changes the result"
    assert impl_fields(Budget) == set()


@given(st.integers(60, 40_000), st.floats(1.0, 9.0))
@settings(deadline=None)
def test_context(context_bytes: int, bytes_per_token: float) -> None:
    assume(context_bytes / bytes_per_token > 26)
    tokens, error = context_tokens(context_bytes, bytes_per_token)
    assert abs(error) <= 0.02
    assert error == pytest.approx(tokens * bytes_per_token / context_bytes - 1)
    if tokens >= 256 and context_bytes / bytes_per_token >= 256:
        assert tokens % 8 == 0
    elif tokens < 256:
        assert tokens == round(context_bytes / bytes_per_token)


def test_context_too_coarse_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"context_bytes=31.*more than 2%; take at least 104 bytes"):
        context_tokens(31, 4.0)
    assert context_tokens(104, 4.0) == (26, 0.0)


@pytest.mark.parametrize(
    ("context_bytes", "bytes_per_token", "published"), [(18_263, 4.45868, 4096), (18_265, 6.08841, 3000)]
)
def test_context_of_superbpe(context_bytes: int, bytes_per_token: float, published: int) -> None:
    assert context_tokens(context_bytes, bytes_per_token)[0] == published


@pytest.mark.parametrize("unit", ["flops", "tokens", "bytes", "steps"])
def test_each_unit_gives_the_same_plan(unit: str) -> None:
    base = plan(amount=100)
    amount = {"flops": base.flops, "tokens": base.tokens, "bytes": base.bytes, "steps": 100}[unit]
    assert plan(amount=amount, unit=unit) == base
    assert base.context_tokens == 100
    assert base.tokens == 100 * 4 * 100
    assert base.bytes == 160_000
    assert base.passes == pytest.approx(0.4)
    config = MODEL.config(300, 100, 0)
    assert base.flops == base.tokens * training_flops_per_token(config, 100)
    assert base.flops_causal == base.tokens * training_flops_per_token(config, 100, causal=True) < base.flops


@given(st.floats(1e8, 3e9), st.integers(90, 130))
@settings(max_examples=40, deadline=None)
def test_flop_budgets_end_within_half_a_step(amount: float, tokens: int) -> None:
    """Arms that cut the same text into more or fewer tokens spend the same."""
    ours = plan(Data(tokens=tokens), amount=amount, unit="flops", max_epochs=100)
    assert abs(ours.flops - amount) <= 0.5 * ours.flops_per_step * (1 + 1e-9)


def test_stop_at_keeps_the_schedule() -> None:
    half = plan(stop_at=0.5)
    assert (half.steps, half.stop_step) == (100, 50)
    assert half.tokens == plan().tokens // 2
    assert half.warmup_steps == plan().warmup_steps


def test_transform_is_measured() -> None:
    ours = plan(transform=Doubling())
    assert ours.bytes_per_token == pytest.approx(400 / 199)
    assert ours.context_tokens == 199
    assert ours.passes == pytest.approx(100 * 4 * 199 / (1000 * 199))
    assert ours.growth == pytest.approx(0.99)
    assert plan().growth == 0.0
    assert ours.schedule_bytes == pytest.approx(100 * 4 * 400)
    assert plan(transform=Doubling(), stop_at=0.5).schedule_bytes == ours.schedule_bytes


class Keeping(Doubling):
    """One that may change ids without changing their number."""

    label = "keeping"

    def __init__(self, to: int) -> None:
        self.to = to

    def bind(self, tokenizer, seed):
        return lambda ids, epoch, unit, spent: np.append(np.full(len(ids) - 1, self.to), 0)


def test_a_transform_that_changes_nothing_is_warned_of() -> None:
    assert [w for w in plan(transform=Keeping(0)).warnings if "growth 0" in w]
    assert not [w for w in plan(transform=Keeping(7)).warnings if "growth 0" in w]
    assert not [w for w in plan().warnings if "growth 0" in w]
    assert not [w for w in plan(transform=Doubling()).warnings if "growth 0" in w]


class Fitted(Doubling):
    """Doubles once it has seen the data."""

    label = "fitted"

    def bind(self, tokenizer, seed):
        raise AssertionError("not fitted")

    def fit(self, data, tokenizer):
        assert len(data) == 1000
        return Doubling()


def test_a_transform_is_fitted_before_it_is_measured() -> None:
    assert plan(transform=Fitted()) == plan(transform=Doubling())


def test_measured_on_a_prefix_only() -> None:
    class Counting(Data):
        read = 0

        def ids(self, unit: int) -> np.ndarray:
            self.read += 1
            return super().ids(unit)

    data = Counting(units=100_000)
    assert measure_transform(data, NoTransform(), None) == (4.0, 0.0, False)
    assert data.read == 20_000  # 8 MB of 400-byte documents


def test_more_than_one_pass_is_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError) as error:
        plan(amount=1000)
    message = str(error.value)
    assert "4.00 passes" in message
    assert "budget.max_epochs=4" in message
    assert "budget.amount=250 fits" in message
    assert plan(amount=250).passes == 1.0
    assert any("passes" in warning for warning in plan(amount=1000, max_epochs=4).warnings)
    assert plan(amount=1000, stop_at=0.25).stop_step == 250


@given(st.sampled_from(["flops", "tokens", "bytes", "steps"]), st.floats(1.01, 50), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_the_amount_named_in_the_refusal_fits(unit: str, factor: float, rows: int) -> None:
    one = plan(amount=1, rows=rows)
    cost = {"flops": one.flops, "tokens": one.tokens, "bytes": one.bytes, "steps": 1}[unit]
    amount = math.ceil(factor * 1000 / rows) * cost
    try:
        plan(amount=amount, unit=unit, rows=rows)
    except ConfigError as error:
        fits = float(str(error).split("budget.amount=")[2].split(" ")[0])
        assert plan(amount=fits, unit=unit, rows=rows).passes <= 1
        epochs = float(str(error).split("Set budget.max_epochs=")[1].split(",")[0])
        assert plan(amount=amount, unit=unit, rows=rows, max_epochs=epochs).stop_step >= 1


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"longer than the training text \(400,000 bytes\)"):
        plan(context_bytes=400_001)
    with pytest.raises(ConfigError, match="less than one step"):
        plan(amount=10, unit="flops")
    with pytest.raises(ConfigError, match="steps are whole"):
        plan(amount=10.5)
    with pytest.raises(ConfigError, match="not even one step fits"):
        plan(amount=1, rows=2000)


def test_warnings() -> None:
    assert [w.split(":")[0] for w in plan().warnings] == ["100 steps"]
    assert any("warmup cut to 15 steps" in w for w in plan(amount=30).warnings)
    short = Training(min_warmup_steps=0, warmup=0.01)
    assert any("warmup of 6 steps" in w for w in plan(amount=600, max_epochs=9, training=short).warnings)
    assert plan(Data(units=100_000), amount=2000).warnings == ()


@given(st.integers(1, 3000), st.sampled_from(["cosine", "wsd"]), st.floats(0, 0.5), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_schedule_properties(steps: int, schedule: str, warmup: float, least: int) -> None:
    training = Training(lr=0.01, schedule=schedule, warmup=warmup, min_warmup_steps=least)
    rates = [learning_rate(training, step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.01 * (1 + 1e-12) for rate in rates)
    start = warmup_steps(training, steps)
    assert rates[:start] == sorted(rates[:start])
    assert rates[start:] == sorted(rates[start:], reverse=True)
    if start < steps:
        assert rates[start] == pytest.approx(0.01) or schedule == "wsd"


def test_schedule_values() -> None:
    cosine = Training(lr=1.0, warmup=0.1, min_warmup_steps=0, min_lr_ratio=0.1)
    assert [learning_rate(cosine, step, 100) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert learning_rate(cosine, 55, 100) == pytest.approx(0.55)
    assert learning_rate(cosine, 100, 100) == pytest.approx(0.1)
    wsd = Training(lr=1.0, schedule="wsd", warmup=0.1, min_warmup_steps=0, decay=0.2, min_lr_ratio=0.0)
    assert [learning_rate(wsd, step, 100) for step in (10, 79, 80, 90, 100)] == pytest.approx([1, 1, 1, 0.5, 0])


def test_schedule_is_in_fractions_of_the_budget() -> None:
    training = Training(lr=1.0, min_warmup_steps=0)
    for fraction in (0.1, 0.5, 0.9):
        short, long = (learning_rate(training, int(fraction * n), n) for n in (1000, 10_000))
        assert short == pytest.approx(long, abs=2e-3)


def test_wsd_fractions_are_checked() -> None:
    with pytest.raises(ConfigError, match="add up to more than the budget"):
        build({"_target_": "training.recipes.Training", "schedule": "wsd", "warmup": 0.5, "decay": 0.6}, "training")


def test_validation_steps() -> None:
    assert validation_steps(Training(validations=4), 400) == [100, 200, 300, 400]
    assert validation_steps(Training(validations=0), 400) == []
    assert validation_steps(Training(validations=8), 3)[-1] == 3


def test_rows_that_run_out_before_one_pass_are_warned_of() -> None:
    class Uneven(Data):
        def __init__(self) -> None:
            super().__init__(units=1000)
            self.n_bytes = self.n_bytes.copy()
            self.n_bytes[0::4] //= 4

    assert not [w for w in plan(amount=100).warnings if "rows" in w]
    early = plan(amount=200, data=Uneven()).warnings
    assert [w for w in early if "some of the 4 rows" in w]
