"""The merge learner against the library's trainer, a slow reference and hand-worked cases."""

import argparse
import decimal
import inspect
import optparse
import statistics
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotok.errors import DataError
from tests.tokenization.reference_merges import (
    code_point_merges,
    count_pieces,
    library_merges,
    replay_and_veto,
)
from tokenization import Chunks, Vetoes, count_chunks, encode_kernel, learn_merges, merges
from tokenization.merges import apply_merges

# Some 250 kB of real text that is on every machine: sources of the standard library.
SOURCES = [inspect.getsource(module) for module in (argparse, decimal, optparse, statistics)]


def chunks_of(counted: list[tuple[bytes, int]]) -> Chunks:
    counts: Counter[bytes] = Counter()
    for chunk, count in counted:
        counts[chunk] += count
    return Chunks(
        np.frombuffer(bytearray().join(counts), np.uint8),
        np.cumsum([len(chunk) for chunk in counts], dtype=np.int64),
        np.array(list(counts.values()), dtype=np.int64),
        0,
    )


def lines_of(texts: list[str]) -> list[str]:
    return [line for text in texts for line in text.split("\n") if line]


# Tiny alphabets make runs ("aaaa"), overlaps ("abab") and ties; the rest brings spaces, bytes of one character, colons.
ALPHABETS = ["a", "ab", "abc", "a ", "ab \t", "a: ", "日a é", "abcdefgh ", "aé\x00"]
LINES = st.sampled_from(ALPHABETS).flatmap(
    lambda alphabet: st.lists(st.text(alphabet=alphabet, min_size=0, max_size=25), min_size=1, max_size=25)
)


@pytest.fixture
def thresholds(monkeypatch):
    """Start from any threshold, as a wrong guess must cost time only: passes over the data follow."""

    def start_from(first: int) -> None:
        guess = merges._next_threshold
        monkeypatch.setattr(merges, "_next_threshold", lambda *a: first if a[5] is None else guess(*a))

    return start_from


@settings(max_examples=250, deadline=None)
@given(LINES, st.integers(1, 60), st.sampled_from([None, 1, 2, 7, 1000]))
def test_merges_equal_the_library_s_on_toy_corpora(lines, n, first_threshold):
    guess = merges._next_threshold
    if first_threshold:
        merges._next_threshold = lambda *a: first_threshold if a[5] is None else guess(*a)
    try:
        learned = learn_merges(count_chunks(lines, "none", "document"), n)
    finally:
        merges._next_threshold = guess
    assert learned == library_merges(lines, n, "none")


VETOES = st.builds(
    Vetoes,
    forbid=st.sampled_from([(), (b": ",), (b"ab",), (b" ", b"aaa"), (b"\xa9",)]),
    max_words=st.sampled_from([None, 1, 2, 4]),
    max_bytes=st.sampled_from([None, 2, 3, 5]),
)


@settings(max_examples=250, deadline=None)
@given(LINES, st.integers(0, 12), st.integers(1, 40), VETOES, st.sampled_from([1, 2, 5]))
def test_inherited_merges_and_vetoes_equal_the_slow_reference(lines, n_inherited, n, vetoes, min_frequency):
    # Words lead to the inherited merges, whole lines are learned from, as in SuperBPE.
    inherited = library_merges(lines, n_inherited, "superbpe_stage1")
    chunks = count_chunks(lines, "none", "line")
    learned = learn_merges(chunks, n, inherited=inherited, vetoes=vetoes, min_frequency=min_frequency)
    counted = count_pieces([line for text in lines for line in text.splitlines(keepends=True)], "none")
    assert learned == replay_and_veto(counted, n, inherited, vetoes, min_frequency)


@settings(max_examples=100, deadline=None)
@given(LINES, st.integers(1, 50), st.integers(0, 50))
def test_learning_on_equals_learning_at_once(lines, n, stop):
    chunks = count_chunks(lines, "gpt2", "line")
    at_once = learn_merges(chunks, n)
    first = learn_merges(chunks, min(stop, n))
    assert first + learn_merges(chunks, n - len(first), inherited=first) == at_once


@pytest.mark.parametrize("pretokenizer", ["gpt2", "superbpe_stage1"])
@pytest.mark.parametrize("first_threshold", [None, 200])
def test_real_text_equals_the_library(pretokenizer, first_threshold, thresholds):
    # Enough for the tables to grow and the arena to be compacted.
    if first_threshold:
        thresholds(first_threshold)
    lines = [line for text in SOURCES for line in text.splitlines(keepends=True)]
    expected = library_merges(lines, 5000, pretokenizer)
    assert learn_merges(count_chunks(SOURCES, pretokenizer, "line"), 5000) == expected


