"""A text cut into tokens, to look at: what each token shows, where lines break, and the same as a page of HTML."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from isotok.errors import DataError
from tokenization.visible import printable, visible, visible_bytes
from tokenization.vocabulary_view import Entry, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

COLOURS = ("#ffd6a5", "#caffbf", "#a8e0ff", "#d7c6ff", "#ffc9de")
"""Backgrounds of tokens, in turn; black on them is easy to read."""


@dataclass(frozen=True)
class Piece:
    """A token, or (id None) text that no token stands for. shown: its text, made visible; may be empty.

    continues: this is not all of it, the rest is on the next line.
    """

    id: int | None
    shown: str
    n_bytes: int
    ends_line: bool = False
    unknown: bool = False
    continues: bool = False


@dataclass(frozen=True)
class Segmentation:
    """A text in one tokenizer's tokens. n_bytes: of the text in UTF-8. lossless: whether the ids give the text back."""

    name: str
    pieces: tuple[Piece, ...]
    n_bytes: int
    lossless: bool

    @property
    def n_tokens(self) -> int:
        return sum(piece.id is not None for piece in self.pieces)

    @property
    def n_unknown(self) -> int:
        return sum(piece.unknown for piece in self.pieces)

    @property
    def bytes_per_token(self) -> float:
        """Of the text's bytes; 0 where the text gives no token."""
        return self.n_bytes / self.n_tokens if self.n_tokens else 0.0


