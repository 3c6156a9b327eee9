"""Whole runs of a tiny model: resume, interruption, failure, and what they leave behind."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from isotok.errors import ConfigError, DataError, InterruptedRun
from isotok.files import read_json
from modeling import GPT2, Llama, OLMo2
from tokenization import StochasTok, TokenData
from training import Budget, Engine, Training, loop, pretrain
from training.checkpoint import load_newest, steps_saved
from training.engines import prepare
from training.figures import loss_figures, weights_sha256
from training.tracking import bits_per_byte, read_metrics

MODEL = Llama(hidden_size=32, layers=2, heads=2, mlp_size=64)
STEPS = 24


def go(artefacts: dict[str, Path], out: Path, **changes: Any) -> dict[str, Any]:
    training = {"wandb": "disabled", "save_every_steps": 5, "validations": 4, "lr": 3e-3, **changes.pop("training", {})}
    budget = {"amount": STEPS, "unit": "steps", "context_bytes": 128, "rows": 4, **changes.pop("budget", {})}
    fields: dict[str, Any] = {
        "model": MODEL,
        "engine": Engine(device="cpu"),
        "validate": score,
        **changes,
    }
    return pretrain(
        tokens=artefacts["tokens"],
        tokenizer=artefacts["tokenizer"],
        budget=Budget(**budget),
        training=Training(**training),
        out=out,
        **fields,
    )


def score(model: Any) -> float:
    """Stands in for validation: depends on the weights, and draws numbers as a careless one might."""
    assert not model.training
    torch.rand(3)
    return 1 + sum(float(p.abs().mean()) for p in model.parameters())


@pytest.fixture(scope="module")
def reference(artefacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    out = tmp_path_factory.mktemp("reference") / "run"
    go(artefacts, out)
    return out


def same_result(a: Path, b: Path) -> bool:
    names = ("train.json", "metrics.jsonl", "model/model.safetensors", "model/config.json")
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def stop_at(step: int, run: Path, action: Callable[[], None]) -> Callable[[Any], float]:
    """A validation that does something once, when the run comes to a step."""
    done = []

    def validate(model: Any) -> float:
        if not done and read_metrics(run / "metrics.jsonl")[-1]["step"] == step:
            done.append(True)
            action()
        return score(model)

    return validate


def test_figures_are_recomputable(reference: Path, artefacts: dict[str, Path]) -> None:
    figures, rows = read_json(reference / "train.json"), read_metrics(reference / "metrics.jsonl")
    steps = [row for row in rows if "train_nats" in row]
    scores = {row["step"]: row["validation_bpb"] for row in rows if "validation_bpb" in row}
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert sorted(scores) == [6, 12, 18, 24]
    assert figures["tokens"] == steps[-1]["tokens"] == STEPS * figures["targets_per_update"]
    assert figures["bytes"] == sum(row["train_bytes"] for row in steps) == figures["unique_bytes"]
    assert figures["flops"] == pytest.approx(steps[-1]["flops"])
    nats, n_bytes = (sum(row[key] for row in steps[-2:]) for key in ("train_nats", "train_bytes"))
    assert figures["final_train_bpb"] == bits_per_byte(nats, n_bytes), "the last 5% of 24 steps are two"
    assert figures["final_validation_bpb"] == scores[24]
    assert figures["loss_falling"]["train"] is True
    assert figures["loss_falling"]["validation_bpb_at_75"] == scores[18]
    # A model at the start knows nothing: about log2(vocabulary) bits a token.
    tokens = figures["targets_per_update"]
    assert steps[0]["train_nats"] / tokens == pytest.approx(math.log(291), rel=0.02)
    weights = load_file(reference / "model/model.safetensors")
    assert figures["weights_sha256"] == weights_sha256(weights)
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    assert {"wall_s", "tokens_per_s", "bytes_per_s", "flops_per_s", "data_wait_share", "peak_memory_mb"} <= set(
        read_json(reference / "timing.json")
    )


def test_bytes_are_those_of_the_documents(reference: Path, artefacts: dict[str, Path]) -> None:
    data = TokenData.open(artefacts["tokens"], "train")
    newest = load_newest(reference / "checkpoints")
    assert newest is not None
    rows = newest.state["rows"]
    assert data.id_bytes is not None
    expected = 0
    for row, (count, offset) in enumerate(rows):
        expected += sum(int(data.n_bytes[row + i * len(rows)]) for i in range(count))
        expected += int(data.id_bytes[data.ids(row + count * len(rows))[:offset]].sum())
    assert newest.state["bytes"] == expected


def test_the_model_folder_loads_with_transformers_alone(reference: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reference / "model")
    model = AutoModelForCausalLM.from_pretrained(reference / "model")
    generation = model.generation_config
    assert generation.eos_token_id == generation.pad_token_id == tokenizer.eos_token_id == 290
    ids = tokenizer("the sea", return_tensors="pt").input_ids
    out = model.generate(input_ids=ids, max_new_tokens=5, do_sample=False)
    assert out.shape[0] == 1
    assert out.shape[1] > ids.shape[1]


def test_a_second_run_trains_nothing_and_changes_nothing(
    reference: Path, artefacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (reference / name).read_bytes() for name in ("train.json", "metrics.jsonl")}
    monkeypatch.setattr("training.loop.update", lambda *args: pytest.fail("trained a finished run"))
    go(artefacts, reference)
    assert {name: (reference / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_equals_uninterrupted(
    artefacts: dict[str, Path], reference: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    with pytest.raises(InterruptedRun, match=f"{number.name} at step 12 of 24.*the same command resumes"):
        go(artefacts, run, validate=stop_at(12, run, lambda: signal.raise_signal(number)))
    assert steps_saved(run / "checkpoints")[-1] == 12
    assert not (run / "train.json").exists()
    go(artefacts, run)
    assert same_result(run, reference)


@pytest.mark.parametrize("step", [6, 12, 24])
def test_crash_and_resume_equals_uninterrupted(
    artefacts: dict[str, Path], reference: Path, tmp_path: Path, step: int
) -> None:
    """A crash between checkpoints loses steps; a crash in the last validation loses only that."""
    run = tmp_path / "run"

    def crash() -> None:
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        go(artefacts, run, validate=stop_at(step, run, crash))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step":13,"train_n')  # torn by the crash
    go(artefacts, run)
    assert same_result(run, reference)


@pytest.fixture
def deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read figures from the device as late as on a GPU."""
    monkeypatch.setattr(loop.Meter, "eager", property(lambda self: False, lambda self, value: None), raising=False)


