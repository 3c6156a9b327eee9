"""Canonical sequences and covers against all encodings of all short texts over small alphabets."""

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from isotok.errors import ConfigError
from tests.toys import toy
from tokenization.bpe import byte_level_bpe
from tokenization.canonical import Canonical
from tokenization.covers import covers, encode_bytes
from tokenization.tokenizer import byte_alphabet, encode_text, encode_texts, finish

PRETOKENIZERS = (
    "gpt2",
    "llama3",
    "superbpe_stage1",
    "superbpe_stage2",
    "superbpe2025_stage1",
    "superbpe2025_stage2",
    "none",
)
ALPHABETS = ("\nab.", " \nT.", "12 a", "'sl ", "123a", "é漢a ", "aB ,", "\r\n a", "½1x ", "ve'r", "\u00a0 a1")


def texts_of(alphabet: str, length: int) -> list[str]:
    return ["".join(chars) for n in range(length + 1) for chars in itertools.product(alphabet, repeat=n)]


def truth(tokenizer: Any, canonical: Canonical, texts: list[str]) -> tuple[set[tuple[int, ...]], dict[bytes, set[Any]]]:
    """All beginnings of encodings, and all covers by byte string."""
    beginnings: set[tuple[int, ...]] = set()
    covering: dict[bytes, set[Any]] = defaultdict(set)
    for text, ids in zip(texts, encode_texts(tokenizer, texts)):
        data, at = text.encode(), 0
        for k, token in enumerate(ids):
            beginnings.add(tuple(ids[: k + 1]))
            end = at + len(canonical.tokens[token])
            for size in range(at + 1, end + 1):
                covering[data[:size]].add((tuple(ids[:k]), token))
            at = end
    return beginnings, covering


def whole_encoding(tokenizer: Any, canonical: Canonical, data: bytes) -> np.ndarray:
    """E(text), or of its whole characters and the bytes of the one that is cut off in the last piece."""
    try:
        return np.array(encode_text(tokenizer, data.decode()), np.int64)
    except UnicodeDecodeError:
        return encode_bytes(canonical, data)


CASES = list(itertools.product(ALPHABETS, PRETOKENIZERS))


@pytest.mark.parametrize(("alphabet", "pretokenizer"), CASES[::5])
def test_every_encoding_is_found(alphabet: str, pretokenizer: str) -> None:
    check(alphabet, pretokenizer, seed=1, length=5, sample=200)


@pytest.mark.slow
@pytest.mark.parametrize(("alphabet", "pretokenizer"), CASES)
def test_every_encoding_is_found_in_longer_texts(alphabet: str, pretokenizer: str) -> None:
    check(alphabet, pretokenizer, seed=2, length=6, sample=500)


def check(alphabet: str, pretokenizer: str, seed: int, length: int, sample: int) -> None:
    tokenizer = toy(alphabet, pretokenizer, merges=14, seed=seed)
    canonical = Canonical(tokenizer)
    texts = texts_of(alphabet, length)
    beginnings, covering = truth(tokenizer, canonical, texts)
    following: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for sequence in beginnings:
        following[sequence[:-1]].add(sequence[-1])
    most = max(len(text.encode()) for text in texts)
    # Characters that are not in the alphabet can make more sequences canonical, so few may be found beyond the truth.
    inside = set(alphabet.encode()) if alphabet.isascii() else set()
    rng = random.Random(seed)
    checked = beyond = 0
    for prefix in rng.sample(sorted(following), min(sample, len(following))):
        got = set(canonical.next_tokens(prefix).tolist())
        assert following[prefix] <= got, (spell(canonical, prefix), spell(canonical, following[prefix] - got))
        size = len(b"".join(spell(canonical, prefix)))
        for token in got:
            if size + len(canonical.tokens[token]) <= most - 3 and set(canonical.tokens[token]) <= inside:
                checked += 1
                beyond += token not in following[prefix]
    assert beyond <= 0.03 * checked + 3
    for data in rng.sample(sorted(covering), min(sample, len(covering))):
        ids = whole_encoding(tokenizer, canonical, data)
        found = {(cover.ids, token) for cover in covers(canonical, data, ids) for token in cover.tokens.tolist()}
        assert covering[data] <= found, (data, covering[data] - found)


def spell(canonical: Canonical, ids: Any) -> list[bytes]:
    return [canonical.tokens[i] for i in ids]


