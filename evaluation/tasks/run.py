"""Tasks through lm-eval's own evaluator, offline, without a trace in the process or the user's caches."""

import contextlib
import io
import logging
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from evaluation.tasks.items import TaskSet
from isotok.errors import DataError

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
}


def task_config(task: TaskSet) -> dict[str, Any]:
    """A task as lm-eval takes it. Tasks whose items all have one choice ask for its log-likelihood, others for the
    likeliest choice. Fields are named rather than put in templates, which would read digits as numbers."""
    chosen = task.chance is not None
    mean = {"aggregation": "mean", "higher_is_better": True}
    metrics = ("acc", "acc_bytes") if chosen else ("acc",)  # of one choice, `acc` is whether it is decoded greedily
    return {
        "task": task.name,
        "custom_dataset": lambda **_: {"test": _dataset(task)},
        "test_split": "test",
        "output_type": "multiple_choice" if chosen else "loglikelihood",
        "doc_to_text": "context",
        "doc_to_target": "gold" if chosen else "target",
        **({"doc_to_choice": "choices"} if chosen else {}),
        "target_delimiter": "",  # choices bring their own space
        "num_fewshot": 0,
        "metric_list": [{"metric": metric, **mean} for metric in metrics],
        "metadata": {"version": task.version},
    }


def _dataset(task: TaskSet) -> Any:
    """With its types given: reading JSON would guess them, and take dates and numbers for something else than text."""
    from datasets import Dataset, Features, List, Value

    text = Value("string")
    columns = {
        "id": [item.id for item in task.items],
        "context": [item.context for item in task.items],
        "choices": [list(item.choices) for item in task.items],
        "gold": [item.gold for item in task.items],
        "target": [item.choices[item.gold] for item in task.items],
    }
    types = Features({"id": text, "context": text, "choices": List(text), "gold": Value("int64"), "target": text})
    return Dataset.from_dict(columns, features=types)


def run_tasks(lm: Any, tasks: Sequence[TaskSet]) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's samples by task: one an item, in item order, with `doc_id` and `acc`. Tasks without items are left
    out."""
    asked = [task for task in tasks if task.items]
    if not asked:
        return {}
    with (
        tempfile.TemporaryDirectory(prefix="isotok-lm-eval-") as empty,
        offline(),
        quiet() as log,
        kept_random_state(),
        no_inventory(),
    ):
        import lm_eval
        from lm_eval.tasks import TaskManager

        try:
            output = lm_eval.simple_evaluate(
                model=lm,
                tasks=[task_config(task) for task in asked],
                task_manager=TaskManager(include_path=empty, include_defaults=False),
                bootstrap_iters=0,
                log_samples=True,
            )
        except Exception as error:
            error.add_note(f"lm-eval's last words: {log.getvalue()[-2000:]}")
            raise
    if output is None:
        raise DataError("lm-eval returned nothing; it reports on rank 0 only")
    results = {}
    for task in asked:
        samples = sorted(output["samples"][task.name], key=lambda sample: sample["doc_id"])
        if [sample["doc"]["id"] for sample in samples] != [item.id for item in task.items]:
            raise DataError(f"task {task.name}: lm-eval scored other items than it was given")
        results[task.name] = samples
    return results


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """No look at the Hub, even where its packages are first imported in here."""
    before = {key: os.environ.get(key) for key in _OFFLINE}
    os.environ.update(_OFFLINE)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Keep bars, notices and logs of lm-eval and datasets off the terminal; yields what they wrote."""
    held = io.StringIO()
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(held), contextlib.redirect_stdout(held):
            yield held
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextlib.contextmanager
def no_inventory() -> Iterator[None]:
    """No questions to git and pip about this machine: they are slow and loud; provenance is noted elsewhere."""
    import lm_eval.evaluator as evaluator

    names = ("get_git_commit_hash", "add_env_info")
    before = {name: getattr(evaluator, name) for name in names}
    for name in names:
        setattr(evaluator, name, lambda *_: None)
    try:
        yield
    finally:
        for name in names:
            setattr(evaluator, name, before[name])


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """lm-eval seeds every global generator; give them back as they were."""
    import numpy as np
    import torch

    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
