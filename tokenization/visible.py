"""Any text or bytes in characters that are safe to print: nothing invisible, nothing that a terminal would obey."""

import unicodedata

SPACE, TAB, NEWLINE = "·", "→", "↵"

_INVISIBLE_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp")
# Letters and marks without a shape of their own: joiners, fillers, variation selectors.
_INVISIBLE_LETTERS = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0100, 0xE01EF),
)  # fmt: skip


def visible(text: str) -> str:
    """The text with a sign for each space, tab and newline, and a name for everything else that cannot be seen.

    Control characters become their pictures (U+241B for an escape), format characters, other spaces and unassigned
    code points `<U+202E>`; a mark that would hang on what stands before gets a circle to hang on. Lone surrogates
    U+DC80 to U+DCFF, which stand for bytes that are no character (`surrogateescape`), become `<C3>`.
    """
    shown = text.translate(_TABLE)
    if shown and unicodedata.category(shown[0]).startswith("M"):
        return "◌" + shown
    return shown


def visible_bytes(data: bytes) -> str:
    """`visible` of UTF-8; bytes that are no character of their own in hex, like `<C3>`."""
    return visible(data.decode("utf-8", "surrogateescape"))


def printable(text: object) -> str:
    """A text for a message or a title: as `visible`, but a space stays a space."""
    return " ".join(visible(part) for part in str(text).split(" "))


class _Table(dict[int, str]):
    """What each code point is shown as, looked up once."""

    def __missing__(self, code: int) -> str:
        self[code] = _shown(code)
        return self[code]


def _shown(code: int) -> str:
    char = chr(code)
    if 0xDC80 <= code <= 0xDCFF:
        return f"<{code - 0xDC00:02X}>"
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    hidden = any(first <= code <= last for first, last in _INVISIBLE_LETTERS)
    return f"<U+{code:04X}>" if hidden or unicodedata.category(char) in _INVISIBLE_CATEGORIES else char


_TABLE = _Table({ord(" "): SPACE, ord("\t"): TAB, ord("\n"): NEWLINE})
