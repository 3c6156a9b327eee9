import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evaluation.encoding import TextEncoder
from evaluation.intrinsic import (
    Measure,
    gini,
    intrinsic,
    is_superword,
    measure,
    renyi_efficiency,
    vocabulary_figures,
)
from evaluation.parity import parity, read_parallel
from evaluation.stability import (
    EDITS,
    Passage,
    edit_distance,
    perturbations,
    perturbed,
    prefix_stability,
    sample_passages,
)
from evaluation.tokenized import Reader
from isotok.errors import DataError
from isotok.keyed import keyed_rng
from tests.evaluation.conftest import merged_tokenizer
from tokenization import encode_text


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (b"of the", True),
        (b" sea", False),
        (b" of the", True),
        (b"king ", False),
        (b"  ", False),
        (b".\n\nThe", True),
        (b"", False),
    ],
)
def test_superword(token: bytes, expected: bool) -> None:
    assert is_superword(token) is expected


def test_figures(superword_tokenizer: Any) -> None:
    encoder = TextEncoder(superword_tokenizer)
    texts = ["of the king", "é of the sea"]
    encoded = [encoder(t) for t in texts]
    figures = intrinsic([e.ids for e in encoded], sum(e.n_bytes for e in encoded), encoder.bytes)
    # of the|" "|king ; é is two bytes|" "|of the|" sea"
    assert figures == {
        "bytes": 24,
        "tokens": 8,
        "bytes_per_token": 3.0,
        "vocabulary_size": len(superword_tokenizer) - 1,
        "vocabulary_used": 6,
        "superword_share": 0.25,
    }


def test_no_text() -> None:
    assert intrinsic([np.zeros(0, dtype=np.int64)], 0, [b"a", b""])["bytes_per_token"] is None


# Without merges for single spaces: of the|" "|king ; Ã|©|" "|of the|" sea" ; t|h|e|" "|of the
TOY = [("of the king", "a"), ("é of the sea", "a"), ("the of the", "b")]


def test_all_figures_of_a_text_worked_by_hand(superword_tokenizer: Any) -> None:
    made = measure(superword_tokenizer, TOY, Measure(speed_bytes=0))
    figures = made["all"]
    expected = {
        "documents": 3,
        "bytes": 34,
        "characters": 33,
        "words": 10,
        "tokens": 13,
        "bytes_per_token": 34 / 13,
        "bytes_per_token_median": 13 / 5,
        "tokens_per_word": 1.3,
        "characters_per_token": 33 / 13,
        "continued_words": 2 / 10,  # é, and the "the" that is t|h|e
        "word_types": 5,
        "one_token_types": 3 / 5,  # of, king, " sea"
        "superwords": 3,
        "superword_share": 3 / 13,
        "superword_byte_share": 18 / 34,
        "words_per_superword": 2.0,
        "vocabulary_size": len(superword_tokenizer) - 1,
        "vocabulary_used": 9,
        "documents_exact": 1.0,
        "unknown_share": 0.0,
    }
    assert {key: figures[key] for key in expected} == pytest.approx(expected)
    # "of" three times alike; "the" four times: three after "of " in one token, one as t|h|e.
    assert figures["context_stability"] == pytest.approx({"words": 7, "whole": 5 / 7, "inside": 5 / 7})
    assert made["domains"]["a"]["tokens"] + made["domains"]["b"]["tokens"] == 13
    assert made["domains"]["b"]["continued_words"] == pytest.approx(1 / 3)


def test_context_stability_tells_shared_tokens_from_cuts_inside(superword_tokenizer: Any) -> None:
    # king alike inside; "of" alone in "of king", with its neighbour in "of the king".
    figures = measure(superword_tokenizer, [("of king of the king", "x")], Measure(speed_bytes=0))["all"]
    assert figures["context_stability"] == {"words": 4, "whole": 0.5, "inside": 1.0}


@pytest.mark.parametrize("alpha", [1.0, 2.5, 3.0])
def test_renyi_efficiency_is_the_sum_over_entries_by_the_size_of_the_vocabulary(alpha: float) -> None:
    counts = [5, 0, 3, 1, 0, 7]
    p = [c / 16 for c in counts if c]
    entropy = -sum(x * math.log2(x) for x in p) if alpha == 1 else math.log2(sum(x**alpha for x in p)) / (1 - alpha)
    assert renyi_efficiency(np.array(counts), 6, alpha) == pytest.approx(entropy / math.log2(6))
    assert renyi_efficiency(np.array([4, 4]), 2, alpha) == pytest.approx(1)
    assert renyi_efficiency(np.array([4, 0]), 2, alpha) == 0
    assert renyi_efficiency(np.array([0, 0]), 2, alpha) is None


