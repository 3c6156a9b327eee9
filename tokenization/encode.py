"""Stage `encode`: corpus + tokenizer → token data, Arrow shards of ids.

One row a unit (a document): its ids with the end-of-text id at the end, and the bytes of its source text. The folder
loads with `datasets.load_from_disk`; training reads the same files memory-mapped, without a copy.
"""

import itertools
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isotok.errors import DataError
from isotok.files import check_free_space, read_json, sha256_file, write_json
from isotok.progress import progress
from tokenization.shards import SHARDS, ShardWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tokenization.corpus import Document
    from tokenization.encoder import Encoder

SPLITS = ("train", "validation", "test")
VERIFY_EVERY = 200
_BATCH_BYTES = 8_000_000


def encode_corpus(corpus: Path, tokenizer_folder: Path, out: Path) -> dict[str, Any]:
    """Encode every split of a corpus; returns the headline figures (tokens and bytes by split).

    `out` may hold whole shards of an encoding that was stopped: it goes on behind them. One document in VERIFY_EVERY is
    encoded by the tokenizer library as well. Raises DataError when the two differ, or a document's ids do not stand for
    exactly its bytes.
    """
    from tokenization.corpus import read_documents
    from tokenization.encoder import encoder_for
    from tokenization.tokenizer import load_tokenizer

    out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(tokenizer_folder)
    sizes = tokenizer_folder / "id_bytes.npy"  # only where ids stand for exactly the text's bytes
    id_bytes = np.load(sizes) if sizes.is_file() else None
    total = sum(path.stat().st_size for path in corpus.glob("*.parquet"))
    check_free_space(out, 8 * total, "token data")
    last_id = max(tokenizer.get_vocab().values())
    if last_id >= len(tokenizer):
        raise DataError(
            f"{tokenizer_folder}: ids go up to {last_id}, but there are only {len(tokenizer)} entries; fill the gaps"
        )
    _start_anew_if_changed(corpus, tokenizer_folder, out)
    encoder = encoder_for(tokenizer)
    figures: dict[str, Any] = {"vocab_size": len(tokenizer), "eos_id": tokenizer.eos_token_id}
    for split in SPLITS:
        shards = ShardWriter(out / split, id_dtype(len(tokenizer)))
        documents = itertools.islice(read_documents(corpus, split), shards.units, None)
        _encode_split(documents, split, encoder, tokenizer, id_bytes, shards)
        figures[split] = shards.close(split)
    write_json(out / "dataset_dict.json", {"splits": list(SPLITS)})
    write_json(out / "token_data.json", figures)
    if id_bytes is not None:
        np.save(out / "id_bytes.npy", id_bytes)
    else:
        (out / "id_bytes.npy").unlink(missing_ok=True)
    return figures


def _start_anew_if_changed(corpus: Path, tokenizer_folder: Path, out: Path) -> None:
    """Drop the shards of another corpus or tokenizer: only those of the same two are gone on behind."""
    source = {"tokenizer": sha256_file(tokenizer_folder / "tokenizer.json")}
    source |= {
        split: sha256_file(corpus / f"{split}.parquet") for split in SPLITS if (corpus / f"{split}.parquet").is_file()
    }
    path = out / "source.json"
    if not path.exists() or read_json(path) != source:
        for split in SPLITS:
            shutil.rmtree(out / split, ignore_errors=True)
        write_json(path, source)


def id_dtype(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and uint32 that holds every id; DataError beyond."""
    if vocab_size > 1 << 32:
        raise DataError(f"a vocabulary of {vocab_size:,} entries: ids beyond uint32 cannot be stored")
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def _encode_split(
    documents: Iterable["Document"],
    split: str,
    encoder: "Encoder",
    tokenizer: "PreTrainedTokenizerFast",
    id_bytes: np.ndarray | None,
    shards: ShardWriter,
) -> None:
    from tokenization.tokenizer import encode_text

    eos = [tokenizer.eos_token_id]
    with progress(f"encoding {split}", unit="B") as advance:
        for batch in _batches(documents):
            for document, ids in zip(batch, encoder.encode([document.text for document in batch])):
                if id_bytes is not None and int(id_bytes[ids].sum()) != document.n_bytes:
                    raise DataError(
                        f"document {document.id!r}: its ids stand for {int(id_bytes[ids].sum())} bytes, "
                        f"its text has {document.n_bytes}; the tokenizer is not lossless"
                    )
                if shards.units % VERIFY_EVERY == 0 and ids.tolist() != encode_text(tokenizer, document.text):
                    raise DataError(
                        f"document {document.id!r}: the {encoder.name} encoder's ids are not the tokenizer library's; "
                        "this is a bug, please report it with this tokenizer.json"
                    )
                shards.add(np.concatenate([ids, eos]).astype(shards.dtype), document.n_bytes)
            advance(sum(document.n_bytes for document in batch))


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
        checksums = {shard["name"]: shard["sha256"] for shard in read_json(folder / split / SHARDS)["shards"]}
        for entry in read_json(folder / split / "state.json")["_data_files"]:
            path = folder / split / entry["filename"]
            if not path.is_file() or sha256_file(path) != checksums[path.name]:
                raise DataError(f"{path}: missing or damaged (its checksum differs); remove {folder} and run again")
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
