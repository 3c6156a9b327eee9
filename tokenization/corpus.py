"""Corpus: documents from any source, without duplicates, split by group, in the order that training follows.

A corpus is a folder of `train.parquet`, `validation.parquet`, `test.parquet` (columns id, text, group, domain,
n_bytes) and `corpus.json` with its figures. Rows stand in the keyed order that all training follows.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isotok.errors import DataError
from isotok.files import check_free_space, read_json, write_json
from isotok.keyed import keyed_int, keyed_rng
from isotok.progress import progress, say
from tokenization.documents import Corpus, Document, Tally, cut

if TYPE_CHECKING:
    from tokenization.dedup import Duplicate

SPLITS = ("train", "validation", "test")
ROW_GROUP_BYTES = 4_000_000
MAX_LEAK_SHARE = 0.02
MIN_HELD_OUT_GROUPS = 30
NAMED_PAIRS = 20
NAMED_LEAKS = 10
COLUMNS = ("id", "text", "group", "domain", "n_bytes")


def build_corpus(recipe: Corpus, out: Path) -> dict[str, Any]:
    """Build the corpus in `out`, a new or empty folder; returns the figures that `corpus.json` holds.

    Documents are cut to `max_document_bytes` first, so that neither memory nor the search for duplicates depends on
    how long they were. All text is in memory at once, at most about `max_bytes`.
    """
    out.mkdir(parents=True, exist_ok=True)
    documents, duplicates, reading = _read(recipe)
    sides = split_groups(documents, recipe)
    splits = {split: [d for d in documents if sides[d.group] == split] for split in SPLITS}
    for split, members in splits.items():
        order = keyed_rng("corpus order", recipe.seed, split).permutation(len(members))
        splits[split] = [members[i] for i in order]
    splits, leaked = _drop_leaking(splits, recipe)
    documents = [document for split in SPLITS for document in splits[split]]
    check_free_space(out, sum(d.n_bytes for d in documents), "the corpus")
    digest = hashlib.sha256()
    for split in SPLITS:
        _write(out / f"{split}.parquet", splits[split], digest)

    # Copies in another group come first: a split could have torn them apart and flattered a score.
    duplicates.sort(key=lambda d: not d.across_groups)
    figures: dict[str, Any] = {
        "label": recipe.label,
        "licence": recipe.licence,
        "documents": len(documents),
        "bytes": sum(d.n_bytes for d in documents),
        "groups": len({d.group for d in documents}),
        "splits": {split: _figures(members) for split, members in splits.items()},
        "reading": reading,
        "duplicates": {
            "documents": len(duplicates),
            "bytes": sum(d.n_bytes for d in duplicates),
            "across_groups": sum(d.across_groups for d in duplicates),
            "pairs": [
                {"dropped": d.dropped, "kept": d.kept, "similarity": round(d.similarity, 3)}
                for d in duplicates[:NAMED_PAIRS]
            ],
        },
        **leaked,
        "sha256": digest.hexdigest(),
    }
    figures["warnings"] = _warnings(figures)
    _tell(figures)
    write_json(out / "corpus.json", figures)
    return figures


def read_documents(folder: Path, split: str) -> Iterator[Document]:
    """Stream a split's documents in corpus order. DataError names a missing or damaged file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if split not in SPLITS:
        raise DataError(f"{folder}: no split {split!r} (there are {', '.join(SPLITS)})")
    path = Path(folder) / f"{split}.parquet"
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            missing = set(COLUMNS) - set(file.schema_arrow.names)
            if missing:
                raise DataError(f"{path}: not a corpus file, no column {', '.join(sorted(missing))}")
            for batch in file.iter_batches(batch_size=1024, columns=list(COLUMNS[:4])):
                for row in batch.to_pylist():
                    yield Document(**row)
    except FileNotFoundError:
        raise DataError(f"{path}: not found; the corpus is incomplete, remove its folder and run again") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: damaged ({reason}); remove the corpus folder and run again") from None


def corpus_figures(folder: Path) -> dict[str, Any]:
    """The figures that `build_corpus` wrote."""
    return dict(read_json(Path(folder) / "corpus.json"))


