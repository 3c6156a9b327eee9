"""Scanners against the library's pretokenizers: arbitrary Unicode, every code point, hand-worked cases, real text."""

import argparse
import decimal
import difflib
import optparse
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Digits

from tokenization import scanners
from tokenization.pretokenize import _TABLE, Feed, feed_units, pretokenizer
from tokenization.scanners import class_table, piece_ends
from tokenization.sources import Embedded

NAMES = sorted(_TABLE)
PROSE = [str(module.__doc__) for module in (argparse, decimal, difflib, optparse, random)]
# What the regexes tell apart, and what they might confuse. U+11DE0 and U+16FF4: numeric to Digits, not to \p{N}.
SPELLED = """
' '' 's 'S 'ſ 't 'T 're 'Re 've 'VE 'm 'M 'll 'lL 'LL 'l 'd 'D s S ſ ß \u212a \ufb05 \ufb06
0 1 7 12 123 1234 ½ ² Ⅷ 〇 ٣ ٣٤٥ ४ 𝟎 𑷠 𑷡 𖿴
a b the A B ABC Ab é É ǅ ʰ ª 中 文 א क ी \u0301 \u0300\u0301 \u20dd \u0903
/ // . ... ! , : - _ ( " \u200d 🎉 👩\u200d👩 \0 \x7f \ufffd \ue000 \U000e0001 \U000e0100 \U0010ffff
"""
TOKENS = [
    *SPELLED.split(),
    *(" ", "  ", "   ", "\t", "\r", "\n", "\r\n", "\n\n", "\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u1680", "\u180e"),
    *("\u2003", "\u200b", "\u2028", "\u2029", "\u3000", "\ufeff"),
]


def ends_of(name: str, units: Sequence[str]) -> list[int]:
    encoded = [unit.encode() for unit in units]
    unit_ends = np.cumsum([len(unit) for unit in encoded], dtype=np.int64)
    return piece_ends(name, np.frombuffer(b"".join(encoded), dtype=np.uint8), unit_ends).tolist()


def library_ends(name: str, units: Sequence[str]) -> list[int]:
    split = pretokenizer(name)
    # Pieces come in byte-level spelling: a character a byte.
    sizes = [len(piece) for unit in units for piece, _ in split.pre_tokenize_str(unit)]
    return np.cumsum(sizes, dtype=np.int64).tolist()


def pieces_of(name: str, text: str) -> list[str]:
    data, ends = text.encode(), ends_of(name, [text])
    return [data[start:end].decode() for start, end in zip([0, *ends], ends)]


def provoking(alphabet: Sequence[str] = TOKENS, max_size: int = 24) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(alphabet), max_size=max_size).map("".join)


few_tokens = st.lists(st.sampled_from(TOKENS), min_size=2, max_size=5).flatmap(provoking)
texts = st.one_of(provoking(), few_tokens, st.text())


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=300, deadline=None)
@given(documents=st.lists(texts, max_size=3))
def test_any_text_falls_as_the_library_has_it(name, documents):
    feeds: tuple[Feed, ...] = get_args(Feed)
    for feed in feeds:
        units = list(feed_units(documents, feed))
        ends = ends_of(name, units)
        assert ends == library_ends(name, units)
        alone, start = [], 0
        for unit in units:
            alone += [start + end for end in ends_of(name, [unit])]
            start += len(unit.encode())
        assert ends == alone
        assert start == (ends[-1] if ends else 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "alphabet", ["aA\u0301 ", "aAª!\n", " \t\n.a", "12½ 𑷠a", " .1/\n", "'sSſa", "٣1½\u2028!"], ids=ascii
)
def test_all_short_texts_of_an_alphabet(name, alphabet):
    units = ["".join(chars) for size in range(1, 6) for chars in product(alphabet, repeat=size)]
    assert ends_of(name, units) == library_ends(name, units)


CLASSES = {
    scanners.LETTER: r"\p{L}",
    scanners.NUMBER: r"\p{N}",
    scanners.SPACE: r"\s",
    scanners.OTHER: r"[^\s\p{L}\p{N}]",
    scanners.DIGIT: r"\d",
    scanners.UPPER: r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
    scanners.LOWER: r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
}
EVERY = np.r_[0:0xD800, 0xE000:0x110000]


def differing(flag: int, members: np.ndarray) -> list[str]:
    return [hex(code) for code in EVERY[(class_table()[EVERY] & flag != 0) != members]]


@pytest.mark.parametrize("flag", CLASSES, ids=lambda flag: CLASSES[flag])
def test_class_of_every_code_point_is_the_regex_library_s(flag):
    # Another way to ask than the table's own: what the class replaces by something outside of the class.
    outside = "a" if flag == scanners.OTHER else "\x01"
    replaced = Replace(Regex(CLASSES[flag]), outside).normalize_str("".join(map(chr, EVERY)))
    assert differing(flag, np.array([ord(char) for char in replaced]) != EVERY) == []


