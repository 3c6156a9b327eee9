"""`isotok evaluate ensemble=[A,B]`: checkpoints with any vocabularies, alone and mixed by their next bytes."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotok.errors import ConfigError, DataError
from isotok.files import hash_key, read_json
from isotok.progress import say

NUMBERS = {"max_bytes": 1, "context_bytes": 2, "gaps": 0, "threads": 1, "seed": 0}
"""Keys with whole numbers, and the least of each."""
KEYS = ("ensemble", "corpus", "out", "store", "device", *NUMBERS)
USAGE = "name one checkpoint or more, like `isotok evaluate 'ensemble=[A,B]'` (artefacts of `isotok ls`, or folders)"


@dataclass(frozen=True)
class Checkpoint:
    """`folder` with model and tokenizer; what its manifest or run.json says of the corpus, None where nothing does."""

    name: str
    folder: Path
    corpus: Path | None


def ensemble_command(arguments: Sequence[str]) -> Path:
    """Score checkpoints alone and mixed, print the tables to stdout, and return the folder with ensemble.json.

    Arguments: ensemble=[A,B] (pretrain artefacts by folder, name or key in the store, or checkpoint folders);
    corpus=NAME|FOLDER (default: what all were trained on); max_bytes, gaps (0: none), seed; context_bytes (default:
    what all were trained with); out=FOLDER, store=FOLDER, device, threads.
    """
    settings = _parse(arguments)
    store = Path(settings.get("store", "runs"))
    numbers = _numbers(settings)
    found = _checkpoints(settings["ensemble"], store)
    context_bytes = numbers.pop("context_bytes", None) or _context_bytes(found)
    if settings.get("out") and Path(settings["out"]).is_file():
        raise ConfigError(f"ensemble: out={settings['out']} is a file; name a folder")
    if "corpus" in settings:
        from scripts.compare import built_corpus

        given = settings["corpus"]
        corpus = Path(given) if Path(given).is_dir() else built_corpus(given, store)
        caveats = _corpus_caveats(found, corpus)
    else:
        corpus, caveats = _shared_corpus(found), []
    from evaluation.ensemble import ensemble, print_ensemble

    models = {checkpoint.name: checkpoint.folder for checkpoint in found}
    key = hash_key(
        {
            "models": {name: str(folder.resolve()) for name, folder in models.items()},
            "corpus": _text_key(corpus),
            "context_bytes": context_bytes,
            "numbers": {name: value for name, value in numbers.items() if name != "threads"},
        },
        digits=8,
    )
    out = Path(settings.get("out") or f"ensemble-{key}")
    results = ensemble(
        models, corpus, context_bytes, out, device=settings.get("device", "auto"), caveats=caveats, **numbers
    )
    print_ensemble(results)
    say(f"ensemble: {out / 'ensemble.json'}")
    return out


def _parse(arguments: Sequence[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"ensemble: {argument}: no such key{hint} (keys: {', '.join(KEYS)})")
        if key in settings:
            raise ConfigError(f"ensemble: {key}= twice; give it once")
        if not value:
            raise ConfigError(
                f"ensemble: {key}= needs a value; {USAGE}" if key == "ensemble" else f"{key}= needs a value"
            )
        settings[key] = value
    return settings


def _numbers(settings: Mapping[str, str]) -> dict[str, int]:
    numbers = {}
    for key, least in NUMBERS.items():
        if key in settings:
            try:
                numbers[key] = int(settings[key])
            except ValueError:
                raise ConfigError(f"ensemble: {key}={settings[key]!r}: needs a whole number") from None
            if numbers[key] < least:
                raise ConfigError(f"ensemble: {key}={settings[key]}: at least {least}")
    return numbers


def _checkpoints(text: str, store: Path) -> list[Checkpoint]:
    """In the order given; called by the artefact's name, with its key where two have the same name."""
    names = [name.strip().strip("'\"") for name in text.removeprefix("[").removesuffix("]").split(",")]
    names = [name for name in names if name]
    if not names:
        raise ConfigError(f"ensemble={text}: {USAGE}")
    folders = [find_checkpoint(name, store) for name in names]
    for k, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:k]]:
            raise ConfigError(f"ensemble: {names[k]} is there twice")
    short = [_label(folder, with_key=False) for folder in folders]
    long = [_label(folder, with_key=True) for folder in folders]
    labels = [b if short.count(a) > 1 else a for a, b in zip(short, long)]
    labels = [str(folder) if labels.count(label) > 1 else label for label, folder in zip(labels, folders)]
    return [Checkpoint(label, folder, _corpus_of(folder)) for label, folder in zip(labels, folders)]


