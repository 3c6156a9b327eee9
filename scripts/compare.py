"""`isotok compare A B …`: tokenizers side by side on the same text, without training anything."""

import dataclasses
import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotok.errors import ConfigError, DataError
from isotok.files import hash_key, sha256_file
from isotok.progress import say

if TYPE_CHECKING:
    from evaluation.compare import Comparison

MOST_DOMAINS = 12
OPTIONS = ("text", "corpus", "parallel", "out", "store")
USAGE = (
    "compare: name tokenizers, like `isotok compare FOLDER NAME=FOLDER … [text=FILE | corpus=NAME|FOLDER] "
    "[parallel=FILE] [out=FOLDER]`"
)


def compare_command(arguments: list[str]) -> Path:
    """Compare tokenizers, print their table to stdout, and return the folder with compare.html, .csv and .json.

    Arguments: tokenizer folders or names in the store (`isotok ls`), NAME=FOLDER to name one oneself; text=FILE (also
    a pattern or a comma list; txt, jsonl, parquet) or corpus=NAME|FOLDER (default: the embedded corpus' test split);
    parallel=FILE (tab-separated) or parallel=FILE,FILE; out=FOLDER; store=FOLDER; any key of `Comparison`.
    """
    from evaluation.compare import compare, print_comparison

    given, settings = _parse(arguments)
    store = Path(settings.pop("store", "runs"))
    source: dict[str, str] = {key: settings.pop(key) for key in ("text", "corpus") if key in settings}
    if len(source) == 2:
        raise ConfigError("compare: text= and corpus= are two sources of text; give one")
    parallel = [Path(path) for path in settings.pop("parallel", "").split(",") if path]
    out = settings.pop("out", None)
    if out and Path(out).is_file():
        raise ConfigError(f"compare: out={out} is a file; name a folder")
    options = _options(settings)
    tokenizers = _tokenizers(given, store)
    name, documents = _documents(source, store, options.max_bytes)
    key = hash_key(
        {
            "tokenizers": {label: sha256_file(folder / "tokenizer.json") for label, folder in tokenizers.items()},
            "text": hashlib.sha256("\0".join(text for text, _ in documents).encode()).hexdigest(),
            "parallel": [sha256_file(path) if path.is_file() else str(path) for path in parallel],
            "options": settings,
        },
        digits=8,
    )
    folder = Path(out) if out else Path(f"comparison-{key}")
    results = compare(tokenizers, documents, folder, parallel=parallel or None, options=options, text_name=name)
    print_comparison(results)
    say(f"comparison: {folder / 'compare.html'}")
    return folder