def test_whole_documents_equal_the_library():
    assert learn_merges(count_chunks(SOURCES, "gpt2", "document"), 1500) == library_merges(SOURCES, 1500, "gpt2")


@pytest.mark.parametrize("cut", [False, True])
def test_stage_two_equals_the_code_point_mapping(cut):
    lines = [line for text in SOURCES for line in text.splitlines(keepends=True)]
    inherited = learn_merges(count_chunks(SOURCES, "superbpe_stage1", "line"), 1500)
    vetoes = Vetoes(forbid=(b": ",) if cut else ())
    chunks = count_chunks(SOURCES, "superbpe_stage2", "line")
    learned = learn_merges(chunks, 2500, inherited=inherited, vetoes=vetoes)
    assert learned == code_point_merges(lines, 2500, inherited, "superbpe_stage2", cut)


def test_vetoes_on_real_text_equal_the_slow_reference():
    text = SOURCES[0][:12_000]
    inherited = learn_merges(count_chunks([text], "superbpe_stage1", "line"), 60)
    vetoes = Vetoes(forbid=(b": ",), max_words=2, max_bytes=12)
    chunks = count_chunks([text], "superbpe_stage2", "line")
    counted = count_pieces(text.splitlines(keepends=True), "superbpe_stage2")
    assert learn_merges(chunks, 60, inherited=inherited, vetoes=vetoes) == replay_and_veto(
        counted, 60, inherited, vetoes
    )


def test_entries_break_no_veto():
    inherited = learn_merges(count_chunks(SOURCES, "superbpe_stage1", "line"), 500)
    vetoes = Vetoes(forbid=(b": ", b"self"), max_words=2, max_bytes=16)
    chunks = count_chunks(SOURCES, "superbpe_stage2", "line")
    entries = [left + right for left, right in learn_merges(chunks, 3000, inherited=inherited, vetoes=vetoes)]
    free = [left + right for left, right in learn_merges(chunks, 3000, inherited=inherited)]

    def broken(entry: str) -> bool:
        return ":Ġ" in entry or "self" in entry or len([w for w in entry.split("Ġ") if w]) > 2 or len(entry) > 16

    assert not any(map(broken, entries)) and sum(map(broken, free)) > 100
    assert len(set(entries)) == len(entries)


def test_second_token_of_the_same_bytes_is_vetoed(monkeypatch):
    # Learning never gets there by itself: between boundaries that no merge has crossed, bytes always fall apart alike.
    # So hand it symbols that do not: a|bc five times, ab|c three times.
    a, c = merges.ALPHABET.index("a"), merges.ALPHABET.index("c")
    bc, ab = 256, 257
    ids, ends = np.array([a, bc, ab, c], np.int32), np.array([2, 4])
    monkeypatch.setattr(merges, "apply_merges", lambda *args, **kwargs: (ids, ends))
    chunks = Chunks(np.zeros(6, np.uint8), np.array([3, 6]), np.array([5, 3]), 0)
    assert learn_merges(chunks, 5, inherited=[("b", "c"), ("a", "b")]) == [("a", "bc")]


# The spec's hand-worked cases: chunks with counts, as the pretokenizers of both stages make them.
BY_THE_WAY = [(b"by the way", 5), (b"by the bay", 3), (b"the way", 2)]
BY_THE_WAY_WORDS = [(b"by", 8), (b" the", 8), (b" way", 7), (b" bay", 3), (b"the", 2)]
STAGE_1 = [
    ("a", "y"), ("h", "e"), ("t", "he"), ("b", "y"), ("Ġ", "the"), ("w", "ay"), ("Ġ", "way"), ("b", "ay"), ("Ġ", "bay"),
]  # fmt: skip


def test_hand_worked_stage_one_to_exhaustion():
    assert learn_merges(chunks_of(BY_THE_WAY_WORDS), 100) == STAGE_1


@pytest.mark.parametrize(
    ("n_inherited", "learned", "segmented"),
    [
        (9, [("by", "Ġthe"), ("byĠthe", "Ġway"), ("byĠthe", "Ġbay"), ("the", "Ġway")], [1, 1, 1]),
        (5, [("by", "Ġthe"), ("byĠthe", "Ġ"), ("w", "ay")], [2, 3, 3]),
    ],
)
def test_hand_worked_stage_two(n_inherited, learned, segmented):
    chunks, inherited = chunks_of(BY_THE_WAY), STAGE_1[:n_inherited]
    assert learn_merges(chunks, len(learned), inherited=inherited) == learned
    _, ends = apply_merges(chunks, inherited + learned)
    assert np.diff(ends, prepend=0).tolist() == segmented


