"""Tokenizers against the library, hand-worked cases and arbitrary Unicode."""

import argparse
import decimal
import difflib
import heapq
import json
import optparse
import pickletools
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from isotok.errors import DataError
from tokenization import BPE, ByteLevel, SuperBPE, encode_text, load_tokenizer, token_bytes
from tokenization.bpe import merges_of
from tokenization.chunks import count_chunks
from tokenization.merges import learn_merges
from tokenization.pretokenize import feed_units, pretokenizer
from tokenization.tokenizer import check_saved, save_tokenizer

# Prose that is on every machine: the standard library's own documentation.
TEXTS = [str(module.__doc__) for module in (argparse, decimal, difflib, heapq, optparse, pickletools, random)] * 2
RECIPES = [ByteLevel(), BPE(vocab_size=330), SuperBPE(vocab_size=400, transition=0.85)]


@pytest.fixture(scope="module", params=RECIPES, ids=lambda r: r.label)
def trained(request, tmp_path_factory):
    tokenizer = request.param.train(TEXTS)
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, folder)
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


@pytest.mark.parametrize("text", ["a <|endoftext|> b", "\x00\r\n\t", "  \n\n  x", "日本語 🎉 naïve", "'s 's 12345"])
def test_horrible_strings_and_special_strings_are_text(trained, text):
    tokenizer, loaded, _ = trained
    ids = encode_text(loaded, text)
    assert loaded.decode(ids) == text
    assert tokenizer.eos_token_id not in ids


def test_folder_loads_with_transformers_alone(trained):
    tokenizer, _, folder = trained
    auto = AutoTokenizer.from_pretrained(folder)
    text = "By the way <|endoftext|>, of the sea"
    assert auto(text)["input_ids"] == encode_text(tokenizer, text)
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] not in (
        "GPT2Tokenizer",
        "GPT2TokenizerFast",
    )
    sizes = np.load(folder / "id_bytes.npy")
    assert len(sizes) == len(auto) and sizes[auto.eos_token_id] == 0


def test_vocabulary_size_is_exact_without_specials(trained):
    tokenizer, _, folder = trained
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["vocab_size"] == len(tokenizer) - 1
    assert len(set(token_bytes(tokenizer)) - {b""}) == len(tokenizer) - 1  # no two entries of the same bytes


def test_byte_level_is_one_id_a_byte_in_byte_order():
    tokenizer = ByteLevel().train([])
    assert token_bytes(tokenizer)[:256] == [bytes([b]) for b in range(256)]
    assert encode_text(tokenizer, "aé") == [97, 0xC3, 0xA9]


def test_bpe_equals_the_library_trained_directly():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    reference = Tokenizer(models.BPE())
    reference.pre_tokenizer = pretokenizer("superbpe_stage1")
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    lines = [line for text in TEXTS for line in text.splitlines(keepends=True)]
    reference.train_from_iterator(lines, trainer)
    assert merges_of(BPE(vocab_size=320).train(TEXTS).backend_tokenizer) == merges_of(reference)


def test_superbpe_at_full_transition_is_its_bpe_control():
    bpe, full = BPE(vocab_size=330).train(TEXTS), SuperBPE(vocab_size=330, transition=1.0).train(TEXTS)
    assert merges_of(bpe.backend_tokenizer) == merges_of(full.backend_tokenizer)


def test_superbpe_inherits_stage1_verbatim_and_compresses_better():
    recipe = SuperBPE(vocab_size=400, transition=0.85)
    tokenizer = recipe.train(TEXTS)
    merges = merges_of(tokenizer.backend_tokenizer)
    inherited = learn_merges(count_chunks(TEXTS, "superbpe_stage1", "line"), recipe.transition_entries - 256)
    assert merges[: len(inherited)] == inherited
    bpe = BPE(vocab_size=400).train(TEXTS)
    assert sum(len(encode_text(tokenizer, t)) for t in TEXTS) < sum(len(encode_text(bpe, t)) for t in TEXTS)


def _entries_after(tokenizer, lines_feed_merges: int) -> list[str]:
    return [left + right for left, right in merges_of(tokenizer.backend_tokenizer)[lines_feed_merges:]]


def test_hand_worked_superwords():
    # Stage 1 to exhaustion gives nine merges; stage 2 then joins words by falling counts.
    texts = ["by the way\n"] * 5 + ["by the bay\n"] * 3 + ["the way\n"] * 2
    tokenizer = SuperBPE(vocab_size=256 + 9 + 3, transition=256 + 9).train([text.rstrip("\n") for text in texts])
    assert merges_of(tokenizer.backend_tokenizer) == [
        ("a", "y"), ("h", "e"), ("t", "he"), ("b", "y"), ("Ġ", "the"), ("w", "ay"), ("Ġ", "way"), ("b", "ay"),
        ("Ġ", "bay"), ("by", "Ġthe"), ("byĠthe", "Ġway"), ("byĠthe", "Ġbay"),
    ]  # fmt: skip


