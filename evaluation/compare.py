"""Tokenizers side by side, without a model: compare.json, compare.csv and compare.html.

`compare` takes any tokenizer folders and any documents; `write_comparison` is the stage on a corpus' test split.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from evaluation.compression_curve import PUBLISHED, compression_curve
from evaluation.intrinsic import Measure, measure
from evaluation.intrinsic_glossary import GLOSSARY
from isotok.errors import ConfigError, DataError
from isotok.files import read_json, write_json, write_text
from isotok.progress import say
from isotok.recipe import Field, recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from evaluation.parity import Parallel

FORMAT = 1
ALL = "all"


@recipe
class Comparison(Measure):
    """What `compare` measures, besides the keys of `Measure`.

    max_bytes: text of the corpus' test split that is read, whole documents, every domain first.
    curve_bytes: text for the compression curves, from the start of the documents; curves: for how many tokenizers.
    """

    max_bytes: Annotated[int, Field(ge=1)] = 1_200_000
    curve_bytes: Annotated[int, Field(ge=0)] = 1_200_000
    curves: Annotated[int, Field(ge=0)] = 12


def compare(
    tokenizers: Mapping[str, Path],
    documents: Iterable[tuple[str, str]],
    out: Path,
    *,
    parallel: Sequence[Path] | None = None,
    options: Comparison | None = None,
    text_name: str = "",
) -> dict[str, Any]:
    """Measure every tokenizer (label → folder) on documents (text, domain), write the three files into `out`.

    parallel: a tab-separated file or one file a language (`evaluation.parity`). The first tokenizer is what token
    counts are shown against. Returns what compare.json holds; all but "timing" depends on the input alone.
    Raises ConfigError without tokenizers, DataError for a folder, text or file that cannot be used.
    """
    from evaluation.compare_page import render
    from evaluation.parity import read_parallel
    from tokenization.existing import load_existing

    options = options or Comparison()
    if not tokenizers:
        raise ConfigError("compare: name at least one tokenizer folder")
    given = [(text, domain) for text, domain in documents if text]
    lines = read_parallel(parallel) if parallel else None
    loaded = {label: load_existing(str(folder)) for label, folder in tokenizers.items()}  # fails before it measures
    results: dict[str, Any] = {
        "format": FORMAT,
        "text": _text(given, text_name),
        "options": asdict(options),  # type: ignore[call-overload]
        "order": list(tokenizers),  # the file sorts its keys; the first is what others are shown against
        "tokenizers": {},
        "timing": {},
    }
    for label, folder in tokenizers.items():
        figures = _measured(loaded[label], given, lines, options)
        results["timing"][label] = figures.pop("timing")
        results["tokenizers"][label] = {**_described(folder), **figures}
        say(f"compare: {label} {figures['all']['bytes_per_token']:.3f} bytes a token")
    results["curves"] = _curves(tokenizers, results["tokenizers"], given, options)
    results["published"] = PUBLISHED
    results["glossary"] = [list(entry) for entry in GLOSSARY]
    page = render(results)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "compare.json", results)
    write_text(out / "compare.csv", comparison_csv(results))
    write_text(out / "compare.html", page)
    return results


def write_comparison(
    tokenizers: Mapping[str, Path],
    corpus: Path,
    out: Path,
    options: Comparison | None = None,
    parallel: Sequence[Path] | None = None,
) -> dict[str, Any]:
    """Stage: `compare` on the test split of a corpus folder; returns the headline figures for the manifest."""
    from evaluation.evaluate import choose_documents
    from tokenization.corpus import corpus_figures, read_documents

    options = options or Comparison()
    documents = [(d.text, d.domain) for d in choose_documents(read_documents(corpus, "test"), options.max_bytes)]
    name = f"test split of {corpus_figures(corpus).get('label', corpus.name)}"
    results = compare(tokenizers, documents, out, parallel=parallel, options=options, text_name=name)
    return {"bytes_per_token": {label: t["all"]["bytes_per_token"] for label, t in results["tokenizers"].items()}}


def comparison_csv(results: Mapping[str, Any]) -> str:
    """One row a tokenizer and domain (`all`: pooled); nested figures as dotted columns. No timing."""
    rows = []
    for label, made in results["tokenizers"].items():
        head = {
            "tokenizer": label,
            **{key: made[key] for key in ("algorithm", "pretokenizer", "vocab_size_at_transition")},
            **{f"vocabulary.{key}": value for key, value in made["vocabulary"].items()},
        }
        several = len(made["domains"]) > 1
        for domain, figures in {ALL: made["all"], **(made["domains"] if several else {})}.items():
            rows.append({**head, "domain": domain, **flat(figures)})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def print_comparison(results: Mapping[str, Any]) -> None:
    """The main figures as a table on stdout."""
    import sys

    from rich.console import Console
    from rich.table import Table

    from evaluation.compare_page import main_table

    shown = main_table(results)
    table = Table(box=None, pad_edge=False)
    for index, (title, _) in enumerate(shown.columns):
        table.add_column(title, justify="right" if index else "left", no_wrap=index == 0)
    for row in shown.rows:
        table.add_row(*(cell.text for cell in row))
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(table)


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted keys."""
    made: dict[str, Any] = {}
    for key, value in data.items():
        made.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return made


