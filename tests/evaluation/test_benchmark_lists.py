"""lm-eval's tasks as items: local files in place of the Hub, which is never asked."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks import HarnessTasks
from evaluation.benchmarks.boundary import common_start
from evaluation.tasks.items import Item, TaskSet
from isotok.errors import ConfigError, DataError
from isotok.recipe import build, describe
from scripts.compose import build_experiment

ROWS = [
    {"q": "Which is a bird?", "texts": ["owl", "dog", "cow"], "key": 0},
    {"q": "Which is a fish?", "texts": ["hen", "koi", "elk"], "key": 1},
    {"q": "Which is an insect?", "texts": ["fox", "gnu", "bee"], "key": 2},
    {"q": "Which is nothing?", "texts": ["fox", "gnu", "bee"], "key": 7},
]
YAMLS = {
    "iso_choice": """
        output_type: multiple_choice
        doc_to_text: "Question: {{q}}\\nAnswer:"
        doc_to_choice: "{{texts}}"
        doc_to_target: "{{key}}"
        """,
    "iso_last": """
        output_type: loglikelihood
        doc_to_text: "{{q}} "
        doc_to_target: "{{texts[0]}}"
        """,
    "iso_in_context": """
        output_type: multiple_choice
        doc_to_text: "{{key}}"
        doc_to_choice: "{{['A bird, the ' + texts[0], 'A bird, the ' + texts[1], 'A bird, the ' + texts[2]]}}"
        doc_to_target: "flies."
        """,
    "iso_generate": """
        output_type: generate_until
        doc_to_text: "{{q}}"
        doc_to_target: "{{texts[0]}}"
        """,
}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def sets(recipe: Any) -> dict[str, TaskSet]:
    tasks, _ = recipe.task_sets(recipe.fingerprint())
    return {task.name: task for task in tasks}


@pytest.fixture
def own_tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, text in YAMLS.items():
        lines = [line.strip() for line in text.strip().splitlines()]
        lines += [f"task: {name}", "dataset_path: json", "test_split: test", "metadata: {version: 3}"]
        lines += [f"dataset_kwargs: {{data_files: {{test: '{data}'}}}}"]
        (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n")
    (folder / "hub.yaml").write_text(
        "task: iso_hub\ndataset_path: nobody/nothing\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: q\ndoc_to_choice: texts\ndoc_to_target: key\n"
    )
    (folder / "group.yaml").write_text("group: iso_group\ntask:\n- iso_choice\n- group: inner\n  task: [iso_last]\n")
    return folder


@pytest.fixture
def only_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave lm-eval's own fourteen thousand names unread: seconds."""
    import lm_eval.tasks

    from evaluation.benchmarks import leaves

    whole = lm_eval.tasks.TaskManager
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda **keys: whole(**{**keys, "include_defaults": False}))
    leaves._index.cache_clear()


def listed(folder: Path, tasks: dict[str, dict[str, Any]], **keys: Any) -> HarnessTasks:
    return HarnessTasks(name="own", tasks=tasks, include_path=str(folder), **keys)


def test_lm_eval_tasks_become_items(own_tasks: Path, only_own: None, no_network: None) -> None:
    spec = {
        "choice": {"task": "iso_choice", "normalization": "pmi", "unconditional": "Answer:"},
        "last": {"task": "iso_last", "normalization": "none"},
        "iso_in_context": {"normalization": "none"},
        "changed": {"task": "iso_choice", "config": {"doc_to_text": "{{q}}"}},
        "iso_generate": {},
        "listed": {"missing": "needs code"},
        "off": {"task": "no_such_task", "use": False},
    }
    recipe = listed(own_tasks, spec)
    made, source = recipe.task_sets(recipe.fingerprint())
    tasks = {task.name: task for task in made}
    assert list(tasks) == ["choice", "last", "iso_in_context", "changed", "iso_generate", "listed"]

    def asked(name: str) -> set[tuple[str, tuple[str, ...], int]]:
        return {(item.context, item.choices, item.gold) for item in tasks[name].items}

    assert asked("choice") == {
        (f"Question: {row['q']}\nAnswer:", tuple(f" {text}" for text in row["texts"]), row["key"]) for row in ROWS[:3]
    }
    assert asked("changed") == {(row["q"], tuple(f" {text}" for text in row["texts"]), row["key"]) for row in ROWS[:3]}
    assert asked("last") == {(row["q"], (f" {row['texts'][0]}",), 0) for row in ROWS}
    assert asked("iso_in_context") == {
        ("A bird, the", tuple(f" {text} flies." for text in row["texts"]), row["key"]) for row in ROWS[:3]
    }
    assert tasks["choice"].normalization == "pmi" and tasks["choice"].unconditional == "Answer:"
    assert (tasks["choice"].version, tasks["choice"].chance) == (3, pytest.approx(1 / 3))
    assert tasks["iso_generate"].missing == "needs generation: not in likelihood form"
    assert tasks["listed"].missing == "needs code"
    assert source["tasks"]["choice"]["left_out"] == 1
    assert source["tasks"]["iso_in_context"]["whole_strings"]
    assert set(source["tasks"]["choice"]["files"]) == {"data.jsonl", "iso_choice.yaml"}