def split_groups(documents: Iterable[Document], recipe: Corpus) -> dict[str, str]:
    """Assign whole groups to splits: {group: split}, by a keyed hash of the group's name and by bytes, or as the
    recipe's `split_of` says.

    Each domain is split alone, so that each is held out in about the same share; domains of fewer than three groups
    are put together. Within one, groups in hash order fill the test split and then the validation split until each
    has its bytes, passing over a group that would overfill it by half (the smallest serves where none fits).
    """
    domain: dict[str, str] = {}
    size: Counter[str] = Counter()
    for document in documents:
        domain.setdefault(document.group, document.domain)
        size[document.group] += document.n_bytes
    decided = {group: split for group in size if (split := recipe.split_of(group))}
    if decided:
        return decided
    if len(size) < 3:
        raise DataError(
            f"{recipe.label}: {len(size)} group(s) of documents, but train, validation and test each need their own; "
            "give more text, or split it finer (corpus.group=document, a column with more values, or for plain text a "
            "smaller corpus.target_document_bytes)"
        )
    groups_in = Counter(domain.values())
    strata: dict[str | None, list[str]] = {}
    for group in sorted(size, key=lambda g: (keyed_int("corpus split", recipe.seed, g), g)):
        name = domain[group]
        strata.setdefault(name if groups_in[name] >= 3 else None, []).append(group)
    sides = dict.fromkeys(size, "train")
    for groups in strata.values():
        if len(groups) < 3:
            continue
        total = sum(size[group] for group in groups)
        for split, fraction in (("test", recipe.test_fraction), ("validation", recipe.validation_fraction)):
            filled, wanted = 0, fraction * total
            for group in groups:
                if filled < wanted and sides[group] == "train" and filled + size[group] <= 1.5 * wanted:
                    sides[group] = split
                    filled += size[group]
            if not filled:
                rest = [group for group in groups if sides[group] == "train"]
                sides[min(rest, key=lambda group: size[group])] = split
    # Only reached when every domain has one or two groups and they are few.
    for split in ("test", "validation"):
        if split not in sides.values():
            rest = [group for group in size if sides[group] == "train"]
            sides[min(rest, key=lambda group: size[group])] = split
    return sides


def _drop_leaking(
    splits: dict[str, list[Document]], recipe: Corpus
) -> tuple[dict[str, list[Document]], dict[str, Any]]:
    """Held-out documents without those that stand in the training text for `leak_threshold` or more; leak figures.

    They are copies that the search for near-duplicates is blind to: a short text inside a long one.
    """
    from tokenization.dedup import leak

    held_out = [(split, document) for split in ("validation", "test") for document in splits[split]]
    with progress("looking for leaks", sum(d.n_bytes for d in splits["train"]), "B") as advance:
        found = leak(splits["train"], [document for _, document in held_out], advance=advance)
    copied = {i for i, share in enumerate(found.shares) if share >= recipe.leak_threshold}
    kept = [i for i in range(len(held_out)) if i not in copied]
    if {held_out[i][0] for i in kept} != {"validation", "test"}:
        raise DataError(
            f"{recipe.label}: every document of a held-out split stands in the training text for "
            f"{recipe.leak_threshold:.0%} or more; use larger groups (corpus.group) or raise corpus.leak_threshold"
        )
    left = found.of(np.array(kept))
    named = [
        {"id": held_out[i][1].id, "group": held_out[i][1].group, "share": round(float(found.shares[i]), 4)}
        for i in np.argsort(-found.shares, kind="stable")
        if found.shares[i] > 0
    ]
    figures = {
        "leak_share": left.share,
        "leak": {
            "shingles": int(left.totals.sum()),
            "stride": left.stride,
            "share_before_dropping": found.share,
            "dropped": {
                "documents": len(copied),
                "bytes": sum(held_out[i][1].n_bytes for i in copied),
                "named": named[: min(len(copied), NAMED_LEAKS)],
            },
            "worst": named[len(copied) :][:NAMED_LEAKS],
        },
    }
    held = {split: [held_out[i][1] for i in kept if held_out[i][0] == split] for split in ("validation", "test")}
    return {"train": splits["train"], **held}, figures


