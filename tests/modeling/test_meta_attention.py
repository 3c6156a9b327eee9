"""Compact meta-attention against the dense mask, in four families: values, gradients, isolation, causality."""

from typing import Any

import pytest
import torch

from modeling.init import build_model
from modeling.meta_attention import Metas, find
from modeling.meta_models import MetaGPT2Config, MetaGPTNeoXConfig, MetaLlamaConfig, MetaOlmo2Config

VOCAB, META = 40, 36  # rows 37 to 39 fill up the table
FAMILIES = ("llama", "gqa", "olmo2", "gpt2", "gpt_neox")


def config_of(family: str, **changes: Any) -> Any:
    meta = {"meta_token_id": META, "meta_layers": [0, 1], **changes}
    common = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    if family == "gpt2":
        return MetaGPT2Config(
            n_embd=32, n_layer=2, n_head=2, n_positions=64,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **common, **meta,
        )  # fmt: skip
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    if family == "gpt_neox":
        rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}
        return MetaGPTNeoXConfig(**size, use_parallel_residual=False, rope_parameters=rope, **common, **meta)
    if family == "olmo2":
        return MetaOlmo2Config(**size, **common, **meta)
    return MetaLlamaConfig(**size, num_key_value_heads=1 if family == "gqa" else 2, **common, **meta)


def model_of(family: str, seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """With weights large enough for every term to matter."""
    model = build_model(config_of(family, **changes), seed).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=dtype) * 0.2)
    return model


def ids_of(patterns: list[list[int]], length: int, seed: int = 0) -> torch.Tensor:
    """Random text with the meta token at the given places of each row."""
    ids = torch.randint(1, META, (len(patterns), length), generator=torch.Generator().manual_seed(seed))
    for row, places in enumerate(patterns):
        ids[row, places] = META
    return ids


PATTERNS = {
    "no row": [[], []],
    "one": [[3], [7]],
    "all": [list(range(10)), list(range(10))],
    "ragged": [[0, 1, 4, 9], [], [5], list(range(10)), [8, 9]],
    "edges": [[0], [9], [0, 9]],
}


