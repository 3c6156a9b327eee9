"""`isotok show`: a vocabulary as text: where it comes from, what its entries are, superwords and merges by rank."""

from collections.abc import Iterator, Sequence
from typing import Any

from isotok.errors import ConfigError, DataError
from scripts.looking import Found, Span, columns, find_tokenizers, parse_arguments, whole_number, write_lines
from tokenization.visible import printable, visible_bytes
from tokenization.vocabulary_view import PIECE, WORD, Entry, Vocabulary, words

USAGE = """\
isotok show PATH [limit=N]: what a vocabulary holds

PATH        a tokenizer's folder, its tokenizer.json, an artefact made with one, or a name on the Hugging Face Hub
limit=N     rows of each list (20), or `all`; 0 leaves the lists out
"""

Line = Sequence[Span]
_HEAD, _NOTE, _TOKEN = "bold", "dim", "cyan"


def show_command(arguments: list[str]) -> None:
    """Print what a tokenizer's vocabulary holds.

    Raises ConfigError for wrong arguments, DataError for what is no tokenizer.
    """
    if "--help" in arguments or "-h" in arguments:
        print(USAGE, end="")
        return
    names, values = parse_arguments("show", arguments, ("limit",))
    if len(names) != 1:
        raise ConfigError("show: needs one tokenizer, like `isotok show runs/tokenizer/NAME` (`isotok ls` lists them)")
    limit = None if values.get("limit") == "all" else whole_number("limit", values.get("limit", "20"), ", nor `all`")
    found = find_tokenizers(names[0])
    if len(found) > 1:
        folders = ", ".join(printable(made.file.parent) for made in found)
        raise DataError(f"{printable(names[0])}: made with {len(found)} tokenizers; show one of {folders}")
    write_lines(describe(found[0], limit))


def describe(found: Found, limit: int | None) -> Iterator[Line]:
    """The lines of `show`. limit: rows of a list, None for all."""
    vocabulary = found.vocabulary
    yield [(printable(found.name), "bold green")]
    yield from columns([[(key, _NOTE), (value, "")] for key, value in _header(found)], "ll")
    yield from _kinds(vocabulary)
    if limit == 0:
        return
    yield from _superwords(vocabulary, limit)
    yield from _merges(vocabulary, found.metadata, limit)
    yield from _longest(vocabulary, limit)
    yield from _duplicates(vocabulary, limit)


def _header(found: Found) -> Iterator[tuple[str, str]]:
    vocabulary, made = found.vocabulary, found.metadata
    yield "file", printable(found.file)
    if "algorithm" in made:
        yield "algorithm", printable(made["algorithm"])
    yield "model", printable(f"{vocabulary.model}, spelling: {vocabulary.spelling}")
    specials = [entry for entry in vocabulary.entries if not entry.data]
    size, merges = len(vocabulary.entries), len(vocabulary.merges)
    entries = f"{size - len(specials):,} and {len(specials):,} special{'s' if len(specials) != 1 else ''}"
    asked = made.get("vocab_size_asked", size - len(specials))
    yield "entries", entries + (f" ({printable(asked)} asked for)" if asked != size - len(specials) else "")
    if specials:
        shown = ", ".join(f"{printable(entry.spelling)} = {entry.id}" for entry in specials[:8])
        yield "specials", shown + (", …" if len(specials) > 8 else "")
    yield "merges", f"{merges:,}" if merges else "none"
    if isinstance(transition := made.get("vocab_size_at_transition"), int):
        share = transition / max(1, size - len(specials))
        yield "transition", f"at {transition:,} entries ({share:.1%} of the vocabulary)"
    if "pretokenizer" in made:
        stage_1 = f", in stage 1 {made['stage1_pretokenizer']}" if "stage1_pretokenizer" in made else ""
        feed = f", fed by {made['feed']}" if "feed" in made else ""
        yield "pretokenizer", printable(f"{made['pretokenizer']}{stage_1}{feed}")
    if vetoes := [f"{key}={made[key]}" for key in ("forbid", "max_words", "max_bytes") if made.get(key)]:
        yield "vetoes", printable(", ".join(vetoes))
    for part, steps in vocabulary.steps.items():
        if steps != "none":
            yield part.replace("pre_tokenizer", "splits by"), steps
    if vocabulary.dropout:
        yield "dropout", f"{vocabulary.dropout:g} of merges, while encoding"
    if "corpus_sha256" in made:
        yield "corpus", printable(f"sha256 {made['corpus_sha256']}")
    seen = [(key, made.get(key)) for key in ("bytes_seen", "unique_chunks")]
    if figures := [f"{value:,} {key.replace('_', ' ')}" for key, value in seen if isinstance(value, int)]:
        yield "training", ", ".join(figures)


