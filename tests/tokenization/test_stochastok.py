"""StochasTok against the enumerated distribution of the paper's rule."""

import collections
import itertools
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from isotok.errors import ConfigError, DataError
from isotok.keyed import keyed_rng
from isotok.recipe import build, describe
from tests.toys import toy
from tokenization import BPE, ByteLevel, StochasTok, SuperBPE, Unigram, WordPiece, encode_text, stochastok, token_bytes
from tokenization.bpe import byte_level_bpe, merge_vocabulary
from tokenization.stochastok import WINDOW_IDS, Cuts, cut_table, expand
from tokenization.tokenizer import finish

CONFIGS = Path(__file__).parents[2] / "configs/transform"
TEXTS = ["the thing that they thought through the night, that other thing\n"] * 50


@pytest.fixture(scope="module")
def bpe():
    return BPE(vocab_size=280).train(TEXTS)


@pytest.fixture(
    scope="module",
    params=[
        BPE(vocab_size=300),
        SuperBPE(vocab_size=300, transition=280),
        Unigram(vocab_size=290),
        WordPiece(vocab_size=270),
    ],
    ids=lambda recipe: recipe.label,
)
def made(request):
    return request.param.train(TEXTS)


def pack_cuts(cuts: list[list[tuple[int, int]]]) -> Cuts:
    """Cuts from a list an id."""
    starts = np.cumsum([0, *map(len, cuts)], dtype=np.int64)
    return Cuts(starts, np.array([pair for pairs in cuts for pair in pairs], np.int32).reshape(-1, 2))


def by_lists(ids: list[int], attempts: int, cuts: list[list[tuple[int, int]]], rng: np.random.Generator) -> list[int]:
    """The paper's procedure word for word: a list that grows."""
    ids = list(ids)
    for where, which in rng.random((attempts, 2)).tolist():
        position = int(where * len(ids))
        if options := cuts[ids[position]]:
            ids[position : position + 1] = options[int(which * len(options))]
    return ids


lists_of_cuts = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3), min_size=10, max_size=10
)


@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(st.integers(0, 9), min_size=1, max_size=70),
    attempts=st.integers(0, 300),
    cuts=lists_of_cuts,
    key=st.integers(0, 99),
)
def test_the_kernel_gives_what_a_growing_list_gives(ids, attempts, cuts, key):
    """Whatever the cuts, such as could go on for ever too, and whatever the length."""
    ours = expand(np.array(ids, np.uint16), attempts, pack_cuts(cuts), keyed_rng("test", key))
    assert ours.tolist() == by_lists(ids, attempts, cuts, keyed_rng("test", key))


def test_windows_of_a_long_unit(bpe):
    """Each window of WINDOW_IDS ids has its own floor and positions, and draws on from the one before."""
    ids = np.random.default_rng(0).integers(0, 279, WINDOW_IDS + 1005).astype(np.uint16)
    cuts = cuts_as_lists(bpe)
    rng = keyed_rng("stochastok", 3, 0, 5)
    expected = by_lists(ids[:WINDOW_IDS].tolist(), int(WINDOW_IDS * 0.1), cuts, rng)
    expected += by_lists(ids[WINDOW_IDS:].tolist(), 100, cuts, rng)
    assert StochasTok().bind(bpe, 3)(ids, 7, 5).tolist() == expected


def test_an_id_outside_the_vocabulary_is_named(bpe):
    with pytest.raises(DataError, match="document 4: id 60000 outside a vocabulary of 281"):
        StochasTok(p=1.0).bind(bpe, 0)(np.array([5, 60000], np.uint16), 0, 4)


def cuts_as_lists(tokenizer) -> list[list[tuple[int, int]]]:
    starts, pairs = cut_table(tokenizer)
    return [[(left, right) for left, right in pairs[a:b].tolist()] for a, b in itertools.pairwise(starts)]


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(max_size=200) | st.sampled_from([3 * TEXTS[0], "naïve 日本語 🎉 the thing " * 9, "<|endoftext|>"]),
    p=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    rounding=st.sampled_from(["floor", "stochastic"]),
    unit=st.integers(0, 9),
    spent=st.sampled_from([(0.0, 0.0), (0.2, 0.9), (1.0, 1.3)]),
)
def test_spells_the_same_text(made, text, p, rounding, unit, spent):
    ids = np.array([*encode_text(made, text), made.eos_token_id], dtype=np.uint16)
    out = StochasTok(p=p, rounding=rounding, anneal=0.5).bind(made, 0)(ids, 0, unit, spent)
    assert out[-1] == made.eos_token_id
    assert list(out).count(made.eos_token_id) == 1
    assert made.decode(out[:-1]) == text
    assert out.dtype == ids.dtype
    assert len(ids) <= len(out) <= len(ids) + int(len(ids) * p) + 1
    assert out.max() < len(made)
    if p == 0 or spent[0] >= 1:
        assert list(out) == list(ids)


