"""A vocabulary to look at: what each entry of a `tokenizer.json` stands for, its kind, the merge that made it.

Read from the file as the library writes it, so that it works for BPE, unigram, WordPiece and word-level models, spelled
in bytes, with "▁" for a space, or with "##" for a continuation.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenization.tokenizer import byte_alphabet
from tokenization.visible import printable

SPECIAL, BYTE, WHITESPACE, BROKEN, DIGITS, PUNCTUATION, WORD, PIECE = (
    "special tokens",
    "single bytes",
    "whitespace",
    "parts of characters",
    "digits",
    "punctuation and symbols",
    "words with a leading space",
    "pieces without a leading space",
)
_ORDER = (BYTE, WORD, PIECE, "superwords", WHITESPACE, PUNCTUATION, DIGITS, BROKEN, SPECIAL)


@dataclass(frozen=True)
class Entry:
    """One id.

    spelling: as the vocabulary has it; data: the UTF-8 that it stands for (b"" for a special). special; is_byte: it
    stands for one byte; starts_word: it begins with a space, or is spelled as the beginning of a word; continues: it is
    spelled as the continuation of one.
    """

    id: int
    spelling: str
    data: bytes
    special: bool = False
    is_byte: bool = False
    starts_word: bool = False
    continues: bool = False

    @cached_property
    def kind(self) -> str:
        """The one kind that it is counted under."""
        if self.special:
            return SPECIAL
        return BYTE if self.is_byte else _kind(self.data, self.starts_word)


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer.json holds.

    model: BPE, Unigram, WordPiece or WordLevel. spelling: how entries are written. entries: by id.
    merges: in order of rank, as ids (left, right, result). unknown_id: what text outside the vocabulary becomes.
    steps: normalizer, pretokenizer and decoder in words. dropout: of BPE merges, while encoding.
    """

    model: str
    spelling: str
    entries: tuple[Entry, ...]
    merges: tuple[tuple[int, int, int], ...]
    unknown_id: int | None
    steps: dict[str, str]
    dropout: float | None

    @property
    def is_byte_level(self) -> bool:
        return self.spelling == "byte-level"

    def by_id(self) -> dict[int, Entry]:
        return {entry.id: entry for entry in self.entries}

    def ranks(self) -> dict[int, int]:
        """Id → rank of the first merge that makes it."""
        ranks: dict[int, int] = {}
        for rank, (_, _, result) in enumerate(self.merges):
            ranks.setdefault(result, rank)
        return ranks

    def by_kind(self) -> dict[str, list[Entry]]:
        """Every entry once, under its kind; superwords by their number of words."""
        kinds: dict[str, list[Entry]] = {}
        for entry in self.entries:
            kinds.setdefault(entry.kind, []).append(entry)
        return dict(sorted(kinds.items(), key=lambda item: (_place(item[0]), _words_in(item[0]))))

    def superwords(self) -> list[Entry]:
        """Entries with a space between two words, in the order in which they were learned."""
        ranks = self.ranks()
        found = [entry for entry in self.entries if entry.kind.startswith("superwords")]
        return sorted(found, key=lambda entry: (ranks.get(entry.id, len(ranks)), entry.id))

    def longest(self) -> list[Entry]:
        """Entries by falling length in bytes, specials left out."""
        return sorted((e for e in self.entries if e.data), key=lambda entry: (-len(entry.data), entry.id))

    def duplicates(self) -> list[list[Entry]]:
        """Groups of entries that stand for the same bytes at the same place of a word."""
        groups: dict[tuple[bytes, bool], list[Entry]] = {}
        for entry in self.entries:
            if entry.data:
                groups.setdefault((entry.data, entry.continues), []).append(entry)
        return [group for group in groups.values() if len(group) > 1]


def words(data: bytes) -> int:
    """Non-empty parts between spaces, as `max_words` counts them."""
    return sum(1 for part in data.split(b" ") if part)


def read_vocabulary(file: dict[str, Any]) -> Vocabulary:
    """The vocabulary in a parsed tokenizer.json, which the library has accepted."""
    model = file["model"]
    name = _model_name(model)
    steps = [step for part in ("normalizer", "pre_tokenizer", "decoder") for step in _steps(file.get(part))]
    spell = _Spelling(name, model, steps)
    ids = (
        {token: index for index, (token, _) in enumerate(model["vocab"])} if name == "Unigram" else dict(model["vocab"])
    )
    added = {token["content"]: token for token in file.get("added_tokens") or ()}
    unknown = ids.get(model.get("unk_token")) if name != "Unigram" else model.get("unk_id")
    entries = []
    for token, index in (ids | {content: token["id"] for content, token in added.items()}).items():
        if index == unknown or (token in added and added[token]["special"]):
            entries.append(Entry(index, token, b"", special=True))
        elif token in added:  # matched in the text as it is written
            data = token.encode("utf-8", "surrogatepass")
            entries.append(Entry(index, token, data, starts_word=data.startswith(b" ")))
        else:
            entries.append(spell.entry(index, token))
    return Vocabulary(
        model=name,
        spelling=spell.name,
        entries=tuple(sorted(entries, key=lambda entry: (entry.id, entry.spelling))),
        merges=tuple(_merges(model, ids)),
        unknown_id=unknown,
        steps={part: _in_words(file.get(part)) for part in ("normalizer", "pre_tokenizer", "decoder")},
        dropout=model.get("dropout"),
    )


