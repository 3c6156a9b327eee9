"""`isotok export RUN out=FOLDER`: a plain transformers folder from a checkpoint of a run, finished or under way."""

from pathlib import Path

from isotok.errors import ConfigError, IsotokError
from isotok.progress import say
from isotok.recipe import OWN_PACKAGES
from scripts.looking import parse_arguments

USAGE = """\
isotok export RUN out=FOLDER [step=last] [store=runs] [plugins=PATH]: from a checkpoint, a folder for transformers

RUN           a run's folder (with a run.json), or the name or key of a pretrain artefact, half-built ones too
out=FOLDER    a new folder: model, tokenizer
step=STEP     last (default), best (lowest bits per byte in validation), or the step of a checkpoint that is kept
store=PATH    where names and keys are looked up
plugins=PATH  the folder of your own model recipes, where the run's model is one of them
"""


def export_command(arguments: list[str]) -> Path | None:
    """Export what the arguments say; returns the new folder, None after help.

    Raises ConfigError for arguments that name no one run, no checkpoint or a folder that is there; DataError for a
    checkpoint that cannot be exported.
    """
    if "--help" in arguments or "-h" in arguments:
        print(USAGE, end="")
        return None
    names, values = parse_arguments("export", arguments, ("out", "step", "store", "plugins"))
    if len(names) != 1 or not values.get("out"):
        raise ConfigError("export: name one run and a new folder, like `isotok export runs/pretrain/NAME out=FOLDER`")
    out = Path(values["out"]).expanduser()
    if out.exists() or out.is_symlink():
        raise ConfigError(f"export: out={out} is there already; name a new folder")
    run_dir = find_run(names[0], Path(values.get("store", "runs")))
    allow: tuple[str, ...] | None = OWN_PACKAGES
    if "plugins" in values:
        from scripts.compose import add_plugins

        add_plugins([values["plugins"]])
        allow = None
    from training.export import export_checkpoint

    try:
        checkpoint = export_checkpoint(run_dir, values.get("step", "last"), out, allow=allow)
    except OSError as error:
        raise IsotokError(
            f"export: {error.filename or out}: {error.strerror or error}; name another out=FOLDER"
        ) from error
    say(f"export: {out} holds the weights of step {checkpoint.state['step']:,} of {run_dir}")
    return out


def find_run(name: str, store: Path) -> Path:
    """The folder of a run: a path, or a name or key in the store, with or without `.partial`. ConfigError otherwise."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "run.json").is_file():
            raise ConfigError(f"export: {path} is no run: it has no run.json")
        return path
    found = []
    for folder in sorted((store / "pretrain").glob("*")):
        plain = folder.name.removesuffix(".partial")
        known_as = (folder.name, plain, plain.rsplit("-", 1)[-1])
        if (folder / "run.json").is_file() and name in known_as:
            found.append(folder)
    if not found:
        raise ConfigError(f"export: {name} is no folder and no run in {store} (`isotok ls store={store}` lists them)")
    if len(found) > 1:
        raise ConfigError(f"export: {name} names {', '.join(map(str, found))}; give one of these folders")
    return found[0]
