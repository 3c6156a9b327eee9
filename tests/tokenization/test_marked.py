"""The vendored word lists, and the corpus from which a small vocabulary learns them whole."""

from pathlib import Path
from typing import Any

import pytest

from isotok.errors import ConfigError
from isotok.recipe import build
from tokenization import build_corpus, read_documents
from tokenization.bpe import BPE
from tokenization.marked import MarkedCorpus
from tokenization.tokenizer import encode_text, encode_texts
from tokenization.word_lists import names, nouns


def test_the_lists_hold_plain_words_that_cannot_be_mistaken() -> None:
    assert len(set(nouns())) == len(nouns()) == 2000 and len(set(names())) == len(names()) == 200
    assert all(word.isascii() and word.isalpha() and word.islower() for word in nouns())
    assert all(word.isascii() and word.isalpha() and word == word.capitalize() for word in names())
    assert not set(nouns()) & {name.lower() for name in names()}
    assert not [(a, b) for a in names() for b in names() if a != b and b.startswith(a)]
    wording = "what is item of how many times does appear between the marks mark parity bits before copy text words"
    assert not set(nouns()) & {*wording.split(), "question", "answer"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marked")
    build_corpus(MarkedCorpus(), folder)
    return folder


def texts(folder: Path) -> list[str]:
    return [document.text for document in read_documents(folder, "train")]


@pytest.mark.parametrize("pretokenizer", ["superbpe_stage1", "gpt2", "llama3"])
def test_a_small_vocabulary_has_every_word_whole(corpus: Path, pretokenizer: str) -> None:
    tokenizer = BPE(vocab_size=1024, pretokenizer=pretokenizer).train(texts(corpus))
    assert len(tokenizer) <= 1024 + 1
    # The other two part digits from the space before them.
    numbers = "0123456789" if pretokenizer == "gpt2" else ""
    whole = [f" {word}" for word in (*nouns()[:50], *names()[:50], *numbers)] + list(names()[:50])
    torn = [text for text, ids in zip(whole, encode_texts(tokenizer, whole)) if len(ids) != 1]
    assert not torn
    asked = "Question: how many times does lamp appear between the marks? Answer:"
    assert len(encode_text(tokenizer, asked)) == 14


def test_answers_that_need_no_mark_are_right(corpus: Path) -> None:
    checked = 0
    for text in texts(corpus):
        lists: dict[str, list[str]] = {}
        for line in text.splitlines():
            if line.startswith("Question: what is item "):
                number, _, name = line.removeprefix("Question: what is item ").partition("?")[0].split()
                assert line.split("Answer: ")[1] == lists[name][int(number) - 1]
                checked += 1
            elif line.endswith("."):
                name, _, items = line[:-1].partition(": ")
                lists[name] = items.split(", ")
    assert checked > 1000


def test_the_same_recipe_gives_the_same_text() -> None:
    small: dict[str, Any] = {"texts": 20, "questions": 8}
    made = list(MarkedCorpus(**small).documents())
    assert made == list(MarkedCorpus(**small).documents()) == list(MarkedCorpus(texts=40, questions=8).documents())[:20]
    assert made != list(MarkedCorpus(**small, seed=1).documents())


@pytest.mark.parametrize("keys", [{"names": 201}, {"items": 7}, {"texts": 0}, {"questions": 0}])
def test_wrong_keys_are_named(keys: dict[str, Any]) -> None:
    (name, value), *_ = keys.items()
    with pytest.raises(ConfigError, match=f"corpus.{name}={value}"):
        build({"_target_": "tokenization.marked.MarkedCorpus", **keys}, "corpus")