def _label(folder: Path, with_key: bool) -> str:
    whole = folder.resolve()
    artefact = whole.parent if whole.name == "model" else whole
    key = "-" in artefact.name and not with_key and (artefact / "manifest.json").is_file()
    return artefact.name.rpartition("-")[0] if key else artefact.name


def find_checkpoint(text: str, store: Path) -> Path:
    """A folder with config.json and tokenizer.json, or that of the one pretrain artefact with that name or key."""
    path = Path(text).expanduser()
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            if not (folder / "tokenizer.json").is_file():
                raise DataError(f"{folder}: a model without its tokenizer (no tokenizer.json)")
            return folder
    if path.exists():
        raise DataError(f"{text}: not a checkpoint (no config.json in it, nor in a folder model); is pretraining done?")
    there = sorted(found.parent for found in (store / "pretrain").glob("*/manifest.json"))
    matches = [folder for folder in there if text in (folder.name, *folder.name.rsplit("-", 1))]
    if len(matches) > 1:
        raise ConfigError(f"{text}: several checkpoints have this name: {', '.join(map(str, matches))}; give the key")
    if not matches:
        names = ", ".join(folder.name for folder in there[:8]) or "none"
        raise ConfigError(f"{text}: no such folder, and no checkpoint of that name in {store} (there: {names})")
    return matches[0] / "model"


def _corpus_of(folder: Path) -> Path | None:
    """The folder of the corpus that a checkpoint was trained on."""
    artefact = folder.resolve().parent
    if (artefact / "manifest.json").is_file():
        named = read_json(artefact / "manifest.json").get("inputs", {}).get("corpus")
        if named:
            return Path(artefact.parent.parent / named)
    if (artefact / "run.json").is_file():
        named = read_json(artefact / "run.json").get("corpus")
        return Path(named) if named else None
    return None


def _text_key(corpus: Path) -> str:
    """Equal for corpora of the same text in the same splits; the folder's name, which has the key, if it is gone."""
    if not (corpus / "corpus.json").is_file():
        return corpus.name
    figures = read_json(corpus / "corpus.json")
    return hash_key([figures.get("sha256"), figures.get("splits")])


def _same_corpus(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or _text_key(a) == _text_key(b)


def _shared_corpus(found: Sequence[Checkpoint]) -> Path:
    """The corpus that all were trained on. ConfigError where they differ or one does not say."""
    for checkpoint in found:
        if checkpoint.corpus is None:
            raise ConfigError(f"ensemble: {checkpoint.name} does not say what it was trained on; give corpus=")
    first = found[0]
    for other in found[1:]:
        if not _same_corpus(first.corpus, other.corpus):  # type: ignore[arg-type]
            raise ConfigError(
                f"ensemble: {first.name} was trained on {first.corpus}, {other.name} on {other.corpus}: the held-out "
                "text of one may be training text of the other; give corpus= if you know better"
            )
    for checkpoint in found:
        if checkpoint.corpus is not None and checkpoint.corpus.is_dir():
            return checkpoint.corpus
    raise DataError(f"{first.corpus}: the corpus of {first.name} is gone; build it again, or give corpus=")


def _corpus_caveats(found: Sequence[Checkpoint], corpus: Path) -> list[str]:
    caveats = []
    for checkpoint in found:
        if checkpoint.corpus is None:
            caveats.append(f"{checkpoint.name}: what it was trained on is not known; it may have read this test text")
        elif not _same_corpus(checkpoint.corpus, corpus):
            caveats.append(
                f"{checkpoint.name}: trained on another corpus ({checkpoint.corpus.name}), which may hold this text"
            )
    return caveats


def _context_bytes(found: Sequence[Checkpoint]) -> int:
    from evaluation.checkpoint import trained_context_bytes

    contexts: dict[str, int] = {c.name: trained_context_bytes(c.folder) for c in found}
    if len(set(contexts.values())) > 1:
        shown: Any = ", ".join(f"{name} {value}" for name, value in contexts.items())
        raise ConfigError(f"ensemble: trained with different context_bytes ({shown}); give context_bytes= for all")
    return next(iter(contexts.values()))