def _read(recipe: Corpus) -> tuple[list[Document], "list[Duplicate]", dict[str, Any]]:
    """Documents that are kept, duplicates, and what was read."""
    from tokenization.dedup import DuplicateFinder

    finder = DuplicateFinder(recipe.dedup_threshold)
    kept, duplicates, tally = [], [], Tally()
    ids: set[str] = set()
    with progress(f"reading {recipe.label}", unit="B") as advance:
        for document in recipe.documents(tally):
            if not document.text.strip():
                tally["empty documents skipped"] += 1
                continue
            tally["documents"] += 1
            tally["bytes"] += document.n_bytes
            parts = cut(document, recipe.max_document_bytes)
            tally["documents cut"] += len(parts) > 1
            for part in parts:
                if part.id in ids:
                    raise DataError(f"{recipe.label}: two documents have the id {part.id!r}; ids must be unique")
                ids.add(part.id)
                duplicate = finder.add(part)
                if duplicate is None:
                    kept.append(part)
                else:
                    duplicates.append(duplicate)
                advance(part.n_bytes)
            if tally["bytes"] >= recipe.max_bytes:
                tally["stopped at max_bytes"] = 1
                say(f"corpus {recipe.label}: stopped at max_bytes={recipe.max_bytes} (there may be more text)")
                break
    if not kept:
        raise DataError(f"{recipe.label}: no text found; the corpus is empty")
    return kept, duplicates, dict(tally)


def _write(path: Path, documents: list[Document], digest: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.int64() if name == "n_bytes" else pa.string()) for name in COLUMNS])
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        rows: list[dict[str, Any]] = []
        size = 0
        for i, document in enumerate(documents):
            digest.update(document.n_bytes.to_bytes(8, "little") + document.text.encode())
            rows.append({name: getattr(document, name) for name in COLUMNS})
            size += document.n_bytes
            if size >= ROW_GROUP_BYTES or i == len(documents) - 1:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows, size = [], 0


def _figures(documents: list[Document]) -> dict[str, Any]:
    domains: dict[str, dict[str, int]] = {}
    for document in documents:
        entry = domains.setdefault(document.domain, {"documents": 0, "bytes": 0})
        entry["documents"] += 1
        entry["bytes"] += document.n_bytes
    for name, entry in domains.items():
        entry["groups"] = len({d.group for d in documents if d.domain == name})
    return {
        "documents": len(documents),
        "bytes": sum(d.n_bytes for d in documents),
        "groups": len({d.group for d in documents}),
        "domains": domains,
    }


def _warnings(figures: dict[str, Any]) -> list[str]:
    found = []
    if figures["leak_share"] >= MAX_LEAK_SHARE:
        worst = ", ".join(f"{w['id']} ({w['share']:.0%})" for w in figures["leak"]["worst"][:3])
        found.append(
            f"{figures['leak_share']:.1%} of the held-out 50-byte shingles are also in the training text; "
            f"most in {worst}; lower corpus.dedup_threshold or use larger groups"
        )
    groups = figures["splits"]["test"]["groups"]
    if groups < MIN_HELD_OUT_GROUPS:
        found.append(f"few clusters: the test split has {groups} groups, intervals over them are rough below 30")
    return found


def _tell(figures: dict[str, Any]) -> None:
    splits = "; ".join(
        f"{split} {part['bytes'] / 1e6:.2f} MB in {part['documents']} documents of {part['groups']} groups"
        for split, part in figures["splits"].items()
    )
    say(f"corpus {figures['label']}: {splits}")
    copies = figures["duplicates"]
    say(
        f"corpus {figures['label']}: {copies['documents']} duplicates dropped ({copies['bytes'] / 1e6:.2f} MB, "
        f"{copies['across_groups']} across groups); leak {figures['leak_share']:.2%} of the held-out 50-byte shingles"
    )
    leaking = figures["leak"]["dropped"]
    if leaking["documents"]:
        say(
            f"corpus {figures['label']}: {leaking['documents']} held-out documents dropped "
            f"({leaking['bytes'] / 1e6:.2f} MB), as much of them stands in the training text"
        )
    for warning in figures["warnings"]:
        say(f"corpus {figures['label']}: warning: {warning}")
