"""A subword task the whole way: one set of questions for all arms, kills cost nothing, mistakes are named."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from isotok.errors import ConfigError
from scripts.compose import build_experiment, build_run, compose
from scripts.graph import Graph
from tests.scripts.smoke import isotok, start
from tests.scripts.task_smoke import task_arguments
from tests.scripts.test_pipeline import snapshot

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("task pipeline")]


def folders(store: Path, stage: str) -> list[Path]:
    return sorted(path.parent for path in (store / stage).glob("*/manifest.json"))


def test_every_arm_is_asked_the_same(first_task):
    cwd, report = first_task
    results = json.loads((report / "results.json").read_text())
    assert set(results["arms"]) == {"bpe", "superbpe", "stochastok", "no_pretrain"}
    assert len(folders(cwd / "runs", "task")) == 1
    hashes = {json.loads((f / "results.json").read_text())["items_sha256"] for f in folders(cwd / "runs", "answers")}
    assert len(hashes) == 1
    for name in ("report.html", "report.md", "table.csv", "manifest.json"):
        assert (report / name).stat().st_size > 0


def test_what_never_saw_the_text_needs_no_pretraining(first_task):
    store = first_task[0] / "runs"
    assert len(folders(store, "pretrain")) == 3
    assert len(folders(store, "finetune")) == 4
    scratch = next(f for f in folders(store, "finetune") if "scratch" in f.name)
    manifest = json.loads((scratch / "manifest.json").read_text())
    assert "pretrain" not in manifest["inputs"]
    assert [p.name for p in sorted((scratch / "points").iterdir())] == ["00000064", "00000128"]


def test_again_does_no_work(first_task, texts):
    cwd, report = first_task
    before = snapshot(cwd / "runs")
    done = isotok(cwd, "run", *task_arguments(texts))
    assert done.stdout.splitlines()[-1] == str(report.relative_to(cwd))
    assert "nothing to do" in done.stderr
    assert snapshot(cwd / "runs") == before


def test_a_killed_fine_tuning_goes_on_to_the_same_weights(first_task, texts, tmp_path):
    shutil.copytree(first_task[0] / "runs", tmp_path / "runs")
    one = next(f for f in folders(tmp_path / "runs", "finetune") if "stochastok" in f.name)
    whole = json.loads((one / "train.json").read_text())
    shutil.rmtree(one)
    stage = [a for a in task_arguments(texts) if not a.startswith("arms.")]
    command = ["finetune", *stage, "transform=stochastok", "finetuning.save_every_steps=1"]
    process = start(tmp_path, *command)
    partial = one.with_name(one.name + ".partial")
    deadline = time.monotonic() + 120
    while not list(partial.glob("checkpoints/step-*/state.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert partial.is_dir() and not one.exists()
    done = isotok(tmp_path, *command)
    assert Path(done.stdout.splitlines()[-1]).name == one.name
    again = json.loads((one / "train.json").read_text())
    assert again["weights_sha256"] == whole["weights_sha256"]


def test_an_edited_question_is_refused(first_task, texts, tmp_path):
    shutil.copytree(first_task[0] / "runs", tmp_path / "runs")
    task = folders(tmp_path / "runs", "task")[0]
    for folder in [*folders(tmp_path / "runs", "answers"), *folders(tmp_path / "runs", "task_report")]:
        shutil.rmtree(folder)
    file = task / "words.jsonl"
    file.write_text(file.read_text().replace('"gold": 0', '"gold": 1', 1))
    done = isotok(tmp_path, "run", *task_arguments(texts), check=False)
    assert done.returncode == 1 and file.name in done.stderr and "edited" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_list_too_long_for_the_text_is_named_before_training(texts, tmp_path):
    done = isotok(tmp_path, "run", *task_arguments(texts), "task.words=100000", check=False)
    assert done.returncode == 1 and "task.words=" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "pretrain").exists()


def test_too_few_questions_are_named_before_training(first_task, texts, tmp_path):
    shutil.copytree(first_task[0] / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "pretrain")
    done = isotok(tmp_path, "run", *task_arguments(texts), "finetuning.questions=256", check=False)
    assert done.returncode == 2 and "finetuning.questions=256" in done.stderr and "128 training" in done.stderr
    assert not (tmp_path / "runs" / "pretrain").exists()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["transform=stochastok", "transform.p=1.5"], "transform.p"),
        (["finetuning.batch=10", "finetuning.rows=4"], "finetuning"),
        (["task=langgame", "task.words=3"], "task.words"),
        (["task=folder"], "task"),
        (["study.metric=accuracy"], "study.metric"),
        (["training.init_from=x", "seeds=[0,1]"], "training.init_from with 2 seeds"),
    ],
)
def test_bad_values_are_named(overrides, says):
    with pytest.raises(ConfigError, match=says.replace(".", r"\.")):
        build_experiment(overrides)


def test_arms_with_and_without_a_task_are_refused():
    experiment = build_experiment(['arms.a=["task=langgame"]', 'arms.b=["tokenizer.vocab_size=300"]'])
    with pytest.raises(ConfigError, match="arm a has one and arm b none"):
        Graph().target(experiment)


def test_a_task_changes_no_key_of_what_comes_before_it():
    plain, asked = (build_run(compose(overrides)) for overrides in ([], ["task=langgame", "finetuning.lr=1e-4"]))
    graph = Graph()
    assert graph.pretrain(plain).key == graph.pretrain(asked).key
    assert graph.evaluate(plain).key == graph.evaluate(asked).key
    more = build_run(compose(["task=langgame", "finetuning.lr=1e-4", "task.point_questions=7"]))
    assert graph.finetune(more).key == graph.finetune(asked).key
    assert graph.answers(more).key != graph.answers(asked).key


def test_stages_without_a_task_say_so():
    for stage in ("task", "finetune", "answers"):
        with pytest.raises(ConfigError, match="task=none"):
            getattr(Graph(), stage)(build_run(compose([])))
    with pytest.raises(ConfigError, match="nothing to fine-tune on"):
        Graph().finetune(build_run(compose(["task=addition", "corpus=addition", "tokenizer=addition"])))
