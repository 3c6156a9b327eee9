"""The end of a text as pretokenizers see it: kinds of characters in runs, and what can still follow.

Regexes see kinds of characters, not characters, and look ahead a little. So a text's end has a *shape*, its runs of one
kind shortened and its characters replaced by stand-ins, and a finite set of continuations tells all ways apart in which
it can fall into pieces.
"""

import itertools
from functools import cache

import numpy as np

from tokenization import scanners

_SINGLE = ("a", "A", "漢", "\u0301", "1", "½", "٣", ".", "'", "/", " ", "\n", "\r", "\t", "\u00a0")
_MORE = (
    *("11", "111", "s", "d", "m", "t", "l", "v", "e", "r", "ll", "ve", "re", "'s", "'ll", "S", "L", "E", "LL", "ſ"),
    *("Aa", "aA", " a", " A", " .", " 1", "  ", "  a", "  1", "  .", "\na", "\n.", "\n1", "\n\n", "\n ", " \n"),
    *("\r\n", "..", ".\n", "./", "//", ".a", "\n\na", "\n a", " \na", "\u3000a"),
)
_LOOK_AHEAD = tuple(text.encode() for text in ("", *_SINGLE, *_MORE))
_AFTER_CHARACTER = tuple(text.encode() for text in ("", "a", "A", "1", ".", " ", "\n", " a", "\na", "s", "11"))
_NAMED = frozenset("sdmtlverSDMTLVERſ")  # letters that contractions name
RUNS_KEPT = 5  # how many runs of one kind of character a situation keeps


def restart_at(text: bytes) -> int:
    """A byte near the end from which scanning gives the same pieces, most likely: where the last runs begin."""
    tail = text[-200:]
    offset = len(text) - len(tail)
    while tail and tail[0] & 0xC0 == 0x80:
        tail, offset = tail[1:], offset + 1
    characters = tail.decode(errors="replace")
    kinds = [_kind(character) for character in characters]
    runs = 0
    for i in range(len(kinds) - 1, 0, -1):
        if kinds[i] != kinds[i - 1]:
            runs += 1
            if runs == RUNS_KEPT:
                return offset + len(characters[:i].encode())
    return 0 if offset == 0 else _restart_far(text)


def _restart_far(text: bytes) -> int:
    """The same where the end is one long run: its beginning."""
    characters = text.decode(errors="replace")
    last = _kind(characters[-1])
    for i in range(len(characters) - 1, 0, -1):
        if _kind(characters[i - 1]) != last:
            return len(characters[:i].encode())
    return 0


def begins_text(data: bytes) -> bool:
    """Whether some text begins with these bytes: UTF-8, but for a character that is cut off at the end."""
    return not data or bool(continued(data))


