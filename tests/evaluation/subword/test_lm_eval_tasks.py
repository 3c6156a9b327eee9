"""Task folders through lm-eval: found by name, asked as they stand, the same scores as without it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.harness import IsotokLM
from evaluation.likelihood import Likelihood
from evaluation.subword.lm_eval_tasks import write_lm_eval
from evaluation.subword.questions import Question, TaskData, write_task
from evaluation.tasks.run import kept_random_state, no_inventory, offline, quiet
from isotok.files import write_json


def task() -> TaskData:
    """Questions that a template or a guess at types would change: digits, dates, brackets, numbers as options."""
    prompts = ["12", "2020-01-02", "[1, 2]", "{{prompt}}", "the king said", " true", "the sea and"]
    options = [
        (" 1", " 2"),
        (" 10", " 1"),
        (" [a]", " b"),
        (" True", " None"),
        (" of", " in"),
        (" 007", " 7"),
        (" a", " b"),
    ]
    questions = tuple(
        Question(f"q{i}", "t", prompt, option[i % 2], option, i % 2)
        for i, (prompt, option) in enumerate(zip(prompts, options))
    )
    return TaskData("toy", (), {"test": questions[:3], "words": questions[3:]}, "words", modes=("choice", "generate"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tasks") / "before"
    write_task(task(), out)
    names = write_lm_eval(task(), out)
    assert names == ["toy_test", "toy_test_written", "toy_words", "toy_words_written"]
    return out.rename(out.with_name("moved"))


def test_the_same_questions_and_scores(folder: Path, superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    lm = IsotokLM(make_model(superword_tokenizer), superword_tokenizer, context_bytes=96)
    with offline(), quiet(), kept_random_state(), no_inventory():
        import lm_eval
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(folder / "lm_eval"), include_defaults=False)
        names = ["toy_test", "toy_words", "toy_test_written", "toy_words_written"]
        found = lm_eval.simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=True)
    assert found is not None
    scorer = Likelihood(lm.model, superword_tokenizer, context_bytes=96, method=lm.scoring)
    for split, questions in task().splits.items():
        expected = scorer.score([(q.prompt, list(q.options)) for q in questions])
        rows = sorted(found["samples"][f"toy_{split}"], key=lambda row: row["doc_id"])
        assert [row["doc"]["id"] for row in rows] == [q.id for q in questions]
        for row, question, scores in zip(rows, questions, expected):
            assert [argument[0] for argument in row["arguments"]] == [question.prompt] * 2
            assert [argument[1] for argument in row["arguments"]] == list(question.options)
            values = [answer[0][0] for answer in row["resps"]]
            assert values == pytest.approx([-score.nats for score in scores], abs=1e-5)
            assert row["acc"] == (values[question.gold] == max(values))
        written = sorted(found["samples"][f"toy_{split}_written"], key=lambda row: row["doc_id"])
        for row, question in zip(written, questions):
            assert row["target"] == question.answer
            assert row["exact_match"] == (row["filtered_resps"][0] == question.answer)


def test_only_the_modes_of_the_task(tmp_path: Path) -> None:
    plain = TaskData("sums", (), {"test": (Question("q", "t", "$1+1=", "2"),)}, "test", modes=("generate",), stop="$")
    write_task(plain, tmp_path)
    assert write_lm_eval(plain, tmp_path) == ["sums_test_written"]
    assert 'until: ["$"]' in (tmp_path / "lm_eval" / "sums_test_written.yaml").read_text()


@pytest.mark.slow
def test_by_name_on_the_command_line(
    folder: Path, superword_tokenizer: Any, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    make_model(superword_tokenizer).save_pretrained(tmp_path / "model")
    superword_tokenizer.save_pretrained(tmp_path / "model")
    write_json(tmp_path / "run.json", {"budget": {"context_bytes": 96}})
    command = [sys.executable, "-m", "scripts.cli", "lm-eval", "--model", "isotok", "--tasks", "toy_words"]
    command += [
        "--model_args",
        f"pretrained={tmp_path / 'model'},device=cpu",
        "--include_path",
        str(folder / "lm_eval"),
    ]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "toy_words" in done.stdout and "acc_bytes" in done.stdout


def test_no_task_of_text_that_lacks_its_marks(tmp_path: Path) -> None:
    splits = {
        "marked": (Question("q", "t", "before?", " it", marks=(3,)),),
        "plain": (Question("q", "t", "a?", " it"),),
    }
    data = TaskData("own", (), splits, "plain", modes=("generate",))
    assert write_lm_eval(data, tmp_path) == ["own_plain_written"]
    assert not (tmp_path / "lm_eval" / "own_marked_written.yaml").exists()
