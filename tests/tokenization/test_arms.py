"""Unigram, WordPiece, existing tokenizers, number suffixes: lossless, equal to a reference, refused with a reason."""

import argparse
import decimal
import difflib
import heapq
import itertools
import json
import optparse
import os
import pickletools
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from isotok.errors import ConfigError, DataError
from isotok.recipe import build
from tokenization import BPE, encode_text, load_tokenizer, token_bytes, triadic
from tokenization.bpe import byte_level_bpe, merge_vocabulary, merges_of
from tokenization.existing import ExistingTokenizer, load_existing, resolve_revision, unknown_id
from tokenization.merges import ALPHABET
from tokenization.pretokenize import feed_units, pretokenizer
from tokenization.tokenizer import END_OF_TEXT, check_saved, is_byte_level, save_tokenizer
from tokenization.unigram import Unigram
from tokenization.wordpiece import MAX_PIECE_BYTES, WordPiece

ROOT = Path(__file__).parents[2]
TEXTS = [str(module.__doc__) for module in (argparse, decimal, difflib, heapq, optparse, pickletools, random)] * 2
RECIPES = [Unigram(vocab_size=400), Unigram(vocab_size=300, pretokenizer="none"), WordPiece(vocab_size=400)]
HORRIBLE = ["a <|endoftext|> b", "\x00\r\n\t", "  \n\n  x", "日本語 🎉 naïve", "[UNK] <unk> ##a", "x" * 300, "é" * 120]


@pytest.fixture(scope="module", params=RECIPES, ids=lambda r: r.label)
def trained(request, tmp_path_factory):
    tokenizer = request.param.train(TEXTS)
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, folder)
    check_saved(tokenizer, folder, TEXTS)
    return tokenizer, load_tokenizer(folder), folder


@settings(max_examples=150, deadline=None)
@given(text=st.text())
def test_round_trip_of_any_unicode(trained, text):
    tokenizer, loaded, _ = trained
    ids = encode_text(tokenizer, text)
    assert loaded.decode(ids) == text
    assert encode_text(loaded, text) == ids
    pieces = token_bytes(loaded)
    assert b"".join(pieces[i] for i in ids) == text.encode()


@pytest.mark.parametrize("text", HORRIBLE)
def test_horrible_strings_are_text(trained, text):
    tokenizer, loaded, _ = trained
    ids = encode_text(loaded, text)
    assert loaded.decode(ids) == text
    assert tokenizer.eos_token_id not in ids


def test_vocabulary_is_exact_and_holds_every_byte(trained):
    tokenizer, _, folder = trained
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["vocab_size"] == metadata["vocab_size_asked"] == len(tokenizer) - 1
    assert is_byte_level(tokenizer) and unknown_id(tokenizer) is None
    pieces = token_bytes(tokenizer)
    assert {bytes([byte]) for byte in range(256)} <= set(pieces)
    assert len(set(pieces) - {b""}) == len(tokenizer) - 1
    assert tokenizer.convert_ids_to_tokens(list(range(256))) == ALPHABET


def test_folder_loads_with_transformers_alone(trained):
    tokenizer, _, folder = trained
    text = "By the way <|endoftext|>, of the sea"
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == encode_text(tokenizer, text)


def test_wordpiece_has_the_librarys_vocabulary_and_takes_the_longest_entry():
    from tokenizers import Tokenizer, models, trainers

    reference = Tokenizer(models.WordPiece(unk_token=""))
    reference.pre_tokenizer = pretokenizer("superbpe_stage1")
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, initial_alphabet=ALPHABET, continuing_subword_prefix="", show_progress=False
    )
    reference.train_from_iterator(feed_units(TEXTS, "line"), trainer)
    tokenizer = WordPiece(vocab_size=400).train(TEXTS)
    assert {k: v for k, v in tokenizer.get_vocab().items() if k != END_OF_TEXT} == reference.get_vocab()

    vocab = {entry: index for entry, index in tokenizer.get_vocab().items() if index != tokenizer.eos_token_id}
    text = " ".join(TEXTS)[:5000] + "a" * 250
    expected = []
    for piece, _ in pretokenizer("superbpe_stage1").pre_tokenize_str(text):
        for start in range(0, len(piece), MAX_PIECE_BYTES):
            rest = piece[start : start + MAX_PIECE_BYTES]
            while rest:
                entry = next(rest[:size] for size in range(len(rest), 0, -1) if rest[:size] in vocab)
                expected.append(vocab[entry])
                rest = rest[len(entry) :]
    assert encode_text(tokenizer, text) == expected