def test_lm_eval_items_are_picked_and_shots_drawn_by_seed(own_tasks: Path, only_own: None) -> None:
    def items(**keys: Any) -> list[Item]:
        return list(sets(listed(own_tasks, {"iso_last": {}}, **keys))["iso_last"].items)

    assert len(items(items=2)) == 2
    assert items(items=2) == items(items=2)
    assert [i.id for i in items(items=2)] == [i.id for i in items(items=4)][:2]
    with_shots = items(shots=1)
    assert with_shots == items(shots=1)
    for item in with_shots:
        own = item.context.rpartition("\n\n")[2]
        assert own in {row["q"] for row in ROWS} and item.context != own and not item.context.startswith(own)
    group = sets(listed(own_tasks, {"both": {"task": "iso_group"}}, items=4))["both"]
    assert sorted({item.domain for item in group.items}) == ["iso_choice", "iso_last"]
    assert len(group.items) == 4


def test_without_the_hub_tasks_are_missing_or_the_whole_is_refused(
    own_tasks: Path, only_own: None, no_network: None
) -> None:
    recipe = listed(own_tasks, {"iso_choice": {}, "iso_hub": {}})
    fingerprint = recipe.fingerprint()
    assert fingerprint["tasks"]["iso_hub"]["revisions"]["nobody/nothing"].startswith("unreachable: ")
    made, _ = recipe.task_sets(fingerprint)
    assert made[0].missing is None
    assert made[1].missing is not None and made[1].missing.startswith("nobody/nothing: the Hub did not say")
    with pytest.raises(DataError, match=r"no task can be had \(nobody/nothing.*isotok export-tasks"):
        listed(own_tasks, {"iso_hub": {}, "iso_generate": {}}).fingerprint()