def dense(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits with the sub-layer written as in the paper: all rows, and a mask of T × T."""
    flags = ids == META
    before = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    allowed = flags[:, :, None] & flags[:, None, :] & before
    # A row that is no meta token may see itself, for the softmax, and what comes of it is dropped.
    seen = (allowed | torch.eye(ids.shape[1], dtype=torch.bool))[:, None]

    def second(layer: Any) -> Any:
        def run(
            hidden: torch.Tensor, metas: Any, attention_mask: Any = None, position_embeddings: Any = None, **kwargs: Any
        ) -> torch.Tensor:
            own = kwargs if position_embeddings is None else {**kwargs, "position_embeddings": position_embeddings}
            rows = layer.meta_norm(hidden) if layer.norm_first else hidden
            out = layer.meta_attn(rows, attention_mask=seen, **own)[0]
            out = out if layer.norm_first else layer.meta_norm(out)
            return hidden + torch.where(flags[..., None], out, torch.zeros((), dtype=out.dtype))

        return run

    layers = [module for module in model.modules() if hasattr(module, "_second")]
    assert len(layers) == 2
    for layer in layers:
        layer._second = second(layer)
    try:
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
        return logits
    finally:
        for layer in layers:
            del layer._second


def gradients(model: Any, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    weights = torch.linspace(-1, 1, logits[..., :META].numel(), dtype=logits.dtype).reshape(logits[..., :META].shape)
    (logits[..., :META] * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("family", FAMILIES)
def test_compact_is_dense(family: str, pattern: str) -> None:
    model = model_of(family)
    ids = ids_of(PATTERNS[pattern], 10)
    ours, expected = model(input_ids=ids, use_cache=False).logits, dense(model, ids)
    assert torch.isfinite(ours[..., :META]).all()
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)
    mine, theirs = gradients(model, ours), gradients(model, expected)
    assert set(mine) == set(theirs) == {name for name, _ in model.named_parameters()}
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, atol=1e-9, rtol=1e-9, msg=name)
    moved = any("meta_attn" in name and gradient.abs().max() > 1e-3 for name, gradient in mine.items())
    assert moved == (pattern != "no row")  # one token still passes its own value on


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precisions(dtype: torch.dtype) -> None:
    model = model_of("llama", dtype=dtype)
    ids = ids_of(PATTERNS["ragged"], 10)
    expected = dense(model.float(), ids)
    ours = model.to(dtype)(input_ids=ids, use_cache=False).logits.float()
    scale = expected[..., :META].abs().max()
    torch.testing.assert_close(
        ours[..., :META] / scale, expected[..., :META] / scale, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=0
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_gives_the_same(family: str) -> None:
    model = model_of(family)
    ids = ids_of(PATTERNS["ragged"], 10)
    expected = model(input_ids=ids, use_cache=False).logits
    model.set_attn_implementation("eager")  # its softmax is in fp32
    torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_known_rows_give_what_found_ones_give(family: str) -> None:
    """As training passes them, with one number for all rows."""
    model = model_of(family)
    rows = [[2, 3, 9], [0, 5, 6]]
    ids = ids_of(rows, 10)
    ours = model(input_ids=ids, use_cache=False, meta_rows=torch.tensor(rows)).logits
    assert torch.equal(ours, model(input_ids=ids, use_cache=False).logits)


def hidden_after(model: Any, ids: torch.Tensor, **changes: Any) -> torch.Tensor:
    """(B, T, d): what the first layer's second sub-layer adds."""
    layer = next(module for module in model.modules() if hasattr(module, "_second"))
    plain, added = layer._second, []

    def noted(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        before = hidden.clone()
        out: torch.Tensor = plain(hidden, *args, **kwargs)
        added.append(out.detach() - before.detach())
        return out

    layer._second = noted
    try:
        model(input_ids=ids, use_cache=False, **changes)
    finally:
        del layer._second
    return added[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_other_rows_get_exactly_nothing_and_meta_rows_only_from_before(family: str) -> None:
    model = model_of(family)
    ids = ids_of([[1, 4, 7], [2], []], 10)
    added = hidden_after(model, ids)
    assert torch.equal(added[ids != META], torch.zeros_like(added[ids != META]))
    assert (added[ids == META].abs().max(-1).values > 1e-6).all()
    # The first meta token hears of nothing but itself, whatever stands before it: attention lets text through to it, so
    # the text is changed at the sub-layer's own input.
    layer = next(module for module in model.modules() if hasattr(module, "_second"))
    hidden = torch.randn(3, 10, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    rope = None if family == "gpt2" else _rope(model, hidden)

    def run(x: torch.Tensor) -> torch.Tensor:
        kwargs = {} if rope is None else {"position_embeddings": rope}
        out: torch.Tensor = layer._second(x.clone(), find(ids == META, keep=False), None, **kwargs) - x
        return out

    base = run(hidden)
    text = hidden.clone()
    text[ids != META] += 1.0
    torch.testing.assert_close(run(text)[ids == META], base[ids == META], atol=1e-12, rtol=0)
    second = hidden.clone()
    second[0, 4] += torch.linspace(-1, 1, 32, dtype=torch.float64)
    changed = (run(second) - base).abs().amax(-1) > 1e-9
    assert changed.nonzero().tolist() == [[0, 4], [0, 7]]


def _rope(model: Any, hidden: torch.Tensor) -> Any:
    rotary = next(module for name, module in model.named_modules() if name.endswith("rotary_emb"))
    return rotary(hidden, position_ids=torch.arange(hidden.shape[1])[None])


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_seen_of_what_comes_later(family: str) -> None:
    model = model_of(family)
    ids = ids_of([[1, 4, 7], [2], []], 10)
    base = model(input_ids=ids, use_cache=False).logits
    for start in range(1, 10):
        other = ids.clone()
        other[:, start:] = ids_of([[3, 5, 8, 9], [], [9]], 10, seed=1)[:, start:]
        logits = model(input_ids=other, use_cache=False).logits
        torch.testing.assert_close(logits[:, :start], base[:, :start], atol=1e-10, rtol=0)
    embedding = model.get_input_embeddings()
    kept: list[torch.Tensor] = []
    hook = embedding.register_forward_hook(lambda _m, _i, out: (out.retain_grad(), kept.append(out))[0])
    logits = model(input_ids=ids, use_cache=False).logits
    hook.remove()
    for at in (0, 4, 8):
        (gradient,) = torch.autograd.grad(logits[:, at, :META].sum(), kept, retain_graph=True)
        assert torch.equal(gradient[:, at + 1 :], torch.zeros_like(gradient[:, at + 1 :]))
        assert gradient[:, at].abs().max() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_share_a_row_do_not_meet(family: str) -> None:
    """Under a block mask a row of two texts gives what each gives alone (positions do not begin again)."""
    model = model_of(family)
    ids = ids_of([[1, 3, 6, 8]], 10)
    segments = torch.tensor([[1] * 5 + [2] * 5])
    before = torch.ones(10, 10, dtype=torch.bool).tril()
    mask = ((segments[:, :, None] == segments[:, None, :]) & before)[:, None]
    together = model(input_ids=ids, use_cache=False, attention_mask=mask).logits
    positions = torch.arange(10)[None]
    ones = torch.ones(1, 5, dtype=torch.long)
    for part in (slice(0, 5), slice(5, 10)):
        alone = model(
            input_ids=ids[:, part], use_cache=False, attention_mask=ones, position_ids=positions[:, part]
        ).logits
        torch.testing.assert_close(together[:, part], alone, atol=1e-10, rtol=0)
    assert (together - model(input_ids=ids, use_cache=False).logits)[..., :META].abs().max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_meta_token_every_parameter_is_in_the_graph(family: str) -> None:
    """Else a rank whose batch has none would leave the others waiting for its gradients."""
    model = model_of(family)
    logits = model(input_ids=ids_of([[], []], 6), use_cache=False).logits
    found = gradients(model, logits)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, gradient in found.items():
        if "meta_" in name:
            assert torch.equal(gradient, torch.zeros_like(gradient))
    model.eval()
    with torch.no_grad():
        assert find(torch.zeros(2, 3, dtype=torch.bool), keep=False) is None


def test_the_meta_token_has_no_logit_and_no_loss() -> None:
    model = model_of("llama")
    ids = ids_of([[1, 4, 7], [2, 3, 9]], 10)
    out = model(input_ids=ids, labels=ids, use_cache=False)
    assert torch.isneginf(out.logits[..., META:]).all() and torch.isfinite(out.logits[..., :META]).all()
    log_p = torch.log_softmax(out.logits[..., :META], -1)
    expected = [
        -log_p[row, at, ids[row, at + 1]] for row in range(2) for at in range(9) if int(ids[row, at + 1]) != META
    ]
    torch.testing.assert_close(out.loss, torch.stack(expected).mean().float())
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_mask_it_is_a_second_causal_attention(family: str) -> None:
    model = model_of(family, meta_mask="none")
    ids = ids_of([[1, 4], [5, 6]], 10)
    added = hidden_after(model, ids)
    assert (added.abs().amax(-1) > 1e-6).all()
    base = model(input_ids=ids, use_cache=False).logits
    other = ids.clone()
    other[:, 6:] = 3
    torch.testing.assert_close(model(input_ids=other, use_cache=False).logits[:, :6], base[:, :6], atol=1e-10, rtol=0)


def test_gradient_checkpointing_and_a_filled_up_mask() -> None:
    model = model_of("llama")
    ids = ids_of(PATTERNS["ragged"], 10)
    expected = gradients(model, model(input_ids=ids, use_cache=False).logits)
    model.gradient_checkpointing_enable()
    model.train()
    found = gradients(model, model(input_ids=ids, use_cache=False).logits)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-10, rtol=0)
    # An open mask for rows that are filled up, never one over nothing: neither NaN nor a look at what comes later.
    metas = find(ids == META, keep=False)
    assert isinstance(metas, Metas)
    mask = metas.mask(torch.ones(10, 10, dtype=torch.bool).tril()[None, None])
    assert mask is not None and mask.any(-1).all()
    real = mask[:, 0] if metas.valid is None else mask[:, 0][metas.valid]
    assert real.shape[0] == int((ids == META).sum())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_it_compiles_whole_with_known_rows(family: str) -> None:
    """One graph, forward and backward: the places of meta tokens are an input of a fixed shape."""
    model = model_of(family, dtype=torch.float32).train()
    rows = [[2, 3, 9], [0, 5, 6]]
    ids, known = ids_of(rows, 10), torch.tensor(rows)
    expected = model(input_ids=ids, use_cache=False, meta_rows=known).logits
    theirs = gradients(model, expected)
    torch._dynamo.reset()
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = compiled(input_ids=ids, use_cache=False, meta_rows=known).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for name, gradient in gradients(model, found).items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-3, rtol=1e-3, msg=name)
    other = torch.tensor([[1, 4, 8], [2, 3, 7]])
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled(input_ids=ids_of(other.tolist(), 10), use_cache=False, meta_rows=other)