def test_vetoes_colon_space_and_word_count():
    colon = ["A: b c"] * 4 + ["A: b d"] * 3
    with_veto = SuperBPE(vocab_size=256 + 3 + 3, transition=256 + 3).train(colon)
    assert _entries_after(with_veto, 3) == ["A:", "ĠbĠc", "ĠbĠd"]
    without = SuperBPE(vocab_size=256 + 3 + 1, transition=256 + 3, forbid=()).train(colon)
    assert _entries_after(without, 3) == [":Ġb"]

    words = ["a b c d e f"] * 6
    tokenizer = SuperBPE(vocab_size=256 + 5 + 4, transition=256 + 5).train(words)
    assert _entries_after(tokenizer, 5) == ["aĠb", "ĠcĠd", "ĠeĠf", "aĠbĠcĠd"]
    assert tokenizer.tokenize("a b c d e f") == ["aĠbĠcĠd", "ĠeĠf"]


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("superbpe_stage1", "in 2024, 1234567 x", "in|Ġ|2|024|,|Ġ|1|234|567|Ġx"),
        ("superbpe_stage2", "in 2024, 1234567 x", "inĠ|2|024|,Ġ|1|234|567|Ġx"),
        ("superbpe2025_stage1", "in 2024, 1234567 x", "in|Ġ|202|4|,|Ġ|123|456|7|Ġx"),
        ("superbpe2025_stage2", "in 2024, 1234567 x", "inĠ|202|4|,Ġ|123|456|7|Ġx"),
        ("superbpe_stage1", "a  b", "a|Ġ|Ġb"),
        ("superbpe_stage2", "a  b", "aĠĠb"),
        ("superbpe2025_stage2", "a  b", "a|Ġ|Ġb"),
        ("superbpe_stage1", "it's 3.14", "it|'|s|Ġ|3|.|14"),
        ("superbpe_stage2", "it's 3.14", "it'sĠ|3|.|14"),
        ("gpt2", "it's 3.14", "it|'s|Ġ3|.|14"),
        ("none", "it's 3.14", "it'sĠ3.14"),
    ],
)
def test_pretokenizers_by_name(name, text, pieces):
    assert "|".join(piece for piece, _ in pretokenizer(name).pre_tokenize_str(text)) == pieces


@given(st.text(alphabet="ab\n\r", max_size=30))
def test_line_feed_joins_to_the_text_and_cuts_at_newlines_only(text):
    lines = list(feed_units([text], "line"))
    assert "".join(lines) == text
    assert all("\n" not in line[:-1] for line in lines)


def test_vocabulary_larger_than_the_corpus_holds_stops_and_says_so(capfd):
    full = BPE(vocab_size=5000).train(TEXTS[:1])
    assert len(full) - 1 == full.isotok_metadata["vocab_size"] < full.isotok_metadata["vocab_size_asked"] == 5000
    assert f"vocab_size=5000, but this text holds only {len(full) - 1} entries" in capfd.readouterr().err
    both = SuperBPE(vocab_size=9000, transition=300).train(["ab ab"])
    assert (both.isotok_metadata["merges_inherited"], both.isotok_metadata["merges_learned"]) == (2, 1)
    assert both.isotok_metadata["vocab_size_at_transition"] == 258
    assert both.tokenize("ab ab") == ["abĠab"]


def test_special_string_in_the_training_text_stays_text():
    texts = ["<|endoftext|> and <|endoftext|> again\n"] * 50
    for recipe in (BPE(vocab_size=300, pretokenizer="none"), SuperBPE(vocab_size=300, transition=270)):
        tokenizer = recipe.train(texts)
        ids = encode_text(tokenizer, texts[0])
        assert tokenizer.eos_token_id == len(tokenizer) - 1 and tokenizer.eos_token_id not in ids
        assert tokenizer.decode(ids) == texts[0]


def test_superwords_of_lines_end_at_newlines_and_hold_few_words():
    tokenizer = SuperBPE(vocab_size=1200, transition=700).train(TEXTS)
    entries = [left + right for left, right in merges_of(tokenizer.backend_tokenizer)]
    assert not any("Ċ" in entry[:-1] for entry in entries)
    stage_2 = entries[700 - 256 :]
    assert not any(":Ġ" in entry or len([w for w in entry.split("Ġ") if w]) > 4 for entry in stage_2)
    assert sum("Ġ" in entry.strip("Ġ") for entry in stage_2) > 100
    assert not any("Ġ" in entry.strip("Ġ") for entry in entries[: 700 - 256])


def test_loading_in_a_class_that_loses_superwords_is_noticed(tmp_path):
    tokenizer = SuperBPE(vocab_size=400, transition=0.85).train(TEXTS)
    save_tokenizer(tokenizer, tmp_path)
    check_saved(tokenizer, tmp_path, TEXTS)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "GPT2Tokenizer"}))
    with pytest.raises(DataError, match=r"superwords like .* are not encoded as one token|encodes .* differently"):
        check_saved(tokenizer, tmp_path, TEXTS)
    with pytest.raises(DataError, match=r"superwords like .* are not encoded as one token"):
        check_saved(tokenizer, tmp_path, [])


def test_texts_that_can_be_read_once_are_enough():
    once = SuperBPE(vocab_size=400).train(iter(TEXTS))
    assert merges_of(once.backend_tokenizer) == merges_of(SuperBPE(vocab_size=400).train(TEXTS).backend_tokenizer)


def test_truncation_padding_and_dropout_of_a_file_play_no_part(tmp_path: Path):
    tokenizer = BPE(vocab_size=400).train(TEXTS)
    expected = encode_text(tokenizer, TEXTS[0])
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(4)
    backend.enable_padding(length=4)
    backend.model.dropout = 0.5
    save_tokenizer(tokenizer, tmp_path)
    assert encode_text(load_tokenizer(tmp_path), TEXTS[0]) == expected


def test_load_names_a_folder_that_is_not_a_tokenizer(tmp_path: Path):
    with pytest.raises(DataError, match="no tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{broken")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(DataError, match="cannot load"):
        load_tokenizer(tmp_path)
