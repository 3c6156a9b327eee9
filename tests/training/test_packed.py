"""Packed questions are computed as if each stood alone: logits, loss and gradients, in every family of models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from modeling import GPT2, GPT2Rope, Llama, OLMo2
from modeling.init import build_model
from tests.training.questions import write_questions
from tokenization import load_tokenizer
from training import Engine, Training
from training.engines import prepare
from training.examples import ExampleStreams, read_examples
from training.loop import losses
from training.seam import inputs_of
from training.streams import IGNORED

SIZE: dict[str, Any] = {"hidden_size": 32, "layers": 2, "mlp_size": 64}
MODELS = {
    "llama": Llama(heads=2, **SIZE),
    "grouped": Llama(heads=4, kv_heads=2, **SIZE),
    "olmo2": OLMo2(heads=2, **SIZE),
    "gpt2": GPT2(heads=2, **SIZE),
    "gpt2_rope": GPT2Rope(heads=2, **SIZE),
}


@pytest.fixture(params=MODELS)
def packed(request: pytest.FixtureRequest, artefacts: dict[str, Path], tmp_path: Path) -> tuple[Any, Any, Any, str]:
    """(model in fp64 but for its norms and rotations, one step's batch, the examples, the family)."""
    tokenizer = load_tokenizer(artefacts["tokenizer"])
    examples = read_examples(write_questions(tmp_path / "task"), tokenizer)
    batch = ExampleStreams(examples, rows=2, batch=8, seed=0).next()
    config = MODELS[request.param].config(len(tokenizer), batch.inputs.shape[1], tokenizer.eos_token_id)
    return build_model(config, 0).double(), batch, examples, request.param


def alone(model: Any, batch: Any, at_zero: bool) -> Any:
    """Each block of a batch by itself: (row, positions in the row, logits)."""
    for row, segments in enumerate(batch.segments):
        for number in range(1, segments.max() + 1):
            at = torch.from_numpy((segments == number).nonzero()[0])
            positions = at[None] - (at[0] if at_zero else 0)
            ids = torch.from_numpy(batch.inputs[row])[at][None]
            yield row, at, model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]


def test_logits_are_those_of_each_block_alone(packed: Any) -> None:
    model, batch, _, family = packed
    inputs, segments = torch.from_numpy(batch.inputs), torch.from_numpy(batch.segments)
    logits = model(**inputs_of(inputs, segments, None)).logits
    assert torch.isfinite(logits).all(), "padding has nothing but itself to attend to"
    for at_zero in (False, True):
        blocks = alone(model, batch, at_zero)
        apart = max(float((logits[row, at] - own).detach().abs().max()) for row, at, own in blocks)
        # Rotary positions are relative; learned ones are those of the row.
        assert apart < 1e-5 if family != "gpt2" or not at_zero else apart > 1e-3
    changed = inputs.clone()
    changed[:, 0] = (changed[:, 0] + 1) % model.config.vocab_size
    moved = (model(**inputs_of(changed, segments, None)).logits - logits).abs().amax(dim=-1) > 0
    assert not moved[segments != 1].any() and moved[segments == 1].any()


def test_loss_and_gradients_are_those_of_each_question_alone(packed: Any) -> None:
    model, batch, examples, _ = packed
    engine = prepare(model, Training(), Engine(device="cpu"))
    arrays = [torch.from_numpy(a) for a in (batch.inputs, batch.targets, batch.segments)]
    nats, extra = losses(engine, arrays[0], arrays[1], True, 0.0, arrays[2])
    (nats / batch.n_tokens).backward()
    nats = nats.detach()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    whole, targets = torch.zeros((), dtype=torch.float64), 0
    for row, at, logits in alone(model, batch, at_zero=False):
        wanted = arrays[1][row, at]
        kept = wanted != IGNORED
        whole = whole + functional.cross_entropy(logits[kept].float(), wanted[kept], reduction="sum")
        targets += int(kept.sum())
    assert targets == batch.n_tokens == examples.targets[:8].sum()
    assert float(nats) == pytest.approx(float(whole.detach()), rel=1e-6) and float(extra) == 0
    (whole / targets).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(ours[name], parameter.grad, rtol=1e-4, atol=1e-8), name


def test_z_loss_is_over_targets_only(packed: Any) -> None:
    model, batch, _, _ = packed
    engine = prepare(model, Training(), Engine(device="cpu"))
    arrays = [torch.from_numpy(a) for a in (batch.inputs, batch.targets, batch.segments)]
    _, extra = losses(engine, arrays[0], arrays[1], True, 0.5, arrays[2])
    logits = model(**inputs_of(arrays[0], arrays[2], None)).logits.detach()[arrays[1] != IGNORED]
    assert float(extra.detach()) == pytest.approx(0.5 * float(torch.logsumexp(logits, -1).square().sum()), rel=1e-5)
