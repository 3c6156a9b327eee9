"""Corpora streamed from the Hugging Face Hub at a pinned revision, or from a local folder through the same code."""

import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from isotok.errors import DataError, IsotokError
from isotok.recipe import recipe
from tokenization.documents import Corpus, Document, Tally, group_name
from tokenization.local_files import fingerprint_files, row_document


@recipe
class Hub(Corpus):
    """The first `max_bytes` of a dataset's split, streamed; nothing else is downloaded.

    `path` is a dataset's name on the Hub or a local folder. `revision` is a commit of 40 digits, or `auto`: the
    newest one is looked up and stands in the fingerprint, so that the artefact's key names exactly what was read.
    `group` is `document`, a column's name, or `auto`: the site where there is a `url` column, else the document.
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str = "auto"
    text_field: str = "text"
    group: str = "auto"
    domain_field: str | None = None
    invalid_utf8: Literal["strict", "replace", "skip"] = "replace"

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if not self.path:
            raise ValueError("path is empty: give a dataset's name or a folder, like corpus.path=owner/name")
        if self.revision != "auto" and not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(f"revision={self.revision!r} is not pinned: give a commit of 40 hex digits, or auto")
        if self.group == "file":
            raise ValueError("group=file has no meaning for a streamed dataset: auto, document or a column's name")
        return self

    @property
    def label(self) -> str:
        return re.sub(r"[^a-z0-9]+", "_", Path(self.path).name.lower()).strip("_") or "hub"

    @property
    def licence(self) -> str:
        return f"see the dataset card of {self.path}"

    def fingerprint(self) -> dict[str, Any]:
        folder = self._folder()
        if folder is None:
            return {"path": self.path, "revision": self._revision()}
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {"files": fingerprint_files((path, path.relative_to(folder).as_posix()) for path in files)}

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        tally = Tally() if tally is None else tally
        rows = self._rows()
        first = next(rows, None)
        by_site = self.group == "auto" and first is not None and "url" in first
        for number, row in enumerate(itertools.chain([] if first is None else [first], rows), 1):
            name = f"{self.split}:{number}"
            group = group_name(row["url"]) if by_site and row.get("url") else None
            document = row_document(self, row, name, f"{self.path} row {number}", name, tally, group)
            if document is not None:
                yield document

    def _folder(self) -> Path | None:
        folder = Path(self.path).expanduser()
        return folder if folder.is_dir() else None

    def _revision(self) -> str:
        return newest_revision(self.path) if self.revision == "auto" else self.revision

    def _rows(self) -> Iterator[dict[str, Any]]:
        import datasets

        folder = self._folder()
        revision = None if folder else self._revision()
        try:
            if folder and any((folder / name).exists() for name in ("dataset_dict.json", "state.json")):
                saved = datasets.load_from_disk(str(folder))  # what save_to_disk left
                stream = saved[self.split] if isinstance(saved, datasets.DatasetDict) else saved
            else:
                path = str(folder) if folder else self.path
                stream = datasets.load_dataset(path, self.name, split=self.split, revision=revision, streaming=True)
            yield from stream
        except IsotokError:
            raise
        except Exception as error:  # the library and what it stands on raise dozens of kinds
            reason = (str(error).splitlines() or [""])[0]
            raise DataError(
                f"{self.path} (name={self.name}, split={self.split}): cannot be read ({type(error).__name__}: {reason})"
            ) from None


@functools.cache
def newest_revision(path: str) -> str:
    """The commit that a dataset's main branch points to, asked once a process."""
    from huggingface_hub import HfApi

    try:
        sha = HfApi().dataset_info(path).sha
    except Exception as error:  # network, authentication, unknown name: all read alike to the user
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"{path}: cannot ask the Hub for its revision ({type(error).__name__}: {reason}); "
            "check name and network, or pin it with corpus.revision=<commit of 40 digits>"
        ) from None
    if not sha:
        raise DataError(f"{path}: the Hub names no revision; pin it with corpus.revision=<commit of 40 digits>")
    return str(sha)
