"""Unique chunks of text with their counts: all that merge learning needs to know of a corpus.

Counting is map and reduce: blocks of text go round the threads, each counts into a table of its own, the tables are
added up. Memory holds the distinct chunks and a few blocks, whatever the length of the text.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotok.errors import ConfigError, DataError
from isotok.files import check_free_space, read_json, sha256_file, write_json
from isotok.progress import progress
from tokenization.pretokenize import Chunking, Feed, pretokenizer

if TYPE_CHECKING:
    import numpy as np

BLOCK_BYTES = 4_000_000


@dataclass(frozen=True)
class Chunks:
    """Distinct byte strings and how often each occurs.

    data: uint8, all of them joined; ends: int64, where each ends; counts: int64. text_bytes: bytes of the text counted.
    """

    data: "np.ndarray"
    ends: "np.ndarray"
    counts: "np.ndarray"
    text_bytes: int

    def __len__(self) -> int:
        return len(self.ends)


def count_chunks(texts: Iterable[str], pretokenizer_name: str, feed: Feed, *, threads: int | None = None) -> Chunks:
    """Count the pieces that a pretokenizer makes of texts, fed line by line or as whole documents.

    threads: default `thread_count()`; the counts do not depend on it, their order may. Raises DataError naming the
    text that is not Unicode.
    """
    threads = threads or thread_count()
    text_bytes = 0
    with ExitStack() as stack:
        lanes, add = _lanes(pretokenizer_name, threads, stack)
        advance = stack.enter_context(progress(f"counting {pretokenizer_name} pieces", unit="B"))
        pending: deque[tuple[Future[Any], int]] = deque()
        tables: list[Any] = [None] * len(lanes)
        for i, (data, ends) in enumerate(_blocks(texts, feed)):
            if len(pending) >= 2 * len(lanes):
                done, size = pending.popleft()
                done.result()
                advance(size)
            # Block i always goes to lane i mod n, one lane does one block at a time: the order is fixed.
            pending.append((lanes[i % len(lanes)].submit(add, tables, i % len(lanes), data, ends), len(data)))
            text_bytes += len(data)
        for done, size in pending:
            done.result()
            advance(size)
    return _reduce([table for table in tables if table is not None], text_bytes)


def chunks_of(texts: Iterable[str], chunking: Chunking) -> Chunks:
    """The counts of texts: those that the texts bring along (`CountedTexts`), or counted now."""
    if isinstance(texts, CountedTexts) and chunking in texts.counted:
        return load_chunks(texts.counted[chunking])
    return count_chunks(texts, chunking.pretokenizer, chunking.feed)


@dataclass(frozen=True)
class CountedTexts:
    """The training split of a corpus folder, with the folders of counts that exist already."""

    corpus: Path
    counted: Mapping[Chunking, Path]

    def __iter__(self) -> Iterator[str]:
        from tokenization.corpus import read_documents

        return (document.text for document in read_documents(self.corpus, "train"))


def count_corpus(corpus: Path, chunking: Chunking, out: Path) -> dict[str, Any]:
    """Stage `count`: unique chunks of a corpus' training split with their counts; returns the headline figures."""
    chunks = count_chunks(CountedTexts(corpus, {}), chunking.pretokenizer, chunking.feed)
    check_free_space(out.parent, len(chunks.data) + 16 * len(chunks), "the counts")
    return save_chunks(chunks, out)


