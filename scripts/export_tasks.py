"""`isotok export-tasks benchmark=NAME out=DIR`: a benchmark's task folder, for machines without network."""

import shutil
from pathlib import Path

from isotok.errors import ConfigError
from isotok.files import publish_dir, sha256_file
from isotok.progress import say

USAGE = "export-tasks: name a benchmark and a new folder, like `isotok export-tasks benchmark=bigbench out=tasks`"


def export_tasks(arguments: list[str]) -> Path:
    """Build the benchmark (or find it built), copy its tasks.json and items to out=DIR and verify the copy.

    Returns DIR. Raises ConfigError where DIR is there with anything else in it.
    """
    from evaluation.tasks.items import TASKS_FILE, read_task_folder
    from scripts.compose import add_plugins, build_run, build_settings, compose
    from scripts.graph import Graph
    from scripts.local import run_graph
    from scripts.store import Store

    given = [argument.removeprefix("out=") for argument in arguments if argument.startswith("out=")]
    overrides = [argument for argument in arguments if not argument.startswith("out=")]
    if len(given) != 1 or not given[0] or not any(text.startswith("benchmark=") for text in overrides):
        raise ConfigError(USAGE)
    out = Path(given[0]).expanduser()
    config = compose(overrides)
    settings = build_settings(config)
    add_plugins(settings.plugins)
    node = Graph().benchmark(build_run(config))
    store = Store(Path(settings.store))
    run_graph([node], store, jobs=1, threads=1, plugins=settings.plugins)
    made = store.folder(node)
    files = [made / TASKS_FILE, *sorted(made.glob("*.jsonl"))]
    if out.exists():
        there = {path.name: sha256_file(path) for path in out.iterdir() if path.is_file()} if out.is_dir() else {}
        if not out.is_dir() or (any(out.iterdir()) and there != {path.name: sha256_file(path) for path in files}):
            raise ConfigError(f"export-tasks: out={out} is there and is something else; name a new folder")
        if there:
            say(f"export-tasks: {out} has these tasks already")
            return out
        out.rmdir()
    part = out.with_name(f".{out.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for path in files:
        shutil.copyfile(path, part / path.name)
    tasks = read_task_folder(part)
    publish_dir(part, out)
    say(
        f"export-tasks: {sum(not task.missing for task in tasks)} tasks in {out}, tasks.json has sha256 "
        f"{sha256_file(out / TASKS_FILE)}; use them with benchmark=folder benchmark.path={out}"
    )
    return out
