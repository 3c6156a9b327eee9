"""BPE-dropout against the plain rule, the library's own dropout, and its two ends."""

import argparse
import collections
import decimal
import difflib
import itertools
import optparse

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from isotok.errors import ConfigError, DataError
from tokenization import BPE, SuperBPE, encode_text
from tokenization.dropout import BPEDropout
from tokenization.tokenizer import token_bytes
from tokenization.wordpiece import WordPiece

TEXTS = [str(module.__doc__) for module in (argparse, decimal, difflib, optparse)] * 3
VARIANTS = ("reference", "queue")


@pytest.fixture(scope="module", params=[BPE(vocab_size=700), SuperBPE(vocab_size=700, transition=0.7)])
def made(request):
    return request.param.train(TEXTS)


def ids_of(tokenizer, text: str) -> np.ndarray:
    return np.array([*encode_text(tokenizer, text), tokenizer.eos_token_id], dtype=np.uint16)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200), q=st.sampled_from([0.0, 0.1, 0.7, 1.0]), variant=st.sampled_from(VARIANTS))
def test_spells_the_same_text(made, text, q, variant):
    ids = ids_of(made, text)
    out = BPEDropout(q=q, variant=variant).bind(made, 0)(ids, 0, 3)
    assert out.dtype == ids.dtype
    assert list(out).count(made.eos_token_id) == 1 and out[-1] == made.eos_token_id
    assert made.decode(out[:-1]) == text
    if q == 1:
        pieces = token_bytes(made)
        assert [pieces[i] for i in out[:-1]] == [bytes([byte]) for byte in text.encode()]
    if q == 0:
        assert list(out) == list(ids)


@pytest.mark.parametrize("variant", VARIANTS)
def test_kernel_without_dropout_gives_the_librarys_ids(made, variant):
    # q = 0 returns the ids unread; a q below every draw goes the whole way.
    apply = BPEDropout(q=1e-300, variant=variant).bind(made, 0)
    for unit, text in enumerate([*TEXTS, "日本語 🎉 naïve 12345", "<|endoftext|> is text", " " * 70 + "x" * 300]):
        assert list(apply(ids_of(made, text), 0, unit)) == list(ids_of(made, text))


@pytest.mark.parametrize("variant", VARIANTS)
def test_foreign_pretokenizer_goes_through_the_library(variant):
    tokenizer = BPE(vocab_size=500, pretokenizer=r"regex:[a-z]+|\s+").train(TEXTS)
    apply = BPEDropout(q=1e-300, variant=variant).bind(tokenizer, 0)
    for text in TEXTS:
        assert list(apply(ids_of(tokenizer, text), 0, 0)) == list(ids_of(tokenizer, text))


def _toy():
    """Entries a b c ab bc abc; the merges a+b, b+c, ab+c, a+bc are out of order on purpose."""
    from tokenization.bpe import byte_level_bpe, merge_vocabulary
    from tokenization.tokenizer import finish

    merges = [("b", "c"), ("a", "b"), ("ab", "c"), ("c", "a")]
    return finish(byte_level_bpe(merge_vocabulary(merges), merges, "none"), {}), merges


def _reference(symbols: tuple[str, ...], merges, q: float, mass: float, into: dict) -> None:
    """The rule of the reference, enumerated: each applicable merge dropped with q, the best that is left applied."""
    rank = {pair: i for i, pair in enumerate(merges)}
    found = sorted((rank[pair], i) for i, pair in enumerate(itertools.pairwise(symbols)) if pair in rank)
    for number, (_, i) in enumerate(found):
        merged = (*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :])
        _reference(merged, merges, q, mass * q**number * (1 - q), into)
    into[symbols] = into.get(symbols, 0.0) + mass * q ** len(found)


def test_reference_has_the_enumerated_distribution():
    tokenizer, merges = _toy()
    ids = ids_of(tokenizer, "abcabca")
    expected: dict[tuple[str, ...], float] = {}
    _reference(tuple("abcabca"), merges, 0.4, 1.0, expected)
    apply = BPEDropout(q=0.4, variant="reference").bind(tokenizer, 1)
    draws = 20_000
    seen = collections.Counter(
        tuple(tokenizer.convert_ids_to_tokens(apply(ids, 0, unit)[:-1].tolist())) for unit in range(draws)
    )
    assert set(seen) <= set(expected) and sum(expected.values()) == pytest.approx(1)
    common = [key for key in expected if expected[key] * draws >= 5]
    rest = draws - sum(seen[key] for key in common)
    expected_counts = [expected[key] * draws for key in common]
    assert len(common) > 8
    statistic = chisquare([*(seen[key] for key in common), rest], [*expected_counts, draws - sum(expected_counts)])
    assert statistic.pvalue > 1e-3


