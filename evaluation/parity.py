"""What the same text costs in different languages: token counts on a file of parallel lines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.intrinsic import gini, ratio
from isotok.errors import ConfigError, DataError

if TYPE_CHECKING:
    from evaluation.tokenized import Reader


@dataclass(frozen=True)
class Parallel:
    """Lines by language, all of one length; `reference` is the language that the others are compared with.

    `skipped`: lines that were left out because some language has nothing there.
    """

    lines: Mapping[str, Sequence[str]]
    reference: str
    skipped: int


def read_parallel(paths: Sequence[Path]) -> Parallel:
    """One tab-separated file whose first line names the languages, or one file a language (its name without suffix).

    The reference is `en` (or `eng`, `eng_Latn`, `english`) where there is one, else the first language.
    DataError names the file and line that is not as it should be, or the line counts that differ.
    """
    if not paths:
        raise ConfigError("parallel=: name a tab-separated file, or one file a language as parallel=A,B")
    lines = _table(paths[0]) if len(paths) == 1 else _files(paths)
    if len(lines) < 2:
        raise DataError(
            f"{paths[0]}: one language only; parallel text needs two or more: tab-separated columns under a line with "
            "their names, or one file a language as parallel=A,B"
        )
    names = list(lines)
    keep = [i for i in range(len(lines[names[0]])) if all(lines[name][i].strip() for name in names)]
    if not keep:
        raise DataError(f"{paths[0]}: no line has text in every language ({', '.join(names)})")
    english = [name for name in names if name.lower().replace("_", "-").split("-")[0] in ("en", "eng", "english")]
    kept = {name: [column[i] for i in keep] for name, column in lines.items()}
    return Parallel(kept, english[0] if english else names[0], len(lines[names[0]]) - len(keep))


def parity(reader: "Reader", parallel: Parallel) -> dict[str, Any]:
    """Tokens of each language over those of the reference on the same lines, and how unequal the languages are.

    premium: N_l / N_reference; byte_premium: the same of UTF-8 bytes, what the script costs before any tokenizer;
    max_over_min of the token counts; fairness_gini over tokens a line of each language.
    """
    tokens = {name: sum(map(len, reader.ids(list(lines)))) for name, lines in parallel.lines.items()}
    n_bytes = {name: sum(len(line.encode()) for line in lines) for name, lines in parallel.lines.items()}
    n = len(parallel.lines[parallel.reference])
    base = parallel.reference
    return {
        "reference": base,
        "lines": n,
        "lines_skipped": parallel.skipped,
        "languages": {
            name: {
                "tokens": tokens[name],
                "bytes": n_bytes[name],
                "tokens_per_line": ratio(tokens[name], n),
                "bytes_per_token": ratio(n_bytes[name], tokens[name]),
                "premium": ratio(tokens[name], tokens[base]),
                "byte_premium": ratio(n_bytes[name], n_bytes[base]),
            }
            for name in tokens
        },
        "max_over_min": ratio(max(tokens.values()), min(tokens.values())),
        "fairness_gini": gini([count / n for count in tokens.values()]),
    }


def _table(path: Path) -> dict[str, list[str]]:
    rows = [line.split("\t") for line in read_lines(path)]
    if not rows:
        raise DataError(f"{path}: empty; its first line has to name the languages, separated by tabs")
    names = [name.strip() for name in rows[0]]
    if len(set(names)) < len(names) or not all(names):
        raise DataError(f"{path}: line 1 has to give each column a name of its own, and says {', '.join(rows[0])!r}")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise DataError(f"{path}: line {number} has {len(row)} columns, line 1 names {len(names)}")
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(names)}


def _files(paths: Sequence[Path]) -> dict[str, list[str]]:
    names = [path.name.removesuffix(path.suffix) for path in paths]
    if len(set(names)) < len(names):  # like flores.en and flores.de: the suffix is what tells them apart
        names = [path.suffix.lstrip(".") for path in paths]
    if len(set(names)) < len(names):
        raise DataError(f"parallel files of one name: {', '.join(map(str, paths))}; a file is named by its language")
    lines = {name: read_lines(path) for name, path in zip(names, paths)}
    counts = [len(column) for column in lines.values()]
    for path, count in zip(paths, counts):
        if count != counts[0]:
            raise DataError(
                f"parallel files of unequal length: {paths[0]} has {counts[0]:,} lines, {path} has {count:,}; "
                "line n of each has to be the same sentence"
            )
    return lines


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, split at newlines alone; DataError names the file that cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert the file first") from None
    lines = text.split("\n")
    return [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
