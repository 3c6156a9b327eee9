"""Every experiment plans without data, and published set-ups come out with their published figures.

Comments name the source of each figure: the papers' own code, configs and model cards as far as they are public, and
arithmetic on them where it says "computed". Bytes per token are assumed (`assume`): nothing is downloaded or trained.
"""

import math
from pathlib import Path

import pytest
import yaml

import scripts.plan
from isotok.recipe import build
from modeling.flops import forward_flops_per_token, inference_flops_per_byte, superbpe_training_flops_per_token
from modeling.init import count_parameters
from scripts.compose import CONFIG_DIR, Experiment, build_experiment, group_options
from scripts.graph import Graph, is_pretrained
from scripts.plan import Row, plan_experiment
from scripts.store import Store
from training.schedule import learning_rate

PADDED = 200_064  # SuperBPE pads its table of 200,005 entries
BPE_BYTES_PER_TOKEN, T180K_BYTES_PER_TOKEN = 4.45868, 6.08841  # SuperBPE, on its training data
LOCAL = ["assume.bytes_per_token=3.2", "assume.train_bytes=8.5e6"]  # for experiments that run on a laptop's corpus


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Experiment and rows by arm, from assumptions, with nothing timed."""
    monkeypatch.setattr(scripts.plan, "_run_seconds", lambda *_: None)

    def plan(name: str) -> tuple[Experiment, dict[str, Row]]:
        own = "assume" in (CONFIG_DIR / "experiment" / f"{name}.yaml").read_text()
        experiment = build_experiment([f"experiment={name}", *([] if own else LOCAL)])
        return experiment, {row.arm: row for row in plan_experiment(experiment, Graph(), Store(tmp_path), measure=True)}

    return plan


def model(name: str):
    return build(yaml.safe_load((CONFIG_DIR / "model" / f"{name}.yaml").read_text()), "model")


def total(name: str, vocab_size: int, context_tokens: int = 1024) -> int:
    return count_parameters(model(name).config(vocab_size, context_tokens, 0)).total


def superbpe_steps(budget: float, name: str, context: int, rows: int) -> int:
    """Steps by SuperBPE's own count of FLOPs: the whole steps that a budget buys."""
    return math.floor(budget / superbpe_step(name, context, rows))


def superbpe_step(name: str, context: int, rows: int) -> float:
    config = model(name).config(PADDED, context, 0)
    return rows * context * superbpe_training_flops_per_token(config, count_parameters(config), context)


@pytest.mark.parametrize("name", group_options("experiment"))
def test_every_experiment_plans_without_data(planned, name):
    experiment, rows = planned(name)
    assert len(rows) == sum(is_pretrained(next(iter(arm.runs.values()))) for arm in experiment.arms)
    assert all(row.assumed and row.plan.stop_step >= 1 and row.memory_bytes > 0 for row in rows.values())


def test_superbpe_8b(planned):
    _, rows = planned("superbpe_8b")
    assert total("olmo2_8b", PADDED) == 8_115_458_048  # safetensors of UW/OLMo2-8B-BPE
    # Contexts, steps and tokens of the four runs: model cards and configs of the authors' OLMo fork.
    published = {
        "bpe": (4096, 76_533, 321.0e9),
        "t80k": (2756, 118_409, 334.2e9),
        "t160k": (2884, 112_712, 332.9e9),
        "t180k": (3000, 107_972, 331.7e9),
    }
    budget = 76_533 * superbpe_step("olmo2_8b", 4096, 1024)
    assert budget == pytest.approx(1.717e22, rel=2e-4)  # computed from steps and the authors' formula
    for arm, (context, steps, tokens) in published.items():
        ours = rows[arm].plan
        assert superbpe_steps(budget, "olmo2_8b", context, 1024) == steps, "by their count, to the step"
        assert abs(ours.context_tokens - context) <= 4, "multiples of 8 here"
        assert ours.steps == pytest.approx(steps, rel=5e-3), "by matrix products alone"
        assert ours.tokens == pytest.approx(tokens, rel=4e-3)
        assert ours.rows == 1024
    assert (rows["bpe"].plan.steps, rows["bpe"].plan.context_tokens) == (76_533, 4096)
    assert rows["bpe"].plan.flops_published == pytest.approx(1.717e22, rel=3e-4)
    # Text read: 1.43, 2.22, 2.11, 2.02 TB (steps x sequences x context x bytes per token).
    assert [round(row.plan.bytes / 1e12, 2) for row in rows.values()] == [1.43, 2.22, 2.11, 2.02]


