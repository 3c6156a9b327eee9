"""Which kind of edit two encodings of one word are: eight types, told apart by rules alone.

The types are those of "Say Anything but This" (arXiv 2601.14658); the rules are ours. They are tried in a fixed order
and the first that holds names the edit.
"""

from collections.abc import Sequence

NEWLINE = "newline or whitespace substitution"
DETACHED = "whitespace detachment or reattachment"
BOUNDARY = "whitespace-boundary shift"
ACRONYM = "acronym split"
TAIL = "plural or possessive tail"
PROPER = "proper-noun ambiguity"
MORPHOLOGICAL = "morphological boundary"
INTRA_WORD = "intra-word resegmentation"
TYPES = (NEWLINE, DETACHED, BOUNDARY, ACRONYM, TAIL, PROPER, MORPHOLOGICAL, INTRA_WORD)
"""In the order in which their rules are tried."""

PREFIXES = frozenset(
    b"""anti auto be bi co counter cross de dis down em en ex extra fore il im in inter intra ir mid mini mis multi non
    out over post pre pro re self semi sub super tele trans tri ultra un under up with""".split()
)
SUFFIXES = frozenset(
    b"""able al ally ance ant ary ate ation d dom ed ee en ence ent er ers ery es est eth ful fully hood ian ible ic
    ical ied ier ies iest ify ily ing ings ion ions ise ised ish ism ist ity ive ize ized less let like ling ly ment
    ments ness or ous ously s ship some st th tion tions ty ual ure ward wards wise y""".split()
)
_TAILS = (b"s", b"es", b"'s", "’s".encode())


def artefact(before: Sequence[bytes], after: Sequence[bytes], sentence_initial: bool = False) -> str:
    """The type of the edit that turns the tokens `before` into `after`, both as bytes.

    Both spell the same word, whitespace around it aside. sentence_initial: the word begins a sentence, so that its
    capital says nothing. Raises ValueError where they are the same, or spell something else.
    """
    core = b"".join(after).strip()
    if b"".join(before).strip() != core or list(before) == list(after):
        raise ValueError(f"no two encodings of one word: {list(before)} and {list(after)}")
    text = core.decode(errors="replace")
    if _breaks(before) != _breaks(after):
        return NEWLINE
    if _blanks(before) != _blanks(after):
        return DETACHED
    if _without_space(before) == _without_space(after):
        return BOUNDARY
    if len(text) >= 2 and text.isalpha() and text.isupper():
        return ACRONYM
    if after[-1] in _TAILS and before[-1] not in _TAILS:
        return TAIL
    if text[:1].isupper() and not sentence_initial:
        return PROPER
    cuts = _cuts(after)
    if cuts and all(_spelled_by(core[:at].lower(), PREFIXES) or _spelled_by(core[at:], SUFFIXES) for at in cuts):
        return MORPHOLOGICAL
    return INTRA_WORD


def _breaks(pieces: Sequence[bytes]) -> frozenset[int]:
    """The kinds of leading whitespace other than a space."""
    joined = b"".join(pieces)
    return frozenset(joined[: len(joined) - len(joined.lstrip())]) - {ord(" ")}


def _blanks(pieces: Sequence[bytes]) -> int:
    return sum(not piece.strip() for piece in pieces)


def _without_space(pieces: Sequence[bytes]) -> list[bytes]:
    return [pieces[0].lstrip(), *pieces[1:]]


def _cuts(pieces: Sequence[bytes]) -> list[int]:
    """Where the pieces cut the word, in bytes from its first letter."""
    joined = b"".join(pieces)
    lead, size = len(joined) - len(joined.lstrip()), len(joined.strip())
    at, cuts = -lead, []
    for piece in pieces[:-1]:
        at += len(piece)
        if 0 < at < size:
            cuts.append(at)
    return cuts


def _spelled_by(part: bytes, affixes: frozenset[bytes]) -> bool:
    """Whether the part is an affix, or several of two letters and more in a row."""
    if part in affixes:
        return True
    return any(part[:at] in affixes and _spelled_by(part[at:], affixes) for at in range(2, len(part) - 1))
