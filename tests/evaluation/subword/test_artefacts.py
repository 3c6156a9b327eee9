"""The types of edit: the table's examples, and the order of the rules."""

import pytest

from evaluation.subword import artefacts as kinds
from evaluation.subword.artefacts import artefact

EXAMPLES = [
    ([" However"], ["\n", "However"], kinds.NEWLINE),
    ([" Saturday"], [" ", " Saturday"], kinds.DETACHED),
    ([" February"], ["February"], kinds.BOUNDARY),
    ([" HIV"], ["H", "IV"], kinds.ACRONYM),
    ([" rights"], ["right", "s"], kinds.TAIL),
    ([" Dorm", "er"], ["D", "orm", "er"], kinds.PROPER),
    ([" repaid"], ["re", "paid"], kinds.MORPHOLOGICAL),
    ([" unbelievable"], ["un", "bel", "ievable"], kinds.INTRA_WORD),
]


def _bytes(pieces: list[str]) -> list[bytes]:
    return [piece.encode() for piece in pieces]


@pytest.mark.parametrize(("before", "after", "expected"), EXAMPLES)
def test_the_tables_examples(before: list[str], after: list[str], expected: str) -> None:
    assert artefact(_bytes(before), _bytes(after)) == expected


def test_the_examples_are_all_types() -> None:
    assert tuple(expected for *_, expected in EXAMPLES) == kinds.TYPES


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([" king"], [" ", "king"], kinds.DETACHED),  # the same bytes
        ([" ", "king"], [" king"], kinds.DETACHED),
        (["\tking"], [" king"], kinds.NEWLINE),
        ([" ki", "ng"], ["ki", "ng"], kinds.BOUNDARY),
        ([" king"], ["ki", "ng"], kinds.INTRA_WORD),  # the boundaries moved as well
        ([" USA"], [" U", "S", "A"], kinds.ACRONYM),
        ([" Kings"], [" King", "s"], kinds.TAIL),  # before the capital is looked at
        ([" boxes"], [" box", "es"], kinds.TAIL),
        ([" king's"], [" king", "'s"], kinds.TAIL),
        ([" glas", "s"], [" glass"], kinds.INTRA_WORD),
        ([" glas", "s"], [" gla", "s", "s"], kinds.INTRA_WORD),  # both end so
        ([" undoable"], [" un", "do", "able"], kinds.MORPHOLOGICAL),
        ([" unrepaid"], [" un", "re", "paid"], kinds.MORPHOLOGICAL),
        ([" undoable"], [" un", "doa", "ble"], kinds.INTRA_WORD),  # every cut has to lie on one
        ([" un", "do"], [" undo"], kinds.INTRA_WORD),  # no cut at all
        ([" naïve"], [" na", "\u00ef", "ve"], kinds.INTRA_WORD),
    ],
)
def test_first_rule_that_holds(before: list[str], after: list[str], expected: str) -> None:
    assert artefact(_bytes(before), _bytes(after)) == expected


def test_a_capital_that_begins_a_sentence_says_nothing() -> None:
    before, after = _bytes([" Remade"]), _bytes([" Re", "made"])
    assert artefact(before, after) == kinds.PROPER
    assert artefact(before, after, sentence_initial=True) == kinds.MORPHOLOGICAL


def test_cuts_inside_a_character() -> None:
    assert artefact([" é".encode()], [b" \xc3", b"\xa9"]) == kinds.INTRA_WORD


@pytest.mark.parametrize("after", [[b" king"], [b" queen"]])
def test_no_edit_is_refused(after: list[bytes]) -> None:
    with pytest.raises(ValueError, match="no two encodings"):
        artefact([b" king"], after)
