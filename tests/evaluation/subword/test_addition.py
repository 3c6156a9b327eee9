"""Questions of sums: answers computed again, what is held out, digits a token."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.subword.addition import MIN_DIGITS_PER_TOKEN, AdditionTask, carries
from evaluation.subword.questions import TaskData, read_task, write_task
from isotok.errors import ConfigError, DataError
from isotok.recipe import build
from tokenization import build_corpus, read_documents
from tokenization.addition import Addition, AdditionBPE
from tokenization.tokenizer import encode_text


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(Addition(digits=2), folder)
    return folder


@pytest.fixture(scope="module")
def task(corpus: Path) -> TaskData:
    return AdditionTask(longer=300).data(corpus)


def asked(prompt: str) -> tuple[int, int]:
    assert prompt[0] == "$" and prompt[-1] == "="
    a, b = prompt[1:-1].split("+")
    return int(a), int(b)


def long_sum(a: int, b: int) -> tuple[str, int]:
    """Column by column as at school: the sum from its last digit on, and how many columns carry."""
    first, second = str(a)[::-1], str(b)[::-1]
    digits, carried, carry = "", 0, 0
    for k in range(max(len(first), len(second))):
        column = sum(int(number[k]) for number in (first, second) if k < len(number)) + carry
        carry = column // 10
        carried += carry
        digits += str(column % 10)
    return digits + "1" * carry, carried


def test_answers_and_types_are_those_of_a_sum_by_columns(task: TaskData) -> None:
    for questions in task.splits.values():
        for question in questions:
            a, b = asked(question.prompt)
            answer, carried = long_sum(a, b)
            assert (question.answer, question.type) == (answer, f"carry{carried}")
            assert (question.aux == "overflow") == (len(answer) > len(str(a)))
    assert {question.type for question in task.splits["test"]} == {"carry0", "carry1", "carry2"}
    assert carries(999, 1) == 3 and carries(500, 499) == 0 and carries(5, 95) == 2


def test_the_whole_test_split_is_asked_and_nothing_of_it_is_in_the_training_text(corpus: Path, task: TaskData) -> None:
    test = task.splits["test"]
    assert abs(len(test) - 720) <= 1 and len({question.prompt for question in test}) == len(test)
    held_out = "".join(document.text for document in read_documents(corpus, "test"))
    train = "".join(document.text for document in read_documents(corpus, "train"))
    for question in test:
        a, b = asked(question.prompt)
        assert question.prompt + question.answer in held_out
        assert f"${a}+{b}=" not in train and f"${b}+{a}=" not in train


def test_longer_numbers_have_a_digit_more_and_are_held_against_the_test_split(task: TaskData) -> None:
    longer = task.splits["longer"]
    assert len(longer) == 300 and task.matched == {"longer": "test"}
    pairs = [asked(question.prompt) for question in longer]
    assert len(set(pairs)) == 300
    assert all(100 <= a < 1000 and 0 <= b < 1000 for a, b in pairs)
    assert sum(b < 100 for _, b in pairs) < 60  # drawn evenly


def test_heuristics_are_shares_of_the_questions(corpus: Path, task: TaskData) -> None:
    rules = task.about["heuristics"]["test"]
    test = task.splits["test"]
    no_carry = sum(question.type == "carry0" for question in test) / len(test)
    assert rules["each digit alone, nothing carried"] == pytest.approx(no_carry)
    assert 0 < rules["the training text's most common answer"] < 0.03


def test_questions_are_a_keyed_choice_in_random_order(corpus: Path, task: TaskData) -> None:
    again, fewer = AdditionTask(longer=300).data(corpus), AdditionTask(questions=100, longer=0).data(corpus)
    assert again == task
    assert fewer.splits["test"] == task.splits["test"][:100] and "longer" not in fewer.splits and not fewer.matched
    other = AdditionTask(questions=100, seed=1).data(corpus)
    assert other.splits["test"] != fewer.splits["test"]
    shares = [
        sum(q.type == "carry0" for q in part) / len(part) for part in (task.splits["test"][:200], task.splits["test"])
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.12)


def test_the_folder_gives_it_back(tmp_path: Path, task: TaskData) -> None:
    written = write_task(task, tmp_path)
    assert written["modes"] == ["generate"] and written["stop"] == "$" and "train" not in written["files"]
    assert read_task(tmp_path) == task


def test_a_corpus_of_other_text_is_refused(tmp_path: Path) -> None:
    from tests.conftest import tiny_texts
    from tests.tokenization.test_corpus import Given

    rows = tuple((f"d{i}", text, f"d{i}", "tiny") for i, text in enumerate(tiny_texts(40)))
    build_corpus(Given(rows=rows), tmp_path)
    with pytest.raises(DataError, match=r"train.parquet: document d\d+: not addition text.*corpus=addition"):
        AdditionTask().data(tmp_path)


def test_a_problem_that_is_held_out_and_trained_on_is_refused(tmp_path: Path) -> None:
    from tests.tokenization.test_corpus import Given

    texts = ["$12+3=51$40+40=08", "$13+12=52", "$12+13=52", "$9+1=01"]
    rows = tuple((f"d{i}", text, f"d{i}", "sums") for i, text in enumerate(texts))
    for seed in range(20):
        folder = tmp_path / str(seed)
        build_corpus(Given(rows=rows, seed=seed, test_fraction=0.25, validation_fraction=0.2), folder)
        if {document.id for document in read_documents(folder, "test")} <= {"d1", "d2"}:
            train = {document.id for document in read_documents(folder, "train")}
            if train & {"d1", "d2"}:
                with pytest.raises(DataError, match="1 of the held-out problems, such as 1[23]"):
                    AdditionTask(longer=0).data(folder)
                return
    raise AssertionError("no seed parted the pair")


@pytest.mark.parametrize(
    ("keys", "what"), [({"questions": 0}, "task.questions=0"), ({"longer": -1}, "task.longer=-1"), ({"n": 1}, "task.n")]
)
def test_wrong_keys_are_named(keys: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        build({"_target_": "evaluation.subword.addition.AdditionTask", **keys}, "task")


@pytest.mark.slow
@pytest.mark.parametrize("digits", [2, 3])
def test_subword_tokens_hold_two_digits_of_the_numbers(tmp_path: Path, digits: int) -> None:
    build_corpus(Addition(digits=digits, max_bytes=1_500_000), tmp_path)
    made = AdditionTask().data(tmp_path)
    tokenizer = AdditionBPE().train([])
    numbers = [n for q in made.splits["test"] for n in (*q.prompt[1:-1].split("+"), q.answer)]
    tokens = sum(len(encode_text(tokenizer, number)) for number in numbers)
    # Three numbers and three signs: no digit shares a token with a sign.
    whole = sum(len(encode_text(tokenizer, q.prompt) + encode_text(tokenizer, q.answer)) for q in made.splits["test"])
    assert whole == tokens + 3 * len(made.splits["test"])
    assert sum(map(len, numbers)) / tokens >= MIN_DIGITS_PER_TOKEN
