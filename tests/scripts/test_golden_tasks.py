"""What the stages of a task give on a tiny input; see test_golden."""

import hashlib
import json
from pathlib import Path

import pytest

from scripts.graph import FORMATS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("task pipeline")]

TASK_GOLDEN: dict[str, tuple[int, object]] = {
    "task": (2, "47ecfdd4fd6c3f36"),
    "finetune": (1, [8, 128, 3264, 377, 5070471168.0, "4.68"]),
    "answers": (2, ["f65de7d4e67941e9", "0.3125"]),
    "task_report": (
        2,
        [
            "arms",
            "baseline",
            "caveats",
            "comparisons",
            "endpoint",
            "experiment",
            "format",
            "notes",
            "provenance",
            "states",
            "task",
            "timing",
            "title",
        ],
    ),
}


def outputs(runs: Path) -> dict[str, object]:
    def data(stage: str, file: str, pattern: str = "*") -> dict:
        return json.loads(next(path for path in sorted((runs / stage).glob(f"{pattern}/{file}"))).read_text())

    files = data("task", "task.json")["files"]
    tuned = data("finetune", "train.json", "*stochastok*")
    answered = data("answers", "results.json", "*stochastok*")
    return {
        "task": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16],
        "finetune": [tuned[key] for key in ("steps", "questions", "tokens", "targets", "flops")]
        + [f"{tuned['final_train_bpb']:.4g}"],
        "answers": [answered["items_sha256"][:16], f"{answered['points']['128']['test']['acc']:.4g}"],
        "task_report": sorted(data("task_report", "results.json")),
    }


@pytest.fixture(scope="module")
def made(first_task) -> dict[str, object]:
    return outputs(first_task[0] / "runs")


@pytest.mark.parametrize("stage", TASK_GOLDEN)
def test_result_changes_only_with_its_format(made, stage):
    assert (FORMATS[stage], made[stage]) == TASK_GOLDEN[stage]