def thread_count() -> int:
    """Threads for our own kernels: RAYON_NUM_THREADS where it is set, as for the tokenizer library, else all cores."""
    given = os.environ.get("RAYON_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else cores()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def save_chunks(chunks: Chunks, folder: Path) -> dict[str, Any]:
    """Write `data.npy`, `ends.npy`, `counts.npy` and `chunks.json` with their checksums; returns the figures."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    figures = {"chunks": len(chunks), "chunk_bytes": len(chunks.data), "text_bytes": chunks.text_bytes}
    for name in _FILES:
        np.save(folder / f"{name}.npy", getattr(chunks, name))
    write_json(folder / "chunks.json", figures | {name: sha256_file(folder / f"{name}.npy") for name in _FILES})
    return figures


def load_chunks(folder: Path) -> Chunks:
    """Read what `save_chunks` wrote, memory-mapped; DataError names a file that is missing or not as it was written."""
    import numpy as np

    figures = read_json(folder / "chunks.json")
    arrays = {}
    for name in _FILES:
        path = folder / f"{name}.npy"
        if not path.is_file() or sha256_file(path) != figures[name]:
            raise DataError(f"{path}: missing or damaged (its checksum differs); remove {folder} and run again")
        arrays[name] = np.asarray(np.load(path, mmap_mode="c"))
    return Chunks(**arrays, text_bytes=figures["text_bytes"])


_FILES = ("data", "ends", "counts")


def _lanes(name: str, threads: int, stack: ExitStack) -> tuple[list[Executor], Callable[..., None]]:
    """One executor a lane, and what each runs on a block: split it, count its pieces into the lane's table."""
    from tokenization import chunk_table, scanners

    split: Callable[..., Any]
    if name in scanners.NAMES:
        split = scanners.piece_ends
    else:
        # The library's own splitting holds Python's lock: it needs processes.
        pretokenizer(name)  # a wrong regex fails here, once
        pool = stack.enter_context(ProcessPoolExecutor(threads, mp_context=get_context("spawn")))

        def split(name: str, data: "np.ndarray", unit_ends: "np.ndarray") -> "np.ndarray":
            try:
                return pool.submit(library_piece_ends, name, data, unit_ends).result()
            except BrokenProcessPool:
                raise ConfigError(
                    "a process that splits text by regex ended; in a script of your own, call isotok's functions under "
                    '`if __name__ == "__main__":`'
                ) from None

    def add(tables: list[Any], lane: int, data: "np.ndarray", unit_ends: "np.ndarray") -> None:
        table = tables[lane] or chunk_table.new_table()
        tables[lane] = chunk_table.count(table, data, split(name, data, unit_ends))

    return [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(threads)], add


def library_piece_ends(name: str, data: "np.ndarray", unit_ends: "np.ndarray") -> "np.ndarray":
    """What `scanners.piece_ends` does, through the library: for any regex, some ten times slower."""
    import numpy as np

    split = pretokenizer(name)
    text, lengths, start = data.tobytes(), [], 0
    for end in unit_ends.tolist():
        # In the byte-level spelling that the pieces come in, a character is a byte.
        lengths += [len(piece) for piece, _ in split.pre_tokenize_str(text[start:end].decode())]
        start = end
    return np.cumsum(np.array(lengths, dtype=np.int64))


def _reduce(tables: list[Any], text_bytes: int) -> Chunks:
    from tokenization import chunk_table

    total = tables.pop(0) if tables else chunk_table.new_table()
    while tables:
        total = chunk_table.add_table(total, tables.pop(0))
    return Chunks(*chunk_table.entries(total), text_bytes)


def _blocks(texts: Iterable[str], feed: Feed) -> Iterator[tuple["np.ndarray", "np.ndarray"]]:
    """Blocks of whole texts in UTF-8 (uint8) with the ends (int64) of their units: lines (with "\\n") or texts."""
    import numpy as np

    parts: list[bytes] = []
    size = 0

    def block() -> tuple["np.ndarray", "np.ndarray"]:
        data = np.frombuffer(bytearray().join(parts), dtype=np.uint8)  # writable, as the kernels are compiled for
        ends = np.cumsum([len(part) for part in parts])
        if feed == "line":
            last_bytes = data == ord("\n")
            last_bytes[ends - 1] = True
            ends = np.flatnonzero(last_bytes) + 1
        return data, ends

    for number, text in enumerate(texts):
        try:
            part = text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"text {number} is not valid Unicode ({error.reason} at character {error.start}: "
                f"{text[error.start]!r}); repair or drop it"
            ) from None
        if not part:
            continue
        parts.append(part)
        size += len(part)
        if size >= BLOCK_BYTES:
            yield block()
            parts, size = [], 0
    if parts:
        yield block()