def test_superbpe_trains_as_published(planned):
    """AdamW and schedule of configs/alisa/OLMo2-7B-generic200k.yaml in the authors' OLMo fork."""
    for name, lr in (("superbpe_8b", 3e-4), ("superbpe_11b", 3e-4), ("superbpe_1_9b", 4e-4), ("superbpe_680m", 4e-4)):
        experiment, rows = planned(name)
        for arm in experiment.arms:
            training = arm.runs[0].training
            assert (training.lr, training.betas, training.eps) == (lr, (0.9, 0.95), 1e-8)
            assert (training.weight_decay, training.decay_embeddings, training.clip) == (0.1, False, 1.0)
            assert (training.schedule, training.min_lr_ratio, training.precision) == ("cosine", 0.1, "bf16")
            assert training.z_loss == 1e-5
            # t_warmup: 8,388,608,000 tokens in all arms; not published at 680M. Ours is a fraction of the steps.
            plan = rows[arm.name].plan
            if name != "superbpe_680m":
                tokens = plan.warmup_steps * plan.rows * plan.context_tokens
                assert tokens == pytest.approx(8_388_608_000, rel=0.05)
    assert planned("superbpe_8b")[1]["bpe"].plan.warmup_steps == 2000


def test_superbpe_11b(planned):
    _, rows = planned("superbpe_11b")
    # configs/alisa/OLMo2-11B-generic200k.yaml: sizes (checked by what they cost), context 3000, 77,515 steps.
    bpe, large = rows["bpe-8b"].plan, rows["t180k-11b"].plan
    assert total("olmo2_11b", PADDED) == 11_304_958_464  # computed from the sizes; published as "11B"
    assert large.context_tokens == 3000
    # 77,515 is what 76,543 steps of BPE buy, the number in the authors' sizing notebook (model_scalar.ipynb); the BPE
    # run itself has 76,533 steps, which buy ten fewer.
    step = superbpe_step("olmo2_8b", 4096, 1024)
    assert superbpe_steps(76_543 * step, "olmo2_11b", 3000, 1024) == 77_515
    assert superbpe_steps(76_533 * step, "olmo2_11b", 3000, 1024) == 77_505
    assert large.steps == pytest.approx(77_515, rel=0.012), "by matrix products alone"
    assert large.flops == pytest.approx(bpe.flops, rel=1e-5)
    assert round(77_515 * 1024 * 3000 / 1e9) == 238  # model card: 238B tokens
    # Model card: "matches the 8B BPE model in both train and inference FLOPs"; 3.75e9 a byte.
    costs = [
        inference_flops_per_byte(model(name).config(PADDED, context, 0), context, bytes_per_token)["prefill"]
        for name, context, bytes_per_token in (
            ("olmo2_8b", 4096, BPE_BYTES_PER_TOKEN),
            ("olmo2_11b", 3000, T180K_BYTES_PER_TOKEN),
        )
    ]
    assert costs == pytest.approx([3.75e9, 3.75e9], rel=5e-3)


def test_superbpe_1_9b(planned):
    _, rows = planned("superbpe_1_9b")
    # configs/alisa/OLMo2-1B-pt200k.yaml: d 2048, 16 layers, 16 heads, mlp_ratio 8, context 2048, batch 2048, 24,000
    # steps. The paper's "1.9B".
    assert total("olmo2_1_9b", PADDED) == 1_893_337_088
    plan = rows["bpe"].plan
    assert (plan.context_tokens, plan.rows, plan.steps) == (2048, 2048, 24_000)
    assert plan.tokens == 100_663_296_000
    assert rows["t180k"].plan.flops == pytest.approx(plan.flops, rel=3e-5)


def test_superbpe_680m_is_what_the_sizing_notebook_scales(planned):
    _, rows = planned("superbpe_680m")
    assert total("olmo2_680m", PADDED) == pytest.approx(680e6, rel=3e-3)  # the paper names the size alone
    plan = rows["bpe"].plan
    assert (plan.context_tokens, plan.rows, plan.steps) == (2048, 1024, 16_000)
    # model_scalar.ipynb, from its 300M base at the same training FLOPs: d 1280, 19 layers, 20 heads, mlp 10240 (5120
    # each), 1,010,336,000 parameters, 10,572 steps of 1024 x 2048 tokens, 22,171,090,944 in all. 16,000 steps of this
    # model buy just these.
    larger = model("olmo2_680m").__class__(hidden_size=1280, layers=19, heads=20, mlp_size=5120)
    config = larger.config(PADDED, 2048, 0)
    parameters = count_parameters(config)
    assert parameters.total == 1_010_336_000
    step = 1024 * 2048 * superbpe_training_flops_per_token(config, parameters, 2048)
    base = superbpe_step("olmo2_680m", 2048, 1024)
    buys = {steps: math.floor(steps * base / step) for steps in range(15_998, 16_003)}
    assert [steps for steps, bought in buys.items() if bought == 10_572] == [15_999, 16_000]
    assert 10_572 * 1024 * 2048 == 22_171_090_944
    # 1.58 of the base's forward FLOPs a token, as asked there.
    ratio = sum(forward_flops_per_token(config, 2048).values()) / sum(
        forward_flops_per_token(model("olmo2_680m").config(PADDED, 2048, 0), 2048).values()
    )
    assert ratio == pytest.approx(1.58, rel=2e-3)