class _Spelling:
    """How the strings of a vocabulary are to be read."""

    def __init__(self, model_name: str, model: dict[str, Any], steps: list[dict[str, Any]]) -> None:
        kinds = {step["type"] for step in steps}
        marks = [step["replacement"] for step in steps if step["type"] == "Metaspace"]
        marks += ["▁" for step in steps if step["type"] == "Replace" and "▁" in str(step)]
        self.to_byte = {ord(char): byte for byte, char in enumerate(byte_alphabet())} if "ByteLevel" in kinds else {}
        self.alphabet = {chr(code) for code in self.to_byte}
        self.space = marks[0] if marks and not self.to_byte else None
        self.prefix = model.get("continuing_subword_prefix") or ""
        self.suffix = model.get("end_of_word_suffix") or ""
        self.word_piece = model_name == "WordPiece"
        self.fallback = bool(model.get("byte_fallback")) or "ByteFallback" in kinds
        if self.to_byte:
            self.name = "byte-level"
        elif self.space:
            self.name = f"{self.space} for a space"
        elif self.prefix or self.suffix:
            names = (self.prefix and f"{self.prefix} for a continuation", self.suffix and f"{self.suffix} ends a word")
            self.name = ", ".join(name for name in names if name)
        else:
            self.name = "as written"

    def entry(self, index: int, token: str) -> Entry:
        if self.fallback and (byte := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)):
            return Entry(index, token, bytes.fromhex(byte[1]), is_byte=True)
        continues = bool(self.prefix) and token.startswith(self.prefix) and token != self.prefix
        text = token.removeprefix(self.prefix) if continues else token
        ends = bool(self.suffix) and text.endswith(self.suffix)
        text = text.removesuffix(self.suffix) if ends else text
        if self.to_byte and self.alphabet.issuperset(text):
            data = text.translate(self.to_byte).encode("latin-1")
        else:
            data = (text.replace(self.space, " ") if self.space else text).encode("utf-8", "surrogatepass")
        data += b" " if ends else b""
        is_byte = bool(self.to_byte) and len(data) == 1
        starts = not continues if self.word_piece else data.startswith(b" ")
        return Entry(index, token, data, is_byte=is_byte, starts_word=starts, continues=continues)


def _kind(data: bytes, starts_word: bool) -> str:
    if b" " in data.strip(b" ") and data.strip():  # as `is_superword`, but for runs of whitespace
        return f"superwords of {words(data)} words"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return BROKEN
    if text.isspace():
        return WHITESPACE
    if text.strip().isalpha():
        return WORD if starts_word else PIECE
    classes = {unicodedata.category(char)[0] for char in text}
    if classes & {"L", "M"}:
        return WORD if starts_word else PIECE
    return DIGITS if "N" in classes else PUNCTUATION


def _place(kind: str) -> int:
    return next(place for place, start in enumerate(_ORDER) if kind.startswith(start))


def _words_in(kind: str) -> int:
    number = re.search(r"\d+", kind)
    return int(number[0]) if number else 0


def _model_name(model: dict[str, Any]) -> str:
    if "type" in model:
        return str(model["type"])
    if "merges" in model:  # files from before the type was written down
        return "BPE"
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def _merges(model: dict[str, Any], ids: dict[str, int]) -> Iterator[tuple[int, int, int]]:
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in model.get("merges") or ():
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield ids[left], ids[right], ids[left + right.removeprefix(prefix)]


def _steps(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer, pretokenizer or decoder, sequences unrolled."""
    if not part:
        return
    inner = next((part[key] for key in ("normalizers", "pretokenizers", "decoders") if key in part), None)
    if inner is None:
        yield part
        return
    for step in inner:
        yield from _steps(step)


def _in_words(part: dict[str, Any] | None) -> str:
    described = []
    for step in _steps(part):
        pattern = step.get("pattern") or {}
        text = next((str(value) for value in pattern.values()), "") if isinstance(pattern, dict) else str(pattern)
        described.append(f"{step['type']} {text}".rstrip())
    return printable(", then ".join(described)) or "none"