def test_revisions_are_pinned_and_recorded(own_tasks: Path, only_own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    import tokenization.hub

    monkeypatch.setattr(tokenization.hub, "newest_revision", lambda path: "a" * 40)
    read: list[tuple[Any, Any]] = []

    def load(path: str, name: str | None = None, revision: str | None = None, **keys: Any) -> Any:
        read.append((path, revision))
        return datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load)
    auto = listed(own_tasks, {"iso_hub": {}})
    own = listed(own_tasks, {"iso_hub": {"revision": "b" * 40}})
    for recipe, commit in ((auto, "a" * 40), (own, "b" * 40)):
        fingerprint = recipe.fingerprint()
        assert fingerprint["tasks"]["iso_hub"]["revisions"] == {"nobody/nothing": commit}
        tasks, source = recipe.task_sets(fingerprint)
        assert len(tasks[0].items) == 3
        assert source["tasks"]["iso_hub"]["revisions"] == {"nobody/nothing": commit}
        assert read[-1] == ("nobody/nothing", commit)

    def broken(*args: Any, **keys: Any) -> Any:
        raise ConnectionError("gone\nfor good")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    tasks, _ = auto.task_sets(auto.fingerprint())
    assert tasks[0].missing == "iso_hub: cannot be read (ConnectionError: gone)"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"x": {"revision": "main"}}, r"tasks.x: .*'main' is not pinned"),
        ({"x": {"normalization": "pmi"}}, r"tasks.x: .*unconditional"),
        ({"x": {"normalisation": "pmi"}}, r"tasks.x.normalisation"),
        ({"x": {"use": False}}, "none is used"),
    ],
)
def test_wrong_lists_are_refused(tasks: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": "evaluation.benchmarks.HarnessTasks", "name": "x", "tasks": tasks}, "benchmark")


def test_unknown_tasks_are_named(own_tasks: Path, only_own: None) -> None:
    with pytest.raises(ConfigError, match="no task 'iso_choic'; did you mean iso_choice"):
        listed(own_tasks, {"x": {"task": "iso_choic"}}).fingerprint()


# One row of each dataset, with the columns that its card shows.
ANIMAL = {"text": ["dog", "owl", "cow"], "label": ["A", "B", "C"]}
HUB: dict[str, list[dict[str, Any]]] = {
    "allenai/ai2_arc": [{"question": "Which is a bird?", "choices": ANIMAL, "answerKey": "B"}],
    "allenai/openbookqa": [{"question_stem": "A bird is", "choices": ANIMAL, "answerKey": "B"}],
    "tau/commonsense_qa": [{"question": "Which is a bird? ", "choices": ANIMAL, "answerKey": "B"}],
    "Rowan/hellaswag": [
        {"activity_label": "Birds", "ctx_a": "An owl sits.", "ctx_b": "it",
         "endings": ["barks.", "hoots."], "label": "1"}
    ],
    "baber/piqa": [{"goal": "See a bird", "sol1": "Look up.", "sol2": "Look down.", "label": 0}],
    "lighteval/siqa": [
        {"context": "Kim saw an owl.", "question": "Who hooted?", "answerA": "Kim", "answerB": "no one",
         "answerC": "the owl",
         "label": "3"}
    ],
    "cais/mmlu": [{"question": " Which is a bird? ", "choices": ["dog", "owl", "cow", "koi"], "answer": 1}],
    "aps/super_glue": [
        {"premise": "The owl left.", "choice1": "It saw me.", "choice2": "It slept.", "question": "cause", "label": 0,
         "passage": "Owls hoot.", "idx": 0}
    ],
    "allenai/winogrande": [
        {"sentence": "The owl ate the mouse as _ was hungry.", "option1": "the owl",
         "option2": "the mouse", "answer": "1"}
    ],
    "lighteval/winograd_wsc": [
        {"text": "The owl ate the mouse because it was hungry.", "pronoun": "it", "pronoun_loc": 30,
         "options": ["The owl", "The mouse"], "label": 0}
    ],
    "EleutherAI/lambada_openai": [{"text": "The owl and the mouse"}],
    "hails/agieval-lsat-ar": [{"query": "Q? A:", "choices": ["(A)one", "(B)two"], "gold": [1]}],
    "hails/bigbench": [
        {"inputs": "Q? A:", "targets": ["two"],
         "multiple_choice_targets": ["one", "two"], "multiple_choice_scores": [0, 1]}
    ],
    "json": [{"context": "Question: What is 1 plus 1?\nAnswer:", "completion": " 2"}],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["olmes_cf", "superbpe_list"])
def test_shipped_lists_ask_in_cloze_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    import tokenization.hub
    from evaluation.benchmarks import leaves

    def load(path: str, config: str | None = None, **keys: Any) -> Any:
        files = str(keys.get("data_files", ""))
        assert keys.get("revision") == "a" * 40 or f"hf://datasets/EleutherAI/arithmetic@{'a' * 40}/data/" in files
        rows = datasets.Dataset.from_list(HUB[path])
        return datasets.DatasetDict(dict.fromkeys(("train", "validation", "test", "default", "dev"), rows))

    leaves._index.cache_clear()
    monkeypatch.setattr(tokenization.hub, "newest_revision", lambda path: "a" * 40)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name=None, **keys: load(path, name, **keys))
    recipe = build_experiment(["experiment=smoke", f"benchmark={name}"]).runs()[0].benchmark
    assert build(describe(recipe), "benchmark") == recipe
    made = sets(recipe)
    asked = {
        task.name: (task.items[0].context, task.items[0].choices, task.items[0].gold)
        for task in made.values()
        if task.items
    }
    about = "The following are questions (with answers) about"
    bird = ((" dog", " owl", " cow"), 1)
    expected: dict[str, Any] = {
        "arc_easy": ("Question: Which is a bird?\nAnswer:", *bird),
        "arc_challenge": ("Question: Which is a bird?\nAnswer:", *bird),
        "openbookqa": ("Question: A bird is\nAnswer:", *bird),
        "commonsense_qa": ("Question: Which is a bird?\nAnswer:", *bird),
        "hellaswag": ("Birds: An owl sits. It", (" barks.", " hoots."), 1),
        "piqa": ("Goal: See a bird\nAnswer:", (" Look up.", " Look down."), 0),
        "mmlu": (
            f"{about} abstract algebra.\n\nQuestion: Which is a bird?\nAnswer:",
            (" dog", " owl", " cow", " koi"),
            1,
        ),
    }
    if name == "olmes_cf":
        choices = (" Kim", " no one", " the owl")
        expected["social_iqa"] = ("Question: Kim saw an owl. Who hooted?\nAnswer:", choices, 2)
    else:
        expected |= {
            "arithmetic": ("Question: What is 1 plus 1?\nAnswer:", (" 2",), 0),
            "lsat_ar": ("Q? A:", (" (A)one", " (B)two"), 1),
            "boolq": ("Owls hoot.\nQuestion: cause?\nAnswer:", (" no", " yes"), 0),
            "copa": ("The owl left because", (" it saw me.", " it slept."), 0),
            "winograd": (
                "The owl ate the mouse because the",
                (" owl was hungry.", " mouse was hungry."),
                0,
            ),
            "winogrande": ("The owl ate the mouse as the", (" owl was hungry.", " mouse was hungry."), 0),
            "lambada": ("The owl and the", (" mouse",), 0),
            "language_identification": ("Q? A:", (" one", " two"), 1),
            "cs_algorithms": ("Q? A:", (" one", " two"), 1),
            "dyck_languages": ("Q? A:", (" one", " two"), 1),
        }
    assert asked == expected
    assert len(made) == (8 if name == "olmes_cf" else 30)
    assert len(made["mmlu"].items) == 57
    assert all(task.missing and "form" in task.missing for task in made.values() if not task.items)


def test_contexts_that_differ_are_cut_behind_a_common_word() -> None:
    assert common_start([("a b", "x"), ("a b", "y")]) == ("a b", ["x", "y"])
    assert common_start([("The cat", " x"), ("The cow", " x")]) == ("The ", ["cat x", "cow x"])
    assert common_start([("Cat", " x"), ("Cow", " x")]) == ("", ["Cat x", "Cow x"])
    assert common_start([("It is", " x"), ("It is so", " x")]) == ("It ", ["is x", "is so x"])