def test_gini_is_the_mean_difference() -> None:
    assert gini([1, 1, 1, 1]) == pytest.approx(0)
    assert gini([0, 0, 0, 4]) == pytest.approx(0.75)
    assert gini([]) is gini([0, 0]) is None
    values = keyed_rng("gini").integers(0, 50, 40)
    pairs = sum(abs(int(a) - int(b)) for a in values for b in values)
    assert gini(values) == pytest.approx(pairs / (2 * 40**2 * values.mean()))


def test_an_entry_that_an_earlier_merge_shadows_is_unreachable() -> None:
    tokenizer = merged_tokenizer("bc", "abc")  # "abc" is a|bc: b and c merge first
    assert vocabulary_figures(Reader(tokenizer)) == {
        "size": 259,
        "specials": 1,
        "byte_level": True,
        "text_entries": 128 + 3,  # lone bytes from 128 are no text
        "unreachable": 1,
        "unreachable_share": 1 / 131,
    }


def test_figures_repeat_and_do_not_depend_on_special_strings(superword_tokenizer: Any) -> None:
    documents = [*TOY, ("a <|endoftext|> in the text", "b")]
    first, second = (measure(superword_tokenizer, documents) for _ in range(2))
    assert first.pop("timing")["mb_per_s"] > 0
    second.pop("timing")
    assert first == second
    assert first["domains"]["b"]["documents_exact"] == 1  # its characters are text, not the separator


def test_places_are_the_same_from_pieces_and_from_the_library(superword_tokenizer: Any) -> None:
    reader = Reader(superword_tokenizer)
    text = "of the king and: A sea  of the\nsea"
    exact, library = reader.cut([text], ["x"])[0], reader._by_offsets(text, "x")
    assert exact.words == library.words
    assert exact.starts.tolist() == library.starts.tolist()
    assert exact.ends.tolist() == library.ends.tolist()


def test_a_wordpiece_vocabulary() -> None:
    vocabulary = {"[UNK]": 0, "the": 1, "sea": 2, "##m": 3, "[SEP]": 4}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", sep_token="[SEP]")
    made = measure(tokenizer, [("the sea  them élan", "x")], Measure(speed_bytes=0))
    figures = made["all"]
    assert (figures["tokens"], figures["words"], figures["vocabulary_size"]) == (5, 4, 4)  # the sea the ##m [UNK]
    assert figures["continued_words"] == 1 / 4
    assert figures["one_token_types"] == 2 / 4  # an unknown word is not one of its entries
    assert figures["unknown_share"] == 1 / 5
    assert figures["superword_share"] == 0
    assert figures["documents_exact"] == 0
    assert made["vocabulary"]["unreachable"] is None
    assert Reader(tokenizer).cut(["[SEP]"], ["x"])[0].ids.tolist() == [0, 0, 0]  # text, not the special token
    assert "byte-level" in made["missing"]["unreachable"]


def test_a_script_without_spaces_has_no_fertility(byte_tokenizer: Any) -> None:
    made = measure(byte_tokenizer, [("我能吞下玻璃而不伤身体我能吞下玻璃而不伤身体", "zh")], Measure(speed_bytes=0))
    assert made["all"]["tokens_per_word"] is None
    assert made["all"]["characters_per_token"] == pytest.approx(1 / 3)
    assert "white space" in made["missing"]["tokens_per_word"]