@pytest.mark.usefixtures("deferred")
def test_figures_that_are_read_late_are_the_same(
    artefacts: dict[str, Path], reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, update = tmp_path / "run", loop.update

    def interrupt(setup: Any, batch: Any, lr: float, step: int, meter: Any) -> Any:
        if step == 12:
            signal.raise_signal(signal.SIGTERM)
        return update(setup, batch, lr, step, meter)

    with monkeypatch.context() as patch, pytest.raises(InterruptedRun, match="at step 13 of 24"):
        patch.setattr(loop, "update", interrupt)
        go(artefacts, run)
    go(artefacts, run)
    assert same_result(run, reference)


@pytest.mark.usefixtures("deferred")
def test_a_loss_that_is_not_finite_is_found_late_and_never_saved(artefacts: dict[str, Path], tmp_path: Path) -> None:
    wild = {"lr": 1e30, "min_warmup_steps": 0, "warmup": 0.0, "save_every_steps": 4}
    with pytest.raises(DataError, match="step 2: loss .*there is no checkpoint yet"):
        go(artefacts, tmp_path / "run", training=wild)
    assert steps_saved(tmp_path / "run/checkpoints") == []


def test_damaged_checkpoint_falls_back(
    artefacts: dict[str, Path], reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(InterruptedRun):
        go(artefacts, run, validate=stop_at(12, run, lambda: signal.raise_signal(signal.SIGTERM)))
    path = run / "checkpoints/step-00000012/weights.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    go(artefacts, run)
    err = capsys.readouterr().err
    assert "step-00000012 is damaged" in err
    assert "resuming from step 10 of 24" in err
    assert same_result(run, reference)


def test_saving_and_logging_more_often_changes_nothing(
    artefacts: dict[str, Path], reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    go(artefacts, run, training={"save_every_steps": 1, "log_every_s": 0.0})
    assert same_result(run, reference)
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("step 10/24 "))
    for part in ("41.7% of budget", "bits/byte", "lr ", "grad ", "tok/s", "B/s", "FLOP/s", "data wait", "left"):
        assert part in line
    times = [json.loads(text) for text in (run / "timing.jsonl").read_text().splitlines()]
    assert [row["step"] for row in times] == list(range(1, STEPS + 1))


def test_micro_batches_change_only_rounding(artefacts: dict[str, Path], reference: Path, tmp_path: Path) -> None:
    whole = load_file(reference / "model/model.safetensors")
    for micro_rows in (1, 2):
        run = tmp_path / f"micro-{micro_rows}"
        go(artefacts, run, engine=Engine(device="cpu", micro_rows=micro_rows))
        ours = load_file(run / "model/model.safetensors")
        for name, tensor in whole.items():
            assert torch.linalg.norm(ours[name] - tensor) <= 1e-4 * torch.linalg.norm(tensor), name
        losses = [
            [r["train_nats"] for r in read_metrics(d / "metrics.jsonl") if "train_nats" in r] for d in (run, reference)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_seed_changes_weights_and_not_the_text(artefacts: dict[str, Path], reference: Path, tmp_path: Path) -> None:
    other = go(artefacts, tmp_path / "run", seed=1)
    ours = read_json(reference / "train.json")
    assert other["weights_sha256"] != ours["weights_sha256"]
    assert other["bytes"] == ours["bytes"]


def test_stop_at_is_a_prefix_of_the_whole(artefacts: dict[str, Path], reference: Path, tmp_path: Path) -> None:
    go(artefacts, tmp_path / "run", budget={"stop_at": 0.5}, validate=None)
    rows = [row for row in read_metrics(reference / "metrics.jsonl") if "train_nats" in row]
    assert read_metrics(tmp_path / "run/metrics.jsonl") == rows[:12]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (OLMo2(hidden_size=32, layers=1, heads=2, mlp_size=48), {}),
        (GPT2(hidden_size=32, layers=1, heads=2, mlp_size=48), {"transform": StochasTok(p=0.2)}),
        (MODEL, {"training": {"precision": "bf16", "schedule": "wsd", "decay_embeddings": True}}),
    ],
    ids=["olmo2", "gpt2-stochastok", "bf16-wsd"],
)
def test_other_families_and_settings(artefacts: dict[str, Path], tmp_path: Path, model: Any, changes: dict) -> None:
    figures = go(artefacts, tmp_path / "run", model=model, budget={"amount": 12, "max_epochs": 2}, **changes)
    assert figures["loss_falling"]["train"] is True
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model")
    assert weights_sha256(dict(loaded.named_parameters())) == figures["weights_sha256"]
    assert loaded.dtype == torch.float32


def test_a_loss_that_is_not_finite_stops(artefacts: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    wild = {"lr": 1e30, "min_warmup_steps": 0, "warmup": 0.0, "save_every_steps": 1}
    with pytest.raises(DataError, match=r"step 2: loss .*not finite.*documents .*the checkpoint of step 1 is kept"):
        go(artefacts, run, training=wild)
    newest = load_newest(run / "checkpoints")
    assert newest is not None
    assert newest.state["step"] == newest.state["optimizer_step"] == 1
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [1]


def test_a_gradient_that_is_not_finite_leaves_the_weights(reference: Path) -> None:
    from modeling.init import build_model

    engine = prepare(build_model(MODEL.config(50, 8, 0), 0), Training(), Engine(device="cpu"))
    before = {name: tensor.clone() for name, tensor in engine.snapshot(("weights",), True)["weights"].items()}
    for value in (float("nan"), float("inf")):
        for parameter in engine.module.parameters():
            parameter.grad = torch.full_like(parameter, 0.1)
        next(engine.module.parameters()).grad[0, 0] = value  # type: ignore[index]
        assert not torch.isfinite(engine.update(1.0))
        after = engine.snapshot(("weights",), True)["weights"]
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
        assert engine.optimizer_step == 0
    for parameter in engine.module.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    engine.update(1.0)
    assert engine.optimizer_step == 1


def test_decay_goes_to_matrices_only() -> None:
    from modeling.init import build_model

    model = build_model(Llama(hidden_size=32, layers=1, heads=2, mlp_size=48, tied=False).config(50, 8, 0), 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for decay_embeddings in (False, True):
        engine = prepare(model, Training(decay_embeddings=decay_embeddings), Engine(device="cpu"))
        decayed = {names[id(p)] for g in engine.optimizer.param_groups if g["weight_decay"] for p in g["params"]}
        expected = {name for name, p in model.named_parameters() if p.ndim >= 2}
        assert decayed == (expected if decay_embeddings else expected - {"model.embed_tokens.weight", "lm_head.weight"})


def test_another_run_in_the_folder_is_refused(artefacts: dict[str, Path], reference: Path) -> None:
    with pytest.raises(ConfigError, match="holds another run"):
        go(artefacts, reference, seed=5)


def test_cuda_that_is_not_there_is_named(artefacts: dict[str, Path], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ConfigError, match=r"engine\.device=cuda: torch sees no CUDA"):
        go(artefacts, tmp_path / "run", engine=Engine(device="cuda"))


def test_loss_figures_of_the_shortest_run() -> None:
    rows = [{"step": 1, "train_nats": 1.0, "train_bytes": 1}]
    figures = loss_figures(rows, 1, [])
    assert figures["final_train_bpb"] == pytest.approx(1 / math.log(2))
    assert figures["final_validation_bpb"] is None
    assert figures["loss_falling"]["train"] is None