def test_queue_has_the_librarys_distribution():
    tokenizer, _ = _toy()
    text, draws = "abcabca", 20_000
    apply = BPEDropout(q=0.4, variant="queue").bind(tokenizer, 1)
    own = collections.Counter(tuple(apply(ids_of(tokenizer, text), 0, unit)[:-1].tolist()) for unit in range(draws))
    library = _with_dropout(tokenizer, 0.4)
    theirs = collections.Counter(
        tuple(encoding.ids) for encoding in library.encode_batch([text] * draws, add_special_tokens=False)
    )
    keys = [key for key in theirs if theirs[key] + own[key] >= 20]
    # Two samples of equal size: (a - b)^2 / (a + b) adds up to a chi-square of len(keys) degrees of freedom.
    distance = sum((theirs[key] - own[key]) ** 2 / (theirs[key] + own[key]) for key in keys)
    assert len(keys) > 8 and distance < len(keys) + 5 * (2 * len(keys)) ** 0.5
    reference = BPEDropout(q=0.4, variant="reference").bind(tokenizer, 1)
    other = collections.Counter(tuple(reference(ids_of(tokenizer, text), 0, u)[:-1].tolist()) for u in range(draws))
    assert sum((theirs[key] - other[key]) ** 2 / (theirs[key] + other[key]) for key in keys) > 10 * len(keys)


def _with_dropout(tokenizer, q: float):
    from tokenizers import Tokenizer

    library = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    library.model.dropout = q
    return library


@pytest.mark.parametrize("q", [0.1, 0.5])
def test_growth_of_the_queue_is_the_librarys(made, q):
    units = [ids_of(made, text) for text in TEXTS]
    apply = BPEDropout(q=q, variant="queue").bind(made, 0)
    library = _with_dropout(made, q)
    rounds = range(120)
    own = [sum(len(apply(ids, epoch, unit)) - 1 for unit, ids in enumerate(units)) for epoch in rounds]
    theirs = [sum(len(e.ids) for e in library.encode_batch(TEXTS, add_special_tokens=False)) for _ in rounds]
    spread = np.hypot(np.std(own), np.std(theirs)) / len(rounds) ** 0.5
    assert abs(np.mean(own) - np.mean(theirs)) < 6 * spread  # the library has no seed: 6, not 3
    if made.isotok_metadata["algorithm"] == "bpe":  # SuperBPE's pieces are whole documents, which grow little
        plain = sum(len(ids) - 1 for ids in units)
        assert 6 * spread < 0.1 * (np.mean(theirs) - plain)
        assert np.mean(own) - plain == pytest.approx(np.mean(theirs) - plain, rel=0.05)
        reference = BPEDropout(q=q).bind(made, 0)
        assert sum(len(reference(ids, 0, unit)) - 1 for unit, ids in enumerate(units)) > np.mean(own) + 10 * spread


@pytest.mark.parametrize("variant", VARIANTS)
def test_keyed_by_seed_epoch_and_unit_alone(made, variant):
    ids = ids_of(made, TEXTS[0])

    def draw(seed: int, epoch: int, unit: int, fresh: bool = True) -> list[int]:
        return list(BPEDropout(fresh=fresh, variant=variant).bind(made, seed)(ids, epoch, unit))

    assert draw(0, 0, 0) == draw(0, 0, 0)
    assert draw(0, 0, 0) != draw(1, 0, 0)
    assert draw(0, 0, 0) != draw(0, 0, 1)
    assert draw(0, 0, 0) != draw(0, 1, 0)
    assert draw(0, 0, 0, fresh=False) == draw(0, 1, 0, fresh=False)
    apply = BPEDropout(variant=variant).bind(made, 0)
    forwards = [list(apply(ids, 0, unit)) for unit in range(5)]
    assert [list(apply(ids, 0, unit)) for unit in reversed(range(5))] == forwards[::-1]


def test_pieces_draw_independently(made):
    # The same word many times in one unit does not come out the same way each time.
    out = BPEDropout(q=0.5).bind(made, 0)(ids_of(made, "argument\n1\n" * 200), 0, 0)
    pieces = token_bytes(made)
    lines = collections.Counter("|".join(pieces[i].decode() for i in out[:-1]).split("\n"))
    assert len(lines) > 5


def test_specials_inside_a_unit_stay(made):
    eos = made.eos_token_id
    first, second = ids_of(made, TEXTS[0])[:-1], ids_of(made, TEXTS[1])[:-1]
    unit = np.array([eos, *first, eos, eos, *second, eos], dtype=np.uint16)
    out = BPEDropout().bind(made, 0)(unit, 0, 0)
    texts = [made.decode(part) for part in np.split(out, np.flatnonzero(out == eos))]
    assert [text.replace("<|endoftext|>", "") for text in texts] == ["", TEXTS[0], "", TEXTS[1], ""]
    assert len(out) > len(unit)


def test_empty_units(made):
    apply = BPEDropout().bind(made, 0)
    assert list(apply(np.zeros(0, dtype=np.uint16), 0, 0)) == []
    assert list(apply(np.array([made.eos_token_id], dtype=np.uint32), 0, 0)) == [made.eos_token_id]


def test_other_tokenizers_are_refused(made):
    with pytest.raises(ConfigError, match="needs a byte-level BPE"):
        BPEDropout().bind(WordPiece(vocab_size=300).train(TEXTS), 0)
    half = ids_of(made, "é")[:1]
    if len(token_bytes(made)[half[0]]) == 1:
        with pytest.raises(DataError, match="spell no UTF-8"):
            BPEDropout().bind(made, 0)(half, 0, 0)