def _kinds(vocabulary: Vocabulary) -> Iterator[Line]:
    yield from _title("Entries by kind")
    rows: list[Line] = [_heads("kind", "entries", "share", "bytes each", "the first of them")]
    total = len(vocabulary.entries)
    for kind, entries in vocabulary.by_kind().items():
        mean = sum(len(entry.data) for entry in entries) / len(entries)
        examples = _examples(entries)
        row = [
            (_label(kind, vocabulary), ""),
            (f"{len(entries):,}", ""),
            (f"{len(entries) / total:.1%}", ""),
            (f"{mean:.1f}", ""),
        ]
        rows.append([*row, (examples, _TOKEN)])
    yield from columns(rows, "lrrrl")
    newline = sum(b"\n" in entry.data for entry in vocabulary.entries)
    invalid = sum(not _is_text(entry.data) for entry in vocabulary.entries)
    superwords = sum(entry.kind.startswith("superwords") for entry in vocabulary.entries)
    share = superwords / max(1, total)
    yield [
        (f"  Of all kinds: {superwords:,} superwords ({share:.1%}), {newline:,} with a newline, ", ""),
        (f"{invalid:,} that are no valid UTF-8 of their own", ""),
    ]


def _examples(entries: Sequence[Entry], columns_free: int = 36) -> str:
    """The first entries of a kind, at most six, as far as they fit."""
    from rich.cells import cell_len

    shown = _shown(entries[0])
    for entry in entries[1:6]:
        longer = f"{shown}  {_shown(entry)}"
        if cell_len(longer) > columns_free:
            break
        shown = longer
    return shown


def _superwords(vocabulary: Vocabulary, limit: int | None) -> Iterator[Line]:
    found, ranks = vocabulary.superwords(), vocabulary.ranks()
    yield from _title("Superwords by rank", len(found), limit, "none: no entry has a space between two words")
    rows = [
        [(str(ranks.get(e.id, "–")), ""), (str(e.id), _NOTE), (str(words(e.data)), ""), (_shown(e), _TOKEN)]
        for e in found[:limit]
    ]
    yield from _table(["rank", "id", "words", "superword"], rows, "rrrl")


def _merges(vocabulary: Vocabulary, metadata: dict[str, Any], limit: int | None) -> Iterator[Line]:
    merges, entries = vocabulary.merges, vocabulary.by_id()
    inherited = metadata.get("merges_inherited")
    if not merges:
        yield from _title("Merges", 0, limit, f"none in this {vocabulary.model} model")
        return
    stages = [(0, len(merges), "")]
    if isinstance(inherited, int) and 0 <= inherited <= len(merges):
        stages = [(0, inherited, "1"), (inherited, len(merges), "2")]
    for start, end, stage in stages:
        name = f"Merges by rank, stage {stage}" if stage else "Merges by rank"
        yield from _title(name, end - start, limit, "none")
        rows = []
        for rank in range(start, end if limit is None else min(end, start + limit)):
            left, right, result = (_shown(entries[index]) for index in merges[rank])
            number = str(merges[rank][2])
            cells = [(str(rank), ""), (left, _TOKEN), (right, _TOKEN), (result, _TOKEN), (number, _NOTE)]
            rows.append([*cells, (stage or "–", _NOTE)])
        yield from _table(["rank", "left", "right", "result", "id", "stage"], rows, "rlllrr")


def _longest(vocabulary: Vocabulary, limit: int | None) -> Iterator[Line]:
    found = vocabulary.longest()
    yield from _title("Longest entries", len(found), limit, "none")
    rows = [
        [(str(len(e.data)), ""), (str(e.id), _NOTE), (_label(e.kind, vocabulary), ""), (_shown(e), _TOKEN)]
        for e in found[:limit]
    ]
    yield from _table(["bytes", "id", "kind", "entry"], rows, "rrll")


def _duplicates(vocabulary: Vocabulary, limit: int | None) -> Iterator[Line]:
    groups = vocabulary.duplicates()
    yield from _title("Duplicates", len(groups), limit, "none: no two entries stand for the same bytes")
    rows = [
        [(", ".join(f"{e.id} {printable(e.spelling)}" for e in group), ""), (_shown(group[0]), _TOKEN)]
        for group in groups[:limit]
    ]
    yield from _table(["ids", "entry"], rows, "ll")


def _title(name: str, count: int | None = None, limit: int | None = None, if_none: str = "") -> Iterator[Line]:
    yield []
    if count == 0:
        yield [(f"{name}: ", _HEAD), (if_none, "")]
    elif count is not None and limit is not None and limit < count:
        yield [(name, _HEAD), (f" ({limit:,} of {count:,})", _NOTE)]
    else:
        yield [(name, _HEAD), ("" if count is None else f" ({count:,})", _NOTE)]


def _table(heads: Sequence[str], rows: Sequence[Line], align: str) -> Iterator[Line]:
    if rows:
        yield from columns([_heads(*heads), *rows], align)


def _heads(*names: str) -> Line:
    return [(name, _NOTE) for name in names]


def _shown(entry: Entry) -> str:
    return visible_bytes(entry.data) if entry.data else printable(entry.spelling)


def _label(kind: str, vocabulary: Vocabulary) -> str:
    if vocabulary.model == "WordPiece":  # no entry has a space
        return {WORD: "words and their beginnings", PIECE: "continuations of words"}.get(kind, kind)
    return kind


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
