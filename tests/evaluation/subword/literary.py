"""The shipped text as a corpus folder's training split, a sixth of it: enough for lists of a thousand words."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tokenization.sources import Embedded


def write_corpus(folder: Path, texts: list[str]) -> Path:
    """A folder with the texts as its training split, a document each."""
    rows = [{"id": f"d{i}", "text": t, "group": "g", "domain": "", "n_bytes": len(t)} for i, t in enumerate(texts)]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return folder


def literary_corpus(folder: Path) -> Path:
    return write_corpus(folder, [document.text for i, document in enumerate(Embedded().documents()) if i % 6 == 0])
