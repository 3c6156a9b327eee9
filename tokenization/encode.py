"""Stage `encode`: corpus + tokenizer → token data, Arrow shards of ids.

One row a unit (a document): its ids with the end-of-text id at the end, and the bytes of its source text. The folder
loads with `datasets.load_from_disk`; training reads the same files memory-mapped, without a copy.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isotok.errors import DataError
from isotok.files import check_free_space, read_json, write_json
from isotok.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerFast

    from tokenization.corpus import Document

SPLITS = ("train", "validation", "test")
SHARD_TOKENS = 64 * 1024 * 1024
FLUSH_TOKENS = 4 * 1024 * 1024
_BATCH_BYTES = 2_000_000


def encode_corpus(corpus: Path, tokenizer_folder: Path, out: Path) -> dict[str, Any]:
    """Encode every split of a corpus; returns the headline figures (tokens and bytes by split).

    Raises DataError when a document's ids do not stand for exactly its bytes.
    """
    from tokenization.corpus import read_documents
    from tokenization.tokenizer import is_byte_level, load_tokenizer

    out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(tokenizer_folder)
    id_bytes = np.load(tokenizer_folder / "id_bytes.npy") if is_byte_level(tokenizer) else None
    total = sum(path.stat().st_size for path in corpus.glob("*.parquet"))
    check_free_space(out, 8 * total, "token data")
    figures: dict[str, Any] = {"vocab_size": len(tokenizer), "eos_id": tokenizer.eos_token_id}
    for split in SPLITS:
        figures[split] = _encode_split(read_documents(corpus, split), split, tokenizer, id_bytes, out)
    write_json(out / "dataset_dict.json", {"splits": list(SPLITS)})
    write_json(out / "token_data.json", figures)
    if id_bytes is not None:
        np.save(out / "id_bytes.npy", id_bytes)
    return figures


def _encode_split(
    documents: Iterable["Document"],
    split: str,
    tokenizer: "PreTrainedTokenizerFast",
    id_bytes: np.ndarray | None,
    out: Path,
) -> dict[str, int]:
    from tokenization.tokenizer import encode_texts

    folder = out / split
    folder.mkdir()
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    shards = _ShardWriter(folder, dtype)
    with progress(f"encoding {split}", unit="B") as advance:
        for batch in _batches(documents):
            encoded = encode_texts(tokenizer, [document.text for document in batch])
            for document, ids in zip(batch, encoded):
                array = np.array([*ids, tokenizer.eos_token_id], dtype=dtype)
                if id_bytes is not None and int(id_bytes[array].sum()) != document.n_bytes:
                    raise DataError(
                        f"document {document.id!r}: its ids stand for {int(id_bytes[array].sum())} bytes, "
                        f"its text has {document.n_bytes}; the tokenizer is not lossless"
                    )
                shards.add(array, document.n_bytes)
            advance(sum(document.n_bytes for document in batch))
    return shards.close(split)


class _ShardWriter:
    """Writes Arrow streams in the layout of `datasets.save_to_disk`, one record batch a flush."""

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        self.folder, self.dtype = folder, dtype
        self.names: list[str] = []
        self.ids: list[np.ndarray] = []
        self.sizes: list[int] = []
        self.pending = self.in_shard = 0
        self.tokens = self.bytes = self.units = 0
        self.writer: Any = None

    def schema(self) -> "pa.Schema":
        import pyarrow as pa

        return pa.schema([("ids", pa.list_(pa.from_numpy_dtype(self.dtype))), ("n_bytes", pa.int64())])

    def add(self, ids: np.ndarray, n_bytes: int) -> None:
        self.ids.append(ids)
        self.sizes.append(n_bytes)
        self.pending += len(ids)
        self.tokens, self.bytes, self.units = self.tokens + len(ids), self.bytes + n_bytes, self.units + 1
        if self.pending >= FLUSH_TOKENS:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        if self.writer is None:
            self.names.append(f"data-{len(self.names):05d}.arrow")
            self.writer = pa.ipc.new_stream(str(self.folder / self.names[-1]), self.schema())
        offsets = np.zeros(len(self.ids) + 1, dtype=np.int32)
        np.cumsum([len(ids) for ids in self.ids], out=offsets[1:])
        values = np.concatenate(self.ids) if self.ids else np.zeros(0, dtype=self.dtype)
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
        self.writer.write_batch(pa.record_batch([lists, pa.array(self.sizes, pa.int64())], schema=self.schema()))
        self.in_shard += self.pending
        self.ids, self.sizes, self.pending = [], [], 0
        if self.in_shard >= SHARD_TOKENS:
            self._end_shard()

    def _end_shard(self) -> None:
        self.writer.close()
        self.writer, self.in_shard = None, 0

    def close(self, split: str) -> dict[str, int]:
        if self.ids or not self.names:
            self.flush()
        if self.writer is not None:
            self._end_shard()
        write_json(
            self.folder / "state.json",
            {
                "_data_files": [{"filename": name} for name in self.names],
                "_fingerprint": f"{self.units:x}-{self.tokens:x}-{self.bytes:x}",
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": split,
            },
        )
        features = {
            "ids": {"feature": {"dtype": self.dtype.name, "_type": "Value"}, "_type": "List"},
            "n_bytes": {"dtype": "int64", "_type": "Value"},
        }
        write_json(
            self.folder / "dataset_info.json",
            {"citation": "", "description": "", "features": features, "homepage": "", "license": ""},
        )
        return {"units": self.units, "tokens": self.tokens, "bytes": self.bytes}


class TokenData:
    """One split of token data, memory-mapped.

    n_bytes: source bytes of each unit (int64). id_bytes: bytes that each id stands for (int32), None for a lossy
    vocabulary. vocab_size counts specials: it is the model's vocabulary.
    """

    def __init__(
        self, chunks: list[Any], n_bytes: np.ndarray, id_bytes: np.ndarray | None, vocab_size: int, eos_id: int
    ) -> None:
        self._values = [chunk.values.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._offsets = [chunk.offsets.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._starts = np.cumsum([0] + [len(chunk) for chunk in chunks])
        self.n_bytes = n_bytes
        self.id_bytes = id_bytes
        self.vocab_size = vocab_size
        self.eos_id = eos_id
        self.n_tokens = sum(int(offsets[-1] - offsets[0]) for offsets in self._offsets)

    @classmethod
    def open(cls, folder: Path, split: str) -> "TokenData":
        """Map a split of a token data folder; DataError names a shard that is missing or torn."""
        import pyarrow as pa

        figures = read_json(folder / "token_data.json")
        chunks: list[Any] = []
        sizes: list[np.ndarray] = []
        for entry in read_json(folder / split / "state.json")["_data_files"]:
            path = folder / split / entry["filename"]
            try:
                # The array keeps the map alive; pages come in as rows are read.
                table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
            except (OSError, pa.ArrowInvalid) as error:
                raise DataError(f"{path}: unreadable shard ({error}); remove {folder} and run again") from None
            chunks += table.column("ids").chunks
            sizes.append(table.column("n_bytes").to_numpy())
        lossless = (folder / "id_bytes.npy").exists()
        data = cls(
            chunks,
            np.concatenate(sizes) if sizes else np.zeros(0, dtype=np.int64),
            np.load(folder / "id_bytes.npy") if lossless else None,
            figures["vocab_size"],
            figures["eos_id"],
        )
        if (len(data), data.n_tokens) != (figures[split]["units"], figures[split]["tokens"]):
            raise DataError(
                f"{folder / split}: holds {len(data)} units and {data.n_tokens} tokens, token_data.json says "
                f"{figures[split]['units']} and {figures[split]['tokens']}; remove {folder} and run again"
            )
        return data

    def __len__(self) -> int:
        return int(self._starts[-1])

    def ids(self, unit: int) -> np.ndarray:
        """The unit's ids with its end-of-text id, a view into the map: do not write to it."""
        if not 0 <= unit < len(self):
            raise IndexError(f"unit {unit} outside range({len(self)})")
        chunk = int(np.searchsorted(self._starts, unit, side="right")) - 1
        offsets = self._offsets[chunk]
        row = unit - int(self._starts[chunk])
        return self._values[chunk][offsets[row] : offsets[row + 1]]


def _batches(documents: Iterable["Document"]) -> Iterator[list["Document"]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.n_bytes
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