def is_text(data: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def cut_character(text: bytes) -> bytes:
    """The bytes of a character that is cut off at the end, if one is."""
    for back in range(1, min(4, len(text) + 1)):
        byte = text[-back]
        if byte >= 0xC0:
            need = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return text[-back:] if back < need else b""
        if byte < 0x80:
            return b""
    return b""


def continued(text: bytes) -> "list[bytes]":
    """The text with every continuation that matters; none where it is not UTF-8 but for a character cut off."""
    partial = cut_character(text)
    if not is_text(text[: len(text) - len(partial)]):
        return []
    if not partial:
        return [text + after for after in (_LOOK_AHEAD if text else _LOOK_AHEAD[1:])]
    return [text + rest + after for rest in _completions(partial) for after in _AFTER_CHARACTER]


@cache
def _completions(partial: bytes) -> tuple[bytes, ...]:
    """What can complete a character cut off, one way for each kind of character."""
    lead = partial[0]
    need = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    value = lead & (0x1F if need == 2 else 0x0F if need == 3 else 0x07)
    for byte in partial[1:]:
        value = value << 6 | byte & 0x3F
    missing = need - len(partial)
    low, high = value << 6 * missing, min((value + 1) << 6 * missing, 0x110000)
    low = max(low, {2: 0x80, 3: 0x800, 4: 0x10000}[need])
    points = np.arange(low, high)
    points = points[(points < 0xD800) | (points > 0xDFFF)]
    first = np.unique(scanners.class_table()[points], return_index=True)[1]
    chosen = {chr(points[i]) for i in first} | {chr(point) for point in points[:64] if chr(point) in _NAMED}
    encoded = [character.encode() for character in sorted(chosen)]
    return tuple(code[len(partial) :] for code in encoded if code.startswith(partial))


@cache
def _kind(character: str) -> int:
    """The kind that a run is of."""
    flags = int(scanners.class_table()[ord(character)])
    return scanners.SPACE if flags & scanners.SPACE else flags


@cache
def _stand_in(character: str, named: bool) -> bytes:
    """A character of the same kind, the same one for all of that kind; itself where regexes name it."""
    flags = int(scanners.class_table()[ord(character)])
    if flags & scanners.SPACE:
        return character.encode() if character.isascii() else "\u00a0".encode()
    if named and character in _NAMED:
        return character.encode()
    if flags == scanners.OTHER:
        return character.encode() if character in "'/" else b"."
    return chr(int(np.argmax(scanners.class_table() == flags))).encode()


def ends_in_contraction(shape: bytes) -> bool:
    """Whether a shape ends in an apostrophe, or in one and a letter: letters that follow are named by regexes."""
    return shape.endswith(b"'") or shape[-2:-1] == b"'"


def collapse(
    raw: bytes, marks: dict[int, int], *, runs_kept: int | None, named_start: bool
) -> tuple[int, int, bytes, bytes]:
    """(number of runs looked at, byte where those kept begin, shape, mark after each byte of the shape) of the last
    runs of a text, or of all.

    Characters become their stand-ins. Runs of letters shrink to two, but for the first two letters after an apostrophe
    (and, with `named_start`, at the beginning), which stay; runs of digits shrink by threes, of signs to three, and
    repetitions of a character of white space to six. A character that is cut off at the beginning is left out, one at
    the end stays as it is.
    """
    start = 0
    while start < len(raw) and raw[start] & 0xC0 == 0x80:
        start += 1
    partial = cut_character(raw[start:])
    # From the end, and no further than it takes to know that there are more runs than are kept.
    runs: list[tuple[int, list[tuple[str, int]]]] = []
    end = len(raw) - len(partial)
    for character in reversed(raw[start:end].decode(errors="replace")):
        kind = _kind(character)
        if not runs or runs[-1][0] != kind:
            if runs_kept is not None and len(runs) > runs_kept:
                break
            runs.append((kind, []))
        runs[-1][1].append((character, end))
        end -= len(character.encode())
    runs = [(kind, run[::-1]) for kind, run in reversed(runs)]
    count = len(runs)
    runs = runs if runs_kept is None else runs[-runs_kept:]
    begin = runs[0][1][0][1] - len(runs[0][1][0][0].encode()) if runs else start
    shape, after = bytearray(), bytearray()
    head = 2 if named_start else 0
    for kind, run in runs:
        size, dropped = len(run), 0
        if kind & scanners.LETTER:
            dropped = max(0, size - head - 2)
            run = run[:head] + run[head + dropped :]
        elif kind & scanners.NUMBER:
            left_out, run = run[: 3 * max(0, (size - 4) // 3)], run[3 * max(0, (size - 4) // 3) :]
            marks = marks | _by_threes([marks.get(end, 0) for _, end in left_out], run, marks)
        elif kind & scanners.SPACE:
            run = _fewer_spaces(run)
        else:
            run = run[-3:]
        for k, (character, end) in enumerate(run):
            code = _stand_in(character, named=k < head)
            # Where letters were left out no piece ends, whatever follows: tokens may end there.
            mark = 1 if dropped and head <= k < len(run) - 1 else marks.get(end, 0)
            shape += code
            after += b"\0" * (len(code) - 1) + bytes([mark])
        head = 2 if run[-1][0] == "'" else 0
    for k, byte in enumerate(partial, len(raw) - len(partial) + 1):
        shape.append(byte)
        after.append(marks.get(k, 0))
    return count, begin, bytes(shape), bytes(after)


def _by_threes(left_out: list[int], run: list[tuple[str, int]], marks: dict[int, int]) -> dict[int, int]:
    """Marks of the first three digits of a run that say what those left out before it, a multiple of three, say too:
    pieces end after every third digit or nowhere, so a token that ends at no such place rules all of them out."""
    made = {}
    for k, (_, end) in enumerate(run[:3] if left_out else ()):
        found = {marks.get(end, 0), *left_out[k::3]}
        made[end] = 0 if 0 in found else max(found)
    return made


def _fewer_spaces(run: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """A run of white space without the middle of long repetitions: pieces end at their ends alone. Both ends of the run
    stay, the first one because a sign before it can hold line ends in its piece."""
    kept: list[tuple[str, int]] = []
    for _, same in itertools.groupby(run, key=lambda entry: _stand_in(entry[0], named=False)):
        part = list(same)
        kept += part if len(part) <= 6 else part[:2] + part[-4:]
    return kept if len(kept) <= 24 else kept[:8] + kept[-16:]
