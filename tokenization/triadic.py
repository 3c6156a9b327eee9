"""Triadic suffixes (arXiv 2604.11582): groups of three digits that say their power of ten; the lossless reading.

Digits of an integer fall into threes from the right, of a fraction from the left, and each group but the ones has a
suffix: k m b t q for 10^3 to 10^15, p pp ppp pppp ppppp after the point: `12345678.1234` is 12m 345k 678 . 123p 4pp.
Numbers are `[0-9]+(\\.[0-9]+)?` and nothing else: signs and separators are text, so are numbers of more than 18 + 15
digits, and no group is padded, unlike as published: so 0.1 and 0.10 stay apart and decoding gives the text back.
Two variants: `triadic_marker` puts an entry for the suffix behind the group, `triadic_vocabulary` has an entry for
every group with its suffix, 11,100 of them.

All of it stands in tokenizer.json. The normalizer writes suffixes as private-use characters (those that a text itself
holds are escaped first), the pretokenizer keeps them in pieces of their own, the decoder takes them out again. Merges
are learned from plain text in `superbpe_stage1` pieces, whose digit groups are the integers' groups.
"""

import re
from typing import TYPE_CHECKING

from tokenization.tokenizer import byte_alphabet

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MARKER, VOCABULARY = "triadic_marker", "triadic_vocabulary"
VARIANTS = (MARKER, VOCABULARY)
SUFFIXES = ("k", "m", "b", "t", "q", "p", "pp", "ppp", "pppp", "ppppp")
MAX_INTEGER, MAX_FRACTION = 18, 15

# Private-use characters: ten suffixes, then those that exist only between two steps of the normalizer, then the escape.
_PRIVATE = [chr(0x10FF00 + i) for i in range(len(SUFFIXES) + 5)]
_MARKS = _PRIVATE[: len(SUFFIXES)]
_END, _POINT, _FRACTION, _TOO_LONG, _ESCAPE = _PRIVATE[len(SUFFIXES) :]
_ALL_MARKS = f"[{_MARKS[0]}-{_MARKS[-1]}]"
# `_ESCAPE` comes first when escaping and last when undoing: its letter follows no other letter's rule.
_ESCAPED = [(char, _ESCAPE + letter) for char, letter in zip(reversed(_PRIVATE), "abcdefghijklmno")]
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def read_numbers(text: str) -> list[str]:
    """The reading in plain Python: text and groups with their suffix, in order, as `12m`, `345k`, `678`, `.`, `4pp`."""
    pieces: list[str] = []
    start = 0
    for match in _NUMBER.finditer(text):
        integer, point, fraction = match.group().partition(".")
        if len(integer) > MAX_INTEGER or len(fraction) > MAX_FRACTION:
            continue
        pieces.append(text[start : match.start()])
        lead = len(integer) % 3
        groups = [integer[:lead], *(integer[i : i + 3] for i in range(lead, len(integer), 3))]
        groups = [group for group in groups if group]
        pieces += [group + ("", *SUFFIXES)[len(groups) - 1 - i] for i, group in enumerate(groups)]
        pieces.append(point)
        pieces += [fraction[i : i + 3] + SUFFIXES[5 + i // 3] for i in range(0, len(fraction), 3)]
        start = match.end()
    return [piece for piece in (*pieces, text[start:]) if piece]


def number_entries(name: str) -> list[str]:
    """The entries, in byte-level spelling, that a variant adds to a vocabulary; none for other pretokenizers."""
    if name not in VARIANTS:
        return []
    groups = [""] if name == MARKER else [f"{n:0{size}}" for size in (1, 2, 3) for n in range(10**size)]
    alphabet = byte_alphabet()
    return ["".join(alphabet[byte] for byte in (group + mark).encode()) for mark in _MARKS for group in groups]


def refuse_variants(name: str, key: str) -> None:
    """ValueError for a variant's name where only the plain pieces would come of it and no suffix."""
    if name in VARIANTS:
        raise ValueError(f"{key}={name}: only tokenizer=bpe has number suffixes")


def dress(tokenizer: "Tokenizer", name: str) -> None:
    """Give a byte-level BPE, whose vocabulary holds `number_entries(name)`, the variant's way with numbers."""
    from tokenizers import Regex, decoders, normalizers
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    def rule(pattern: str, content: str) -> normalizers.Replace:
        return normalizers.Replace(Regex(pattern), content)

    k, m, b, t, q, *fraction = _MARKS
    integers = [(k, f"[{_END}{_POINT}]"), (m, k), (b, m), (t, b), (q, t)]
    before = [f"{_POINT}\\.", *fraction]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(char, escaped) for char, escaped in _ESCAPED]
        # An empty match behind every number; what has no place for it keeps its digits as text.
        + [rule(r"[0-9]+(?:\.[0-9]+)?\K", _END)]
        + [rule(rf"[0-9]{{{MAX_INTEGER + 1},}}(?:\.[0-9]+)?\K{_END}", _TOO_LONG)]
        + [rule(rf"[0-9]\.[0-9]{{{MAX_FRACTION + 1},}}\K{_END}", _TOO_LONG)]
        + [rule(rf"(?<=[0-9])(?=\.[0-9]+{_END})", _POINT), rule(rf"{_POINT}\.[0-9]+\K{_END}", _FRACTION)]
        + [rule(rf"(?<=[0-9])(?=[0-9]{{3}}{after})", mark) for mark, after in integers]
        + [rule(rf"{start}[0-9]{{1,3}}\K", mark) for mark, start in zip(fraction, before)]
        + [rule(f"[{_END}{_POINT}{_FRACTION}{_TOO_LONG}]", "")]
    )
    suffixed = _ALL_MARKS if name == MARKER else f"[0-9]{{1,3}}{_ALL_MARKS}"
    words = rf"{suffixed}|\p{{N}}{{1,3}}| ?\p{{L}}+| ?[^\s\p{{L}}\p{{N}}{_MARKS[0]}-{_MARKS[-1]}]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(words), behavior="isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace(Regex(_ALL_MARKS), "")]
        + [decoders.Replace(escaped, char) for char, escaped in reversed(_ESCAPED)]
    )
    # No merge leads to an entry of a group with its suffix: a piece that is an entry is that entry.
    tokenizer.model.ignore_merges = True


def spelled_numbers(tokenizer: "Tokenizer", text: str) -> list[str]:
    """The tokens of a text with suffixes in letters, to look at: `["12m", "345k", "678", ".", "123p", "4pp"]`."""
    to_byte = {char: byte for byte, char in enumerate(byte_alphabet())}
    spelled = []
    for token in tokenizer.encode(text, add_special_tokens=False).tokens:
        data = bytes(to_byte[char] for char in token).decode(errors="replace")
        spelled.append("".join(SUFFIXES[_MARKS.index(char)] if char in _MARKS else char for char in data))
    return spelled
