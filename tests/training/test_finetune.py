"""Whole fine-tunings of a tiny model: what they leave, resume, refusals, failures."""

import errno
import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from isotok.errors import ConfigError, DataError, InterruptedRun, IsotokError
from isotok.files import read_json
from modeling import GPT2
from modeling.flops import training_flops_per_token
from tests.training.questions import BATCH, MODEL, QUESTIONS, ROWS, STEPS, write_finetune, write_questions
from tokenization import load_tokenizer
from training import Engine, loop, worker
from training.examples import ExampleStreams, read_examples
from training.export import export_checkpoint
from training.figures import weights_sha256
from training.recipes import Finetuning
from training.tracking import read_metrics
from training.work import work_of
from training.worker import run

POINTS = {2: "points/00000020", 5: "points/00000060", 8: "points/00000096"}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("questions") / "task")


@pytest.fixture(scope="module")
def reference(artefacts: dict[str, Path], questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from random weights that was never interrupted."""
    out = tmp_path_factory.mktemp("reference") / "run"
    run(write_finetune(artefacts, out, questions))
    return out


def files_of(out: Path) -> dict[str, bytes]:
    names = ["train.json", "metrics.jsonl", "model/model.safetensors"]
    return {name: (out / name).read_bytes() for name in [*names, *(f"{p}/model.safetensors" for p in POINTS.values())]}


def test_figures_are_recomputable(reference: Path, questions: Path, artefacts: dict[str, Path]) -> None:
    figures, rows = read_json(reference / "train.json"), read_metrics(reference / "metrics.jsonl")
    lines = [json.loads(line) for line in (questions / "train.jsonl").read_text().splitlines()]
    assert (figures["steps"], figures["questions"], figures["rows"]) == (STEPS, QUESTIONS, ROWS)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert figures["answer_bytes"] == sum(row["train_bytes"] for row in rows)
    assert figures["answer_bytes"] == sum(len(line["answer"].encode()) for line in lines)
    examples = read_examples(questions, load_tokenizer(artefacts["tokenizer"]))
    assert figures["tokens"] == int(examples.lengths.sum()) == rows[-1]["tokens"]
    assert figures["targets"] == int(examples.targets.sum())
    work = work_of(read_json(reference / "run.json"), None)
    streams = ExampleStreams(examples, ROWS, BATCH, 0)
    lengths = [streams.next().inputs.shape[1] for _ in range(STEPS)]
    assert max(lengths) == figures["context_tokens"] == work.plan.context_tokens
    flops = sum(ROWS * length * training_flops_per_token(work.config, length) for length in lengths)
    assert figures["flops"] == pytest.approx(flops, rel=1e-12)
    assert rows[-1]["flops"] == pytest.approx(flops)
    assert figures["points"] == [
        {"questions": 20, "step": 2, "read": 24},
        {"questions": 60, "step": 5, "read": 60},
        {"questions": 96, "step": 8, "read": 96},
    ]
    # A model at the start knows nothing: about log2(vocabulary) bits a target.
    targets = int(examples.targets[:BATCH].sum())
    assert rows[0]["train_nats"] / targets == pytest.approx(math.log(291), rel=0.05)
    assert rows[-1]["train_bpb"] < 0.9 * rows[0]["train_bpb"]
    assert figures["init"] == "random" and figures["lr"] == 3e-3


def test_points_load_with_transformers_alone(reference: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert sorted(path.name for path in (reference / "points").iterdir()) == ["00000020", "00000060", "00000096"]
    found = {}
    for step, name in POINTS.items():
        model = AutoModelForCausalLM.from_pretrained(reference / name)
        tokenizer = AutoTokenizer.from_pretrained(reference / name)
        ids = tokenizer("Which is it? Answer:", return_tensors="pt").input_ids
        assert model.generate(input_ids=ids, max_new_tokens=3, do_sample=False).shape[1] > ids.shape[1]
        found[step] = weights_sha256(load_file(reference / name / "model.safetensors"))
    assert len(set(found.values())) == 3
    last = weights_sha256(load_file(reference / "model/model.safetensors"))
    assert found[8] == last == read_json(reference / "train.json")["weights_sha256"]


def test_points_are_the_weights_of_their_step(reference: Path, artefacts: dict[str, Path], tmp_path: Path) -> None:
    """Against the checkpoint of the step, which is written by other code."""
    again = write_finetune(
        artefacts, tmp_path / "run", Path(read_json(reference / "run.json")["questions"]), finetuning={"keep_last": 99}
    )
    spec = read_json(again / "run.json")
    spec["training"]["save_every_steps"] = 1
    (again / "run.json").write_text(json.dumps(spec))
    run(again)
    assert files_of(again) == files_of(reference), "how often checkpoints are saved changes nothing"
    for step, name in POINTS.items():
        export_checkpoint(again, str(step), tmp_path / f"export-{step}")
        ours, theirs = (folder / "model.safetensors" for folder in (tmp_path / f"export-{step}", again / name))
        assert ours.read_bytes() == theirs.read_bytes()


def test_it_begins_with_the_weights_of_the_folder(reference: Path, questions: Path, artefacts: dict[str, Path]) -> None:
    out = reference.parent / "second"
    write_finetune(artefacts, out, questions, init_model=reference / "model")
    work = work_of(read_json(out / "run.json"), None)
    ours, theirs = dict(work.model().named_parameters()), load_file(reference / "model/model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    figures = run(out)
    assert figures["init"]["weights"].keys() == {"model.safetensors"}
    rows = [read_metrics(folder / "metrics.jsonl") for folder in (reference, out)]
    assert rows[1][0]["train_bpb"] < 0.9 * rows[0][0]["train_bpb"], "it knows the questions already"


@pytest.mark.parametrize("micro_rows", [1, 2])
def test_micro_batches_change_nothing_but_rounding(
    reference: Path, questions: Path, artefacts: dict[str, Path], tmp_path: Path, micro_rows: int
) -> None:
    out = write_finetune(artefacts, tmp_path / "run", questions, engine=Engine(device="cpu", micro_rows=micro_rows))
    run(out)
    ours, theirs = (read_metrics(folder / "metrics.jsonl") for folder in (out, reference))
    assert [row["train_nats"] for row in ours] == pytest.approx([row["train_nats"] for row in theirs], rel=1e-5)
    assert [row["grad_norm"] for row in ours] == pytest.approx([row["grad_norm"] for row in theirs], rel=1e-4)


@pytest.mark.parametrize("step", [1, 2, 4, 5, 7])
def test_stopped_and_resumed_gives_the_same_bits(
    reference: Path, questions: Path, artefacts: dict[str, Path], tmp_path: Path, monkeypatch: Any, step: int
) -> None:
    out = write_finetune(artefacts, tmp_path / "run", questions)
    real = loop.update

    def update(setup: Any, batch: Any, lr: float, at: int, meter: Any) -> Any:
        if at == step - 1:
            signal.raise_signal(signal.SIGTERM)
        return real(setup, batch, lr, at, meter)

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(InterruptedRun, match=f"stopped by SIGTERM at step {step} of 8"):
        run(out)
    monkeypatch.undo()
    run(out)
    assert files_of(out) == files_of(reference)


def test_a_crash_between_checkpoint_and_point_loses_no_point(
    reference: Path, questions: Path, artefacts: dict[str, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    out = write_finetune(artefacts, tmp_path / "run", questions, finetuning={"save_every_steps": 5})

    def full(config: Any, weights: Any, tokenizer: Path, final: Path) -> None:
        if final.name == "00000060":
            raise OSError(errno.ENOSPC, "No space left on device")
        worker_export(config, weights, tokenizer, final)

    worker_export = worker.export_model
    monkeypatch.setattr(worker, "export_model", full)
    with pytest.raises(IsotokError, match="No space left on device; the checkpoint of step 5 is kept"):
        run(out)
    assert not (out / POINTS[5]).exists() and (out / POINTS[2]).exists()
    monkeypatch.undo()
    run(out)
    assert files_of(out) == files_of(reference)


def test_a_point_that_is_gone_is_told(questions: Path, artefacts: dict[str, Path], tmp_path: Path) -> None:
    out = write_finetune(artefacts, tmp_path / "run", questions)
    run(out)
    shutil.rmtree(out / POINTS[5])
    with pytest.raises(DataError, match="points/00000060: the model kept there is gone, and the run is at step 8"):
        run(out)


def test_resume_refuses_other_inputs(
    reference: Path, questions: Path, artefacts: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(write_finetune(artefacts, out, questions, init_model=reference / "model"))
    other = write_questions(tmp_path / "task", marker="Say: ")
    with pytest.raises(ConfigError, match="holds another run"):
        write_finetune(artefacts, out, other, init_model=reference / "model")
    with pytest.raises(ConfigError, match="holds another run"):
        write_finetune(artefacts, out, questions, init_model=reference / POINTS[2])
    with pytest.raises(ConfigError, match="holds another run"):
        write_finetune(artefacts, out, questions, init_model=reference / "model", finetuning={"lr": 1e-4})
    write_finetune(artefacts, out, questions, init_model=reference / "model", finetuning={"save_every_steps": 9})
    shutil.copytree(reference / "model", tmp_path / "moved" / "anywhere")
    write_finetune(artefacts, out, questions, init_model=tmp_path / "moved" / "anywhere")

    def changed(**values: Any) -> None:
        spec = read_json(out / "run.json")
        (out / "run.json").write_text(json.dumps({**spec, **values}))

    before = read_json(out / "run.json")
    changed(questions=str(other))
    with pytest.raises(ConfigError, match='a checkpoint of another run: questions "'):
        run(out)
    changed(questions=str(questions), init_model=str(reference / POINTS[2]))
    with pytest.raises(ConfigError, match="init_model=.*: its config or weights are not those that run.json"):
        run(out)
    changed(**before)
    run(out)


def test_too_few_questions_and_too_long_ones(questions: Path, artefacts: dict[str, Path], tmp_path: Path) -> None:
    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(ConfigError, match=match):
            write_finetune(artefacts, tmp_path / "run", questions, **changes)

    refused(
        r"finetuning\.questions=200: the task has 96 training questions, and finetuning\.max_epochs=2 allows 192",
        finetuning={"questions": 200, "max_epochs": 2.0},
    )
    refused(r"training question 'q\d+' is \d+ tokens long, the model's context is 16", context_tokens=16)
    learned = GPT2(hidden_size=32, layers=1, heads=2, mlp_size=64)
    refused(
        r"finetuning\.rows: the longest row of packed questions has \d+ tokens, and the model has learned 64 positions",
        model=learned,
    )
    refused(r"engine\.ranks=3: does not divide finetuning\.rows=4", engine=Engine(device="cpu", ranks=3))
    write_finetune(artefacts, tmp_path / "ok", questions, finetuning={"questions": 100, "max_epochs": 2.0})


def test_the_questions_of_a_loss_that_is_not_finite_are_named(
    questions: Path, artefacts: dict[str, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    out = write_finetune(artefacts, tmp_path / "run", questions)
    real = loop.losses

    def losses(engine: Any, *rest: Any) -> Any:
        loss, extra = real(engine, *rest)
        return (loss * math.nan if engine.optimizer_step == 3 else loss), extra

    monkeypatch.setattr(loop, "losses", losses)
    with pytest.raises(DataError) as caught:
        run(out)
    named = ", ".join(map(str, range(3 * BATCH, 4 * BATCH)))
    told = str(caught.value)
    assert f"step 4: loss nan nats: not finite. It read the questions {named} of the training split" in told
    assert "Lower finetuning.lr or look at those questions" in told


def test_the_recipe_refuses_what_does_not_fit() -> None:
    for fields, match in (
        ({"batch": 10, "rows": 4}, "batch=10 questions cannot be shared out evenly over rows=4"),
        ({"points": (50, 20)}, "not in ascending order"),
        ({"points": (50_000,)}, "the last one is after questions=40000"),
        ({"points": (10, 20), "questions": 640}, "two of them fall into one step"),
    ):
        with pytest.raises(ValueError, match=match):
            Finetuning(**fields)  # type: ignore[arg-type]
    recipe = Finetuning(questions=1000, points=(100,))
    assert recipe.steps == 16 and recipe.point_steps == {2: 100, 16: 1000}
    training = recipe.training()
    assert (training.lr, training.weight_decay, training.validations, training.keep_best) == (1e-3, 0.05, 0, False)
    assert MODEL.label == "llama-d32-l2"