def test_every_kind_of_vocabulary_is_split(made):
    ids = np.array([*encode_text(made, 20 * TEXTS[0]), made.eos_token_id] * 2, dtype=np.uint16)
    out = StochasTok(p=1.0).bind(made, 0)(ids, 0, 0)
    assert len(out) > 1.2 * len(ids)
    assert list(out).count(made.eos_token_id) == 2
    if made.isotok_metadata["algorithm"] == "superbpe":
        pieces = token_bytes(made)
        words = [index for index, piece in enumerate(pieces) if b" " in piece[1:-1]]
        cuts = cuts_as_lists(made)
        assert words and all(cuts[index] for index in words)


def test_keyed_by_seed_epoch_and_unit(bpe):
    ids = np.array(encode_text(bpe, "the thing that they thought through the night " * 20), dtype=np.uint16)

    def draw(seed: int, epoch: int, unit: int, fresh: bool) -> list[int]:
        return list(StochasTok(fresh=fresh, p=0.5).bind(bpe, seed)(ids, epoch, unit))

    assert draw(0, 0, 0, True) == draw(0, 0, 0, True)
    assert draw(0, 0, 0, True) != draw(1, 0, 0, True)
    assert draw(0, 0, 0, True) != draw(0, 0, 1, True)
    assert draw(0, 0, 0, True) != draw(0, 1, 0, True)
    assert draw(0, 0, 0, False) == draw(0, 1, 0, False)


def test_attempts_floor_and_stochastic(bpe):
    ids = np.array(encode_text(bpe, "thing"), dtype=np.uint16)[:1]
    floor = [len(StochasTok(p=0.5).bind(bpe, 0)(ids, 0, u)) for u in range(200)]
    assert set(floor) == {1}  # int(1 * 0.5) = 0 attempts
    stochastic = [len(StochasTok(p=0.5, rounding="stochastic").bind(bpe, 0)(ids, 0, u)) for u in range(200)]
    assert 60 <= sum(n == 2 for n in stochastic) <= 140


def test_cut_table_holds_every_binary_cut_and_no_other(made):
    pieces = [b"" if index == made.eos_token_id else piece for index, piece in enumerate(token_bytes(made))]
    cuts = cuts_as_lists(made)
    assert len(cuts) == len(made)
    joined = collections.defaultdict(set)
    for a, b in itertools.product(range(len(pieces)), repeat=2):
        if pieces[a] and pieces[b]:
            joined[pieces[a] + pieces[b]].add((a, b))
    for index, piece in enumerate(pieces):
        assert set(cuts[index]) == joined.get(piece, set())
        assert len(set(cuts[index])) == len(cuts[index])
        assert not cuts[index] or len(piece) > 1


def test_added_tokens_have_no_cuts_and_come_of_none():
    tokenizer = BPE(vocab_size=280).train(TEXTS)
    # "thing" cuts into "th" and "ing", and both are there; then one becomes an added token, and so does "hin".
    vocab = tokenizer.get_vocab()
    assert cut_table(tokenizer).pairs.size
    word = max((token for token in vocab if token.isalpha()), key=len)
    tokenizer.add_tokens([word, "q" + word])
    added = {tokenizer.convert_tokens_to_ids(token) for token in (word, "q" + word)} | {tokenizer.eos_token_id}
    cuts = cuts_as_lists(tokenizer)
    assert len(cuts) == len(tokenizer)
    assert not any(cuts[index] for index in added)
    assert not added & {half for pairs in cuts for pair in pairs for half in pair}


def test_the_table_is_made_once_for_a_vocabulary(monkeypatch):
    made = []
    binary = stochastok.binary_cuts
    monkeypatch.setattr(stochastok, "binary_cuts", lambda pieces: made.append(1) or binary(pieces))
    monkeypatch.setattr(stochastok, "_TABLES", {})
    one, same, other = (toy("abc", "none", 12, seed) for seed in (1, 1, 2))
    assert cut_table(one) is cut_table(same) is cut_table(one)
    assert len(made) == 1
    assert cut_table(other).pairs.tolist() != cut_table(one).pairs.tolist()
    for seed in range(3, 9):
        cut_table(toy("abc", "none", 12, seed))
    assert len(stochastok._TABLES) <= stochastok.MAX_TABLES
    again = cut_table(one)
    assert len(made) == 9 and again.pairs.tolist() == binary(stochastok._spelled(one)).pairs.tolist()