def test_numeric_of_every_code_point_is_the_digits_step_s():
    text = "a" + "".join(chr(code) + "a" for code in EVERY)
    numeric = Digits(individual_digits=True).pre_tokenize_str(text)[1::2]
    assert differing(scanners.NUMERIC, np.isin(EVERY, [ord(piece) for piece, _ in numeric])) == []


def test_kinds_are_a_partition_and_letters_are_upper_or_lower():
    table = class_table()
    kinds = table & (scanners.LETTER | scanners.NUMBER | scanners.SPACE | scanners.OTHER)
    assert set(np.unique(kinds)) == {scanners.LETTER, scanners.NUMBER, scanners.SPACE, scanners.OTHER}
    assert (table[kinds == scanners.LETTER] & (scanners.UPPER | scanners.LOWER)).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_assigned_code_point_between_others(name):
    codes = np.r_[0:0xD800, 0xE000:0x20000, 0xE0000:0xE0200]
    units = [
        "".join(f"'{char}e {char}1{char}A{char}" for char in map(chr, codes[start : start + 64]))
        for start in range(0, len(codes), 64)
    ]
    assert ends_of(name, units) == library_ends(name, units)


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        # The published recipes' cases.
        ("superbpe_stage1", "in| |2|024|,| |1|234|567| x"),
        ("superbpe_stage2", "in |2|024|, |1|234|567| x"),
        ("superbpe2025_stage1", "in| |202|4|,| |123|456|7| x"),
        ("superbpe2025_stage2", "in |202|4|, |123|456|7| x"),
        ("superbpe_stage1", "a| | b"),
        ("superbpe_stage2", "a  b"),
        ("superbpe2025_stage2", "a| | b"),
        ("superbpe_stage1", "it|'|s| |3|.|14"),
        ("superbpe_stage2", "it's |3|.|14"),
        ("gpt2", "it|'s| 3|.|14"),
        ("none", "it's 3.14"),
        # Whitespace: all of it before the end of the text, and a digit is the end of Digits' text.
        ("gpt2", "a|  |\t|b|  \n"),
        ("superbpe_stage1", "a|  |1|  | a"),
        ("gpt2", "a| | 1| | a"),
        ("llama3", "a| \n \r\n|  | a|!\r\n\n"),
        ("superbpe2025_stage1", "x|!//\n/\n| \n| | y| /\n"),
        ("superbpe2025_stage2", "a.b| ..\n/\n|c|  |\t d|  "),
        # Threes from the right are counted in \d: other numbers end a run.
        ("superbpe_stage1", "12|345½|123|456½12"),
        ("superbpe_stage2", "a|٣|٣٤٥|b"),
        ("llama3", "½12|3"),
        # Contractions.
        ("gpt2", "I|'ll| I|'|LL| don|'t|'s"),
        ("llama3", "I|'ll| I|'LL|'ſ|'S|x|'lx"),
        # U*L+ gives back what L can have; a mark is a prefix only if a word follows.
        ("superbpe2025_stage1", "get|Http|Response|HTTP|.Ab| AB中|C| D中a"),
        ("superbpe2025_stage1", "AB\u0301|C|1|\u0301|AB|.|1|\u0301Ab"),
    ],
)
def test_hand_worked_pieces(name, pieces):
    text = pieces.replace("|", "")
    assert pieces_of(name, text) == pieces.split("|")
    assert ends_of(name, [text]) == library_ends(name, [text])


@pytest.mark.parametrize("feed", get_args(Feed))
@pytest.mark.parametrize("name", NAMES)
def test_real_text(name, feed):
    documents = [*PROSE, *(document.text for document in islice(Embedded().documents(), 20))]
    units = list(feed_units(documents, feed))
    assert ends_of(name, units) == library_ends(name, units)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "part", ["a", "A", " ", "7", "½", "\u0301", "\n", "!", "中", "Aa", " a", "\t ", "..\n"], ids=ascii
)
def test_long_runs(name, part):
    units = [part * 2000, part * 1999 + "a", "a" + part * 2001]
    assert ends_of(name, units) == library_ends(name, units)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_empty_units_and_kinds_of_arrays(name):
    nothing = np.zeros(0, dtype=np.uint8)
    for unit_ends in ([], [0], [0, 0]):
        ends = piece_ends(name, nothing, np.array(unit_ends, dtype=np.int64))
        assert ends.dtype == np.int64 and len(ends) == 0
    assert ends_of(name, ["", "", "a", "", "b!", ""]) == library_ends(name, ["a", "b!"])
    data = np.frombuffer(b"a1 b\nc", dtype=np.uint8)
    unit_ends = np.array([5, 6])
    apart = np.repeat(data, 2)[::2]  # writable and not contiguous
    assert piece_ends(name, data, unit_ends).tolist() == piece_ends(name, apart, np.repeat(unit_ends, 2)[::2]).tolist()


def test_threads_share_the_scanners():
    jobs = [(name, text) for name in NAMES for text in PROSE]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: ends_of(job[0], [job[1]]), jobs))
    assert found == [ends_of(name, [text]) for name, text in jobs]


def test_every_name_has_a_scanner():
    assert set(_TABLE) == scanners.NAMES
