"""A text as a tokenizer cuts it: ids, and the bytes of the source that each one stands for.

Works for any fast tokenizer. Byte-level vocabularies give exact places; others the places that the library states,
which are those of whole characters (an entry for one byte of "é" is placed on all of "é").
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from isotok.errors import ConfigError
from tokenization.tokenizer import encode_texts, token_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORD = re.compile(r"\S+")
_BATCH_CHARACTERS = 2_000_000


@dataclass(frozen=True)
class Words:
    """The `\\s+`-separated words of a text in order, each with how it is split.

    split: (shares a token with the word before it, byte offsets of the cuts inside it, shares one with the next).
    """

    texts: list[str]
    splits: list[tuple[bool, tuple[int, ...], bool]]


@dataclass(frozen=True)
class Cut:
    """One document: `ids` (n,), `starts` and `ends` (n,) in bytes of `source`; exact: decoding gives the text back."""

    domain: str
    text: str
    source: bytes
    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    exact: bool
    words: Words = field(repr=False)


class Reader:
    """Texts → ids or `Cut`s. Special tokens are never added, and their strings in a text are read as text.

    n_ids: length of an array over all ids. entries (n_ids,): which ids are in the vocabulary and can stand for text;
    specials are out, but an unknown token that texts can yield is in: it costs a token.
    pieces: the bytes of each id, None unless the vocabulary is byte-level.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast"):
        self.tokenizer = tokenizer
        self.backend = tokenizer.backend_tokenizer
        self.backend.encode_special_tokens = True
        self.pieces = _pieces(tokenizer)
        vocabulary = tokenizer.get_vocab()
        specials = set(tokenizer.all_special_ids)
        self.unknown_id: int | None = None
        if self.pieces is None and tokenizer.unk_token_id is not None:
            self.unknown_id = int(tokenizer.unk_token_id)
            specials.discard(self.unknown_id)
        self.n_ids = max(vocabulary.values(), default=-1) + 1
        self.entries = np.zeros(self.n_ids, dtype=bool)
        self.entries[[index for index in vocabulary.values() if index not in specials]] = True
        self.specials = len(set(vocabulary.values()) & specials)
        if self.pieces is not None:
            self._lengths = np.array([len(piece) for piece in self.pieces], dtype=np.int64)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        return encode_texts(self.tokenizer, texts)

    def cut(self, texts: Sequence[str], domains: Sequence[str]) -> list[Cut]:
        """The texts with every token's place."""
        cuts: list[Cut] = []
        for batch in _batches(texts):
            cuts.extend(self._cut_batch([texts[i] for i in batch], [domains[i] for i in batch]))
        return cuts

    def _cut_batch(self, texts: Sequence[str], domains: Sequence[str]) -> list[Cut]:
        if self.pieces is None:
            return [self._by_offsets(text, domain) for text, domain in zip(texts, domains)]
        cuts = []
        for text, domain, ids in zip(texts, domains, self.ids(texts)):
            source = text.encode()
            if b"".join([self.pieces[i] for i in ids]) != source:  # normalised: the lengths are another text's
                cuts.append(self._by_offsets(text, domain))
                continue
            array = np.asarray(ids, dtype=np.int64)
            ends = np.cumsum(self._lengths[array]) if ids else np.zeros(0, dtype=np.int64)
            starts = ends - self._lengths[array] if ids else ends
            cuts.append(Cut(domain, text, source, array, starts, ends, True, split_words(text, starts, ends)))
        return cuts

    def _by_offsets(self, text: str, domain: str) -> Cut:
        encoding = self.backend.encode(text, add_special_tokens=False)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        places = byte_places(text)[offsets]
        starts, ends = places[:, 0], places[:, 1]
        exact = self.backend.decode(encoding.ids, skip_special_tokens=False) == text
        ids = np.asarray(encoding.ids, dtype=np.int64)
        return Cut(domain, text, text.encode(), ids, starts, ends, exact, split_words(text, starts, ends))


def split_words(text: str, starts: np.ndarray, ends: np.ndarray) -> Words:
    """The words of a text and how tokens at these byte places split them.

    A token is shared by two words when no token begins or ends between the last byte of the one and the first byte of
    the other: a space that goes with the word after it is a cut between words, wherever it lies.
    """
    found = list(WORD.finditer(text))
    if not found:
        return Words([], [])
    table = byte_places(text)
    word_starts = table[[match.start() for match in found]]
    word_ends = table[[match.end() for match in found]]
    cuts = np.unique(np.concatenate([[0, table[-1]], starts, ends]))
    first = np.searchsorted(cuts, word_starts, side="right")
    last = np.searchsorted(cuts, word_ends, side="left")
    # A cut lies in the gap before word j when the first cut at or after word j-1's end is not after word j's start.
    shared = np.zeros(len(found) + 1, dtype=bool)
    shared[1:-1] = last[:-1] == first[1:]
    inner = [
        tuple((cuts[a:b] - start).tolist()) if b > a else ()
        for a, b, start in zip(first.tolist(), last.tolist(), word_starts.tolist())
    ]
    links = shared.tolist()
    return Words([match.group() for match in found], list(zip(links[:-1], inner, links[1:])))


def byte_places(text: str) -> np.ndarray:
    """(characters + 1,): the byte at which each character of the text begins in UTF-8, and the end."""
    if text.isascii():
        return np.arange(len(text) + 1, dtype=np.int64)
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate([[0], np.cumsum(sizes)])


def _pieces(tokenizer: Any) -> list[bytes] | None:
    """`token_bytes`, or None where entries have no fixed bytes (also foreign added tokens spelled in plain text)."""
    try:
        return token_bytes(tokenizer)
    except (ConfigError, KeyError, IndexError):
        return None


def _batches(texts: Sequence[str]) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    size = 0
    for index, text in enumerate(texts):
        if batches[-1] and size + len(text) > _BATCH_CHARACTERS:
            batches.append([])
            size = 0
        batches[-1].append(index)
        size += len(text)
    return batches
