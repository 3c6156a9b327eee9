"""The whole way as a user runs it: same bits twice, only what changed is rebuilt, kills cost nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scripts.smoke import arguments, isotok, start

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]


def snapshot(store: Path) -> dict[str, int]:
    return {str(p.relative_to(store)): p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file()}


def results(folder: Path) -> dict:
    loaded = json.loads((folder / "results.json").read_text())
    assert {"provenance", "timing"} <= set(loaded)
    return {key: value for key, value in loaded.items() if key not in ("provenance", "timing")}


def weights(store: Path) -> dict[str, str]:
    found = sorted((store / "pretrain").glob("*/train.json"))
    return {path.parent.name: json.loads(path.read_text())["weights_sha256"] for path in found}


def test_report_and_all_its_forms(first):
    _, report = first
    for name in ("report.html", "results.json", "results.csv", "results.md", "items.parquet", "manifest.json"):
        assert (report / name).stat().st_size > 0
    names = set(results(report)["arms"])
    assert names == {"bpe", "superbpe", "stochastok"}
    assert "one seed: not comparable" in (report / "results.md").read_text()


def test_again_does_no_work(first, tiny_files):
    cwd, report = first
    before = snapshot(cwd / "runs")
    done = isotok(cwd, "run", *arguments(tiny_files))
    assert done.stdout.splitlines()[-1] == str(report.relative_to(cwd))
    assert "nothing to do" in done.stderr
    assert snapshot(cwd / "runs") == before


def test_one_arm_changed_rebuilds_its_branch_only(first, tiny_files, tmp_path):
    shutil.copytree(first[0] / "runs", tmp_path / "runs")
    before = snapshot(tmp_path / "runs")
    changed = 'arms.superbpe=["tokenizer=superbpe","tokenizer.transition=0.8"]'
    isotok(tmp_path, "run", *[changed if a.startswith("arms.superbpe") else a for a in arguments(tiny_files)])
    after = snapshot(tmp_path / "runs")
    assert {path: after[path] for path in before} == before
    new = {Path(path).parts[0] + "/" + Path(path).parts[1].split("-")[0] for path in set(after) - set(before)}
    stages = {Path(path).parts[:2] for path in set(after) - set(before)}
    assert new == {
        "tokenizer/superbpe",
        "encode/superbpe",
        "pretrain/llama",
        "evaluate/llama",
        "report/smoke",
    }
    assert len(stages) == 5


def test_same_command_in_another_folder_gives_the_same_bits(first, tiny_files, tmp_path):
    done = isotok(tmp_path, "run", *arguments(tiny_files))
    assert weights(tmp_path / "runs") == weights(first[0] / "runs")
    assert results(tmp_path / done.stdout.splitlines()[-1]) == results(first[1])


def test_folders_load_with_transformers_alone_and_generate(first):
    model = next((first[0] / "runs" / "pretrain").glob("*superbpe*")) / "model"
    code = (
        "import sys\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer('The king', return_tensors='pt')\n"
        "text = tokenizer.decode(model.generate(**ids, max_new_tokens=12, do_sample=False)[0])\n"
        "assert text.startswith('The king') and len(text) > 8, text\n"
        "assert not any(name.split('.')[0] in ('isotok', 'tokenization', 'modeling') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(model)], check=True, cwd="/", env={**os.environ, "PYTHONPATH": ""})


def test_worker_trains_from_a_run_folder_alone(first, tmp_path):
    trained = next((first[0] / "runs" / "pretrain").glob("*superbpe*"))
    (tmp_path / "run").mkdir()
    shutil.copy(trained / "run.json", tmp_path / "run")
    done = isotok(tmp_path, "worker", "run")
    assert done.stdout.splitlines()[-1] == "run"
    assert (tmp_path / "run" / "train.json").read_bytes() == (trained / "train.json").read_bytes()
    spec = json.loads((tmp_path / "run" / "run.json").read_text())
    spec["model"]["_target_"] = "os.path.join"
    (tmp_path / "run" / "run.json").write_text(json.dumps(spec))
    refused = isotok(tmp_path, "worker", "run", check=False)
    assert refused.returncode == 2
    assert "only targets in" in refused.stderr


PRETRAIN = [
    "model=llama_nano",
    "budget=smoke",
    "budget.amount=400",
    "budget.max_epochs=100",
    "training.save_every_steps=25",
]


def pretrain_arguments(tiny_files: Path) -> list[str]:
    return ["pretrain", *arguments(tiny_files)[1:5], *PRETRAIN, "training.wandb=disabled", "transform=stochastok"]


@pytest.mark.parametrize("seed", [0])
def test_sigint_then_kill_9_then_the_same_weights(tiny_files, tmp_path, seed):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    isotok(whole, *pretrain_arguments(tiny_files))

    def start_and_stop(number: signal.Signals, after_step: int) -> tuple[int, str]:
        """Start, send the signal once a step beyond `after_step` is on disk; returns (exit code, stderr)."""
        process = start(cut, *pretrain_arguments(tiny_files))
        deadline = time.monotonic() + 240
        while last_step(cut) <= after_step:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        stderr = process.communicate(timeout=120)[1]
        return process.returncode, stderr

    code, stderr = start_and_stop(signal.SIGINT, 20)
    assert code == 130
    assert "same command" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    interrupted = last_step(cut)
    assert 20 < interrupted < 400, "the interrupt must land mid-run"

    code, _ = start_and_stop(signal.SIGKILL, interrupted + 60)
    assert code == -signal.SIGKILL
    killed = last_step(cut)
    assert interrupted < killed < 400, "the kill must land mid-run"
    assert not list((cut / "runs" / "pretrain").glob("*/manifest.json"))

    done = isotok(cut, *pretrain_arguments(tiny_files))
    assert "resum" in done.stderr
    assert weights(cut / "runs") == weights(whole / "runs")
    lines = [(d / "metrics.jsonl").read_text() for d in next_runs(whole, cut)]
    assert lines[0] == lines[1]


def next_runs(*folders: Path) -> list[Path]:
    return [next((folder / "runs" / "pretrain").glob("*[0-9a-f]")) for folder in folders]


def last_step(cwd: Path) -> int:
    found = list((cwd / "runs" / "pretrain").glob("*.partial/metrics.jsonl"))
    if not found:
        return -1
    steps = [json.loads(line).get("step", -1) for line in found[0].read_text().splitlines() if line.endswith("}")]
    return max(steps, default=-1)


def test_ctrl_c_during_run_saves_and_leaves_nothing_half_written(tiny_files, tmp_path):
    long = ["jobs=2", "budget.amount=2000", "budget.max_epochs=500"]
    process = start(tmp_path, "run", *arguments(tiny_files), *long)
    deadline = time.monotonic() + 240
    while last_step(tmp_path) < 10:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "Traceback" not in stderr, stderr
    assert stderr.splitlines()[-1].startswith("isotok: ")
    left = [p for p in (tmp_path / "runs").glob("*/*") if not (p / "manifest.json").exists()]
    assert left
    assert all(p.parent.name == "pretrain" and p.name.endswith(".partial") for p in left)
    assert any(list(p.glob("checkpoints/step-*")) for p in left)


def test_a_dead_parent_takes_its_children_along(tiny_files, tmp_path):
    long = ["jobs=2", "budget.amount=4000", "budget.max_epochs=1000"]
    process = start(tmp_path, "run", *arguments(tiny_files), *long)
    deadline = time.monotonic() + 240
    while last_step(tmp_path) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(3)
    before = last_step(tmp_path)
    time.sleep(2)
    assert last_step(tmp_path) == before, "a child goes on training after its parent died"