def test_unigram_is_the_most_probable_segmentation():
    tokenizer = Unigram(vocab_size=400).train(TEXTS)
    scores = dict(json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"])

    def best(piece: str) -> float:
        at = [0.0] + [-1e9] * len(piece)
        for end in range(1, len(piece) + 1):
            at[end] = max(at[s] + scores[piece[s:end]] for s in range(end) if piece[s:end] in scores)
        return at[-1]

    pieces = {piece for text in TEXTS for piece, _ in pretokenizer("superbpe_stage1").pre_tokenize_str(text)}
    for piece in sorted(pieces):
        tokens = [token.value for token in tokenizer.backend_tokenizer.model.tokenize(piece)]
        assert sum(scores[token] for token in tokens) == pytest.approx(best(piece), abs=1e-6)


def test_unigram_is_the_same_in_every_run_and_with_more_threads():
    recipe = Unigram(vocab_size=350)
    code = (
        "import optparse; from tokenization.unigram import Unigram\n"
        "print(Unigram(vocab_size=350).train([optparse.__doc__ * 3]).backend_tokenizer.to_str())"
    )
    env = {**os.environ, "RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"}
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, check=True, text=True)
    for _ in range(3):  # the library's tables are in another order each time
        assert recipe.train([str(optparse.__doc__) * 3]).backend_tokenizer.to_str() == made.stdout.rstrip("\n")


def test_unigram_has_the_librarys_vocabulary_unless_it_seeds_words():
    from tokenizers import Tokenizer, models, trainers

    reference = Tokenizer(models.Unigram())
    reference.pre_tokenizer = pretokenizer("superbpe_stage1")
    trainer = trainers.UnigramTrainer(
        vocab_size=400, initial_alphabet=ALPHABET, unk_token=None, show_progress=False, special_tokens=[]
    )
    reference.train_from_iterator(feed_units(TEXTS, "line"), trainer)
    plain = Unigram(vocab_size=400, seed_words=False).train(TEXTS)
    assert {entry for entry in plain.get_vocab() if entry != END_OF_TEXT} == set(reference.get_vocab())
    # A word of which no part is in another one: to the library it is no candidate, however frequent.
    texts = ["zebra\nby\nfox\n"] * 50
    assert "zebra" not in Unigram(vocab_size=270, seed_words=False).train(texts).get_vocab()
    assert Unigram(vocab_size=270).train(texts).tokenize("zebra\n") == ["zebra", "Ċ"]


def test_unigram_puts_equal_scores_in_one_order():
    texts = ["\n".join(2 * letter for letter in "abcdefghijklmnopqrst")] * 20
    made = {Unigram(vocab_size=276).train(texts).backend_tokenizer.to_str() for _ in range(4)}
    assert len(made) == 1
    assert "qq" in made.pop()


def test_bytes_that_the_text_does_not_hold_have_the_lowest_score():
    tokenizer = Unigram(vocab_size=300).train(["the thing that they thought\n"] * 20)
    entries = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
    unseen = [score for entry, score in entries if len(entry) == 1 and entry not in "thingatheyouĠĊ"]
    assert len(unseen) > 200 and set(unseen) == {min(score for _, score in entries)}