def test_no_documents_is_an_error(byte_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no text"):
        measure(byte_tokenizer, [("", "x")])


def test_prefix_stability_by_hand_and_by_trying_all(superword_tokenizer: Any) -> None:
    reader = Reader(superword_tokenizer)
    stable = prefix_stability(reader, [Passage(0, "of the sea", "x")], 99, 0)
    # of the|" sea": "of" is another token, "of the" is the first; no other prefix is.
    assert stable(None) == {"word_end": 0.5, "word_end_cuts": 2, "character": 1 / 9, "character_cuts": 9}
    assert stable("y") == {"word_end": None, "word_end_cuts": 0, "character": None, "character_cuts": 0}
    text = "of the king: A sea is the king of the sea"
    whole = encode_text(superword_tokenizer, text)
    kept = [
        whole[: len(ids)] == ids for ids in (encode_text(superword_tokenizer, text[:i]) for i in range(1, len(text)))
    ]
    ends = [kept[i - 1] for i in range(1, len(text)) if text[i] == " "]
    figures = prefix_stability(reader, [Passage(0, text, "x")], 99, 0)("x")
    assert (figures["character"], figures["word_end"]) == (sum(kept) / len(kept), sum(ends) / len(ends))


def test_passages_are_spread_over_the_documents() -> None:
    documents = [("word " * 400, "a"), ("term " * 100, "b")]
    passages = sample_passages(documents, 50, 40, 0)
    assert passages == sample_passages(documents, 50, 40, 0)
    assert len(passages) == 50
    assert sum(p.domain == "a" for p in passages) == pytest.approx(40, abs=1)
    assert all(len(p.text) <= 40 and p.text.startswith(("word", "term")) for p in passages if len(p.text) > 5)
    assert [p.number for p in passages] != sorted(p.number for p in passages)


def test_one_change_of_each_kind(byte_tokenizer: Any) -> None:
    text = "The king went down to the old grey sea"
    for number in range(50):
        typo, capitals, doubled = (perturbed(text, kind, 7, number) or "" for kind in EDITS)
        assert sum(a != b for a, b in zip(text.split(" "), typo.split(" "))) == 1 and len(typo) == len(text)
        assert capitals.lower() == text.lower() and sum(a != b for a, b in zip(text.split(), capitals.split())) == 1
        assert doubled.replace("  ", " ") == text and len(doubled) == len(text) + 1
    assert perturbed("a b", "typo", 7, 0) is None
    robust = perturbations(Reader(byte_tokenizer), [Passage(i, text, "x") for i in range(9)], 7)(None)
    assert robust["doubled_space"] == {"passages": 9, "token_change": 1.0, "edit_distance": 1.0}
    assert robust["capitals"]["token_change"] == robust["typo"]["token_change"] == 0
    assert 1 <= robust["typo"]["edit_distance"] <= 2
    assert 4 <= robust["capitals"]["edit_distance"] <= 4  # king, went, down, grey


def test_edit_distance_against_the_definition() -> None:
    @functools.cache
    def far(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(far(a[1:], b) + 1, far(a, b[1:]) + 1, far(a[1:], b[1:]) + (a[0] != b[0]))

    rng = keyed_rng("edit distance")
    for _ in range(200):
        a, b = (tuple(rng.integers(0, 3, int(rng.integers(0, 7))).tolist()) for _ in range(2))
        assert edit_distance(a, b) == far(a, b)


def test_parity_by_hand(byte_tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "flores.tsv"
    path.write_text("de\ten\nJa.\tYes.\nüber\tover\n\tempty\n", encoding="utf-8")
    parallel = read_parallel([path])
    figures = parity(Reader(byte_tokenizer), parallel)
    assert (figures["reference"], figures["lines"], figures["lines_skipped"]) == ("en", 2, 1)
    assert figures["languages"]["de"] == {
        "tokens": 8,
        "bytes": 8,
        "tokens_per_line": 4,
        "bytes_per_token": 1,
        "premium": 1,
        "byte_premium": 1,
    }
    (tmp_path / "x.en").write_text("a\nb\n")
    (tmp_path / "x.fi").write_text("aaa\nbbb\n")
    figures = parity(Reader(byte_tokenizer), read_parallel([tmp_path / "x.fi", tmp_path / "x.en"]))
    assert figures["languages"]["fi"]["premium"] == figures["max_over_min"] == 3
    assert figures["fairness_gini"] == pytest.approx(0.25)  # (|1-3| + |3-1|) / (2 · 2² · 2)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": "1\n2\n3\n", "b.txt": "1\n2\n"}, "3 lines.*b.txt has 2"),
        ({"a.tsv": "en\tde\nx\ty\nx\n"}, "line 3 has 1 columns, line 1 names 2"),
        ({"a.tsv": "en\nx\n"}, "one language only"),
        ({"a.tsv": "en\ten\nx\ty\n"}, "a name of its own"),
        ({"a.tsv": ""}, "empty"),
        ({"a.tsv": "en\tde\nx\t\n"}, "no line has text in every language"),
        ({"a.tsv": b"en\tde\nx\t\xff\n"}, "not UTF-8"),
    ],
)
def test_bad_parallel_files_are_named(files: dict[str, Any], message: str, tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(DataError, match=message):
        read_parallel([tmp_path / name for name in files])