def test_where_a_document_may_end() -> None:
    """Exactly where the encoding of the bytes so far is the sequence itself."""
    for alphabet, pretokenizer in CASES[::3]:
        tokenizer = toy(alphabet, pretokenizer, merges=14, seed=4)
        canonical = Canonical(tokenizer)
        texts = texts_of(alphabet, 4)
        beginnings, _ = truth(tokenizer, canonical, texts)
        whole = {tuple(ids) for ids in encode_texts(tokenizer, texts)}
        for sequence in beginnings:
            assert canonical.may_end(sequence) == (sequence in whole), spell(canonical, sequence)


LONG_TEXTS = (
    "He said 'stop. And then 'that man' (so 'twas told) \"'s\" she 'said, 'tis all.\n",
    "def f(x): {\n            y = [1, 2],\n\n                z = None\n                  s()\n        }\n",
    "ENTER.\n                              He's here.\r\n\r\n\r\n              Exit.\n"
    + " \n" * 20
    + "  end of it. So.\n",
    "{" + " " * 300 + "x, y." + "\t" * 40 + "a b. c" + "\n" * 50 + " d. e'll go." + "\u00a0" * 30 + "on, and on.",
    "e\u0301'e\u0301. a\u0301b, 'lle\u0301 a .\u0301a.b.c, 1\u00b27\u00b2a.b 's.a.b " + "31415926535 " * 9 + "27" * 40,
)


@pytest.mark.parametrize("pretokenizer", PRETOKENIZERS)
def test_encodings_of_long_texts_are_canonical_throughout(pretokenizer: str) -> None:
    """Quotes before words, indentation, runs of anything: the end of a text, shortened, has its pieces."""
    tokenizer = learned(LONG_TEXTS, pretokenizer, vocab_size=400)
    canonical = Canonical(tokenizer)
    for text, ids in zip(LONG_TEXTS, encode_texts(tokenizer, LONG_TEXTS)):
        lost = [
            spell(canonical, ids[max(0, k - 8) : k + 1])
            for k in range(len(ids))
            if ids[k] not in canonical.next_tokens(ids[:k], canonical.tokens[ids[k]])
        ]
        assert not lost, (text, lost[0])


def learned(texts: Sequence[str], pretokenizer: str, vocab_size: int) -> Any:
    """The library's BPE of some texts."""
    from tokenizers import trainers

    tokenizer = byte_level_bpe({char: byte for byte, char in enumerate(byte_alphabet())}, [], pretokenizer)
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=byte_alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return finish(tokenizer, {})


def test_a_foreign_pretokenizer_is_asked_itself() -> None:
    pattern = r"regex:[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    check("a .\n", pattern, seed=3, length=4, sample=60)


def test_tokens_that_no_text_encodes_to_are_never_valid() -> None:
    letters = byte_alphabet()
    vocab = {char: byte for byte, char in enumerate(letters)}
    merges = [("a", "b"), ("b", "c"), ("a", "bc")]  # "abc" is always ab|c: its own token is out of reach
    for left, right in merges:
        vocab[left + right] = len(vocab)
    canonical = Canonical(finish(byte_level_bpe(vocab, merges, "none"), {}))
    assert canonical.unreachable == 1
    assert vocab["abc"] not in canonical.next_tokens([])
    assert vocab["ab"] in canonical.next_tokens([])
    assert canonical.next_tokens([vocab["a"]], b"b").tolist() == []
    assert canonical.next_tokens([vocab["ab"]], b"b").tolist() == [ord("b"), vocab["bc"]]
    assert canonical.is_canonical([vocab["ab"], ord("c")])
    assert not canonical.is_canonical([ord("a"), ord("b")])


def test_other_models_are_refused_by_name() -> None:
    from tokenization import Unigram

    with pytest.raises(ConfigError, match="Unigram.*backoff"):
        Canonical(Unigram(vocab_size=300).train(["the king of the sea " * 20]))


def test_entries_taken_whole_make_no_difference_where_merges_lead_to_them() -> None:
    """`ignore_merges`, as Llama 3 has it."""
    tokenizer = toy("ab", "gpt2", merges=4)
    before = Canonical(tokenizer).next_tokens([ord("a")]).tolist()
    tokenizer.backend_tokenizer.model.ignore_merges = True
    assert Canonical(tokenizer).next_tokens([ord("a")]).tolist() == before
    letters = byte_alphabet()
    vocab = {char: byte for byte, char in enumerate(letters)}
    merges = [("a", "b"), ("b", "c"), ("a", "bc")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = finish(byte_level_bpe(vocab, merges, "none"), {})
    tokenizer.backend_tokenizer.model.ignore_merges = True
    with pytest.raises(ConfigError, match="1 entries whole.*backoff"):
        Canonical(tokenizer)
