"""`isotok segment`: a text in the tokens of one or more tokenizers, drawn under each other."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from isotok.errors import ConfigError, DataError
from isotok.progress import say
from scripts.looking import (
    Found,
    Span,
    find_tokenizers,
    in_colour,
    parse_arguments,
    terminal_width,
    true_or_false,
    whole_number,
    write_lines,
)
from tokenization.segmentation_view import COLOURS, Piece, Segmentation, cell_width, counts, html_page, lines, segment
from tokenization.visible import SPACE, printable

USAGE = """\
isotok segment PATH ... text=TEXT [ids=true] [html=FILE] [width=N]: a text in the tokens of each tokenizer

PATH        a tokenizer's folder, its tokenizer.json, an artefact made with one, or a name on the Hugging Face Hub
text=TEXT   the text; or file=FILE (UTF-8), or - for standard input
ids=true    the ids below the tokens
html=FILE   the same as a page of its own
width=N     columns of a line (the terminal's, else 100); 0 breaks at newlines only

A dot is a space, an arrow a tab, a hooked arrow a newline; <C3> is a byte that is no character of its own. Without
colours: ⟨?x⟩ is text outside the vocabulary, ⟨-x⟩ text that no token stands for, a blank a space that none stands for.
"""


def segment_command(arguments: list[str]) -> None:
    """Draw a text in the tokens of each tokenizer that is named.

    Raises ConfigError for wrong arguments, DataError for what is no tokenizer or no text.
    """
    if "--help" in arguments or "-h" in arguments:
        print(USAGE, end="")
        return
    names, values = parse_arguments("segment", arguments, ("text", "file", "html", "width"), ("ids",))
    paths = [name for name in names if name != "-"]
    if not paths:
        raise ConfigError("segment: needs a tokenizer, like `isotok segment runs/tokenizer/NAME text='a text'`")
    ids = true_or_false("ids", values.get("ids", "false"))
    width = whole_number("width", values["width"]) if "width" in values else terminal_width()
    page = Path(values["html"]) if "html" in values else None
    if page is not None and (page.is_dir() or not page.parent.is_dir()):
        raise ConfigError(f"html={printable(page)}: name a file in a folder that exists")
    text = _text(values, "-" in names)
    found = [tokenizer for path in paths for tokenizer in find_tokenizers(path)]
    made = [segment(name, f.tokenizer, f.vocabulary, text) for name, f in zip(_names(found), found)]
    write_lines(draw(text, made, width, ids=ids, colour=in_colour()))
    if page is not None:
        from isotok.files import write_text

        try:
            write_text(page, html_page(text, made, ids=ids))
        except OSError as error:
            raise ConfigError(f"html={printable(page)}: cannot be written ({error.strerror})") from None
        say(f"html: {printable(page)}")


def draw(
    text: str, made: Sequence[Segmentation], width: int, *, ids: bool = False, colour: bool = False
) -> Iterator[list[Span]]:
    """The lines of `segment`. width: columns, 0 for any; colour: backgrounds instead of `|` between tokens."""
    yield [(f"{len(text.encode()):,} bytes, {len(text):,} characters", "dim")]
    for segmentation in made:
        figures = counts(segmentation)
        if segmentation is not made[0] and made[0].n_tokens:
            figures += f", {segmentation.n_tokens / made[0].n_tokens:.1%} of the first"
        yield []
        yield [(printable(segmentation.name), "bold green"), (f"  {figures}", "")]
        yield from _drawn(segmentation.pieces, width, ids=ids, colour=colour)


def _drawn(pieces: Sequence[Piece], width: int, *, ids: bool, colour: bool) -> Iterator[list[Span]]:
    number = 0
    if not colour:
        pieces = [_marked(piece) for piece in pieces]
    for line in lines(pieces, width, ids=ids, gap=int(ids or not colour)):
        above: list[Span] = []
        below: list[Span] = []
        for piece in line:
            cells = cell_width(piece, ids)
            shown = piece.shown + " " * (cells - cell_width(piece, False))
            style = "dim"
            if piece.id is not None:
                style = "white on #c40000" if piece.unknown else f"black on {COLOURS[number % len(COLOURS)]}"
                number += not piece.continues
            between = "" if piece.continues else "|" if not colour else " " * ids
            above += [(shown, style), (between, "")]
            below.append((f"{'' if piece.id is None else piece.id:<{cells}}" + " " * len(between), "dim"))
        yield above
        if ids:
            yield below


def _marked(piece: Piece) -> Piece:
    """The piece with what only a colour would tell."""
    if piece.unknown:
        return replace(piece, shown=f"⟨?{piece.shown}⟩")
    if piece.id is None:
        return replace(
            piece, shown=piece.shown.replace(SPACE, " ") if not piece.shown.strip(SPACE) else f"⟨-{piece.shown}⟩"
        )
    return piece


def _text(values: dict[str, str], from_stdin: bool) -> str:
    """The one text that was asked for, from the command line, a file or standard input."""
    from_stdin = from_stdin or values.get("text") == "-" or values.get("file") == "-"
    given = [key for key in ("text", "file") if key in values and values[key] != "-"]
    if len(given) + from_stdin != 1:
        raise ConfigError("segment: needs one text: text=TEXT, file=FILE or - for standard input")
    if given == ["text"]:
        name, data = "text", values["text"].encode("utf-8", "surrogateescape")
    elif from_stdin:
        name, data = "standard input", sys.stdin.buffer.read()
    else:
        name = f"file={printable(values['file'])}"
        try:
            data = Path(values["file"]).expanduser().read_bytes()
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read ({error.strerror})") from None
    if not data:
        raise DataError(f"{name}: the text is empty; there is nothing to draw")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 (byte {error.start} is 0x{data[error.start]:02X})") from None


def _names(found: Sequence[Found]) -> list[str]:
    """Short names, and paths where two are the same."""
    names = [made.name for made in found]
    return [name if names.count(name) == 1 else str(made.file) for name, made in zip(names, found)]
