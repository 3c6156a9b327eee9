"""Models with meta tokens from recipes: parameters, FLOPs, initial weights, positions."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isotok.errors import ConfigError
from isotok.recipe import build, describe
from modeling import GPT2, GPT2Rope, Llama, MetaGPT2, MetaGPT2Rope, MetaLlama, MetaOLMo2, OLMo2
from modeling.flops import forward_flops_per_token, training_flops_per_token
from modeling.init import build_model, count_parameters
from modeling.meta_injection import check_count, meta_count

SMALL: dict[str, Any] = {"hidden_size": 32, "layers": 4, "heads": 4, "mlp_size": 48}
FULL: dict[str, Any] = {"hidden_size": 768, "layers": 12, "heads": 12, "mlp_size": 3072}
PAIRS = [(MetaLlama, Llama), (MetaOLMo2, OLMo2), (MetaGPT2, GPT2), (MetaGPT2Rope, GPT2Rope)]
VOCAB, CONTEXT = 100, 40


def test_published_sizes() -> None:
    """The paper's 152 M (without learned positions) and GPT-2 small; one row more for META, 47 with the filling."""
    added = 12 * (4 * 768**2 + 4 * 768 + 2 * 768)
    assert count_parameters(GPT2(**FULL).config(50257, 1024, 0)).total == 124_439_808
    bare = count_parameters(MetaGPT2Rope(**FULL, table_multiple=1).config(50257, 1024, 0))
    assert bare.total - 768 == 152_020_224
    assert bare.body - count_parameters(GPT2Rope(**FULL).config(50257, 1024, 0)).body == added
    assert count_parameters(MetaGPT2Rope(**FULL).config(50257, 1024, 0)).total == 152_020_224 + 36_096
    assert count_parameters(MetaGPT2(**FULL).config(50257, 1024, 0)).total == 124_439_808 + added + 36_096


def test_published_flops() -> None:
    """Forward MFLOPs a position at 1,024 and k = .1: +2.1% for the compact form, +33% were it dense."""

    def mflops(recipe: Any) -> float:
        return sum(forward_flops_per_token(recipe.config(50257, 1024, 0), 1024).values()) / 1e6

    plain, compact = mflops(GPT2Rope(**FULL)), mflops(MetaGPT2Rope(**FULL, table_multiple=1))
    assert plain == pytest.approx(284.8, abs=0.05) and compact == pytest.approx(290.8, abs=0.05)
    # Over all rows, as a dense mask computes it (the control whose mask is open costs the same).
    assert mflops(MetaGPT2Rope(**FULL, meta_mask="none", table_multiple=1)) == pytest.approx(379.2, abs=0.15)
    assert mflops(GPT2Rope(**{**FULL, "layers": 16})) == pytest.approx(354.0, abs=0.05)


@pytest.mark.parametrize("mask", ["meta", "none"])
@pytest.mark.parametrize("recipe", [pair[0] for pair in PAIRS])
def test_equals_the_flop_counter(recipe: Any, mask: str) -> None:
    config = recipe(**SMALL, meta_mask=mask, meta_layers="last_half").config(VOCAB, CONTEXT, 0)
    model, rows = build_model(config, 0), 3
    ids = torch.randint(VOCAB, (rows, CONTEXT))
    count = meta_count(config, CONTEXT)
    assert count == 4
    for row in range(rows):
        ids[row, 1 + torch.randperm(CONTEXT - 1)[:count]] = config.meta_token_id
    with sdpa_kernel(SDPBackend.MATH):
        for backward in (False, True):
            with FlopCounterMode(display=False) as counter:
                logits = model(input_ids=ids, use_cache=False).logits
                if backward:
                    logits[..., :VOCAB].sum().backward()
            angles = sum(
                sum(n.values()) for name, n in counter.get_flop_counts().items() if name.endswith("rotary_emb")
            )
            expected = (
                training_flops_per_token(config, CONTEXT)
                if backward
                else sum(forward_flops_per_token(config, CONTEXT).values())
            )
            assert counter.get_total_flops() - angles == pytest.approx(rows * CONTEXT * expected, rel=1e-12)


