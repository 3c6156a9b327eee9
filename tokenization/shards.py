"""Arrow shards of token ids, in the layout of `datasets.save_to_disk`: each is whole or absent, with its checksum.

`shards.json` lists the shards that are complete, so that writing goes on behind them after a crash.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isotok.files import fsync_path, read_json, sha256_file, write_json

if TYPE_CHECKING:
    import pyarrow as pa

SHARD_TOKENS = 64 * 1024 * 1024
FLUSH_TOKENS = 4 * 1024 * 1024
SHARDS = "shards.json"


class ShardWriter:
    """Writes one split; what complete shards of it `folder` holds already stays and counts.

    units, tokens, bytes: of everything added so far, in complete shards or not.
    """

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.dtype = folder, dtype
        self.shards: list[dict[str, Any]] = self._complete()
        self.units, self.tokens, self.bytes = (sum(s[key] for s in self.shards) for key in ("units", "tokens", "bytes"))
        for path in folder.glob("*.arrow*"):
            if path.name not in {shard["name"] for shard in self.shards}:
                path.unlink()
        self._start()

    def _complete(self) -> list[dict[str, Any]]:
        """The shards that are as they were written, up to the first that is not."""
        content = read_json(self.folder / SHARDS) if (self.folder / SHARDS).exists() else {}
        listed = content.get("shards", []) if isinstance(content, dict) else []
        for count, shard in enumerate(listed):
            path = self.folder / shard["name"]
            if not path.is_file() or sha256_file(path) != shard["sha256"]:
                return list(listed[:count])
        return list(listed)

    def _start(self) -> None:
        self.ids: list[np.ndarray] = []
        self.sizes: list[int] = []
        self.pending = 0
        self.writer: Any = None
        self.shard = {"units": 0, "tokens": 0, "bytes": 0}

    def add(self, ids: np.ndarray, n_bytes: int) -> None:
        """Add a unit: its ids, end-of-text included, and the bytes of its source text."""
        self.ids.append(ids)
        self.sizes.append(n_bytes)
        self.pending += len(ids)
        self.units, self.tokens, self.bytes = self.units + 1, self.tokens + len(ids), self.bytes + n_bytes
        for key, amount in (("units", 1), ("tokens", len(ids)), ("bytes", n_bytes)):
            self.shard[key] += amount
        if self.pending >= FLUSH_TOKENS:
            self._flush()
        if self.shard["tokens"] >= SHARD_TOKENS:
            self._end_shard()

    def close(self, split: str) -> dict[str, int]:
        """End the last shard and write what `datasets` reads beside it; returns units, tokens and bytes."""
        if self.ids or self.writer is not None or not self.shards:
            self._end_shard()
        features = {
            "ids": {"feature": {"dtype": self.dtype.name, "_type": "Value"}, "_type": "List"},
            "n_bytes": {"dtype": "int64", "_type": "Value"},
        }
        info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
        write_json(self.folder / "dataset_info.json", info)
        state: dict[str, Any] = {
            "_data_files": [{"filename": shard["name"]} for shard in self.shards],
            "_fingerprint": f"{self.units:x}-{self.tokens:x}-{self.bytes:x}",
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        write_json(self.folder / "state.json", state)
        return {"units": self.units, "tokens": self.tokens, "bytes": self.bytes}

    def _schema(self) -> "pa.Schema":
        import pyarrow as pa

        return pa.schema([("ids", pa.list_(pa.from_numpy_dtype(self.dtype))), ("n_bytes", pa.int64())])

    def _path(self) -> Path:
        return self.folder / f"data-{len(self.shards):05d}.arrow"

    def _flush(self) -> None:
        import pyarrow as pa

        if self.writer is None:
            self.writer = pa.ipc.new_stream(f"{self._path()}.tmp", self._schema())
        offsets = np.zeros(len(self.ids) + 1, dtype=np.int32)
        np.cumsum([len(ids) for ids in self.ids], out=offsets[1:])
        values = np.concatenate(self.ids) if self.ids else np.zeros(0, dtype=self.dtype)
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
        self.writer.write_batch(pa.record_batch([lists, pa.array(self.sizes, pa.int64())], schema=self._schema()))
        self.ids, self.sizes, self.pending = [], [], 0

    def _end_shard(self) -> None:
        self._flush()
        self.writer.close()
        path = self._path()
        written = Path(f"{path}.tmp")
        fsync_path(written)
        written.replace(path)
        self.shards.append({"name": path.name, **self.shard, "sha256": sha256_file(path)})
        write_json(self.folder / SHARDS, {"shards": self.shards})
        self._start()
