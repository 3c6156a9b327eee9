"""One checkpoint for all engines: each of the five goes on from what each has written. See `engine_lab`."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.training.engine_lab import (
    AT,
    BF16_READERS,
    ENGINES,
    KINDS,
    SAVE_EVERY,
    SHARED,
    STEPS,
    ZERO,
    Lab,
    apart,
    checkpoint,
    column,
    in_one_place,
    outcomes,
    same_bits,
    state_of,
    tensors_apart,
    tensors_of,
)

pytestmark = [pytest.mark.slow, in_one_place]

OF_THE_RUN = ("step", "tokens", "bytes", "flops", "optimizer_step", "rows", "made_for")
"""What a checkpoint says that must not depend on the engine. Seconds and the id of tracking belong to the folder."""


def same_tensors(run: Path, other: Path, step: int) -> bool:
    """Weights and moments of two checkpoints, bit for bit."""
    folders = [checkpoint(one, step) for one in (run, other)]
    return all(same_bits(*(tensors_of(folder, kind) for folder in folders)) for kind in KINDS)


@pytest.mark.parametrize("reader", ENGINES)
@pytest.mark.parametrize("writer", ENGINES)
def test_any_engine_goes_on_from_any_other(lab: Lab, writer: str, reader: str) -> None:
    source, run = lab.start(writer), lab.pair(writer, reader)
    for kind in KINDS:
        assert same_bits(tensors_of(run / "loaded", kind), tensors_of(checkpoint(source, AT), kind)), kind
    working = tensors_of(run / "loaded", "working")
    assert same_bits(working, tensors_of(checkpoint(source, AT), "weights")), "what it computes with is not the master"
    assert (run / "loaded/optimizer_step").read_text() == str(AT)
    assert column(run, "step") == list(range(1, STEPS + 1))
    assert apart(column(run, "train_nats", AT), column(source, "train_nats", AT)) <= 1e-6
    ours, theirs = (tensors_of(checkpoint(one, STEPS), "weights") for one in (run, source))
    assert tensors_apart(ours, theirs)[1] <= 1e-6
    # The moments, ten times as far: they are sums of gradients, which differ in the last bit a step.
    for kind in ("exp_avg", "exp_avg_sq"):
        ours, theirs = (tensors_of(checkpoint(one, STEPS), kind) for one in (run, source))
        assert tensors_apart(ours, theirs)[1] <= 1e-5, kind
    states = [state_of(one, STEPS) for one in (run, source)]
    assert {key: states[0][key] for key in OF_THE_RUN} == {key: states[1][key] for key in OF_THE_RUN}
    assert states[0]["optimizer_step"] == STEPS


@pytest.mark.parametrize("name", ENGINES)
def test_the_same_layout_goes_on_with_the_same_bits(lab: Lab, name: str) -> None:
    for run, source in (
        (lab.pair(name, name), lab.start(name)),
        *((lab.again(name, kind), lab.start(name, kind)) for kind in ("untied", "meta")),
    ):
        assert same_tensors(run, source, STEPS)
        assert (run / "metrics.jsonl").read_bytes() == (source / "metrics.jsonl").read_bytes()
        for file in ("train.json", "model/model.safetensors"):
            assert (run / file).read_bytes() == (source / file).read_bytes()


@pytest.mark.parametrize("name", ZERO)
def test_native_checkpoints_go_on_with_the_same_bits(lab: Lab, name: str) -> None:
    run, source = lab.again(name, "native"), lab.start(name, "native")
    files = sorted(path.name for path in checkpoint(run, STEPS).iterdir())
    assert files == ["rank-00000.safetensors", "rank-00001.safetensors", "state.json"]
    for file in files[:2]:
        assert same_bits(*(load_file(checkpoint(one, STEPS) / file) for one in (run, source)))
    # And with those of a run that was never interrupted, whose checkpoints are gathered.
    for other in (source, lab.start(name)):
        for file in ("metrics.jsonl", "train.json", "model/model.safetensors"):
            assert (run / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.parametrize("name", SHARED)
def test_one_rank_then_two_then_one_read_the_same_text(lab: Lab, name: str) -> None:
    """Steps up to 6 by one process, up to 9 by two ranks, the rest by one process again."""
    whole, run = lab.start("single"), lab.again("single", f"after-{name}")
    layouts = [
        state_of(one, step)["layout"]["ranks"] for one, step in ((whole, AT), (run, AT + SAVE_EVERY), (run, STEPS))
    ]
    assert layouts == [1, 2, 1]
    for key in ("step", "train_bytes", "bytes", "tokens"):
        assert column(run, key) == column(whole, key), key
    for step in (AT + SAVE_EVERY, STEPS):
        assert state_of(run, step)["rows"] == state_of(whole, step)["rows"]
    assert apart(column(run, "train_nats"), column(whole, "train_nats")) <= 1e-6


@pytest.mark.parametrize("kind", ["base", "bf16"])
@pytest.mark.parametrize("name", ENGINES)
def test_the_rehearsal_leaves_nothing_behind(lab: Lab, name: str, kind: str) -> None:
    found = [outcome["rehearsal"] for outcome in outcomes(lab.start(name, kind))]
    assert len(found) == ENGINES[name][0]
    for rank in found:
        assert rank["changed"] == []
        assert rank["steps"] == 0
        assert rank["compared"] == 4 * len(tensors_of(lab.start(name, kind) / "start", "weights"))


@pytest.mark.parametrize("name", ZERO)
def test_bf16_masters_come_back_in_another_stage(lab: Lab, name: str) -> None:
    source, run = lab.start(BF16_READERS[name], "bf16"), lab.again(name, "bf16")
    for kind in KINDS:
        saved = tensors_of(checkpoint(source, AT), kind)
        assert same_bits(tensors_of(run / "loaded", kind), saved), kind
        assert all(tensor.dtype.itemsize == 4 for tensor in saved.values())
    masters = tensors_of(checkpoint(source, AT), "weights")
    assert not same_bits(masters, {name: tensor.bfloat16().float() for name, tensor in masters.items()}), "were rounded"
    rounded = {name: tensor.bfloat16() for name, tensor in masters.items()}
    assert same_bits(tensors_of(run / "loaded", "working"), rounded)
    assert apart(column(run, "train_nats", AT), column(source, "train_nats", AT)) <= 2e-4
