"""Scanners: the named pretokenizers of `tokenization.pretokenize` compiled, over UTF-8 bytes in one forward pass.

Each gives exactly the library's pieces (Oniguruma regexes, splits `isolated`, empty matches and gaps included), and
needs time linear in the text. Importing this module imports numba; the first call of a scanner compiles it, later
processes load it.

Kernels count in uint64 throughout: a signed index costs a branch for negative values, and a mixture of signed and
unsigned would be float64.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit

Index = np.uint64
Bytes = np.ndarray

# What a character is, as bits. Each one is exactly one of LETTER, NUMBER, SPACE and OTHER to the regexes.
LETTER = 1  # \p{L}
NUMBER = 2  # \p{N}
SPACE = 4  # \s
OTHER = 8  # [^\s\p{L}\p{N}]
DIGIT = 16  # \d
UPPER = 32  # [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
LOWER = 64  # [\p{Ll}\p{Lm}\p{Lo}\p{M}]
NUMERIC = 128  # what the Digits step takes: \p{N} of Rust's Unicode, which knows newer digits than the regexes'

_BLANK, _LF, _CR, _QUOTE, _SLASH = 0x20, 0x0A, 0x0D, 0x27, 0x2F
_0, _1, _2, _3, _4 = (np.uint64(i) for i in range(5))

_jit: Callable[[Any], Any] = njit(cache=True, nogil=True, error_model="numpy")
_part: Callable[[Any], Any] = njit(cache=True, nogil=True, error_model="numpy", forceinline=True)


def piece_ends(name: str, data: np.ndarray, unit_ends: np.ndarray) -> np.ndarray:
    """Where the pieces of a text end: int64 byte offsets, ascending, every piece non-empty, the last one len(data).

    data: uint8, valid UTF-8 (not checked: anything else reads out of bounds). unit_ends: int64, ascending, the last
    one len(data); every unit (a line or a document) is scanned as a text of its own. Releases the GIL.
    """
    scan = _SCANNERS[name]
    out = np.empty(len(data), dtype=np.int64)
    used = scan(_read_only(data, np.uint8), _read_only(unit_ends, np.int64), class_table(), out)
    return out[:used].copy()


def _read_only(array: np.ndarray, dtype: Any) -> np.ndarray:
    """A contiguous read-only view: one type for the compiler, whether the caller's array is writable or not."""
    view = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


@cache
def class_table() -> np.ndarray:
    """Flags of every code point (uint8, 0x110000 of them), asked of the library itself.

    Only planes with assigned characters are asked; the rest (unassigned, private) is OTHER. Takes about 0.2 s.
    """
    table = np.full(0x110000, OTHER, dtype=np.uint8)
    for first in range(0, 0x40000, 0x8000):  # a part at a time: the library's copies of the text take memory
        _ask_library(np.r_[first : first + 0x8000].astype(np.uint32), table)
    _ask_library(np.r_[0xE0000:0xE1000].astype(np.uint32), table)
    table.flags.writeable = False
    return table