@pytest.mark.parametrize("recipe", [Unigram(vocab_size=300, pretokenizer="none"), WordPiece(vocab_size=300)])
def test_end_of_text_string_never_becomes_an_entry(recipe):
    texts = [f"{number % 7}{END_OF_TEXT}{number % 11}\n" for number in range(200)]
    tokenizer = recipe.train(texts)
    assert tokenizer.decode(encode_text(tokenizer, texts[0])) == texts[0]
    assert tokenizer.eos_token_id not in encode_text(tokenizer, texts[0])


@pytest.mark.parametrize("kind", [Unigram, WordPiece])
def test_more_entries_than_the_text_holds_are_said(kind, capfd):
    tokenizer = kind(vocab_size=9000).train(TEXTS[:1])
    assert len(tokenizer) - 1 == tokenizer.isotok_metadata["vocab_size"] < 9000
    assert "vocab_size=9000, but this text holds only" in capfd.readouterr().err


# Existing tokenizers


def _folder(tmp_path: Path, recipe=None, name: str = "made") -> Path:
    folder = tmp_path / name
    save_tokenizer((recipe or BPE(vocab_size=330)).train(TEXTS), folder)
    return folder


def _wordlevel(folder: Path, eos: str | None = None) -> Path:
    """A tokenizer that knows a few words only, as many old ones do."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"[UNK]": 0, "the": 1, "sea": 2, "[SEP]": 3}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token=eos).save_pretrained(folder)
    return folder


def test_existing_folder_gives_its_own_ids(tmp_path):
    folder = _folder(tmp_path)
    recipe = ExistingTokenizer(path=str(folder))
    made = recipe.train(TEXTS)
    assert [encode_text(made, text) for text in TEXTS] == [encode_text(load_tokenizer(folder), text) for text in TEXTS]
    assert (recipe.label, recipe.vocab_size) == ("made", 330)
    expected = {
        "algorithm": "bpe",
        "source": str(folder),
        "vocab_size": 330,
        "specials": [END_OF_TEXT],
        "lossless": True,
    }
    assert made.isotok_metadata.items() >= (expected | {"lossless": True, "lost": ""}).items()
    save_tokenizer(made, tmp_path / "again")
    check_saved(made, tmp_path / "again", TEXTS)


def test_tokenizer_json_decides_not_the_class_that_the_config_names(tmp_path):
    from tokenization import SuperBPE

    folder = _folder(tmp_path, SuperBPE(vocab_size=400, transition=0.85))
    ids = encode_text(load_tokenizer(folder), TEXTS[0])
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "GPT2Tokenizer"}))
    assert encode_text(load_tokenizer(folder), TEXTS[0]) != ids  # transformers puts GPT-2's pretokenizer in
    made = ExistingTokenizer(path=str(folder)).train(TEXTS)
    assert encode_text(made, TEXTS[0]) == ids
    save_tokenizer(made, tmp_path / "again")
    check_saved(made, tmp_path / "again", TEXTS)


def test_truncation_that_a_folder_brings_is_switched_off(tmp_path):
    folder = _folder(tmp_path)
    data = json.loads((folder / "tokenizer.json").read_text())
    data["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    assert len(encode_text(ExistingTokenizer(path=str(folder)).train(TEXTS), TEXTS[0])) > 100


def test_fingerprint_follows_the_files_and_not_the_place(tmp_path):
    one, two = _folder(tmp_path, name="one"), _folder(tmp_path, name="two")
    fingerprint = ExistingTokenizer(path=str(one)).fingerprint()
    assert fingerprint == ExistingTokenizer(path=str(two)).fingerprint()
    assert "tokenizer.json" in [file["name"] for file in fingerprint["files"]]
    (two / "tokenizer_config.json").write_text((two / "tokenizer_config.json").read_text() + "\n")
    assert fingerprint != ExistingTokenizer(path=str(two)).fingerprint()


def test_hub_name_is_pinned_by_its_commit_without_the_network():
    commit = "0123456789abcdef0123456789abcdef01234567"
    recipe = ExistingTokenizer(path="owner/Some_Name", revision=commit)
    assert recipe.fingerprint() == {"path": "owner/Some_Name", "revision": commit}
    assert recipe.label == "some-name"
    with pytest.raises(DataError, match=r"owner/name: no folder of that name, and the Hub cannot be asked"):
        resolve_revision("owner/name", None)
    with pytest.raises(DataError, match=r"owner/name \(no folder of that name; on the Hub\): transformers cannot load"):
        load_existing("owner/name", commit)


def test_local_folder_is_never_asked_of_the_hub(tmp_path, monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    recipe = ExistingTokenizer(path=str(_folder(tmp_path)))
    recipe.fingerprint()
    assert recipe.train(TEXTS).eos_token == END_OF_TEXT


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": ""}, "path is empty"),
        ({"path": "/no/such/folder"}, "no such folder, and not a name on the Hub"),
        ({"path": "~/none/such"}, "no such folder"),
        ({"path": ".", "revision": "main"}, "is a local folder and has none"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        build({"_target_": "tokenization.existing.ExistingTokenizer", **fields}, "tokenizer")


def test_folders_that_cannot_be_used_are_refused_with_the_reason(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"empty: no tokenizer.json here"):
        ExistingTokenizer(path=str(empty)).train(TEXTS)
    folder = _folder(tmp_path)
    whole = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(whole[:-200])
    with pytest.raises(DataError, match=r"tokenizer.json: not valid JSON .* damaged or cut off"):
        ExistingTokenizer(path=str(folder)).train(TEXTS)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(DataError, match=r"tokenizer.json: has no model"):
        ExistingTokenizer(path=str(folder)).train(TEXTS)
    (folder / "tokenizer.json").write_text(whole.replace('"BPE"', '"New"'))
    with pytest.raises(DataError, match=r"transformers cannot load this tokenizer"):
        ExistingTokenizer(path=str(folder)).train(TEXTS)


def test_slow_tokenizer_is_refused(tmp_path):
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "vocab.json").write_text('{"a": 0, "<unk>": 1}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer", "unk_token": "<unk>"}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(DataError, match=r"a slow tokenizer \(CTRLTokenizer\)"):
        load_existing(str(folder))


def test_missing_end_of_text_token_says_how_to_set_one(tmp_path):
    folder = _wordlevel(tmp_path / "words")
    with pytest.raises(DataError, match=r"no end-of-text token; .*tokenizer.eos_token=…, such as \[SEP\]"):
        ExistingTokenizer(path=str(folder)).train(["the sea"])
    with pytest.raises(ConfigError, match=r"tokenizer.eos_token='</s>': .* has no such entry"):
        ExistingTokenizer(path=str(folder), eos_token="</s>").train(["the sea"])
    made = ExistingTokenizer(path=str(folder), eos_token="[SEP]").train(["the"])
    assert made.eos_token_id == 3
    assert made.isotok_metadata["vocab_size"] == 2 and sorted(made.isotok_metadata["specials"]) == ["[SEP]", "[UNK]"]


def test_text_that_is_lost_is_counted_and_refused_unless_allowed(tmp_path):
    folder = _wordlevel(tmp_path / "words", eos="[SEP]")
    texts = ["the", "the wide sea", "日本 the 日本"]
    expected = r"2 of 3 texts do not come back .*\(3 unknown tokens in 2 of them\); the first: 'wide sea' comes back"
    with pytest.raises(DataError, match=expected + r".*tokenizer.allow_lossy=true"):
        ExistingTokenizer(path=str(folder)).train(texts)
    metadata = ExistingTokenizer(path=str(folder), allow_lossy=True).train(texts).isotok_metadata
    assert metadata["lossless"] is False and metadata["lost"].startswith("2 of 3 texts")
    assert ExistingTokenizer(path=str(folder)).train(["the"]).isotok_metadata["lossless"]


def test_normalisation_counts_as_loss(tmp_path):
    from tokenizers import normalizers

    tokenizer = BPE(vocab_size=330).train(TEXTS)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    tokenizer.save_pretrained(tmp_path / "nfkc")
    with pytest.raises(DataError, match=r"1 of 2 texts do not come back .*\(0 unknown tokens in 0 of them\)"):
        ExistingTokenizer(path=str(tmp_path / "nfkc")).train(["plain", "ﬁne"])


# Triadic suffixes

HAND_WORKED = [
    ("12345678.1234", "12m 345k 678 . 123p 4pp"),
    ("0.0045", "0 . 004p 5pp"),
    ("7", "7"),
    ("1000", "1k 000"),
    ("2020 100", "2k 020 _ 100"),
    ("-1,234.5", "- 1 , 234 . 5p"),
    ("0.1", "0 . 1p"),
    ("0.10", "0 . 10p"),
    ("0.100", "0 . 100p"),
    ("1.2.3", "1 . 2p . 3"),
    ("1e-9", "1 e- 9"),
    ("007", "007"),
    ("a1234b", "a 1k 234 b"),
    ("123456789012345678.123456789012345", "123q 456t 789b 012m 345k 678 . 123p 456pp 789ppp 012pppp 345ppppp"),
    ("1234567890123456789", "1234567890123456789"),
    ("1.1234567890123456", "1.1234567890123456"),
    ("1.1234567890123456789.5", "1.1234567890123456789. 5"),
]


@pytest.fixture(scope="module", params=triadic.VARIANTS)
def numbers(request, tmp_path_factory):
    merges = merges_of(BPE(vocab_size=330).train(TEXTS).backend_tokenizer)
    entries = number_entries = triadic.number_entries(request.param)
    vocab = merge_vocabulary(merges) | {entry: 330 + i for i, entry in enumerate(number_entries)}
    assert len(vocab) == 330 + len(entries)
    tokenizer = byte_level_bpe(vocab, merges, "superbpe_stage1")
    triadic.dress(tokenizer, request.param)
    file = tmp_path_factory.mktemp("triadic") / "tokenizer.json"
    tokenizer.save(str(file))
    return request.param, tokenizer.from_file(str(file))


@pytest.mark.parametrize(("text", "groups"), HAND_WORKED)
def test_numbers_by_hand(numbers, text, groups):
    expected = groups.replace("_", "\0").split(" ")
    expected = [group.replace("\0", " ") for group in expected]
    assert triadic.read_numbers(text) == expected
    _, tokenizer = numbers
    assert "".join(triadic.spelled_numbers(tokenizer, text)) == "".join(expected)
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_marker_stands_alone_and_vocabulary_has_it_with_its_group(numbers):
    name, tokenizer = numbers
    tokens = triadic.spelled_numbers(tokenizer, "12345678.1234")
    marks = [token for token in tokens if token[-1] in "kmp"]
    assert marks == (["m", "k", "p", "pp"] if name == triadic.MARKER else ["12m", "345k", "123p", "4pp"])
    assert len(triadic.number_entries(name)) == (10 if name == triadic.MARKER else 11_100)


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="0123456789.,-e a\n", max_size=60))
def test_numbers_are_read_as_in_plain_python(numbers, text):
    _, tokenizer = numbers
    assert "".join(triadic.spelled_numbers(tokenizer, text)) == "".join(triadic.read_numbers(text))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@settings(max_examples=300, deadline=None)
@given(text=st.text() | st.text(alphabet=[*map(chr, range(0x10FEFE, 0x10FF10)), *"abcdefghijklmno1234567890. "]))
def test_numbers_of_any_unicode_come_back(numbers, text):
    _, tokenizer = numbers
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_other_pretokenizers_get_no_number_entries():
    with pytest.raises(ValueError, match="pretokenizer=triadic_marker: only tokenizer=bpe has number suffixes"):
        triadic.refuse_variants("triadic_marker", "pretokenizer")
    assert triadic.number_entries("gpt2") == []
    assert len(set(itertools.chain(*map(triadic.number_entries, triadic.VARIANTS)))) == 11_110