def _parse(arguments: Sequence[str]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """((label or "", tokenizer) in the order given, settings)."""
    keys = (*OPTIONS, *_measure_keys())
    given: list[tuple[str, str]] = []
    settings: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or Path(argument).exists():
            given.append(("", argument))
        elif key in keys:
            if key in settings:
                raise ConfigError(f"compare: {key}= twice; give it once (files as a comma list)")
            if not value:
                raise ConfigError(f"compare: {key}= needs a value")
            settings[key] = value
        elif Path(value).is_dir():
            given.append((key, value))
        else:
            close = difflib.get_close_matches(key, keys, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(
                f"compare: {argument}: no such key{hint} (keys: {', '.join(keys)}), "
                f"and no folder {value!r} that could be called {key!r}"
            )
    if not given:
        raise ConfigError(USAGE)
    return given, settings


def _measure_keys() -> tuple[str, ...]:
    from evaluation.compare import Comparison

    return tuple(field.name for field in dataclasses.fields(Comparison))  # type: ignore[arg-type]


def _options(settings: dict[str, str]) -> "Comparison":
    from isotok.recipe import build

    numbers: dict[str, Any] = {}
    for key, value in settings.items():
        try:
            numbers[key] = int(value)
        except ValueError:
            raise ConfigError(f"compare: {key}={value!r}: needs a whole number") from None
    options: Comparison = build({"_target_": "evaluation.compare.Comparison", **numbers}, "compare")
    return options


def _tokenizers(given: Sequence[tuple[str, str]], store: Path) -> dict[str, Path]:
    """label → folder, in the order given; an artefact of the store is called by its name without the key."""
    found: dict[str, Path] = {}
    for name, text in given:
        folder = find_tokenizer(text, store)
        label = name or folder.resolve().name
        if not name and (folder / "manifest.json").is_file():
            label = label.rpartition("-")[0] or label
        if label in found:
            if found[label].resolve() == folder.resolve():
                raise ConfigError(f"compare: {text} is there twice")
            raise ConfigError(
                f"compare: two tokenizers are called {label!r} ({found[label]} and {folder}); "
                f"name them apart, like A={found[label]} B={folder}"
            )
        found[label] = folder
    return found


def find_tokenizer(text: str, store: Path) -> Path:
    """A folder with a tokenizer.json, or the one tokenizer of the store with that name or key."""
    path = Path(text).expanduser()
    if len(path.name) > 255:
        raise ConfigError(f"{text[:40]}…: no such folder, and no tokenizer of that name in {store}")
    if (path / "tokenizer.json").is_file():
        return path
    if (path / "model" / "tokenizer.json").is_file():  # what pretrain leaves
        return path / "model"
    if path.exists():
        raise DataError(f"{text}: not a tokenizer folder (no tokenizer.json in it); `isotok tokenizer` makes one")
    there = sorted(folder.parent for folder in (store / "tokenizer").glob("*/manifest.json"))
    matches = [folder for folder in there if text in (folder.name, *folder.name.rsplit("-", 1))]
    if len(matches) > 1:
        raise ConfigError(f"{text}: several tokenizers have this name: {', '.join(map(str, matches))}; give the folder")
    if not matches:
        names = ", ".join(folder.name for folder in there[:8]) or "none"
        raise ConfigError(
            f"{text}: no such folder, and no tokenizer of that name in {store} (there: {names}); "
            "of the Hub: `isotok tokenizer tokenizer=existing tokenizer.path=OWNER/NAME` first"
        )
    return matches[0]


def _documents(source: dict[str, str], store: Path, max_bytes: int) -> tuple[str, list[tuple[str, str]]]:
    """(what the text is, documents as (text, domain), at most `max_bytes` together)."""
    from evaluation.evaluate import choose_documents
    from tokenization.corpus import corpus_figures, read_documents

    if "text" in source:
        return source["text"], _files(source["text"], max_bytes)
    given = source.get("corpus", "embedded")
    folder = Path(given) if Path(given).is_dir() else built_corpus(given, store)
    chosen = choose_documents(read_documents(folder, "test"), max_bytes)
    name = corpus_figures(folder).get("label", folder.name)
    return f"test split of {name}", [(document.text, document.domain) for document in chosen]


def _files(patterns: str, max_bytes: int) -> list[tuple[str, str]]:
    """Documents of files; up to twelve files are domains of their own."""
    from evaluation.evaluate import choose_documents
    from tokenization.documents import cut
    from tokenization.local_files import LocalFiles

    try:
        recipe = LocalFiles(paths=tuple(part for part in patterns.split(",") if part))
        parts = [
            dataclasses.replace(part, domain=document.id.rpartition(":")[0])
            for document in recipe.documents()
            for part in cut(document, recipe.max_document_bytes)
        ]
        several = 1 < len({part.domain for part in parts}) <= MOST_DOMAINS
        return [(part.text, part.domain if several else "text") for part in choose_documents(parts, max_bytes)]
    except (ConfigError, DataError) as error:
        raise type(error)(str(error).replace("corpus.paths", "text")) from None


def built_corpus(name: str, store: Path) -> Path:
    """The corpus of that name (configs/corpus), built in the store if it is not there yet."""
    from scripts.compose import build_run, compose
    from scripts.graph import Graph
    from scripts.local import run_graph
    from scripts.store import Store

    run = build_run(compose([f"corpus={name}", f"store={store}"]))
    node, place = Graph().corpus(run), Store(store)
    run_graph([node], place, jobs=1, threads=run.engine.threads)
    return place.folder(node)
