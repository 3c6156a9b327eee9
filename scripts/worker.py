"""`isotok worker RUN_DIR`: training proper, as one process or as one of the ranks that something else started."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotok.errors import ConfigError, InterruptedRun, IsotokError, one_line
from isotok.files import read_json
from isotok.recipe import OWN_PACKAGES

if TYPE_CHECKING:
    from training.recipes import Engine


def worker_command(arguments: Sequence[str]) -> None:
    """Train what RUN_DIR/run.json says; rank 0 prints the folder as the only line on stdout.

    arguments: the folder and, for recipes of the user's own, `plugins=[PATH,...]` (folders on the import path) and
    `allow=[PACKAGE,...]`: run.json is data, and may name isotok's recipes and those of these packages only.
    """
    from scripts.compose import add_plugins
    from training.process import die_with_parent, is_communication_error, report_error, stdout_to_stderr

    die_with_parent()
    folders = [argument for argument in arguments if not argument.startswith(("plugins=", "allow="))]
    if len(folders) != 1 or not (Path(folders[0]) / "run.json").is_file():
        raise ConfigError(
            f"worker {' '.join(folders)}: needs one folder with a run.json, like `isotok worker RUN_DIR`; "
            "`isotok pretrain` and training.api.prepare_run write it"
        )
    add_plugins(_listed(arguments, "plugins"))
    stdout = stdout_to_stderr()
    try:
        run_worker(Path(folders[0]), allow=(*OWN_PACKAGES, *_listed(arguments, "allow")))
    except BaseException as error:
        report_error(error)
        if isinstance(error, InterruptedRun) and os.environ.get("RANK", "0") != "0":
            raise SystemExit(error.exit_code) from None  # rank 0 says it for all
        if is_communication_error(error):  # where torch was then is no news: another rank has ended, and says why
            raise IsotokError(f"rank {os.environ.get('RANK', '0')} lost the others: {one_line(error)}") from error
        raise
    if os.environ.get("RANK", "0") == "0":
        with os.fdopen(stdout, "w") as file:
            print(folders[0], file=file)


def start_worker(run_dir: Path, engine: "Engine", plugins: Sequence[str]) -> dict[str, Any]:
    """Train in this process, or in as many ranks as the engine asks for; the figures of train.json.

    Raises what the worker raises; an IsotokError names the rank that died or hung.
    """
    one_process_only()
    if engine.ranks == 1:
        return run_worker(run_dir, allow=None)
    from training.launch import launch

    command = [sys.executable, "-m", "scripts.cli", "worker", str(run_dir)]
    # The recipes were built here, so their packages may be named there as well.
    packages = {str(part["_target_"]).split(".")[0] for part in _recipes(read_json(run_dir / "run.json"))}
    for key, values in (("plugins", plugins), ("allow", sorted(packages - set(OWN_PACKAGES)))):
        if values:
            command.append(f"{key}=[{','.join(values)}]")
    launch(run_dir, engine, command)
    return read_json(run_dir / "train.json")


def one_process_only() -> None:
    """Raise ConfigError in a rank: commands that build artefacts hold locks, for which their ranks would wait."""
    from training.process import world_size

    if world_size() > 1:
        raise ConfigError(
            "isotok was started as one of several ranks (WORLD_SIZE is set): start a command that builds artefacts "
            "once, with engine.ranks=N; only `isotok worker RUN_DIR` is for torchrun, srun and accelerate"
        )


def run_worker(run_dir: Path, *, allow: tuple[str, ...] | None = OWN_PACKAGES) -> dict[str, Any]:
    """Train what RUN_DIR/run.json says; pretraining with validation in bits per byte on the corpus' own split.

    Reads run.json and the folders it names, writes into RUN_DIR only, resumes from its newest valid checkpoint.
    """
    from evaluation.documents import Validator
    from tokenization import load_tokenizer, read_documents
    from training.worker import run

    spec = read_json(run_dir / "run.json")
    if "finetuning" in spec:  # what it learned is asked afterwards
        return run(run_dir, None, allow=allow)
    texts: list[str] = []
    missing = spec["training"]["validation_bytes"]
    for document in read_documents(Path(spec["corpus"]), "validation"):
        if missing <= 0:
            break
        texts.append(document.text)
        missing -= document.n_bytes
    validator = Validator(load_tokenizer(Path(spec["tokenizer"])), texts, spec["budget"]["context_bytes"])
    return run(run_dir, validator, allow=allow)


def _listed(arguments: Sequence[str], key: str) -> list[str]:
    """The values of `key=[A,B]`."""
    given = [text.partition("=")[2] for text in arguments if text.startswith(f"{key}=")]
    return [value.strip() for text in given for value in text.strip("[]").split(",") if value.strip()]


def _recipes(data: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in run.json that names a recipe."""
    if isinstance(data, dict):
        if "_target_" in data:
            yield data
        data = list(data.values())
    if isinstance(data, list):
        for part in data:
            yield from _recipes(part)