def _measured(
    tokenizer: "PreTrainedTokenizerFast",
    documents: Sequence[tuple[str, str]],
    lines: "Parallel | None",
    options: Measure,
) -> dict[str, Any]:
    from evaluation.parity import parity
    from evaluation.tokenized import Reader

    figures = measure(tokenizer, documents, options)
    return figures | {"parity": parity(Reader(tokenizer), lines) if lines else None}


def _described(folder: Path) -> dict[str, Any]:
    """What the folder says of itself: metadata.json where it was made here, else the kind of model."""
    path = folder / "metadata.json"
    metadata = read_json(path) if path.is_file() else {}
    spec = folder / "tokenizer.json"
    kind = (read_json(spec).get("model") or {}).get("type")
    return {
        "algorithm": metadata.get("algorithm") or (str(kind).lower() if kind else "unknown"),
        "pretokenizer": metadata.get("stage1_pretokenizer") or metadata.get("pretokenizer"),
        "vocab_size_at_transition": metadata.get("vocab_size_at_transition"),
        "made_here": bool(metadata),
        "sha256": hashlib.sha256(spec.read_bytes()).hexdigest(),
    }


def _curves(
    tokenizers: Mapping[str, Path],
    made: Mapping[str, Any],
    documents: Sequence[tuple[str, str]],
    options: Comparison,
) -> dict[str, Any]:
    """Curves by leaving merges away, of the largest vocabulary of each kind: it holds the smaller ones."""
    largest: dict[Any, str] = {}
    for label, entry in made.items():
        kind = (
            entry["algorithm"],
            entry["pretokenizer"],
            entry["vocab_size_at_transition"],
            entry["made_here"] or label,
        )
        other = largest.get(kind)
        if other is None or made[other]["vocabulary"]["size"] < entry["vocabulary"]["size"]:
            largest[kind] = label
    texts: list[str] = []
    left = options.curve_bytes
    for text, _ in documents:
        if left <= 0:
            break
        texts.append(text)
        left -= len(text.encode())
    curves: dict[str, Any] = {}
    for label in made:
        if len(curves) == options.curves or not texts:
            break
        if label in largest.values():
            try:
                curves[label] = compression_curve(tokenizers[label], texts)
            except DataError:
                continue  # not BPE: it has one size, which the table shows
    return curves


def _text(documents: Sequence[tuple[str, str]], name: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    domains: dict[str, int] = {}
    for text, domain in documents:
        data = text.encode()
        digest.update(f"{len(data)} {domain}\n".encode() + data)
        domains[domain] = domains.get(domain, 0) + len(data)
    return {
        "name": name,
        "documents": len(documents),
        "bytes": sum(domains.values()),
        "domains": dict(sorted(domains.items())),
        "sha256": digest.hexdigest(),
    }
