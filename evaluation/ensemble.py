"""Models with different vocabularies mixed: the mean of their next-byte distributions, scored on whole documents.

-log P(a text begins with the document) of each model alone and of the mixture, byte by byte over the same bytes and
with the same context (`ByteModel.byte_nats`); beside it each model's nats by tokens (`documents`). One checkpoint is
one seed: differences have an interval over held-out works and none over training seeds.
"""

import hashlib
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isotok.errors import ConfigError, DataError
from isotok.files import sha256_file, write_bytes, write_json
from isotok.progress import progress, say

if TYPE_CHECKING:
    from evaluation.bytewise import ByteModel

FORMAT = 1
MIXTURE = "mixture"
CAVEAT = "these models, item noise only: one checkpoint each, so the intervals say nothing of other training seeds"


def ensemble(
    models: Mapping[str, Path],
    corpus: Path,
    context_bytes: int,
    out: Path,
    *,
    max_bytes: int = 100_000,
    gaps: int = 200,
    seed: int = 1234,
    device: str = "auto",
    threads: int = 1,
    caveats: Sequence[str] = (),
) -> dict[str, Any]:
    """Score checkpoints (name → folder with model and tokenizer) and their mixture on the test split of `corpus`.

    max_bytes: test text, whole documents (`evaluate.choose_documents`); gaps: see `evaluation.filling`, 0 for none.
    Writes `out`/documents.parquet, gaps.parquet and, last, ensemble.json; returns the content of the latter, which is
    the same for the same models, device kind and threads. A single model is scored alone. Raises ConfigError where a
    tokenizer is no byte-level BPE, DataError where model and tokenizer do not fit or give no probability.
    """
    import torch

    if not models:
        raise ConfigError("ensemble: name at least one model")
    if MIXTURE in models:
        raise ConfigError(f"ensemble: no model may be called {MIXTURE!r}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _ensemble(models, corpus, context_bytes, out, max_bytes, gaps, seed, device, caveats)
    finally:
        torch.set_num_threads(before)


def _ensemble(
    models: Mapping[str, Path],
    corpus: Path,
    context_bytes: int,
    out: Path,
    max_bytes: int,
    gaps: int,
    seed: int,
    device: str,
    caveats: Sequence[str],
) -> dict[str, Any]:
    from evaluation.evaluate import choose_documents
    from evaluation.filling import LEAST_CONTEXT_BYTES, filling
    from tokenization.corpus import corpus_figures, read_documents

    if gaps and context_bytes < LEAST_CONTEXT_BYTES:
        raise ConfigError(
            f"gaps={gaps}: they need a context of {LEAST_CONTEXT_BYTES} bytes, not {context_bytes}; use gaps=0"
        )
    try:
        documents = choose_documents(read_documents(corpus, "test"), max_bytes)
    except DataError as error:
        raise DataError(f"{corpus}: {error}") from None
    loaded = [_load(name, folder, device) for name, folder in models.items()]
    nats, rows = _score(loaded, documents, context_bytes)
    filled = None
    if gaps:
        filled = filling(loaded, documents, context_bytes, gaps, seed, MIXTURE if len(loaded) > 1 else "")
    out.mkdir(parents=True, exist_ok=True)
    files = {"documents.parquet": rows} | ({"gaps.parquet": filled.rows} if filled else {})
    for file, content in files.items():
        _write_parquet(content, out / file)
    total = sum(document.n_bytes for document in documents)
    results = {
        "format": FORMAT,
        "models": {name: _identity(folder) for name, folder in models.items()},
        "corpus": {"label": corpus_figures(corpus).get("label", corpus.name), "folder": corpus.name},
        "text": {
            "documents": len(documents),
            "bytes": total,
            "sha256": hashlib.sha256("\0".join(d.text for d in documents).encode()).hexdigest(),
        },
        "context_bytes": context_bytes,
        "max_bytes": max_bytes,
        **_results(nats, rows, documents),
        "filling": filled.figures if filled else None,
        "caveats": [*caveats, CAVEAT],
        "files": {file: sha256_file(out / file) for file in files},
    }
    write_json(out / "ensemble.json", results)
    return results


def _load(name: str, folder: Path, device: str) -> "ByteModel":
    from evaluation.bytewise import ByteModel
    from evaluation.checkpoint import check_vocabulary, load_model
    from tokenization import load_tokenizer

    tokenizer = load_tokenizer(folder)
    model = load_model(folder, device)
    check_vocabulary(model, tokenizer, f"{folder}")
    try:
        return ByteModel(model, tokenizer, name)
    except ConfigError as error:
        reason = str(error).partition(";")[0]
        raise ConfigError(f"ensemble: {name} cannot be mixed by bytes: {reason}") from None


def _score(
    models: Sequence["ByteModel"], documents: Sequence[Any], context_bytes: int
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """(nats (documents,) of each model and of the mixture, rows by document and model)."""
    from evaluation.bytewise import mixture_nats
    from evaluation.documents import score_documents

    total = sum(document.n_bytes for document in documents)
    by_bytes: dict[str, list[np.ndarray]] = {}
    by_tokens = {}
    seconds = [0.0, 0.0]
    with progress("byte by byte", len(models) * total, "bytes") as advance:
        for model in models:
            encoded = [model.encoder(d.text, f"test document {d.id}") for d in documents]
            start = time.monotonic()
            by_tokens[model.name] = score_documents(model.model, encoded, context_bytes, model.eos_id)
            between = time.monotonic()
            by_bytes[model.name] = [model.byte_nats(e, context_bytes, advance) for e in encoded]
            seconds[0] += between - start
            seconds[1] += time.monotonic() - between
            for document, own in zip(documents, by_bytes[model.name]):
                if not np.isfinite(own).all():
                    raise DataError(f"{model.name}: no probability for test document {document.id}; broken checkpoint?")
    done = len(models) * total / 1e3
    say(
        f"ensemble: {done:,.0f} kB byte by byte in {seconds[1]:.0f} s ({done / seconds[1]:,.1f} kB/s), "
        f"by tokens in {seconds[0]:.1f} s ({done / seconds[0]:,.1f} kB/s): {seconds[1] / seconds[0]:.1f} times as long"
    )
    if len(models) > 1:
        by_bytes[MIXTURE] = [mixture_nats(own) for own in zip(*by_bytes.values())]
    rows = [
        {
            "item": document.id,
            "group": document.group,
            "domain": document.domain,
            "item_hash": hashlib.sha256(document.text.encode()).hexdigest()[:16],
            "bytes": document.n_bytes,
            "model": name,
            "nats": float(own[k].sum()),
            "token_nats": by_tokens[name][k].nats if name in by_tokens else None,
            "tokens": by_tokens[name][k].tokens if name in by_tokens else None,
        }
        for name, own in by_bytes.items()
        for k, document in enumerate(documents)
    ]
    return {name: np.array([part.sum() for part in own]) for name, own in by_bytes.items()}, rows


def _results(
    nats: Mapping[str, np.ndarray], rows: Sequence[Mapping[str, Any]], documents: Sequence[Any]
) -> dict[str, Any]:
    """Figures of each model and of the mixture, differences to the mixture, in all and by domain."""
    from evaluation.documents import bits_per_byte

    sizes = np.array([document.n_bytes for document in documents])
    domains = np.array([document.domain for document in documents])
    by_tokens = {name: [row for row in rows if row["model"] == name and row["tokens"] is not None] for name in nats}
    alone = [name for name in nats if name != MIXTURE]
    everything = np.ones(len(sizes), np.bool_)
    best = min(alone, key=lambda name: float(nats[name].sum()))
    figures: dict[str, Any] = {}
    for name, own in nats.items():
        figures[name] = {
            "bits_per_byte": bits_per_byte(math.fsum(own), int(sizes.sum())),
            "nats": math.fsum(own),
            "by_domain": {
                domain: bits_per_byte(math.fsum(own[domains == domain]), int(sizes[domains == domain].sum()))
                for domain in sorted(set(domains.tolist()))
            },
        }
        if by_tokens[name]:
            token_nats = math.fsum(row["token_nats"] for row in by_tokens[name])
            figures[name]["by_tokens"] = {
                "bits_per_byte": bits_per_byte(token_nats, int(sizes.sum())),
                "tokens": sum(row["tokens"] for row in by_tokens[name]),
            }
    results: dict[str, Any] = {"bits_per_byte": figures, "best_single": best, "mixture_minus": None}
    if MIXTURE in nats:
        results["mixture_minus"] = {
            name: {
                **_difference(nats, name, documents, everything),
                "by_domain": {
                    domain: _difference(nats, name, documents, domains == domain)
                    for domain in sorted(set(domains.tolist()))
                },
            }
            for name in alone
        }
    return results


def _difference(
    nats: Mapping[str, np.ndarray], name: str, documents: Sequence[Any], picked: np.ndarray
) -> dict[str, Any]:
    """Mixture minus a model in bits per byte, with a 95% interval over documents clustered by group."""
    from scipy import stats as distributions

    from evaluation.stats import CONFIDENCE, FEW_GROUPS, Sample, compare

    groups = np.array([document.group for document in documents])[picked]
    sizes = np.array([document.n_bytes for document in documents], np.float64)[picked]
    samples = [Sample((0,), nats[key][picked][None] / math.log(2), sizes, groups) for key in (MIXTURE, name)]
    found = compare(*samples)
    interval = None
    if found.se_items is not None:
        half = float(distributions.t.ppf(0.5 + CONFIDENCE / 2, found.groups - 1)) * found.se_items
        interval = [found.delta - half, found.delta + half]
    return {
        "difference": found.delta,
        "interval": interval,
        "se": found.se_items,
        "groups": found.groups,
        "few_groups": found.groups < FEW_GROUPS,
    }


def _identity(folder: Path) -> dict[str, str]:
    weights = sorted(folder.glob("*.safetensors"))
    return {
        "folder": str(folder),
        "tokenizer_sha256": sha256_file(folder / "tokenizer.json"),
        "weights_sha256": hashlib.sha256("".join(sha256_file(path) for path in weights).encode()).hexdigest(),
    }


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())


def print_ensemble(results: Mapping[str, Any]) -> None:
    """The figures as tables on stdout."""
    figures, minus = results["bits_per_byte"], results["mixture_minus"]
    domains = list(figures[results["best_single"]]["by_domain"])
    text = results["text"]
    print(f"Bits per byte, {text['documents']} test documents of {results['corpus']['label']}, {text['bytes']:,} bytes")
    rows = []
    for name, own in figures.items():
        tokens = f"{own['by_tokens']['bits_per_byte']:.4f}" if "by_tokens" in own else ""
        rows.append([name, f"{own['bits_per_byte']:.4f}", tokens, "", *(f"{own['by_domain'][d]:.4f}" for d in domains)])
    for name, own in (minus or {}).items():
        what = f"{MIXTURE} - {name}" + (" (best alone)" if name == results["best_single"] and len(minus) > 1 else "")
        parts = (f"{own['by_domain'][d]['difference']:+.4f}" for d in domains)
        rows.append([what, f"{own['difference']:+.4f}", "", _interval(own), *parts])
    _print(["", "by bytes", "by tokens", "95% over works", *domains], rows)
    filled = results["filling"]
    if filled:
        print(
            f"\n{filled['gaps']} gaps of {filled['middle_bytes'] / filled['gaps']:.0f} bytes that begin and end inside "
            f"words: bits per byte, and the share whose middle is chosen among {filled['choices']} (chance "
            f"{1 / filled['choices']:.2f})"
        )
        rows = []
        for name, own in filled["models"].items():
            for rule, shown in (("exact", "exact"), ("tokens", "prompt of tokens")):
                middle = f"{own['middle_bits_per_byte']:.4f}" if rule == "exact" else ""
                shares = (_share(own[rule][key]) for key in ("chosen_before", "chosen_both"))
                rows.append([name, shown, middle, f"{own[rule]['whole_bits_per_byte']:.4f}", *shares])
        if "mixture" in filled:
            rows.append([MIXTURE, "exact", f"{filled['mixture']['middle_bits_per_byte']:.4f}", "", "", ""])
        _print(["", "", "middle", "middle and after", "by what is before", "by both sides"], rows)
    print()
    for caveat in results["caveats"]:
        print(f"- {caveat}")


def _interval(found: Mapping[str, Any]) -> str:
    if found["interval"] is None:
        return "one group: none"
    low, high = found["interval"]
    return f"{low:+.4f} to {high:+.4f}" + (f" ({found['groups']} groups)" if found["few_groups"] else "")


def _share(found: Mapping[str, float | None]) -> str:
    return f"{found['share']:.3f}" + (f" ± {found['se']:.3f}" if found["se"] is not None else "")


def _print(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(titles):
        table.add_column(title, justify="right" if index else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(table)