def segment(name: str, tokenizer: "Tokenizer", vocabulary: Vocabulary, text: str) -> Segmentation:
    """Encode a text as isotok does: nothing added or cut off, special strings are text, no dropout.

    Raises DataError when the library cannot encode it, like text outside a vocabulary without an unknown token.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    if vocabulary.dropout:
        tokenizer.model.dropout = None
    try:
        encoding = tokenizer.encode(text, add_special_tokens=False)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{printable(name)}: the library cannot encode this text ({printable(error)})") from None
    entries = vocabulary.by_id()
    data = text.encode()
    if vocabulary.is_byte_level:
        pieces = tuple(_of_bytes(entries[index], vocabulary) for index in encoding.ids)
        lossless = b"".join(entries[index].data for index in encoding.ids) == data
    else:
        pieces = tuple(_of_offsets(text, encoding.ids, encoding.offsets, entries, vocabulary))
        lossless = tokenizer.decode(encoding.ids, skip_special_tokens=False) == text
    return Segmentation(name, pieces, len(data), lossless)


def _of_bytes(entry: Entry, vocabulary: Vocabulary) -> Piece:
    if entry.id == vocabulary.unknown_id:
        return Piece(entry.id, printable(entry.spelling), 0, unknown=True)
    return Piece(entry.id, visible_bytes(entry.data), len(entry.data), b"\n" in entry.data)


def _of_offsets(
    text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], entries: dict[int, Entry], vocabulary: Vocabulary
) -> Iterator[Piece]:
    """Tokens by the part of the text that they cover, and what is left between them."""
    done = 0
    begins = [start for start, _ in offsets[1:]]
    for index, (start, end), following in zip(ids, offsets, [*begins, len(text)]):
        if start > done:
            yield _between(text[done:start])
        entry, covered = entries[index], text[start:end]
        unknown = index == vocabulary.unknown_id
        if entry.is_byte:  # one of several bytes of a character
            yield Piece(index, visible_bytes(entry.data), 1, entry.data == b"\n")
        elif covered and start >= done and following >= end:
            yield Piece(index, visible(covered), len(covered.encode()), "\n" in covered, unknown)
        else:  # it shares its text with a neighbour, or the normalizer put it there
            yield Piece(index, printable(entry.spelling) if unknown else visible_bytes(entry.data), 0, unknown=unknown)
        done = max(done, end)
    if done < len(text):
        yield _between(text[done:])


def _between(text: str) -> Piece:
    return Piece(None, visible(text), len(text.encode()), "\n" in text)


def lines(pieces: Sequence[Piece], width: int, *, ids: bool = False, gap: int = 0) -> Iterator[list[Piece]]:
    """Pieces in lines of at most `width` columns (0: no limit), broken between tokens and after newlines.

    gap: columns between two pieces. A piece wider than a line is divided; where ids are shown, it has their width.
    """
    line: list[Piece] = []
    used = 0
    for piece in pieces:
        for part in _divided(piece, max(2, width - gap) if width else 0):
            needed = cell_width(part, ids) + gap
            if line and width and used + needed > width:
                yield line
                line, used = [], 0
            line.append(part)
            used += needed
            if part.ends_line or part.continues:
                yield line
                line, used = [], 0
    if line:
        yield line


def cell_width(piece: Piece, ids: bool) -> int:
    """Columns on a terminal, counting two for wide characters."""
    from rich.cells import cell_len

    width = cell_len(piece.shown)
    return max(width, len(str(piece.id))) if ids and piece.id is not None else width


def _divided(piece: Piece, width: int) -> list[Piece]:
    from rich.cells import cell_len, chop_cells

    if not width or cell_len(piece.shown) <= width:
        return [piece]
    *parts, last = chop_cells(piece.shown, width)
    return [
        *(replace(piece, shown=part, ends_line=False, continues=True) for part in parts),
        replace(piece, shown=last),
    ]


def html_page(text: str, segmentations: Sequence[Segmentation], *, ids: bool = False) -> str:
    """One self-contained page, without scripts or addresses; the text in it is inert, equal input gives equal bytes."""
    size = len(text.encode())
    body = "\n".join(_html_section(made, ids) for made in segmentations)
    return _PAGE.format(
        colours="\n".join(f".c{number} {{ background: {colour} }}" for number, colour in enumerate(COLOURS)),
        summary=f"{size:,} bytes, {len(text):,} characters",
        body=body,
    )


def _html_section(made: Segmentation, ids: bool) -> str:
    spans, number = [], 0
    for piece in made.pieces:
        shown = html.escape(piece.shown) or "∅"
        if piece.id is None:
            spans.append(f'<span class="g" title="no token">{shown}</span>')
        else:
            style = "t u" if piece.unknown else f"t c{number % len(COLOURS)}"
            title = f"id {piece.id}, {piece.n_bytes} bytes" + (", unknown" if piece.unknown else "")
            below = f"<small>{piece.id}</small>" if ids else ""
            spans.append(f'<span class="{style}" title="{title}">{shown}{below}</span>')
            number += 1
        if piece.ends_line:
            spans.append("<br>\n")
    drawn = "".join(spans)
    return (
        f"<section>\n<h2>{html.escape(printable(made.name))}</h2>\n<p>{html.escape(counts(made))}</p>\n"
        f'<div class="text">{drawn}</div>\n</section>'
    )


def counts(made: Segmentation) -> str:
    """The figures beside a drawing."""
    figures = [f"{made.n_tokens:,} tokens", f"{made.bytes_per_token:.2f} bytes/token"]
    if made.n_unknown:
        figures.append(f"{made.n_unknown:,} unknown")
    if not made.lossless:
        figures.append("does not give the text back")
    return ", ".join(figures)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Segmentation</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: #1b1b1b; background: #fff }}
h1, h2 {{ font-weight: 600; line-height: 1.2 }}
h1 {{ font-size: 1.4rem }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 0; overflow-wrap: anywhere }}
p {{ margin: .2rem 0 .6rem; color: #555 }}
.text {{ font-family: ui-monospace, Menlo, Consolas, monospace; line-height: 1.9 }}
.t, .g {{ display: inline-block; vertical-align: top; max-width: 100%; overflow-wrap: anywhere; unicode-bidi: isolate }}
.t {{ color: #000; border-radius: 3px; margin: 0 1px; padding: 0 1px }}
.t small {{ display: block; font-size: .65rem; line-height: 1.2; color: #444 }}
.g {{ color: #999 }}
.u {{ background: #c40000; color: #fff }}
{colours}
@media (prefers-color-scheme: dark) {{ body {{ color: #ddd; background: #17181a }} p {{ color: #aaa }} }}
</style>
</head>
<body>
<h1>Segmentation</h1>
<p>{summary}. A dot is a space, → a tab, ↵ a newline; &lt;C3&gt; is a byte that is no character of its own.
Point at a token for its id.</p>
{body}
</body>
</html>
"""
