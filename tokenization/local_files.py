"""Corpora from your own files: plain text, JSON lines, Parquet; the first two also as .gz and .zst."""

import contextlib
import glob
import gzip
import io
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from isotok.errors import ConfigError, DataError
from isotok.files import sha256_file
from isotok.recipe import Field, Impl, recipe
from tokenization.documents import Corpus, Document, Tally, cut_point, group_name

TEXT = (".txt", ".text", ".md")
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
COMPRESSED = (".gz", ".zst")
BLOCK_DOCUMENTS = 8
MANY_GROUPS = 20
_READ = 1 << 16
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n\s*")


@recipe
class LocalFiles(Corpus):
    """Documents from files that match the globs in `paths`.

    A row of JSON lines or Parquet is a document. A text file is cut at blank lines into documents of about
    `target_document_bytes`. `group` says what stays on one side of a split: `document`; `file`; a column's name
    (a URL counts as its site); `auto` is `document` for rows, and for text files the file, or blocks of up to 8
    documents on end where a file is longer than that (shorter blocks where few files hold little text, so that
    there is something to split). Paths are no part of the artefact's key: names, sizes and hashes are.
    """

    paths: Impl[tuple[str, ...]]
    text_field: str = "text"
    group: str = "auto"
    domain_field: str | None = None
    target_document_bytes: int = Field(default=16_384, ge=64)
    invalid_utf8: Literal["strict", "replace", "skip"] = "strict"

    @model_validator(mode="after")
    def _some_paths(self) -> Self:
        if not self.paths:
            raise ValueError("paths is empty: give files or globs, like corpus.paths=[data/*.jsonl]")
        return self

    @property
    def label(self) -> str:
        return "local"

    def fingerprint(self) -> dict[str, Any]:
        return {"files": fingerprint_files(self._files())}

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        tally = Tally() if tally is None else tally
        files = self._files()
        for path, name in files:
            with _named_errors(path):
                if kind(path) in TEXT:
                    yield from self._text_file(path, name, len(files) < MANY_GROUPS, tally)
                else:
                    unit = "row" if kind(path) in PARQUET else "line"
                    for number, row in _rows(path, self._columns()):
                        document = row_document(self, row, f"{name}:{number}", f"{path} {unit} {number}", name, tally)
                        if document is not None:
                            yield document

    def _files(self) -> list[tuple[Path, str]]:
        return match_files(self.paths, "corpus.paths")

    def _columns(self) -> list[str]:
        column = [] if self.group in ("auto", "document", "file") else [self.group]
        return [self.text_field, *column, *([self.domain_field] if self.domain_field else [])]

    def _text_file(self, path: Path, name: str, few_files: bool, tally: Tally) -> Iterator[Document]:
        if self.domain_field or self.group not in ("auto", "document", "file"):
            key, value = ("domain_field", self.domain_field) if self.domain_field else ("group", self.group)
            raise ConfigError(f"corpus.{key}={value}: {path} is plain text and has no columns")
        limit = min(4 * self.target_document_bytes, self.max_document_bytes)
        pieces = cut_stream(path, min(self.target_document_bytes, limit), limit)
        head = list(itertools.islice(pieces, MANY_GROUPS * BLOCK_DOCUMENTS))
        block = max(1, len(head) // MANY_GROUPS) if few_files else BLOCK_DOCUMENTS
        for number, (offset, data) in enumerate(itertools.chain(head, pieces)):
            text = decode(data, f"{path}", self.invalid_utf8, tally, offset)
            if text is None:
                continue
            group = f"{name}:{number}" if self.group == "document" else name
            if self.group == "auto" and len(head) > block:
                group = f"{name}#{number // block}"
            yield Document(f"{name}:{number}", text, group, "local")


def row_document(
    recipe: Any, row: dict[str, Any], name: str, where: str, file: str, tally: Tally, group: object = None
) -> Document | None:
    """The document of one row, or None where it is skipped. `group` overrides the recipe's choice."""
    if recipe.text_field not in row:
        raise DataError(
            f"{where}: no field {recipe.text_field!r} (there are {', '.join(map(str, row)) or 'none'}); "
            "set corpus.text_field=NAME"
        )
    text = row[recipe.text_field]
    if text is None:
        tally["documents without text skipped"] += 1
        return None
    if not isinstance(text, str | bytes):
        raise DataError(f"{where}: field {recipe.text_field!r} holds {type(text).__name__}, not text")
    decoded = decode(text, where, recipe.invalid_utf8, tally)
    if decoded is None:
        return None
    if group is None:
        if recipe.group == "file":
            group = file
        elif recipe.group in ("auto", "document"):
            group = name
        else:
            group = group_name(_value(row, recipe.group, "group", where))
    domain = "local" if recipe.domain_field is None else _value(row, recipe.domain_field, "domain_field", where)
    return Document(name, decoded, str(group), str(domain))


def _value(row: dict[str, Any], field: str, key: str, where: str) -> object:
    if row.get(field) is None:
        raise DataError(f"{where}: no field {field!r} (there are {', '.join(map(str, row))}); set corpus.{key}=NAME")
    value = row[field]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def decode(text: str | bytes, where: str, invalid: str, tally: Tally, offset: int = 0) -> str | None:
    """Text that can be written as UTF-8: as given, repaired, or None where it is skipped. `offset` is in the file."""
    try:
        if isinstance(text, bytes):
            return text.decode()
        text.encode()
        return text
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        if invalid == "strict":
            place = f"byte {offset + at}" if isinstance(text, bytes) else f"character {at} (a lone surrogate)"
            raise DataError(
                f"{where}: not UTF-8 at {place}; convert it, or set corpus.invalid_utf8=replace or skip"
            ) from None
    tally["invalid UTF-8 " + {"replace": "replaced", "skip": "skipped"}[invalid]] += 1
    if invalid == "skip":
        return None
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return data.decode(errors="replace")


def match_files(patterns: Iterable[str], key: str) -> list[tuple[Path, str]]:
    """(path, short unique name) of each file that matches, sorted; errors where a pattern matches no usable file."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        names = [path] if path.exists() else map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
        files = [name.absolute() for name in names if name.is_file()]
        if not files:
            raise DataError(f"{key}: no file matches {pattern!r} (seen from {Path.cwd()})")
        found.update(dict.fromkeys(sorted(files)))
    for path in found:
        kind(path)
    root = os.path.commonpath([path.parent for path in found])
    return [(path, path.relative_to(root).as_posix()) for path in sorted(found)]


def fingerprint_files(files: Iterable[tuple[Path, str]]) -> list[dict[str, Any]]:
    """Name, size and sha256 of each file."""
    found = []
    for path, name in files:
        with _named_errors(path):
            found.append({"name": name, "size": path.stat().st_size, "sha256": sha256_file(path)})
    return found


def kind(path: Path) -> str:
    """The suffix that names the format, without .gz or .zst. ConfigError where it is not one that is read."""
    suffixes = [s.lower() for s in path.suffixes]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSED
    suffix = suffixes[-2] if compressed and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    allowed = TEXT + JSON_LINES if compressed else TEXT + JSON_LINES + PARQUET
    if suffix not in allowed:
        raise ConfigError(
            f"corpus.paths: {path} is of no kind that is read; there are "
            f"{', '.join(TEXT + JSON_LINES)} (also with .gz or .zst) and .parquet"
        )
    return suffix


def cut_stream(path: Path, target: int, limit: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of the parts of a text file, at most `limit` bytes each, which join to the file.

    A part ends at the last blank line before `target` (not in its first half), else at the first one up to `limit`,
    else after the last line or whitespace before `limit`, else between two characters. A byte order mark is left out.
    """
    with open_bytes(path) as file:
        buffer, offset = bytearray(), 0
        while True:
            chunk = file.read(_READ)
            buffer += chunk
            if not offset and buffer.startswith(b"\xef\xbb\xbf"):
                del buffer[:3]
                offset = 3
            start = 0
            # Four bytes beyond the limit, so that a character cut in two is seen as such.
            while len(buffer) - start > (limit + 4 if chunk else target):
                end = _part_end(bytes(buffer[start : start + limit + 4]), target, limit) + start
                yield offset + start, bytes(buffer[start:end])
                start = end
            del buffer[:start]
            offset += start
            if not chunk:
                if buffer:
                    yield offset, bytes(buffer)
                return


def _part_end(data: bytes, target: int, limit: int) -> int:
    end = 0
    for match in _BLANK_LINE.finditer(data, 0, limit):
        if end >= target // 2 and match.end() > target:
            break
        end = match.end()
    if end:
        return end
    if len(data) <= limit:
        return len(data)
    return data.rfind(b"\n", target // 2, limit) + 1 or cut_point(data, 0, limit)


def open_bytes(path: Path) -> io.BufferedIOBase:
    """The file's bytes, unpacked; a truncated or broken archive raises while it is read."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path, "rb")
    if suffix == ".zst":
        return io.BufferedReader(_Zstd(path), _READ)
    return open(path, "rb")


class _Zstd(io.RawIOBase):
    """Unpack frames one after the other and notice when the last one is cut short, which zstandard's own does not."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._make = zstandard.ZstdDecompressor().decompressobj
        self._file = open(path, "rb")  # noqa: SIM115
        self._frame: Any = None
        self._left = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, target: Any) -> int:
        while not self._ready:
            # Small steps bound what one step can unpack to.
            packed = self._left or self._file.read(8192)
            self._left = b""
            if not packed:
                if self._frame is not None:
                    raise EOFError("Compressed file ended before the end of its last frame")
                return 0
            self._frame = self._frame or self._make()
            self._ready = memoryview(self._frame.decompress(packed))
            if self._frame.eof:
                self._left, self._frame = self._frame.unused_data, None
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line or row number, fields); lines count from 1, as editors do, and so do rows."""
    if kind(path) in PARQUET:
        yield from _parquet_rows(path, columns)
        return
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode(errors="surrogateescape").removeprefix("\ufeff"))
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataError(f"{path} line {number}: not valid JSON ({error})") from None
            if not isinstance(row, dict):
                raise DataError(f"{path} line {number}: holds {type(row).__name__}, not an object with fields")
            yield number, {key: _raw(value) for key, value in row.items()}


def _raw(value: Any) -> Any:
    # Bytes that were not UTF-8 came through JSON as escaped surrogates; back to bytes, so that `decode` judges them.
    if isinstance(value, str) and not value.isascii():
        with contextlib.suppress(UnicodeEncodeError):
            value.encode()
            return value
        with contextlib.suppress(UnicodeEncodeError):
            return value.encode("utf-8", "surrogateescape")
    return value


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for column in columns:
                if column not in names:
                    raise DataError(f"{path}: no column {column!r}, named in the config (there are {', '.join(names)})")
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=columns):
                # As bytes, since a text column is not checked to be UTF-8 by whoever wrote it.
                packed = [
                    c.cast(pa.large_binary()) if pa.types.is_string(c.type) or pa.types.is_large_string(c.type) else c
                    for c in batch.columns
                ]
                for values in zip(*(column.to_pylist() for column in packed)):
                    number += 1
                    yield number, dict(zip(batch.schema.names, values))
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    import zstandard

    try:
        yield
    except EOFError:
        raise DataError(f"{path}: truncated; the compressed file ends too early, copy or download it again") from None
    except (zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise DataError(f"{path}: broken compressed file ({error}); copy or download it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