def _ask_library(asked: np.ndarray, table: np.ndarray) -> None:
    """Set the flags of some code points in the table."""
    from tokenizers import NormalizedString, PreTokenizedString, Regex
    from tokenizers.pre_tokenizers import Digits

    asked = asked[(asked < 0xD800) | (asked >= 0xE000)]  # no surrogates
    # U+0000 is in no class: pieces outside of a class and in it take turns from there.
    text = "\0" + asked.tobytes().decode("utf-32")
    flags = np.zeros(len(text), dtype=np.uint8)

    def mark(flag: int, pieces: list[str]) -> None:
        """Set the flag in every second piece."""
        flags[np.repeat(np.arange(len(pieces)) % 2 == 1, [len(piece) for piece in pieces])] |= np.uint8(flag)

    normalized = NormalizedString(text)
    for flag, characters in (
        (LETTER, r"\p{L}"),
        (NUMBER, r"\p{N}"),
        (SPACE, r"\s"),
        (DIGIT, r"\d"),
        (UPPER, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
        (LOWER, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
    ):
        mark(flag, [str(piece.normalized) for piece in normalized.split(Regex(characters + "+"), "isolated")])
    digits = PreTokenizedString(text)
    Digits(individual_digits=False).pre_tokenize(digits)
    mark(NUMERIC, [piece for piece, *_ in digits.get_splits("original", "byte")])
    flags[flags & (LETTER | NUMBER | SPACE) == 0] |= np.uint8(OTHER)
    table[asked] = flags[1:]


# Parts that the scanners share. `i` is where the match starts, `end` where the text of the regex ends; a part returns
# where its match ends, and `i` itself when there is none.


@_part
def _look(data: Bytes, i: Index, classes: Bytes) -> tuple[int, Index]:
    """Flags and length in bytes of the character at i."""
    lead = np.int64(data[i])
    if lead < 0x80:
        return classes[data[i]], _1
    second = np.int64(data[i + _1]) & 0x3F
    if lead < 0xE0:
        return classes[np.uint64((lead & 0x1F) << 6 | second)], _2
    third = np.int64(data[i + _2]) & 0x3F
    if lead < 0xF0:
        return classes[np.uint64((lead & 0x0F) << 12 | second << 6 | third)], _3
    fourth = np.int64(data[i + _3]) & 0x3F
    return classes[np.uint64((lead & 0x07) << 18 | second << 12 | third << 6 | fourth)], _4


@_part
def _run(data: Bytes, i: Index, end: Index, classes: Bytes, flag: int) -> Index:
    """`C*` for a class C."""
    while True:  # ASCII in a loop of its own: twice as fast
        while i < end and data[i] < 0x80 and classes[data[i]] & flag != 0:
            i += _1
        if i == end or data[i] < 0x80:
            return i
        flags, size = _look(data, i, classes)
        if flags & flag == 0:
            return i
        i += size


@_part
def _up_to_three(data: Bytes, i: Index, end: Index, classes: Bytes) -> Index:
    r"""`\p{N}{1,3}`."""
    for _ in range(3):
        if i == end:
            break
        flags, size = _look(data, i, classes)
        if flags & NUMBER == 0:
            break
        i += size
    return i


@_part
def _spaced(data: Bytes, i: Index, end: Index, classes: Bytes, kinds: int) -> Index:
    """` ?K+`, first to match of the kinds K (a union of LETTER, NUMBER, OTHER)."""
    j = i + _1 if data[i] == _BLANK else i
    if j < end:
        flags, size = _look(data, j, classes)
        kind = flags & kinds & (LETTER | NUMBER | OTHER)
        if kind != 0:
            return _run(data, j + size, end, classes, kind)
    return i


@_part
def _tail(data: Bytes, i: Index, end: Index, also: int) -> Index:
    r"""`[\r\n]*`, with a further byte `also` in the class, or _LF for none."""
    while i < end and (data[i] == _LF or data[i] == _CR or data[i] == also):
        i += _1
    return i


@_part
def _line_ends(data: Bytes, i: Index, end: Index, classes: Bytes) -> Index:
    r"""`\s*[\r\n]+`: whitespace up to its last line end."""
    match = i
    while i < end:
        flags, size = _look(data, i, classes)
        if flags & SPACE == 0:
            break
        if data[i] == _LF or data[i] == _CR:
            match = i + _1
        i += size
    return match


@_part
def _whitespace(data: Bytes, i: Index, end: Index, classes: Bytes) -> Index:
    r"""`\s+(?!\S)|\s+`: all of it at the end of the text, else all but its last character, else that one."""
    start = last = i
    while i < end:
        flags, size = _look(data, i, classes)
        if flags & SPACE == 0:
            return i if last == start else last
        last = i
        i += size
    return i


@_part
def _threes(data: Bytes, i: Index, end: Index, classes: Bytes, out: np.ndarray, n: Index) -> Index:
    r"""`(?=(\d{3})+(?!\d))` at work in i..end: cuts before every third digit from the right of a run of digits.

    Writes the cuts after i and before `end`, and returns how many cuts there are in all.
    """
    start = i
    while i < end:
        flags, size = _look(data, i, classes)
        if flags & DIGIT == 0:
            i += size
            continue
        left, j = _0, i
        while j < end:
            flags, size = _look(data, j, classes)
            if flags & DIGIT == 0:
                break
            left += _1
            j += size
        while i < j:
            if left % _3 == _0 and i > start:
                out[n] = i
                n += _1
            left -= _1
            i += _look(data, i, classes)[1]
    return n


@_part
def _contraction(data: Bytes, i: Index, end: Index, any_case: bool) -> Index:
    """`'(?:[sdmt]|ll|ve|re)`; in any case, U+017F (long s) is an s."""
    if data[i] != _QUOTE or i + _1 == end:
        return i
    lower = 0x20 if any_case else 0
    first = data[i + _1] | lower
    if first in (0x73, 0x64, 0x6D, 0x74):  # s d m t
        return i + _2
    if i + _2 == end:
        return i
    if any_case and data[i + _1] == 0xC5 and data[i + _2] == 0xBF:
        return i + _3
    second = data[i + _2] | lower
    if (first == 0x6C and second == 0x6C) or (second == 0x65 and (first == 0x76 or first == 0x72)):  # ll ve re
        return i + _3
    return i


@_part
def _cased(data: Bytes, i: Index, end: Index, classes: Bytes) -> tuple[Index, Index]:
    """`U*L+` and, for when that fails, `U+`: two ends. U and L share characters, so U* may have to give back."""
    match = i
    while i < end:
        flags, size = _look(data, i, classes)
        if flags & UPPER == 0:
            if flags & LOWER != 0:
                match = _run(data, i + size, end, classes, LOWER)
            break
        i += size
        if flags & LOWER != 0:
            match = i
    return match, i


# The scanners: one match (`_gpt2_match` and so on, always of at least one character) after the other, or with gaps.


@_part
def _gpt2_match(data: Bytes, i: Index, end: Index, classes: Bytes) -> Index:
    j = _contraction(data, i, end, False)
    if j == i:
        j = _spaced(data, i, end, classes, LETTER | NUMBER | OTHER)
    return j if j > i else _whitespace(data, i, end, classes)


@_part
def _llama3_match(data: Bytes, i: Index, end: Index, classes: Bytes) -> Index:
    j = _contraction(data, i, end, True)
    if j > i:
        return j
    flags, size = _look(data, i, classes)
    if flags & LETTER != 0:
        return _run(data, i + size, end, classes, LETTER)
    if flags & NUMBER != 0:
        return _up_to_three(data, i, end, classes)
    if data[i] != _LF and data[i] != _CR:
        j = _run(data, i + size, end, classes, LETTER)
        if j > i + size:
            return j
    return _marks_or_whitespace(data, i, end, classes, _LF)


@_part
def _superbpe2025_match(data: Bytes, i: Index, end: Index, classes: Bytes) -> Index:
    flags, size = _look(data, i, classes)
    if flags & NUMBER != 0:
        return _up_to_three(data, i, end, classes)
    if flags & LETTER != 0:
        match, uppers = _cased(data, i, end, classes)
        return match if match > i else uppers
    if data[i] != _LF and data[i] != _CR:
        j = i + size
        match, uppers = _cased(data, j, end, classes)
        if match > j:
            return match
        if flags & LOWER != 0:  # a combining mark: not a prefix but a word itself, as nothing after it is lower
            return j
        if uppers > j:
            return uppers
    return _marks_or_whitespace(data, i, end, classes, _SLASH)


@_part
def _marks_or_whitespace(data: Bytes, i: Index, end: Index, classes: Bytes, also: int) -> Index:
    r"""` ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`, with `also` for the slash."""
    j = _spaced(data, i, end, classes, OTHER)
    if j > i:
        return _tail(data, j, end, also)
    j = _line_ends(data, i, end, classes)
    return j if j > i else _whitespace(data, i, end, classes)


@_jit
def _gpt2(data: Bytes, unit_ends: np.ndarray, classes: Bytes, out: np.ndarray) -> Index:
    n = i = _0
    for unit_end in unit_ends:
        end = np.uint64(unit_end)
        while i < end:
            i = _gpt2_match(data, i, end, classes)
            out[n] = i
            n += _1
    return n


@_jit
def _llama3(data: Bytes, unit_ends: np.ndarray, classes: Bytes, out: np.ndarray) -> Index:
    n = i = _0
    for unit_end in unit_ends:
        end = np.uint64(unit_end)
        while i < end:
            i = _llama3_match(data, i, end, classes)
            out[n] = i
            n += _1
    return n


@_jit
def _superbpe2025_stage1(data: Bytes, unit_ends: np.ndarray, classes: Bytes, out: np.ndarray) -> Index:
    n = i = _0
    for unit_end in unit_ends:
        end = np.uint64(unit_end)
        while i < end:
            i = _superbpe2025_match(data, i, end, classes)
            out[n] = i
            n += _1
    return n


@_jit
def _superbpe2025_stage2(data: Bytes, unit_ends: np.ndarray, classes: Bytes, out: np.ndarray) -> Index:
    n = i = start = _0
    for unit_end in unit_ends:
        end = np.uint64(unit_end)
        while i < end:
            j = _superbpe2025_stage2_match(data, i, end, classes)
            if j == i:
                i = _run(data, i + _look(data, i, classes)[1], end, classes, LETTER)  # no match starts at a letter
                continue
            if i > start:  # what stands between two matches is a piece as well
                out[n] = i
                n += _1
            out[n] = start = i = j
            n += _1
        if i > start:
            out[n] = start = i
            n += _1
    return n


@_part
def _superbpe2025_stage2_match(data: Bytes, i: Index, end: Index, classes: Bytes) -> Index:
    r"""`\p{N}{1,3}| ?[^\s\p{L}\p{N}]{2,}[\r\n/]*| +(?!\S)`, or i."""
    flags, _ = _look(data, i, classes)
    if flags & LETTER != 0:
        return i
    if flags & NUMBER != 0:
        return _up_to_three(data, i, end, classes)
    first = i + _1 if data[i] == _BLANK else i
    if first < end:
        flags, size = _look(data, first, classes)
        if flags & OTHER != 0:
            j = _run(data, first + size, end, classes, OTHER)
            return _tail(data, j, end, _SLASH) if j > first + size else i
    j = i
    while j < end and data[j] == _BLANK:
        j += _1
    if j > i and j < end and _look(data, j, classes)[0] & SPACE == 0:
        j -= _1
    return j


@_jit
def _superbpe_stage1(data: Bytes, unit_ends: np.ndarray, classes: Bytes, out: np.ndarray) -> Index:
    n = i = _0
    for unit_end in unit_ends:
        while i < np.uint64(unit_end):
            end = _digits_step(data, i, np.uint64(unit_end), classes)
            while i < end:
                j = _spaced(data, i, end, classes, LETTER | OTHER)
                if j == i:
                    j = _whitespace(data, i, end, classes)
                if j == i:  # numbers: matched by nothing but the empty cuts
                    j = _run(data, i, end, classes, NUMBER)
                    n = _threes(data, i, j, classes, out, n)
                out[n] = i = j
                n += _1
    return n


@_jit
def _superbpe_stage2(data: Bytes, unit_ends: np.ndarray, classes: Bytes, out: np.ndarray) -> Index:
    n = i = _0
    for unit_end in unit_ends:
        while i < np.uint64(unit_end):
            end = _digits_step(data, i, np.uint64(unit_end), classes)
            n = _threes(data, i, end, classes, out, n)
            out[n] = i = end
            n += _1
    return n


@_part
def _digits_step(data: Bytes, i: Index, end: Index, classes: Bytes) -> Index:
    """The step Digits: runs of numeric characters and what stands between them are texts of their own from here on."""
    kind = _look(data, i, classes)[0] & NUMERIC
    while True:
        while i < end and data[i] < 0x80 and classes[data[i]] & NUMERIC == kind:
            i += _1
        if i == end or data[i] < 0x80:
            return i
        flags, size = _look(data, i, classes)
        if flags & NUMERIC != kind:
            return i
        i += size


def _none(data: np.ndarray, unit_ends: np.ndarray, classes: np.ndarray, out: np.ndarray) -> int:
    ends = unit_ends[np.diff(unit_ends, prepend=0) > 0]
    out[: len(ends)] = ends
    return len(ends)


_SCANNERS: dict[str, Callable[..., int]] = {
    "gpt2": _gpt2,
    "llama3": _llama3,
    "superbpe_stage1": _superbpe_stage1,
    "superbpe_stage2": _superbpe_stage2,
    "superbpe2025_stage1": _superbpe2025_stage1,
    "superbpe2025_stage2": _superbpe2025_stage2,
    "none": _none,
    "triadic_marker": _superbpe_stage1,
    "triadic_vocabulary": _superbpe_stage1,
}

NAMES = frozenset(_SCANNERS)
"""The pretokenizers that have a scanner: all that have a name."""
