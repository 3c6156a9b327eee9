"""The five engines against each other from the start: gradients, losses, norms, precision, data. See `engine_lab`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modeling import Llama
from modeling.init import build_model
from tests.training.engine_lab import (
    CLIP,
    ENGINES,
    LONG_STEPS,
    META_RUNS,
    SHARED,
    STEPS,
    STOCHASTIC,
    ZERO,
    Lab,
    apart,
    checkpoint,
    column,
    engine_of,
    in_one_place,
    same_bits,
    state_of,
    tensors_apart,
    tensors_of,
    write_run,
)
from training import Engine, Training
from training.engines import prepare
from training.loop import losses
from training.worker import run as run_worker


@pytest.mark.slow
@in_one_place
@pytest.mark.parametrize("kind", ["base", "long", "untied", *META_RUNS])
@pytest.mark.parametrize("name", SHARED)
def test_the_first_gradient_is_that_of_one_process(lab: Lab, name: str, kind: str) -> None:
    """One micro-batch a step ("long") and two; tied and untied, the latter with z-loss; with meta tokens, by either
    loss, and with a second attention that finds none."""
    gradients = [load_file(lab.start(one, kind) / "gradient.safetensors") for one in (name, "single")]
    whole, worst = tensors_apart(*gradients)
    assert whole <= 1e-6
    assert worst <= 1e-5
    norm = sum(float(tensor.double().square().sum()) for tensor in gradients[0].values()) ** 0.5
    assert column(lab.start(name, kind), "grad_norm")[0] == pytest.approx(norm, rel=1e-6), "the norm is of another"


@pytest.mark.slow
@in_one_place
@pytest.mark.parametrize("name", SHARED)
def test_losses_and_norms_stay_those_of_one_process(lab: Lab, name: str) -> None:
    """Clipped in every step, and never."""
    for kind, steps, clipped in (("base", STEPS, True), ("long", LONG_STEPS, False)):
        run, single = lab.start(name, kind), lab.start("single", kind)
        assert column(run, "step") == list(range(1, steps + 1))
        assert apart(column(run, "train_nats"), column(single, "train_nats")) <= (1e-6 if clipped else 1e-4)
        assert apart(column(run, "grad_norm"), column(single, "grad_norm")) <= 1e-5
        assert column(run, "train_bytes") == column(single, "train_bytes")
        assert (min(column(run, "grad_norm")) > CLIP) is clipped or not clipped
        ours, theirs = (tensors_of(checkpoint(one, steps), "weights") for one in (run, single))
        assert tensors_apart(ours, theirs)[0] <= 1e-5


@pytest.mark.slow
@in_one_place
@pytest.mark.parametrize("name", ENGINES)
def test_all_start_from_the_same_weights(lab: Lab, name: str) -> None:
    assert same_bits(*(tensors_of(lab.start(one) / "start", "weights") for one in (name, "single")))


@pytest.mark.slow
@in_one_place
@pytest.mark.parametrize("name", ENGINES)
def test_bf16_is_near_ddp(lab: Lab, name: str) -> None:
    """Without DeepSpeed bf16 is autocast; with it working weights are rounded too, which is another computation."""
    ours, theirs = (column(lab.start(one, "bf16"), "train_nats") for one in (name, "ddp"))
    assert ours[-1] < 0.85 * ours[0]
    assert apart(ours, theirs) <= (2e-3 if name in ZERO else 2e-4)
    assert ours != column(lab.start(name), "train_nats"), "is fp32"
    saved = tensors_of(checkpoint(lab.start(name, "bf16"), STEPS), "weights")
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())


@pytest.mark.slow
@in_one_place
@pytest.mark.parametrize("name", [name for name in STOCHASTIC if name != "single"])
def test_stochastok_draws_the_same_on_any_ranks(lab: Lab, name: str) -> None:
    run, single = lab.start(name, "stochastok"), lab.start("single", "stochastok")
    for key in ("train_bytes", "bytes", "tokens"):
        assert column(run, key) == column(single, key), key
    assert column(run, "train_bytes") != column(lab.start("single"), "train_bytes"), "nothing was drawn"
    assert state_of(run, STEPS)["rows"] == state_of(single, STEPS)["rows"]
    assert apart(column(run, "train_nats"), column(single, "train_nats")) <= 1e-6


@pytest.mark.parametrize("z_loss", [0.0, 0.05])
def test_z_loss_has_the_gradient_of_its_definition(z_loss: float) -> None:
    """d/dx of nats + z · lse(x)² by hand: softmax(x) − onehot + 2 z · lse(x) · softmax(x)."""
    vocabulary, length = 37, 11
    config = Llama(hidden_size=16, layers=1, heads=2, mlp_size=24).config(vocabulary, length, 0)
    engine: Any = prepare(build_model(config, 0), Training(), Engine(device="cpu"))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in engine.module.parameters():
            parameter.mul_(4)  # away from logits that are all alike
    inputs, targets = torch.randint(vocabulary, (2, 3, length), generator=draw)
    nats, extra = losses(engine, inputs, targets, True, z_loss)
    engine.backward((nats + extra) / inputs.numel())
    ours = {name: parameter.grad.clone() for name, parameter in engine.module.named_parameters()}

    model = build_model(config, 0).double()
    model.load_state_dict({name: tensor.double() for name, tensor in engine.module.state_dict().items()})
    logits = model(input_ids=inputs).logits.flatten(0, 1)
    with torch.no_grad():
        lse = logits.exp().sum(-1).log()
        softmax = logits.exp() / logits.exp().sum(-1, keepdim=True)
        onehot = torch.zeros_like(softmax)
        onehot[torch.arange(len(onehot)), targets.flatten()] = 1
        gradient = softmax - onehot + 2 * z_loss * lse[:, None] * softmax
    logits.backward(gradient / inputs.numel())
    theirs = {name: parameter.grad.float() for name, parameter in model.named_parameters()}
    assert tensors_apart(ours, theirs)[1] <= 1e-5
    expected = float((lse - logits.detach()[torch.arange(len(lse)), targets.flatten()]).sum())
    assert nats.item() == pytest.approx(expected, rel=1e-5), "what is reported is without z-loss"
    assert extra.item() == pytest.approx(z_loss * float(lse.square().sum()), rel=1e-5, abs=0)


def test_z_loss_is_minimised_and_not_reported(artefacts: dict[str, Path], tmp_path: Path) -> None:
    runs = []
    for z_loss in (0.0, 0.05):
        training = {"z_loss": z_loss}
        run = write_run(artefacts, tmp_path / str(z_loss), engine_of("single"), training=training, budget={"amount": 2})
        run_worker(run)
        runs.append(run)
    plain, with_z = runs
    assert column(with_z, "train_nats")[0] == column(plain, "train_nats")[0]
    assert column(with_z, "train_nats")[1] != column(plain, "train_nats")[1]
    assert column(with_z, "grad_norm")[0] > 1.005 * column(plain, "grad_norm")[0]
