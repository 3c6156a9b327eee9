"""Our own encoder against the tokenizer library, on every kind of vocabulary it takes, and what it must not take."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotok.errors import DataError
from tests.tokenization.test_merges import SOURCES
from tests.tokenization.test_tokenizers import TEXTS
from tokenization import BPE, ByteLevel, SuperBPE
from tokenization.encode import id_dtype
from tokenization.encoder import KernelEncoder, LibraryEncoder, encoder_for, probe_strings
from tokenization.tokenizer import encode_texts

RECIPES = [
    ByteLevel(),
    BPE(vocab_size=900, pretokenizer="gpt2"),
    BPE(vocab_size=900, pretokenizer="llama3", feed="document"),
    BPE(vocab_size=900, pretokenizer="none", feed="document"),
    BPE(vocab_size=700, pretokenizer="none", max_words=2),
    SuperBPE(vocab_size=1500, transition=0.6),
    SuperBPE(vocab_size=1500, transition=300, max_words=None, forbid=()),
    SuperBPE(vocab_size=1200, transition=0.5, stage1="superbpe2025_stage1", stage2="superbpe2025_stage2"),
    SuperBPE(vocab_size=1200, transition=0.5, feed="document", stage2="none"),
]


@pytest.fixture(scope="module", params=RECIPES, ids=lambda r: f"{r.label}-{getattr(r, 'pretokenizer', '')}")
def pair(request):
    tokenizer = request.param.train(TEXTS)
    own = encoder_for(tokenizer, threads=2)
    assert isinstance(own, KernelEncoder)
    return own, LibraryEncoder(tokenizer)


def same(pair, texts: list[str]) -> bool:
    own, library = pair
    return [ids.tolist() for ids in own.encode(texts)] == [ids.tolist() for ids in library.encode(texts)]


WORDS = [
    "the",
    " of",
    " the",
    "in",
    "ing",
    " ",
    "  ",
    "\n",
    "\n\n",
    ".",
    ". ",
    ":",
    ": ",
    "2024",
    "½",
    "é",
    "日本",
    "'s",
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=40).map("".join)), max_size=6))
def test_ids_equal_the_library_s(pair, texts):
    assert same(pair, texts)


def test_ids_equal_the_library_s_on_real_text_whole_by_line_and_without_newline(pair):
    text = "".join(SOURCES)
    assert same(pair, [*SOURCES, "", text.replace("\n", " "), *text.splitlines(keepends=True)])


def test_long_pieces_go_through_the_heap(pair):
    assert same(pair, ["a" * 5000, "the" * 3000, " " * 4000, "=-" * 2000, "of the " * 1000])


@pytest.mark.slow
def test_a_megabyte_without_a_newline(pair):
    words = "".join(SOURCES).split()
    text = " ".join(words * (1_000_000 // sum(map(len, words)) + 1))
    assert same(pair, [text, "x" * 1_000_000])


def test_result_does_not_depend_on_threads_or_what_came_before():
    tokenizer = SuperBPE(vocab_size=1200).train(TEXTS)
    one, three = encoder_for(tokenizer, threads=1), encoder_for(tokenizer, threads=3)
    texts = [*SOURCES, "", *TEXTS, "\n"] * 2
    first = [ids.tolist() for ids in one.encode(texts)]
    assert [ids.tolist() for ids in three.encode(texts)] == first
    assert [ids.tolist() for ids in one.encode(texts)] == first


def change(tokenizer, edit):
    from tokenizers import Tokenizer

    data = json.loads(tokenizer.backend_tokenizer.to_str())
    edit(data)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(data))
    return tokenizer


def drop_split(data):
    data["pre_tokenizer"]["pretokenizers"].pop(0)


def swap_merges(data):
    merges = data["model"]["merges"]
    built = next(i for i, (left, right) in enumerate(merges) if len(left + right) > 2)
    merges.insert(0, merges.pop(built))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda data: data["model"].update(ignore_merges=True), "ignore_merges=True"),
        (lambda data: data["model"].update(dropout=0.1), "dropout=0.1"),
        (lambda data: data.update(normalizer={"type": "Lowercase"}), "normalizes"),
        (lambda data: data["added_tokens"][0].update(special=False), "matched in text"),
        (drop_split, "pretokenizer is none of ours"),
        (swap_merges, "does not build on earlier ones alone"),
    ],
)
def test_a_tokenizer_it_does_not_know_goes_to_the_library_and_is_said(edit, reason, capfd):
    tokenizer = change(BPE(vocab_size=400).train(TEXTS), edit)
    encoder = encoder_for(tokenizer)
    assert isinstance(encoder, LibraryEncoder)
    assert "encoding through the tokenizer library" in capfd.readouterr().err
    if not tokenizer.backend_tokenizer.model.dropout:
        assert [ids.tolist() for ids in encoder.encode(TEXTS)] == encode_texts(tokenizer, TEXTS)


def test_an_encoder_that_is_wrong_is_not_used(monkeypatch, capfd):
    tokenizer = SuperBPE(vocab_size=900).train(TEXTS)
    right = KernelEncoder.encode

    def drop_superwords(self, texts):
        self.superwords = None
        return right(self, texts)

    monkeypatch.setattr(KernelEncoder, "encode", drop_superwords)
    assert isinstance(encoder_for(tokenizer), LibraryEncoder)
    assert "our own encoder differs from it on" in capfd.readouterr().err
    assert len(probe_strings(tokenizer)) > 150


@pytest.mark.slow
def test_a_piece_too_long_is_an_error_not_an_empty_text():
    tokenizer = BPE(vocab_size=300, pretokenizer="none").train(["ab" * 50] * 3)
    with pytest.raises(DataError, match="cannot be cut anywhere"):
        encoder_for(tokenizer, threads=1).encode(["ab" * (1 << 26) + "ab", "b"])


def test_ids_are_stored_in_the_smallest_type_that_holds_them():
    assert id_dtype(65_536) == np.uint16 and id_dtype(65_537) == np.uint32
    with pytest.raises(DataError, match="beyond uint32"):
        id_dtype((1 << 32) + 1)