def test_stochastok_50m(planned):
    experiment, rows = planned("stochastok_50m")
    # anyasims/stochastok: 8 layers, d 512, 16 heads with 4 for keys and values, SwiGLU 1320, tied, 50,257 ids, context
    # 512, 60 x 8 sequences a step, 30,000 steps with a warmup of 5,000. 47.2 M parameters (computed).
    assert total("stochastok_50m", 50_257) == 47_203_328
    for row in rows.values():
        assert row.total_parameters == 47_203_328
        assert (row.plan.context_tokens, row.plan.rows, row.plan.steps) == (512, 480, 30_000)
        assert row.plan.warmup_steps == 5000
        assert row.plan.tokens == 7_372_800_000
        assert row.plan.passes < 1
    for arm in experiment.arms:
        training = arm.runs[0].training
        assert (training.lr, training.betas, training.weight_decay) == (6e-4, (0.9, 0.95), 0.1)
        assert training.decay_embeddings, "theirs decays every tensor of two or more dimensions"
        assert learning_rate(training, 30_000, 30_000) == pytest.approx(6e-5)
    # StochasTok at p=0.1 gives 8.2% more of GPT-2's ids (reported), so reads that much less text.
    assert rows["plain"].plan.bytes / rows["stochastok"].plan.bytes == pytest.approx(1.082, rel=1e-3)
    assert (experiment.arms[1].runs[0].transform.p, experiment.arms[1].runs[0].transform.rounding) == (0.1, "floor")


def test_gpt2_124m(planned):
    experiment, rows = planned("gpt2_124m")
    assert rows["gpt2"].total_parameters == 124_439_808  # openai-community/gpt2
    plan = rows["gpt2"].plan
    # nanoGPT's config/train_gpt2.py: 12 x 5 x 8 sequences of 1024 tokens, 491,520 a step, 600,000 steps, about 300e9.
    assert (plan.context_tokens, plan.rows, plan.steps, plan.warmup_steps) == (1024, 480, 600_000, 1998)
    assert plan.tokens == 294_912_000_000
    assert {row.vocab_size for row in rows.values()} == {50_257}
    assert all(row.plan.flops == pytest.approx(plan.flops, rel=1e-5) for row in rows.values())
    training = experiment.arms[0].runs[0].training
    assert (training.lr, training.min_lr_ratio, training.betas, training.clip) == (6e-4, 0.1, (0.9, 0.95), 1.0)
    # Learned by us, with as many entries as GPT-2 has.
    assert [arm.runs[0].tokenizer.vocab_size for arm in experiment.arms[1:]] == [50_256, 50_256]


def test_meta_152m(planned):
    experiment, rows = planned("meta_152m")
    # Arithmetic on the paper's description: 124.44 M, 123.65 M without the table of positions, 152.00 M at 16 layers,
    # against the paper's 152 M (152.02) with meta-attention; 36,096 more for the meta token's row and 46 that fill up.
    parameters = {name: row.total_parameters for name, row in rows.items()}
    added = 12 * (4 * 768**2 + 4 * 768 + 2 * 768)  # a second attention with its projections and LayerNorm a layer
    assert round((123_653_376 + added) / 1e6, 2) == 152.02
    meta = 123_653_376 + added + 36_096
    assert parameters == {
        "gpt2_ape": 124_439_808,
        "gpt2_rope": 123_653_376,
        "meta_ape": 124_439_808 + added + 36_096,
        "meta_rope": meta,
        "gpt2_rope_16_layers": 152_004_864,
        "pause": 123_653_376 + 36_096,
        "second_causal": meta,
        "meta_rope_zero": meta,
    }
    # 98.3e9 positions, a tenth of them (102 of 1,024) meta tokens.
    for arm in ("meta_ape", "meta_rope", "pause", "second_causal", "meta_rope_zero"):
        plan = rows[arm].plan
        assert (plan.context_tokens, plan.meta_tokens, plan.steps) == (1024, 102, 200_000)
        assert plan.tokens == 480 * 922 * 200_000 == pytest.approx(88.5e9, rel=1e-3)
    assert rows["meta_rope"].plan.flops / rows["gpt2_rope"].plan.flops == pytest.approx(1.021, abs=1e-3)
    assert rows["second_causal"].plan.flops / rows["gpt2_rope"].plan.flops == pytest.approx(1.33, abs=3e-3)
    # Forward MFLOP a position at 1024: 284.8 for 12 layers, 354.0 for 16.
    for arm, mflop in (("gpt2_ape", 284.8), ("gpt2_rope", 284.8), ("gpt2_rope_16_layers", 354.0)):
        ours = rows[arm].plan
        assert ours.flops_per_step / (3 * 480 * 1024) == pytest.approx(mflop * 1e6, rel=2e-4)
        # 12 x 40 x 1024 positions a step, 200,000 steps, 98.3e9; warmup 2,000.
        assert (ours.context_tokens, ours.rows, ours.steps, ours.warmup_steps) == (1024, 480, 200_000, 2000)
        assert ours.tokens == 98_304_000_000
    # The paper's run is the first 200,000 steps of a schedule of 600,000: there the rate is still 4.66e-4.
    training = experiment.arms[0].runs[0].training.__class__(lr=6e-4, warmup=0.00333)
    assert learning_rate(training, 200_000, 600_000) == pytest.approx(4.66e-4, rel=2e-3)
