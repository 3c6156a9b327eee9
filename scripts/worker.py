"""`isotok worker RUN_DIR`: training proper, as one process or as one of the ranks that something else started."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotok.errors import ConfigError, InterruptedRun, IsotokError
from isotok.files import read_json
from isotok.recipe import OWN_PACKAGES

if TYPE_CHECKING:
    from training.recipes import Engine


def worker_command(arguments: Sequence[str]) -> None:
    """Train what RUN_DIR/run.json says; rank 0 prints the folder as the only line on stdout.

    arguments: the folder and, for recipes of the user's own, `plugins=[PATH,...]`, which also allows run.json to name
    what is not isotok's.
    """
    from scripts.compose import add_plugins
    from training.process import die_with_parent, is_communication_error, report_error, stdout_to_stderr

    die_with_parent()
    folders = [argument for argument in arguments if not argument.startswith("plugins=")]
    if len(folders) != 1:
        raise ConfigError("worker: needs one folder with a run.json, like `isotok worker RUN_DIR`")
    plugins = _plugins(arguments)
    add_plugins(plugins)
    stdout = stdout_to_stderr()
    try:
        run_worker(Path(folders[0]), allow=None if plugins else OWN_PACKAGES)
    except BaseException as error:
        report_error(error)
        if isinstance(error, InterruptedRun) and os.environ.get("RANK", "0") != "0":
            raise SystemExit(error.exit_code) from None  # rank 0 says it for all
        if is_communication_error(error):  # where torch was then is no news: another rank has ended, and says why
            raise IsotokError(f"rank {os.environ.get('RANK', '0')} lost the others: {_one_line(error)}") from error
        raise
    if os.environ.get("RANK", "0") == "0":
        with os.fdopen(stdout, "w") as file:
            print(folders[0], file=file)


def start_worker(run_dir: Path, engine: "Engine", plugins: Sequence[str]) -> dict[str, Any]:
    """Train in this process, or in as many ranks as the engine asks for; the figures of train.json.

    Raises what the worker raises; an IsotokError names the rank that died or hung.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "isotok was started as one of several ranks (WORLD_SIZE is set): start a command that builds artefacts "
            "once, with engine.ranks=N; only `isotok worker RUN_DIR` is for torchrun, srun and accelerate"
        )
    if engine.ranks == 1:
        return run_worker(run_dir, allow=None)
    from training.launch import launch

    command = [sys.executable, "-m", "scripts.cli", "worker", str(run_dir)]
    launch(run_dir, engine, [*command, *([f"plugins=[{','.join(plugins)}]"] if plugins else [])])
    return read_json(run_dir / "train.json")


def run_worker(run_dir: Path, *, allow: tuple[str, ...] | None = OWN_PACKAGES) -> dict[str, Any]:
    """Train what RUN_DIR/run.json says, with validation in bits per byte on the corpus' own split.

    Reads run.json and the folders it names, writes into RUN_DIR only, resumes from its newest valid checkpoint.
    """
    from evaluation.documents import Validator
    from tokenization import load_tokenizer, read_documents
    from training.worker import run

    spec = read_json(run_dir / "run.json")
    texts: list[str] = []
    missing = spec["training"]["validation_bytes"]
    for document in read_documents(Path(spec["corpus"]), "validation"):
        if missing <= 0:
            break
        texts.append(document.text)
        missing -= document.n_bytes
    validator = Validator(load_tokenizer(Path(spec["tokenizer"])), texts, spec["budget"]["context_bytes"])
    return run(run_dir, validator, allow=allow)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _plugins(arguments: Sequence[str]) -> list[str]:
    given = [argument.partition("=")[2] for argument in arguments if argument.startswith("plugins=")]
    return [path.strip() for text in given for path in text.strip("[]").split(",") if path.strip()]
