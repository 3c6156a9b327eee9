"""The command line: `isotok COMMAND [KEY=VALUE …]`. Results go to stdout, everything else to stderr."""

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isotok.errors import ConfigError, InterruptedRun, IsotokError
from isotok.interrupts import raise_on_signals
from isotok.progress import say
from isotok.recipe import OWN_PACKAGES

STAGES = ("corpus", "tokenizer", "encode", "pretrain", "benchmark", "evaluate", "task", "finetune", "answers")
LOOKING = ("show", "segment", "compare")

USAGE = """\
isotok: at the same compute, which tokenizer makes the better language model?

  isotok COMMAND [KEY=VALUE ...] [--cfg job] [-m] [--debug]

The whole way
  run         build every stage of an experiment and print the report's folder
              isotok run experiment=demo
              isotok run -m tokenizer=bpe,superbpe seed=0,1,2
  plan        the arms as a table before anything is trained: sizes, budget, memory, time

One stage (and what it needs); the artefact's folder is the last line of stdout
  corpus      text: read, near-duplicates removed, split by work
  tokenizer   vocabulary learned from the training split
  encode      token ids
  pretrain    checkpoint at a fixed budget
  benchmark   downstream tasks made elsewhere (benchmark=bigbench, olmes_cf, superbpe_list, folder), for all arms
  evaluate    bits per byte and small downstream tasks
              with ensemble=[A,B]: checkpoints, whatever their vocabularies, alone and mixed by their next bytes
  task        questions about the letters of words, or sums (task=langgame, cute, addition, folder), for all arms
  finetune    a checkpoint after the task's training questions; loss on the answers only
  answers     the task's questions asked of a checkpoint at each point of its fine-tuning
  report      the comparison of an experiment as HTML, CSV, Markdown and JSON

Around it
  ls          artefacts in the store (store=PATH)
  rm KEY ...  remove artefacts by key, name or `partial`
  worker DIR  train what DIR/run.json says (what `pretrain` starts), also under torchrun, srun or accelerate launch
  export RUN out=FOLDER
              a plain transformers folder from a checkpoint of a run (step=last, best or a number)
  show PATH   a vocabulary: kinds of entries, superwords and merges by rank, the longest
  segment PATH ... text=TEXT
              a text in the tokens of one or more tokenizers, under each other
  compare PATH ...
              tokenizers on the same text, as a table, HTML, CSV and JSON; nothing is trained
  lm-eval ARGUMENTS
              lm-eval's own command line, which knows checkpoints as `--model isotok` here
              isotok lm-eval --model isotok --model_args pretrained=DIR/model --tasks NAME --include_path DIR
  export-tasks benchmark=NAME out=DIR
              the tasks as a folder for a machine without network, read there with
              benchmark=folder benchmark.path=DIR

Options
  --cfg job   print the composed config and stop
  -m          comma lists become a grid
  --debug     show the traceback of an error
  --help      this text; after a command, its groups and keys as well
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0, or with the error's exit code after one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    raise_on_signals()
    try:
        _check_own_packages()
        _dispatch([argument for argument in arguments if argument != "--debug"])
    except IsotokError as error:
        if debug:
            raise
        if "ISOTOK_LAUNCHER_PID" not in os.environ:  # else the launcher says it, once for all ranks
            print(f"isotok: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt as interrupt:
        if debug:
            raise
        stopped = InterruptedRun(
            "interrupted; run the same command again to go on", getattr(interrupt, "signal_name", "SIGINT")
        )
        print(f"isotok: {stopped}", file=sys.stderr)
        raise SystemExit(stopped.exit_code) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    command, *rest = arguments
    if command == "lm-eval":  # its arguments are lm-eval's
        from evaluation.lm_eval_cli import run_lm_eval

        run_lm_eval(rest)
        return
    if command == "export":
        from scripts.export import export_command

        if (folder := export_command(rest)) is not None:
            print(folder)
        return
    if command in LOOKING:  # their arguments are paths and text, not config keys
        _look(command, rest)
        return
    commands: dict[str, Callable[[list[str], bool], None]] = {
        "run": _run,
        "plan": _plan,
        "report": _run,
        "export-tasks": _export_tasks,
        "ls": _ls,
        "rm": _rm,
    }
    commands["worker"] = _worker
    for stage in STAGES:
        commands[stage] = lambda overrides, multirun, stage=stage: _stage(stage, overrides)  # type: ignore[misc]
    if command not in commands:
        import difflib

        names = [*commands, *LOOKING, "export", "lm-eval"]
        close = difflib.get_close_matches(command, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{command}: no such command{hint} (commands: {', '.join(names)})")
    if "--help" in rest or "-h" in rest:
        _help()
        return
    multirun = "-m" in rest or "--multirun" in rest
    overrides, show_config = _flags(rest)
    if show_config:
        _print_config(overrides)
        return
    commands[command](overrides, multirun)


def _flags(rest: list[str]) -> tuple[list[str], bool]:
    overrides, show_config = [], False
    arguments = iter(rest)
    for argument in arguments:
        if argument in ("-m", "--multirun"):
            continue
        if argument in ("--cfg", "-c"):
            if next(arguments, None) != "job":
                raise ConfigError("--cfg: only `--cfg job` is known")
            show_config = True
        elif argument == "--cfg=job":
            show_config = True
        elif argument.startswith("-"):
            raise ConfigError(f"{argument}: no such option (options: --cfg job, -m, --debug, --help)")
        else:
            overrides.append(argument)
    return overrides, show_config


def _print_config(overrides: list[str]) -> None:
    from omegaconf import OmegaConf

    from scripts.compose import compose

    print(OmegaConf.to_yaml(OmegaConf.create(compose(overrides))), end="")


def _help() -> None:
    import yaml

    from scripts.compose import CONFIG_DIR, GROUPS, group_options

    print(USAGE)
    print("Groups, as GROUP=NAME")
    for group in (*GROUPS, "experiment", "debug"):
        print(f"  {group:<12}{', '.join(group_options(group))}")
    print("\nKeys, as GROUP.KEY=VALUE (shown for the defaults; `--cfg job` shows them for your choice)")
    defaults: list[Any] = yaml.safe_load((CONFIG_DIR / "config.yaml").read_text())["defaults"]
    chosen = {k: v for entry in defaults if isinstance(entry, dict) for k, v in entry.items() if k in GROUPS}
    for group, name in chosen.items():
        print(f"\n  {group} ({name})")
        for line in (CONFIG_DIR / group / f"{name}.yaml").read_text().splitlines():
            if line and not line.startswith("_target_"):
                print(f"    {line}")
    print("\n  top level")
    text = (CONFIG_DIR / "config.yaml").read_text()
    for line in text[text.index("seed:") :].splitlines():
        print(f"    {line}".rstrip())


def _look(command: str, arguments: list[str]) -> None:
    if command == "show":
        from scripts.show import show_command

        show_command(arguments)
    elif command == "segment":
        from scripts.segment import segment_command

        segment_command(arguments)
    else:
        from scripts.compare import compare_command

        print(compare_command(arguments))


def _run(overrides: list[str], multirun: bool) -> None:
    from scripts.compose import build_experiment
    from scripts.graph import Graph, ancestors, has_benchmark, has_task
    from scripts.local import run_graph
    from scripts.store import Store

    start = time.monotonic()
    experiment = build_experiment(overrides, multirun=multirun)
    store, graph = Store(experiment.store), Graph()
    jobs, threads = _jobs(experiment)
    target = graph.target(experiment)
    missing = [node for node in ancestors([target]) if not store.has(node)]
    if not store.has(target) and any(node.stage in ("pretrain", "finetune") for node in missing):
        _check_engines(experiment.runs())
        # Data first, then every arm's budget, so that a bad one is refused before any training.
        data = [graph.encode(run) for run in experiment.runs()]
        data += [graph.benchmark(run) for run in experiment.runs() if has_benchmark(run)]
        data += [graph.task(run) for run in experiment.runs() if has_task(run)]
        run_graph(data, store, jobs=jobs, threads=threads, plugins=experiment.plugins)
        from scripts.plan import check_tasks, plan_experiment, print_plan

        rows = plan_experiment(experiment, graph, store)
        print_plan(rows, file=sys.stderr)
        check_tasks(experiment, rows, graph, store)
    run_graph([target], store, jobs=jobs, threads=threads, plugins=experiment.plugins)
    folder = store.folder(target)
    if not missing:
        say("nothing to do: every artefact exists")
    page = "compare.html" if target.stage == "comparison" else "report.html"
    say(f"{target.stage.replace('_', ' ')}: {folder / page} ({time.monotonic() - start:.0f} s)")
    print(folder)


def _plan(overrides: list[str], multirun: bool) -> None:
    from scripts.compose import build_experiment
    from scripts.graph import Graph, has_benchmark, has_task
    from scripts.local import run_graph
    from scripts.plan import plan_experiment, print_plan
    from scripts.store import Store

    experiment = build_experiment(overrides, multirun=multirun)
    if experiment.study.subject == "tokenizers":
        raise ConfigError("plan: this experiment trains no model (study.subject=tokenizers), so it has no budget")
    store, graph = Store(experiment.store), Graph()
    jobs, threads = _jobs(experiment)
    unknown = [run for run in experiment.runs() if run.assume.bytes_per_token is None]
    data = [graph.encode(run) for run in unknown]
    run_graph(data, store, jobs=jobs, threads=threads, plugins=experiment.plugins)
    print_plan(plan_experiment(experiment, graph, store, measure=True), file=sys.stdout)
    for label in sorted({run.benchmark.label for run in experiment.runs() if has_benchmark(run)}):
        say(f"benchmark {label}: made before training and asked of every checkpoint; its time is not in the table")
    for label in sorted({run.task.label for run in experiment.runs() if has_task(run)}):
        say(f"task {label}: fine-tuning and questions come after training; their time is not in the table")


def _stage(stage: str, overrides: list[str]) -> None:
    if stage == "evaluate" and any(override.partition("=")[0] == "ensemble" for override in overrides):
        from scripts.ensemble import ensemble_command

        print(ensemble_command(overrides))
        return
    from scripts.compose import add_plugins, build_run, build_settings, compose
    from scripts.graph import Graph
    from scripts.local import run_graph
    from scripts.store import Store

    config = compose(overrides)
    settings = build_settings(config)
    add_plugins(settings.plugins)
    if settings.arms:
        say(f"{stage}: the experiment's arms are left aside, the config is built as given")
    run = build_run(config)
    node = getattr(Graph(), stage)(run)
    store = Store(Path(settings.store))
    if stage in ("pretrain", "evaluate", "finetune", "answers"):
        _check_engines([run])
    run_graph([node], store, jobs=1, threads=run.engine.threads, plugins=settings.plugins)
    print(store.folder(node))


def _export_tasks(arguments: list[str], multirun: bool) -> None:
    from scripts.export_tasks import export_tasks

    print(export_tasks(arguments))


def _worker(arguments: list[str], multirun: bool) -> None:
    from scripts.worker import worker_command

    worker_command(arguments)


def _ls(overrides: list[str], multirun: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    store = _store(overrides)
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "name", "state", "MB", "finished", "wall s"):
        table.add_column(column, justify="right" if column in ("MB", "wall s") else "left", no_wrap=True)
    for entry in store.entries():
        finished, wall = entry.manifest.get("finished", ""), entry.manifest.get("wall_s", "")
        state = "complete" if entry.complete else "partial"
        table.add_row(entry.stage, entry.path.name, state, f"{entry.n_bytes / 1e6:.1f}", finished, str(wall))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _rm(arguments: list[str], multirun: bool) -> None:
    names = [argument for argument in arguments if "=" not in argument]
    store = _store([argument for argument in arguments if "=" in argument])
    if not names:
        raise ConfigError(
            "rm: name what to remove: a key, an artefact's name, or `partial` for what was left half-built"
        )
    for name in names:
        if name == "partial":
            found = [entry for entry in store.entries() if not entry.complete]
        else:
            found = [e for e in store.entries() if name in (e.path.name, e.path.name.rsplit("-", 1)[-1])]
            if not found:
                raise ConfigError(f"rm {name}: no such artefact in {store.root} (`isotok ls` lists them)")
        for entry in found:
            store.remove(entry)
            print(entry.path)


def _store(overrides: list[str]) -> Any:
    from scripts.store import Store

    root = "runs"
    for override in overrides:
        key, _, value = override.partition("=")
        if key != "store":
            raise ConfigError(f"{key}: only store=PATH goes here")
        root = value
    return Store(Path(root))


def _check_engines(runs: Sequence[Any]) -> None:
    """Before anything is read: whether this machine has the devices and libraries that engines ask for."""
    from scripts.worker import one_process_only
    from training.process_group import check_engine

    one_process_only()
    for run in runs:
        check_engine(run.engine)


def _jobs(experiment: Any) -> tuple[int, int]:
    from tokenization.chunks import cores

    runs = experiment.runs()
    threads = max(run.engine.threads for run in runs)
    if experiment.jobs == "auto":
        on_gpu = Path("/dev/nvidia0").exists() and any(run.engine.device != "cpu" for run in runs)
        busy_cores = max(run.engine.threads * run.engine.ranks for run in runs)
        return 1 if on_gpu else max(1, cores() // busy_cores), threads
    return experiment.jobs, threads


def _check_own_packages() -> None:
    """Refuse to run when a folder of the user's shadows one of isotok's packages."""
    here = Path(__file__).resolve().parent.parent
    for name in OWN_PACKAGES:
        spec = None
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or here not in origin.parents:
            found = origin.parent if origin else "a folder without __init__.py"
            raise ConfigError(
                f"package {name!r} is shadowed by {found}; run isotok from another folder or rename that one"
            )


if __name__ == "__main__":
    main()
