"""Benchmarks: BIG-bench from a package made here, lm-eval's tasks from local files, task folders; no network."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation import Evaluation, evaluate
from evaluation.benchmarks import BigBench, Folder, build_benchmark
from evaluation.tasks.items import Item, TaskSet, read_task_folder, write_task_folder
from isotok.errors import ConfigError, DataError
from isotok.files import read_json
from isotok.recipe import build
from scripts.compose import build_experiment
from scripts.export_tasks import export_tasks
from scripts.graph import Graph
from tests.evaluation.bigbench_archive import CANARY, write_archive
from tokenization.tokenizer import save_tokenizer


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def bigbench(folder: Path, *tasks: str, extra: dict[str, bytes] | None = None, **keys: Any) -> BigBench:
    path = folder / "bigbench-1.0.0.tar.gz"
    sha256 = write_archive(path, extra)
    return BigBench(tasks=tasks, **{"archive": str(path), "sha256": sha256, **keys})


def sets(recipe: Any) -> dict[str, TaskSet]:
    tasks, _ = recipe.task_sets(recipe.fingerprint())
    return {task.name: task for task in tasks}


def test_items_are_what_big_bench_asks(tmp_path: Path, no_network: None) -> None:
    made = sets(bigbench(tmp_path, "animals", "plain", "sums/small", "spelling"))
    assert list(made) == ["bb_animals", "bb_plain", "bb_sums-small", "bb_spelling"]
    asked = {name: [(i.context, i.choices, i.gold) for i in task.items] for name, task in made.items()}
    # Written out by hand. The order of listed choices is that of numpy's RandomState(42).permutation over the sorted
    # ones: [1, 0] for two, [0, 1, 2] for three.
    assert asked["bb_plain"] == [
        ("Say true or false. \nStatement: One is one.\nTrue?", (" true", " false"), 0),
        ("Say true or false. \nStatement: One is two.\nTrue?", (" true", " false"), 1),
    ]
    assert asked["bb_spelling"] == [
        ("\nQ: The word hte is \nA:", (" the",), 0),
        ("\nQ: The word nad is \n  choice: dan\n  choice: and\nA:", (" and",), 0),
    ]
    assert asked["bb_sums-small"] == [("\nQ: 1 and 1\n- 2\n- 3\n- owl\nA:", (" 3", " 2", " owl"), 1)]
    assert asked["bb_animals"][0] == (
        "\nQ: Is a cat an animal?\n  choice: yes\n  choice: no\nA:",
        (" yes", " no"),
        0,
    )
    assert [made[name].chance for name in made] == [0.5, 0.5, pytest.approx(1 / 3), None]
    assert {task.normalization for task in made.values()} == {"none"}
    for task in made.values():
        assert CANARY not in task.text


def test_items_are_picked_by_seed_and_task(tmp_path: Path) -> None:
    def picked(**keys: Any) -> list[str]:
        return [item.id for item in sets(bigbench(tmp_path, "animals", **keys))["bb_animals"].items]

    five = picked(items=5)
    assert len(five) == 5 and five == sorted(five, key=int)
    assert five == picked(items=5) != picked(items=5, seed=1)
    assert set(picked(items=4)) < set(five)
    assert len(picked()) == 12


def test_shots_are_other_examples_with_their_answers(tmp_path: Path) -> None:
    task = sets(bigbench(tmp_path, "plain", "animals", shots=1))["bb_plain"]
    assert [item.context for item in task.items] == [
        "Say true or false. \nStatement: One is two.\nTrue? false\n--\nStatement: One is one.\nTrue?",
        "Say true or false. \nStatement: One is one.\nTrue? true\n--\nStatement: One is two.\nTrue?",
    ]
    few = sets(bigbench(tmp_path, "plain", "animals", shots=2))["bb_plain"]
    assert few.missing == "2 examples are too few for 2 shots"


def test_what_cannot_be_asked_is_missing_with_its_reason(tmp_path: Path) -> None:
    recipe = bigbench(tmp_path, "nothing", "plain", "sums", "essays")
    out = tmp_path / "out"
    figures = build_benchmark(recipe, recipe.fingerprint(), out)
    assert figures == {"tasks": 1, "items": 2, "missing": ["bb_nothing", "bb_sums", "bb_essays"]}
    listed = read_json(out / "tasks.json")
    assert [entry["missing"] for entry in listed["tasks"].values()] == [
        "bigbench 1.0.0 has no nothing/task.json",
        None,
        "it has parts only: sums/small; name one",
        "its examples have neither one best choice nor a target",
    ]
    assert listed["source"]["tasks"]["plain"] == {
        "preferred_score": "multiple_choice_grade",
        "examples": 3,
        "left_out": 1,
    }
    assert sorted(path.name for path in out.iterdir()) == ["bb_plain.jsonl", "tasks.json"]
    with pytest.raises(DataError, match="none can be had.*has no nothing/task.json"):
        sets(bigbench(tmp_path, "nothing"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"examples": [', r"benchmark_tasks/odd/task.json: broken JSON"),
        (b"\xff\xfe{}", r"benchmark_tasks/odd/task.json: broken JSON"),
        (b"[]", r"benchmark_tasks/odd/task.json: not a task"),
        (b'{"examples": [{"target": "x"}]}', r"benchmark_tasks/odd/task.json: example 0: .*input"),
    ],
)
def test_broken_tasks_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        sets(bigbench(tmp_path, "odd", extra={"odd": content}))
    assert sets(bigbench(tmp_path, "plain", extra={"odd": content}))  # not asked for: not read


def test_another_or_a_torn_archive_is_refused(tmp_path: Path) -> None:
    recipe = bigbench(tmp_path, "plain")
    path = Path(str(recipe.archive))
    with pytest.raises(DataError, match=f"sha256 {recipe.sha256}, but benchmark.sha256 is 0000"):
        sets(BigBench(tasks=("plain",), archive=str(path), sha256="0" * 64))
    anything = BigBench(tasks=("plain",), archive=str(path), sha256=None)
    assert anything.fingerprint() == recipe.fingerprint()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a whole .tar.gz"):
        sets(recipe)
    path.unlink()
    with pytest.raises(DataError, match=r"benchmark.archive=.*no such file"):
        sets(recipe)


def test_recipe_is_checked() -> None:
    for keys, message in [
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": ["a", "a"]}, "named twice"),
        ({"tasks": ["a"], "sha256": None}, "needs benchmark.archive"),
        ({"tasks": ["a"], "sha256": "x"}, "64 hex digits"),
        ({"tasks": ["a"], "shots": -1}, "shots"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build({"_target_": "evaluation.benchmarks.BigBench", **keys}, "benchmark")


def index(folder: Path) -> dict[str, str]:
    """An index of packages in files, and pip told to look there only."""
    files = folder / "index" / "bigbench"
    files.mkdir(parents=True)
    sha256 = write_archive(files / "bigbench-1.0.0.tar.gz")
    (files / "index.html").write_text('<!DOCTYPE html><a href="bigbench-1.0.0.tar.gz">bigbench-1.0.0.tar.gz</a>')
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": (folder / "index").as_uri(), "PIP_NO_CACHE_DIR": "1"}
    return {"sha256": sha256, **pip}


@pytest.mark.slow
def test_pip_fetches_without_running_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = index(tmp_path)
    for key in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(key, raising=False)
    for key in ("PIP_CONFIG_FILE", "PIP_INDEX_URL", "PIP_NO_CACHE_DIR"):
        monkeypatch.setenv(key, found[key])
    recipe = BigBench(tasks=("plain", "spelling"), sha256=found["sha256"])
    assert sets(recipe) == sets(bigbench(tmp_path, "plain", "spelling"))
    with pytest.raises(DataError, match=r"benchmark.sha256 is 1111"):
        sets(BigBench(tasks=("plain",), sha256="1" * 64))
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "none").as_uri())
    with pytest.raises(DataError, match=r"pip cannot fetch its source \(.*benchmark.archive=PATH"):
        sets(recipe)
    monkeypatch.setenv("PIP_INDEX_URL", "http://localhost:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DataError, match=r"Could not fetch URL http://localhost:1/simple/bigbench/: connection error"):
        sets(recipe)


# --- task folders ---


def test_folder_is_verified_and_keyed_by_content(tmp_path: Path, no_network: None) -> None:
    recipe = bigbench(tmp_path, "plain", "animals", "nothing")
    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):
        build_benchmark(recipe, recipe.fingerprint(), out)
    keys = {Graph().benchmark(run(f"benchmark.path={out}")).key for out in (one, two)}
    assert len(keys) == 1
    copied = tmp_path / "copied"
    build_benchmark(Folder(path=str(one)), Folder(path=str(one)).fingerprint(), copied)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == {
        path.name: path.read_bytes() for path in one.iterdir()
    }
    before = Folder(path=str(two)).fingerprint()
    write_task_folder(two, read_task_folder(two)[:1], {})
    assert Graph().benchmark(run(f"benchmark.path={two}")).key not in keys
    with pytest.raises(DataError, match="changed while it was in use"):
        Folder(path=str(two)).task_sets(before)
    with open(one / "bb_plain.jsonl", "a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"bb_plain.jsonl: sha256"):
        Folder(path=str(one)).fingerprint()
    with pytest.raises(ConfigError, match="no such folder"):
        Folder(path=str(tmp_path / "nowhere")).fingerprint()


def run(*overrides: str) -> Any:
    experiment = build_experiment(["experiment=smoke", "benchmark=folder", *overrides])
    return experiment.runs()[0]


def test_keys_without_a_benchmark_do_not_know_of_it(tmp_path: Path) -> None:
    graph = Graph()
    with pytest.raises(ConfigError, match="choose one of bigbench, folder"):
        graph.benchmark(build_experiment(["experiment=smoke"]).runs()[0])
    plain = graph.evaluate(build_experiment(["experiment=smoke"]).runs()[0])
    assert set(plain.inputs) == {"corpus", "tokenizer", "pretrain"}
    assert "benchmark" not in plain.config
    write_task_folder(tmp_path / "a", [TaskSet("t", (Item("1", "1", "1", "d", "a", ("b", "c"), 0),))], {})
    asked = graph.evaluate(run(f"benchmark.path={tmp_path}/a"))
    assert asked.key != plain.key
    assert asked.inputs["pretrain"] is not None and asked.inputs["pretrain"].key == plain.inputs["pretrain"].key


def test_arms_with_different_benchmarks_are_refused(tmp_path: Path) -> None:
    write_task_folder(tmp_path / "a", [TaskSet("t", (Item("1", "1", "1", "d", "a", ("b", "c"), 0),))], {})
    overrides = ["experiment=smoke", f'arms.bpe=["benchmark=folder","benchmark.path={tmp_path}/a"]']
    with pytest.raises(ConfigError, match=r"arms have different ones \(folder, none\)"):
        Graph().report(build_experiment(overrides))
    both = ["experiment=smoke", "benchmark=folder", f"benchmark.path={tmp_path}/a"]
    report = Graph().report(build_experiment(both))
    assert len({node.inputs["benchmark"].key for node in report.inputs.values() if node.stage == "evaluate"}) == 1


def isotok(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_export_and_read_back_by_command_line(tmp_path: Path) -> None:
    recipe = bigbench(tmp_path, "plain")
    asked = ["benchmark=bigbench", "benchmark.tasks=[plain,animals,nothing]", f"benchmark.archive={recipe.archive}"]
    asked += [f"benchmark.sha256={recipe.sha256}"]
    done = isotok("export-tasks", *asked, "out=tasks", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "tasks\n"), done.stderr
    tasks = read_task_folder(tmp_path / "tasks")
    assert [(task.name, len(task.items)) for task in tasks] == [("bb_plain", 2), ("bb_animals", 12), ("bb_nothing", 0)]
    export_tasks([*asked, f"out={tmp_path}/tasks", f"store={tmp_path}/runs"])  # the same again is fine
    read = isotok("benchmark", "benchmark=folder", "benchmark.path=tasks", "store=other", cwd=tmp_path)
    assert read.returncode == 0, read.stderr
    assert read_task_folder(tmp_path / read.stdout.strip()) == tasks
    for arguments, message in [
        (["benchmark=bigbench"], "export-tasks: name a benchmark and a new folder"),
        (["out=x"], "export-tasks: name a benchmark and a new folder"),
        ([*asked, f"out={tmp_path}", f"store={tmp_path}/runs"], "is there and is something else"),
        (["benchmark=none", "out=x"], "choose one of bigbench"),
    ]:
        with pytest.raises(ConfigError, match=message):
            export_tasks(arguments)
    assert not (tmp_path / "x").exists()


# --- on a checkpoint ---


def test_a_checkpoint_is_asked_the_benchmark(
    tmp_path: Path, tiny_corpus: Path, superword_tokenizer: Any, make_model: Any, no_network: None
) -> None:
    recipe = bigbench(tmp_path, "plain", "animals", "spelling", "nothing")
    folder, model_dir, out = tmp_path / "tasks", tmp_path / "model", tmp_path / "out"
    build_benchmark(recipe, recipe.fingerprint(), folder)
    save_tokenizer(superword_tokenizer, model_dir)
    make_model(superword_tokenizer).save_pretrained(model_dir)
    out.mkdir()
    scoring = Evaluation(max_bytes=1000, items=2, samples=0, tasks=("iso_cloze",))
    results = evaluate(scoring, model_dir, tiny_corpus, 128, out, benchmark=folder)["tasks"]
    assert list(results) == ["iso_cloze", "bb_plain", "bb_animals", "bb_spelling", "bb_nothing"]
    assert [results[name]["n"] for name in results] == [2, 2, 12, 2, 0]
    assert results["bb_nothing"]["missing"] == "bigbench 1.0.0 has no nothing/task.json"
    assert results["bb_plain"]["chance"] == 0.5
    assert 0 <= results["bb_plain"]["acc"] <= 1
    assert results["bb_spelling"]["acc"] is None
    assert results["bb_spelling"]["gold_bits_per_byte"] > 0
    write_task_folder(folder, [TaskSet("iso_cloze", read_task_folder(folder)[0].items)], {})
    with pytest.raises(DataError, match="iso_cloze is also generated"):
        evaluate(scoring, model_dir, tiny_corpus, 128, out, benchmark=folder)