def test_hand_worked_colon_word_cap_and_minimum():
    colon = chunks_of([(b"A: b c", 4), (b"A: b d", 3)])
    stage_1 = [("Ġ", "b"), ("Ġ", "c"), ("Ġ", "d")]
    vetoed = learn_merges(colon, 10, inherited=stage_1, vetoes=Vetoes(forbid=(b": ",)))
    assert vetoed == [("A", ":"), ("Ġb", "Ġc"), ("Ġb", "Ġd")]
    assert learn_merges(colon, 1, inherited=stage_1) == [(":", "Ġb")]

    words = chunks_of([(b"a b c d e f", 6)])
    stage_1 = [("Ġ", letter) for letter in "bcdef"]
    capped = learn_merges(words, 10, inherited=stage_1, vetoes=Vetoes(max_words=4))
    assert capped == [("a", "Ġb"), ("Ġc", "Ġd"), ("Ġe", "Ġf"), ("aĠb", "ĠcĠd")]

    york = count_chunks(["new york city", "new york", "in new york", "york"], "superbpe_stage1", "document")
    stage_1 = learn_merges(york, 100, min_frequency=2)
    assert stage_1 == [("o", "r"), ("y", "or"), ("yor", "k"), ("e", "w"), ("n", "ew"), ("Ġ", "york")]
    lines = count_chunks(["new york city", "new york", "in new york", "york"], "none", "document")
    assert learn_merges(lines, 100, inherited=stage_1, min_frequency=2) == [("new", "Ġyork")]


@settings(max_examples=150, deadline=None)
@given(LINES, st.integers(0, 40))
def test_applying_merges_equals_the_library_s_encoding(lines, n):
    from tokenization.bpe import byte_level_bpe, merge_vocabulary

    learned = library_merges(lines, n, "none")
    library = byte_level_bpe(merge_vocabulary(learned), learned, "none")
    texts = [line for line in dict.fromkeys(lines) if line] + ["".join(lines) * 40 or "a"]
    ids, ends = apply_merges(chunks_of([(text.encode(), 1) for text in dict.fromkeys(texts)]), learned, threads=2)
    split = [part.tolist() for part in np.split(ids, ends[:-1])]
    assert split == [library.encode(text).ids for text in dict.fromkeys(texts)]


def test_result_does_not_depend_on_threads_or_order():
    chunks = count_chunks(SOURCES, "superbpe_stage2", "line", threads=1)
    inherited = learn_merges(count_chunks(SOURCES, "superbpe_stage1", "line", threads=1), 800)
    one = learn_merges(chunks, 800, inherited=inherited, threads=1)
    other = count_chunks(SOURCES[::-1], "superbpe_stage2", "line", threads=3)
    assert learn_merges(other, 800, inherited=inherited, threads=3) == one


@pytest.mark.parametrize(
    ("inherited", "message"),
    [
        ([("a", "b"), ("a", "b")], r"merge 1 \(a b\) is in the list of merges a second time"),
        ([("a", "bc")], r"merge 0 \(a bc\): 'bc' is neither a byte nor an earlier merge's result"),
    ],
)
def test_lists_that_are_no_merges_are_refused(inherited, message):
    with pytest.raises(DataError, match=message):
        learn_merges(chunks_of([(b"abc", 1)]), 1, inherited=inherited)


@pytest.mark.slow  # compiles the kernel a second time
def test_more_symbols_than_four_bytes_address(monkeypatch):
    chunks = count_chunks(SOURCES, "superbpe_stage1", "line")
    expected = learn_merges(chunks, 2000)
    monkeypatch.setattr(merges, "_INT32_SLOTS", 0)
    assert learn_merges(chunks, 2000) == expected


def test_an_absurd_number_of_merges_costs_no_memory():
    chunks = chunks_of([(b"abab", 3)])
    assert learn_merges(chunks, 2_000_000_000) == [("a", "b"), ("ab", "ab")]


def test_piece_too_long_to_encode_is_refused():
    size = encode_kernel.MAX_PART_BYTES + 1
    chunks = Chunks(np.full(size + 1, ord("a"), np.uint8), np.array([1, size + 1]), np.array([1, 1]), 0)
    with pytest.raises(DataError, match=r"a piece of 134,217,729 bytes cannot be cut anywhere, at most 134,217,728"):
        learn_merges(chunks, 1, inherited=[("a", "a")])


def test_empty_and_single_byte_corpora_hold_no_merge():
    assert learn_merges(count_chunks([], "gpt2", "line"), 5) == []
    assert learn_merges(count_chunks(["", "a", "\n"], "gpt2", "document"), 5) == []
