"""Generated tasks through lm-eval's own evaluator, offline, without a trace in the process or the user's caches."""

import contextlib
import io
import logging
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluation.tasks.generate import Item
from isotok.errors import DataError

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
}


def task_config(name: str, data: Path, cache: Path) -> dict[str, Any]:
    """The task's YAML with its data file (absolute: lm-eval resolves paths against the working directory)."""
    import yaml

    config = yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text())
    config["dataset_kwargs"] = {"data_files": {"test": str(data.resolve())}, "cache_dir": str(cache)}
    return dict(config)


def run_tasks(lm: Any, tasks: dict[str, list[Item]], folder: Path) -> dict[str, dict[str, Any]]:
    """Run `folder`/NAME.jsonl for each task; returns per task lm-eval's `acc`, `acc_bytes`, `version` and `samples`
    (one per item, in item order). Tasks without items are left out."""
    names = [name for name, items in tasks.items() if items]
    if not names:
        return {}
    with (
        tempfile.TemporaryDirectory(prefix="isotok-lm-eval-") as cache,
        offline(),
        quiet() as log,
        kept_random_state(),
        no_inventory(),
    ):
        import lm_eval
        from lm_eval.tasks import TaskManager

        configs = [task_config(name, folder / f"{name}.jsonl", Path(cache)) for name in names]
        try:
            output = lm_eval.simple_evaluate(
                model=lm,
                tasks=configs,
                task_manager=TaskManager(include_path=str(Path(cache)), include_defaults=False),
                bootstrap_iters=0,
                log_samples=True,
            )
        except Exception as error:
            error.add_note(f"lm-eval's last words: {log.getvalue()[-2000:]}")
            raise
    if output is None:
        raise DataError("lm-eval returned nothing; it reports on rank 0 only")
    results = {}
    for name in names:
        samples = sorted(output["samples"][name], key=lambda sample: sample["doc_id"])
        if [sample["doc"]["id"] for sample in samples] != [item.id for item in tasks[name]]:
            raise DataError(f"task {name}: lm-eval scored other items than were generated")
        values = output["results"][name]
        results[name] = {
            "acc": float(values["acc,none"]),
            "acc_bytes": float(values["acc_bytes,none"]),
            "version": output["versions"][name],
            "samples": samples,
        }
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