def test_bad_input_is_named():
    for p in (-0.1, 1.1):
        with pytest.raises(ConfigError, match=rf"transform\.p={p}"):
            build({"_target_": "tokenization.stochastok.StochasTok", "p": p}, "transform")
    with pytest.raises(ConfigError, match=r"transform\.anneal=2"):
        build({"_target_": "tokenization.stochastok.StochasTok", "anneal": 2}, "transform")
    with_prefix = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##a": 2}, unk_token="[UNK]"))
    with_prefix.decoder = decoders.WordPiece()
    odd = Tokenizer(models.BPE({"a": 0, "▁a": 1}, []))
    odd.decoder = decoders.ByteLevel()
    for backend, kind in ((with_prefix, "WordPiece"), (odd, "BPE")):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, name_or_path="folder/mine")
        with pytest.raises(ConfigError, match=rf"byte-level vocabulary.*tokenizer folder/mine, a {kind}"):
            StochasTok().bind(tokenizer, 0)


def test_bytes_cannot_be_split():
    tokenizer = ByteLevel().train([])
    ids = np.arange(256, dtype=np.uint16)
    assert StochasTok(p=1.0).bind(tokenizer, 0)(ids, 0, 0).tolist() == ids.tolist()


@pytest.mark.parametrize("spent", [(0.5, 0.9), (0.95, 1.01), (1.2, 1.3)])
def test_without_anneal_a_unit_is_the_same_wherever_in_the_budget_it_stands(bpe, spent):
    """Where the budget ends is an estimate: a run reads a little past it."""
    ids = np.tile(encode_text(bpe, TEXTS[0]), 200)
    assert len(ids) > stochastok.ANNEAL_WINDOW_IDS
    apply = StochasTok(p=0.1).bind(bpe, 0)
    assert apply(ids, 0, 3, spent).tolist() == apply(ids, 0, 3).tolist()


@pytest.mark.parametrize("name", ["stochastok", "stochastok_anneal"])
def test_configs_list_every_key(name):
    data = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert set(describe(build(data, "transform"))) == set(data)
    assert build(data, "transform") == StochasTok(anneal=0.1 if name == "stochastok_anneal" else 0.0)


def enumerated(ids: tuple[int, ...], attempts: int, cuts: list[list[tuple[int, int]]]) -> dict[tuple[int, ...], float]:
    """The distribution of the paper's rule after so many attempts: each position alike, each cut of its id alike."""
    now = {ids: 1.0}
    for _ in range(attempts):
        after: dict[tuple[int, ...], float] = collections.defaultdict(float)
        for ids, mass in now.items():
            for at, index in enumerate(ids):
                for cut in cuts[index] or [(index,)]:
                    after[(*ids[:at], *cut, *ids[at + 1 :])] += mass / len(ids) / len(cuts[index] or [0])
        now = dict(after)
    return now


@pytest.mark.parametrize("rounding", ["floor", "stochastic"])
def test_a_transform_has_the_enumerated_distribution(rounding):
    """Of whole units, with attempts that hit what cannot be split and attempts that hit what came of a split."""
    merges = [("a", "b"), ("b", "c"), ("ab", "c"), ("abc", "ab")]
    tokenizer = finish(byte_level_bpe(merge_vocabulary(merges), merges, "none"), {})
    ids = np.array(
        [*tokenizer.convert_tokens_to_ids(["abcab", "a", "abc", "b", "ab"]), tokenizer.eos_token_id], np.uint16
    )
    cuts = cuts_as_lists(tokenizer)
    # 6 ids at p = 0.6: 3.6 attempts.
    expected = enumerated(tuple(ids.tolist()), 3, cuts)
    if rounding == "stochastic":
        more = enumerated(tuple(ids.tolist()), 4, cuts)
        expected = {key: 0.4 * expected.get(key, 0.0) + 0.6 * more.get(key, 0.0) for key in {**expected, **more}}
    assert sum(expected.values()) == pytest.approx(1)
    assert expected[tuple(ids.tolist())] > 0, "all attempts may be wasted"
    apply, draws = StochasTok(p=0.6, rounding=rounding).bind(tokenizer, 5), 40_000
    seen = collections.Counter(tuple(apply(ids, 0, unit).tolist()) for unit in range(draws))
    assert set(seen) <= set(expected)
    common = [key for key in expected if expected[key] * draws >= 5]
    counts, means = [seen[key] for key in common], [expected[key] * draws for key in common]
    assert len(common) > 25
    if len(common) < len(expected):
        counts, means = [*counts, draws - sum(counts)], [*means, draws - sum(means)]
    statistic = chisquare(counts, means)
    assert statistic.pvalue > 1e-3
