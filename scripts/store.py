"""The artefact store: `runs/<stage>/<name>-<key>/`, whole or absent.

A stage writes into `<name>-<key>.partial`, which is renamed once complete; `manifest.json` in it says how it came
about. The key is a hash of everything that changes the result, so an artefact that exists is never built twice.
"""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isotok.errors import DataError, IsotokError
from isotok.files import LOCK_STALE_S, lock, publish_dir, read_json, write_json
from isotok.progress import say
from isotok.provenance import provenance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One artefact to be: its stage, its key, what it is built from.

    inputs: role -> Node. config: described recipes and scalars that the stage needs, impl fields included.
    """

    stage: str
    name: str
    key: str
    format: int
    inputs: dict[str, "Node"]
    config: dict[str, Any]
    resumable: bool = False

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{self.key}"

    def __hash__(self) -> int:
        return hash((self.stage, self.key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and (self.stage, self.key) == (other.stage, other.key)


class Store:
    """A folder of artefacts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, node: Node) -> Path:
        return self.root / node.stage / node.folder_name

    def has(self, node: Node) -> bool:
        return (self.folder(node) / "manifest.json").is_file()

    @contextlib.contextmanager
    def building(self, node: Node) -> Iterator[tuple[Path, dict[str, Any]] | None]:
        """Yield (folder to write into, dict for headline figures), or None when the artefact exists by now.

        On success the folder is published with its manifest. On an error it is removed, unless the stage can
        resume from it. Another process that builds the same artefact is waited for.
        """
        final = self.folder(node)
        partial = final.with_name(final.name + ".partial")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise IsotokError(f"store={self.root}: cannot create {final.parent} ({error.strerror})") from None

        def waiting(owner: dict[str, Any]) -> None:
            builder = f"process {owner.get('pid')} on {owner.get('host')}"
            say(f"{node.stage} {node.name}: waiting for {builder}, which builds it")

        with lock(final.with_name(final.name + ".lock"), on_wait=waiting):
            if self.has(node):
                yield None
                return
            if final.exists():
                raise DataError(f"{final}: there but without a manifest; remove it and run again")
            if partial.exists() and not node.resumable:
                shutil.rmtree(partial)
            partial.mkdir(exist_ok=True)
            figures: dict[str, Any] = {}
            start = time.monotonic()
            try:
                yield partial, figures
                manifest = {
                    "stage": node.stage,
                    "name": node.name,
                    "key": node.key,
                    "format": node.format,
                    "config": node.config,
                    "inputs": {role: f"{made.stage}/{made.folder_name}" for role, made in node.inputs.items()},
                    "figures": figures,
                    "provenance": provenance(),
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                    "wall_s": round(time.monotonic() - start, 3),
                }
                write_json(partial / "manifest.json", manifest)
                publish_dir(partial, final)
            except BaseException:
                if not node.resumable:
                    shutil.rmtree(partial, ignore_errors=True)
                raise

    def entries(self) -> list["Entry"]:
        """Everything in the store, complete and partial, by stage and name."""
        found = []
        for path in sorted(self.root.glob("*/*")):
            if path.is_dir():
                found.append(Entry.read(path))
        return found

    def remove(self, entry: "Entry") -> None:
        """Remove one artefact; refused while a process builds it."""
        held = entry.path.with_name(entry.path.name.removesuffix(".partial") + ".lock")
        if held.exists() and time.time() - held.stat().st_mtime < LOCK_STALE_S:
            raise IsotokError(f"{entry.path}: a running process builds it (lock {held.name}); stop it first")
        # Renamed first, so that a removal cut short never leaves half an artefact under its name.
        doomed = entry.path.with_name(f".removed-{entry.path.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        entry.path.rename(doomed)
        shutil.rmtree(doomed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A folder in the store."""

    path: Path
    stage: str
    complete: bool
    n_bytes: int
    manifest: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Entry":
        complete = (path / "manifest.json").is_file()
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        manifest = read_json(path / "manifest.json") if complete else {}
        return cls(path=path, stage=path.parent.name, complete=complete, n_bytes=size, manifest=manifest)
