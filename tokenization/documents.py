"""What a corpus is made of: documents, the base recipe of all sources, and cutting."""

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import model_validator

from isotok.recipe import Field, recipe

Tally = Counter[str]


@dataclass(frozen=True)
class Document:
    """A text with where it comes from. No group is ever on both sides of a split."""

    id: str
    text: str
    group: str
    domain: str

    @functools.cached_property
    def n_bytes(self) -> int:
        """UTF-8 bytes of the text."""
        return len(self.text.encode())


@recipe
class Corpus:
    """Base of the corpus recipes: what every source has in common.

    A source adds `label`, `fingerprint` and `documents`. The text of a corpus is held in memory while it is built,
    hence `max_bytes`: reading stops after the document that reaches it.
    """

    seed: int = 0
    validation_fraction: float = Field(default=0.03, gt=0, lt=0.5)
    test_fraction: float = Field(default=0.07, gt=0, lt=0.5)
    dedup_threshold: float = Field(default=0.5, gt=0, le=1)
    leak_threshold: float = Field(default=0.2, gt=0, le=1)
    max_document_bytes: int = Field(default=1_000_000, ge=64)
    max_bytes: int = Field(default=1_000_000_000, ge=1)

    @model_validator(mode="after")
    def _leave_most_for_training(self) -> Self:
        if self.validation_fraction + self.test_fraction > 0.5:
            raise ValueError("validation_fraction + test_fraction must leave at least half of the text for training")
        return self

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        raise NotImplementedError

    @property
    def licence(self) -> str:
        """What is known about the licence of the text."""
        return "as the files' owner gave it"

    def fingerprint(self) -> dict[str, Any]:
        """JSON data that identifies the input: names, sizes, hashes, versions, pinned revision."""
        raise NotImplementedError

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        """The raw documents in a fixed order; what was skipped or repaired is counted in `tally`."""
        raise NotImplementedError

    def split_of(self, group: str) -> str | None:
        """The split of a group, for a source that decides itself (for all its groups); None: by hash and bytes."""
        return None


def cut(document: Document, max_bytes: int) -> list[Document]:
    """The document, or parts of at most `max_bytes` named id#0, id#1 ... whose texts join to the document's."""
    if document.n_bytes <= max_bytes:
        return [document]
    parts = cut_text(document.text, max_bytes)
    return [Document(f"{document.id}#{i}", text, document.group, document.domain) for i, text in enumerate(parts)]


def cut_text(text: str, max_bytes: int) -> list[str]:
    """Cut after whitespace into parts of at most `max_bytes` (>= 4) UTF-8 bytes; the parts join to the text.

    A stretch without ASCII whitespace is cut between two characters.
    """
    data = text.encode()
    parts, start = [], 0
    while len(data) - start > max_bytes:
        end = cut_point(data, start, start + max_bytes)
        parts.append(data[start:end].decode())
        start = end
    parts.append(data[start:].decode())
    return parts


def cut_point(data: bytes, start: int, limit: int) -> int:
    """Where to cut `data[start:limit]`: after its last whitespace, else between two characters."""
    end = max(data.rfind(space, start, limit) for space in (b" ", b"\n", b"\t", b"\r")) + 1
    if end > start:
        return end
    end = limit
    while end > limit - 4 and end - 1 > start and end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return end


def group_name(value: object) -> str:
    """The group that a column's value stands for: the site of a URL, else the value."""
    text = str(value)
    if "://" in text[:16]:
        try:
            return (urlsplit(text).hostname or text).removeprefix("www.")
        except ValueError:
            return text
    return text