@pytest.mark.parametrize(("meta", "plain"), PAIRS)
def test_without_meta_tokens_it_is_the_plain_model(meta: Any, plain: Any) -> None:
    """k = 0: bit for bit, config and all. Else what both have begins with the same weights."""
    ours, theirs = meta(**SMALL, k=0).config(VOCAB, CONTEXT, 0), plain(**SMALL).config(VOCAB, CONTEXT, 0)
    assert type(ours) is type(theirs) and ours.to_dict() == theirs.to_dict()
    assert meta(**SMALL, k=0).label == plain(**SMALL).label != meta(**SMALL).label
    mine = dict(build_model(meta(**SMALL).config(VOCAB, CONTEXT, 0), 3).named_parameters())
    for name, parameter in build_model(theirs, 3).named_parameters():
        assert torch.equal(mine[name][: len(parameter)], parameter)
        del mine[name]
    assert mine and all("meta_" in name for name in mine)


@pytest.mark.parametrize(("meta", "plain"), PAIRS)
def test_an_output_of_zeros_leaves_the_model_as_it_was(meta: Any, plain: Any) -> None:
    recipe = meta(**SMALL, meta_out_init="zero")
    config = recipe.config(VOCAB, CONTEXT, 0)
    ours, theirs = build_model(config, 1).double(), build_model(plain(**SMALL).config(VOCAB, CONTEXT, 0), 1).double()
    ids = torch.randint(VOCAB, (2, CONTEXT))
    expected = theirs(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(ours(input_ids=ids, use_cache=False).logits[..., :VOCAB], expected, atol=1e-12, rtol=0)
    ids[:, 5] = ids[:, 9] = VOCAB
    pauses = build_model(dataclasses.replace(recipe, meta_layers="none").config(VOCAB, CONTEXT, 0), 1).double()
    torch.testing.assert_close(
        ours(input_ids=ids, use_cache=False).logits, pauses(input_ids=ids, use_cache=False).logits, atol=1e-12, rtol=0
    )
    moved = build_model(dataclasses.replace(recipe, meta_out_init="normal").config(VOCAB, CONTEXT, 0), 1).double()
    assert not torch.allclose(moved(input_ids=ids).logits[:, 9:, :VOCAB], pauses(input_ids=ids).logits[:, 9:, :VOCAB])


def test_layers() -> None:
    def of(which: str) -> list[int]:
        return list(MetaLlama(**{**SMALL, "layers": 5}, meta_layers=which).config(VOCAB, CONTEXT, 0).meta_layers)

    assert [of(name) for name in ("all", "first_half", "last_half", "every_2nd", "none")] == [
        [0, 1, 2, 3, 4], [0, 1], [2, 3, 4], [1, 3], [],
    ]  # fmt: skip


def test_yarn_constants() -> None:
    """low 5 and high 18 of 32 frequencies at dh 64 and 1,024 positions; cos and sin times .1 ln s + 1."""
    for scale, factor in ((4.0, 1.1386), (8.0, 1.2079)):
        recipe = MetaLlama(hidden_size=64, layers=1, heads=1, mlp_size=64, yarn_scale=scale, yarn_from=1024)
        rotary = build_model(recipe.config(VOCAB, 4096, 0), 0).model.rotary_emb
        assert rotary.attention_scaling == pytest.approx(factor, abs=5e-5)
        plain = 10_000.0 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
        kept = 1 - ((torch.arange(32) - 5) / 13).clamp(0, 1)
        torch.testing.assert_close(rotary.inv_freq.double(), plain * (kept + (1 - kept) / scale), rtol=1e-6, atol=1e-9)
    plain_recipe = MetaLlama(**SMALL, yarn_scale=1.0)
    assert plain_recipe.config(VOCAB, CONTEXT, 0).rope_parameters["rope_type"] == "default"


@pytest.mark.parametrize("family", [MetaLlama, MetaGPT2, MetaGPT2Rope])
def test_no_position_of_its_own_for_a_meta_token(family: Any) -> None:
    """With `zero`, where a meta token stands does not matter to itself, and text keeps its positions."""
    config = family(**SMALL, meta_positions="zero", k=0.1).config(VOCAB, CONTEXT, 0)
    model = build_model(config, 0).double().eval()
    ids = torch.randint(VOCAB, (1, 12))
    ids[0, 6] = VOCAB
    body = model.base_model
    with torch.no_grad():
        if family is MetaGPT2:
            seen: list[torch.Tensor] = []
            hook = body.drop.register_forward_hook(lambda _m, i, _o: seen.append(i[0]))
            model(input_ids=ids, use_cache=False)
            hook.remove()
            torch.testing.assert_close(seen[0][0, 6], body.wte.weight[VOCAB])
            torch.testing.assert_close(seen[0][0, 7], body.wte.weight[ids[0, 7]] + body.wpe.weight[7])
        else:
            seen_ids: list[torch.Tensor] = []
            hook = body.rotary_emb.register_forward_hook(
                lambda _m, _a, keys, _o: seen_ids.append(keys["position_ids"]), with_kwargs=True
            )
            model(input_ids=ids, use_cache=False)
            hook.remove()
            assert seen_ids[0].tolist() == [[0, 1, 2, 3, 4, 5, 0, 7, 8, 9, 10, 11]]


def test_settings_come_back_from_what_describes_them() -> None:
    recipe = MetaGPT2Rope(**SMALL, k=0.2, placement="periodic", meta_positions="index", yarn_scale=2, yarn_from=64)
    assert build(describe(recipe), "model") == recipe


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        (MetaLlama, {"yarn_scale": 0.5}, "model.yarn_scale=0.5"),
        (MetaLlama, {"yarn_scale": 2}, "yarn_scale=2 needs yarn_from"),
        (MetaGPT2, {"yarn_scale": 2, "yarn_from": 9}, "learned positions cannot be stretched"),
        (MetaLlama, {"k": 1.0}, "model.k=1.0"),
        (MetaLlama, {"placement": "task"}, "model.placement='task'"),
    ],
)
def test_bad_values_are_refused_by_name(family: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        build({"_target_": f"modeling.{family.__name__}", **SMALL, **keys}, "model")


def test_a_share_that_leaves_no_meta_token_or_no_text_is_refused() -> None:
    for k, length, message in (
        (0.01, 50, "less than one meta token"),
        (0.99, 100, "leaves no text"),
        (0.5, 2, "no text"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_count(MetaLlama(**SMALL, k=k).config(VOCAB, length, 0), length)
    for free in (MetaLlama(**SMALL, k=0), MetaLlama(**SMALL, k=0.01, placement="none"), Llama(**SMALL)):
        check_count(free.config(VOCAB, 50, 0), 50)
    assert math.isclose(meta_count(MetaLlama(**SMALL, k=0.1).config(VOCAB, 1024, 0), 1024), 102)


def test_rows_of_fine_tuning_are_counted_with_the_meta_tokens_they_have() -> None:
    """Also where a row is too short for one of pretraining's."""
    config = MetaLlama(**SMALL, k=0.1).config(VOCAB, 64, 0)
    assert forward_flops_per_token(config, 8)["meta_scores"] == 0
    two, four = (forward_flops_per_token(config, 8, metas=n) for n in (2, 4))
    assert four["meta_projections"] == 2 * two["meta_projections"] > 0
    assert four["meta_scores"] == 4 * two["meta_scores"] > 0
    assert training_flops_per_token(config, 8, metas=2) == 3 * sum(two.values())
