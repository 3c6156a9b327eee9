"""Fine-tuning on two ranks, under DDP and DeepSpeed, is the fine-tuning of one process; kills lose nothing."""

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from isotok.files import read_json
from tests.training.engine_lab import ENGINES, apart, column, engine_of, run_jobs, tensors_apart, tensors_of
from tests.training.questions import write_finetune, write_questions
from tests.training.whole_runs import finish, same_bits, started
from training.checkpoint import steps_saved
from training.recipes import Engine
from training.tracking import read_metrics

pytestmark = pytest.mark.slow

POINTS = ("00000020", "00000060", "00000096")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("questions") / "task")


def engine(name: str) -> Engine:
    return engine_of(name, micro_rows=1 if name == "zero1" else 2)


@pytest.fixture(scope="module")
def runs(artefacts: dict[str, Path], questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """single/, ddp/ … of the same fine-tuning, and the same in bf16."""
    root = tmp_path_factory.mktemp("ranks")

    def job(folder: str, name: str, **settings: Any) -> dict[str, Any]:
        out = write_finetune(artefacts, root / folder, questions, engine=engine(name), finetuning=settings)
        return {"run": out, "record": ["gradient", "rehearsal"]}

    run_jobs(root / "launch-1", 1, [job("single", "single"), job("single-bf16", "single", precision="bf16")])
    shared = [name for name in ENGINES if name != "single"]
    jobs = [job(name, name) for name in ("zero1", *(name for name in shared if name != "zero1"))]
    run_jobs(root / "launch-2", 2, [*jobs, job("zero2-bf16", "zero2", precision="bf16")])
    return root


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "single"])
def test_two_ranks_are_one_process(runs: Path, name: str) -> None:
    one, two = runs / "single", runs / name
    assert apart(column(two, "train_nats"), column(one, "train_nats")) < 1e-4
    assert apart(column(two, "grad_norm"), column(one, "grad_norm")) < 1e-3
    assert [row["train_bytes"] for row in read_metrics(two / "metrics.jsonl")] == [
        row["train_bytes"] for row in read_metrics(one / "metrics.jsonl")
    ]
    whole, worst = tensors_apart(*(tensors_of(folder, "gradient") for folder in (two, one)))
    assert whole < 1e-5 and worst < 1e-4
    ours, theirs = (read_json(folder / "train.json") for folder in (two, one))
    same = ("tokens", "targets", "answer_bytes", "flops", "points")
    assert [ours[key] for key in same] == [theirs[key] for key in same]
    for point in POINTS:
        models = [tensors_of(folder / "points" / point, "model") for folder in (two, one)]
        assert tensors_apart(*models)[0] < 2e-3, point
    last = [(two / name / "model.safetensors").read_bytes() for name in ("model", f"points/{POINTS[-1]}")]
    assert last[0] == last[1]


def test_bf16_is_near(runs: Path) -> None:
    for name in ("single-bf16", "zero2-bf16"):
        assert 0 < apart(column(runs / name, "train_nats"), column(runs / "single", "train_nats")) < 0.02


def test_a_kill_at_any_moment_loses_nothing(artefacts: dict[str, Path], questions: Path, tmp_path: Path) -> None:
    whole, cut = (write_finetune(artefacts, tmp_path / name, questions, finetuning=LONG) for name in ("whole", "cut"))
    finish(whole)
    moments = random.Random(11)
    kept = whole / "points"
    landed = 0
    for attempt in range(8):
        with started(cut) as process:
            at = moments.randint(1, 30) if attempt % 2 else moments.choice((1, 2, 3, 4))
            if attempt % 2:
                process.until(lambda at=at: process.ended() or steps_written(cut) >= at)
            else:  # while a model is being written, or just after
                process.until(lambda at=at: process.ended() or points_begun(cut) >= at)
            if process.ended():
                break
            process.signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            landed += 1
        done = steps_saved(cut / "checkpoints")
        for step, name in {5: "00000060", 12: "00000144", 20: "00000240"}.items():
            assert (cut / "points" / name).is_dir() or not done or done[-1] <= step
    assert landed >= 3
    if not (cut / "train.json").exists():
        finish(cut)
    same_bits(cut, whole)
    assert sorted(path.name for path in (cut / "points").iterdir()) == sorted(path.name for path in kept.iterdir())
    for path in kept.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (cut / path.relative_to(whole)).read_bytes(), path


LONG = {"questions": 360, "max_epochs": 4.0, "points": (60, 144, 240), "save_every_steps": 4, "log_every_s": 0.0}


def steps_written(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return len(read_metrics(path)) if path.exists() else 0


def points_begun(run_dir: Path) -> int:
    folder = run_dir / "points"
    return len(list(folder.iterdir())) if folder.exists() else 0
