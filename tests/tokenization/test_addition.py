"""Sums: the corpus against a plain list of all problems, and the vocabulary of digit strings."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from isotok.errors import ConfigError, DataError
from isotok.recipe import build
from tokenization import StochasTok, build_corpus, read_documents
from tokenization.addition import Addition, AdditionBPE, digit_strings, read_problems
from tokenization.corpus import SPLITS
from tokenization.tokenizer import encode_text, load_tokenizer, save_tokenizer, token_bytes


def texts(folder: Path) -> dict[str, list[str]]:
    return {split: [document.text for document in read_documents(folder, split)] for split in SPLITS}


def plainly_read(text: str) -> list[tuple[int, int, int]]:
    """(a, b, sum) by splitting at signs alone."""
    assert text[0] == "$"
    problems = []
    for problem in text[1:].split("$"):
        question, answer = problem.split("=")
        a, b = question.split("+")
        assert not re.match("0.", b)
        problems.append((int(a), int(b), int(answer[::-1])))
    return problems


@pytest.fixture(scope="module")
def two_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(Addition(digits=2), folder)
    return folder


@pytest.mark.parametrize("digits", [1, 2])
def test_all_problems_are_there_once_and_a_tenth_is_held_out(tmp_path: Path, digits: int) -> None:
    build_corpus(Addition(digits=digits, problems=30), tmp_path)
    found = {split: [p for text in part for p in plainly_read(text)] for split, part in texts(tmp_path).items()}
    assert all(a + b == total for part in found.values() for a, b, total in part)
    pairs = sorted((a, b) for part in found.values() for a, b, _ in part)
    assert pairs == [(a, b) for a in range(10 ** (digits - 1), 10**digits) for b in range(10**digits)]
    total = len(pairs)
    assert abs(len(found["test"]) - 0.08 * total) <= 1
    assert abs(len(found["train"]) - 0.9 * total) <= 2


@pytest.mark.slow
def test_three_digits_are_810_000_training_problems(tmp_path: Path) -> None:
    figures = build_corpus(Addition(digits=3), tmp_path)
    counts = {split: sum(text.count("$") for text in part) for split, part in texts(tmp_path).items()}
    assert sum(counts.values()) == 900_000
    assert abs(counts["train"] - 810_000) <= 2 and abs(counts["test"] - 72_000) <= 1
    assert figures["leak_share"] < 0.001 and figures["duplicates"]["documents"] == 0
    held_out = {
        (a, b) for split in ("test", "validation") for t in texts(tmp_path)[split] for a, b, _ in plainly_read(t)
    }
    for text in texts(tmp_path)["train"]:
        assert not any((a, b) in held_out or (b, a) in held_out for a, b, _ in plainly_read(text))


def test_a_pair_is_on_one_side_in_both_orders(two_digits: Path) -> None:
    sides: dict[frozenset[int], set[str]] = {}
    for split, part in texts(two_digits).items():
        for text in part:
            for a, b, _ in plainly_read(text):
                sides.setdefault(frozenset((a, b)), set()).add(split)
    assert {len(side) for side in sides.values()} == {1}
    assert len(sides) == 90 * 91 // 2 + 90 * 10  # both of 10..99 in either order, and those with b < 10


def test_documents_are_whole_problems_in_mixed_order(two_digits: Path) -> None:
    found = texts(two_digits)
    assert sum(len(part) for part in found.values()) == 51 + 2 + 5
    assert sorted(text.count("$") for text in found["train"])[1:] == [160] * 50
    document = read_problems(found["train"][0], "here")
    assert document == [(a, b) for a, b, _ in plainly_read(found["train"][0])]
    rising = sum(x < y for (x, _), (y, _) in pairwise(document)) / len(document)
    assert 0.4 < rising < 0.6 and len({a for a, _ in document}) > 60


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    figures = {
        name: build_corpus(Addition(digits=2, seed=seed), tmp_path / name)["sha256"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    }
    assert figures["a"] == figures["b"] != figures["c"]
    assert set(texts(tmp_path / "a")["test"]).isdisjoint(texts(tmp_path / "c")["test"])


def test_less_text_takes_training_problems_alone(tmp_path: Path, two_digits: Path) -> None:
    build_corpus(Addition(digits=2, max_bytes=40_000), tmp_path)
    short, full = texts(tmp_path), texts(two_digits)
    assert short["test"] == full["test"] and short["validation"] == full["validation"]
    assert set(short["train"]) < set(full["train"])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("$12+3=51$4+5=", r"character 8 \('\$4\+5='"),
        ("To be, or not", "corpus=addition"),
        ("$12+3=16", r"'\$12\+3=16' is not how 12 \+ 3"),
        ("$12+03=51", "is not how 12 \\+ 3"),
    ],
)
def test_what_is_no_sum_is_named(text: str, what: str) -> None:
    with pytest.raises(DataError, match=f"here.*{what}"):
        read_problems(text, "here")


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"digits": 0}, "corpus.digits=0: .*greater than or equal to 1"),
        ({"digits": 4}, "corpus.digits=4: .*less than or equal to 3"),
        ({"problems": 0}, "corpus.problems=0"),
        ({"problems": 200_000}, "cut inside a number; lower problems"),
        ({"digits": 1, "validation_fraction": 0.001}, "validation_fraction=0.001: no problem of 90"),
        ({"digit": 2}, "did you mean digits"),
    ],
)
def test_wrong_keys_are_named(keys: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        build({"_target_": "tokenization.addition.Addition", **keys}, "corpus")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(AdditionBPE().train([]), folder)
    return load_tokenizer(folder)


@pytest.mark.slow
def test_entries_are_the_bytes_and_all_strings_of_two_and_three_digits(vocabulary: Any) -> None:
    entries = set(token_bytes(vocabulary))
    wanted = {bytes([i]) for i in range(256)} | {text.encode() for text in digit_strings()}
    assert entries == wanted | {b""} and len(vocabulary) == 256 + 100 + 1000 + 1
    assert len(digit_strings()) == len(set(digit_strings())) == 1110


@pytest.mark.slow
def test_numbers_are_read_in_threes_from_the_left_and_signs_alone(vocabulary: Any) -> None:
    pieces = token_bytes(vocabulary)
    for text, tokens in (
        ("$47+8=55$60+71=131", ["$", "47", "+", "8", "=", "55", "$", "60", "+", "71", "=", "131"]),
        ("$1234+56789=32085", ["$", "123", "4", "+", "567", "89", "=", "320", "85"]),
        ("$100+900=0001", ["$", "100", "+", "900", "=", "000", "1"]),
    ):
        assert [pieces[i].decode() for i in encode_text(vocabulary, text)] == tokens
    # Cut anywhere, so that a question and its answer apart are the ids of both together.
    ids = encode_text(vocabulary, "$47+8=") + encode_text(vocabulary, "55") + encode_text(vocabulary, "$60+71=131")
    assert ids == encode_text(vocabulary, "$47+8=55$60+71=131")


@pytest.mark.slow
def test_stochastok_splits_numbers_in_every_way(vocabulary: Any) -> None:
    import numpy as np

    pieces = token_bytes(vocabulary)
    expand = StochasTok(p=1.0, fresh=True).bind(vocabulary, 0)
    ids = np.array(encode_text(vocabulary, "$147+258=504"))
    seen = {tuple(pieces[i].decode() for i in expand(ids, epoch, 0)[1:]) for epoch in range(400)}
    assert {"".join(text) for text in seen} == {"147+258=504"}
    first = {tuple(text[: text.index("+")]) for text in seen}
    assert first == {("147",), ("14", "7"), ("1", "47"), ("1", "4", "7")}


@pytest.mark.slow
def test_saved_vocabularies_are_equal_bit_for_bit(tmp_path: Path, vocabulary: Any) -> None:
    save_tokenizer(AdditionBPE().train(["other text"]), tmp_path)
    again = json.loads((tmp_path / "tokenizer.json").read_text())
    assert again == json.loads(vocabulary.backend_tokenizer.to_str())
