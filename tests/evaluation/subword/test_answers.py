"""Asking a task: scores against a loop over options, models whose answers are known, figures, files, determinism."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from evaluation.encoding import TextEncoder
from evaluation.subword.answers import answer, split_figures
from evaluation.subword.asking import Asker, Reply, score_options
from evaluation.subword.questions import Question, TaskData
from evaluation.subword.retokenize import variants
from isotok.errors import ConfigError, DataError
from isotok.files import hash_key
from tests.evaluation.conftest import merged_tokenizer
from tokenization import Unigram, encode_text
from tokenization.tokenizer import save_tokenizer

PROMPT = "which of the king, sea: A?"
COLUMNS = {
    "point": "int64", "split": "string", "variant": "string", "item": "string", "item_hash": "string",
    "type": "string", "group": "string", "n_options": "int64", "gold": "int64", "chosen": "int64", "correct": "bool",
    "correct_bytes": "bool", "exact": "bool", "choice_nats": "list<element: double>", "generated": "string",
}  # fmt: skip


def question(number: int, kind: str, options: tuple[str, ...], gold: int, prompt: str = PROMPT) -> Question:
    return Question(
        id=f"q{number}",
        type=kind,
        prompt=f"{prompt} {number}",
        answer=options[gold],
        options=options,
        gold=gold,
        group=options[gold],
    )


QUESTIONS = tuple(
    question(number, ("long", "short")[number % 2], (" king", " a", " sea", " seaking")[: 3 + number % 2], number % 3)
    for number in range(24)
)


def task_of(**changes: Any) -> TaskData:
    given: dict[str, Any] = {
        "name": "toy",
        "train": (),
        "splits": {"test": QUESTIONS, "other": tuple(question(100 + n, "long", (" a", " b"), 0) for n in range(9))},
        "main": "other",
        "modes": ("choice", "generate"),
        "matched": {"other": "test"},
        "words": ("king", "sea", "queen"),
        "about": {"heuristics": {"test": {"first": 0.3}}, "list": "toy"},
    }
    return TaskData(**{**given, **changes})


@pytest.fixture
def save(tmp_path: Path, make_model: Callable[..., Any]) -> Callable[..., Path]:
    """A folder with a random model and its tokenizer."""

    def make(tokenizer: Any, name: str, **kwargs: Any) -> Path:
        folder = tmp_path / name
        make_model(tokenizer, **kwargs).save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        return folder

    return make


def naive(model: Any, tokenizer: Any, prompt: str, option: str, stop: str) -> float:
    eos = tokenizer.eos_token_id
    before = [eos, *encode_text(tokenizer, prompt)]
    after = [*encode_text(tokenizer, option + stop), *([] if stop else [eos])]
    with torch.no_grad():
        log_p = torch.log_softmax(model(input_ids=torch.tensor([[*before, *after]])).logits[0].double(), -1)
    return -sum(float(log_p[len(before) - 1 + k, token]) for k, token in enumerate(after))


@pytest.mark.parametrize("stop", ["", "$"])
@pytest.mark.parametrize("positions", [None, 64])
def test_choice_against_a_loop_over_options(
    superword_tokenizer: Any, make_model: Callable[..., Any], stop: str, positions: int | None
) -> None:
    model = make_model(superword_tokenizer, positions=positions)
    alike = [
        question(200 + n, "t", ("abc", "acb", "cab", "king", "kingab"), 0, prompt=PROMPT[:n])
        for n in range(len(PROMPT))
    ]
    replies = Asker(superword_tokenizer, stop, choosing=True, generating=False).ask(model, [*QUESTIONS, *alike])
    for asked, reply in zip([*QUESTIONS, *alike], replies):
        expected = [naive(model, superword_tokenizer, asked.prompt, option, stop) for option in asked.options]
        assert reply.nats == pytest.approx(expected, abs=1e-4)
        assert reply.chosen == min(range(len(expected)), key=expected.__getitem__)
        rates = [value / len(option) for value, option in zip(expected, asked.options)]
        assert reply.chosen_bytes == min(range(len(rates)), key=rates.__getitem__)
        assert reply.generated is reply.exact is None
    assert len({reply.chosen for reply in replies}) > 1
    assert any(reply.chosen != reply.chosen_bytes for reply in replies)


class Table(torch.nn.Module):
    """The next id's logits depend on the last id alone."""

    def __init__(self, table: torch.Tensor):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.table = table
        self.config = type("Config", (), {"vocab_size": len(table)})()

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False, past_key_values: Any = None) -> Any:
        return type("Output", (), {"logits": self.table[input_ids], "past_key_values": None})()


@pytest.mark.parametrize("stop", ["", "$"])
def test_the_end_decides_between_options_that_begin_alike(stop: str) -> None:
    tokenizer = merged_tokenizer()
    q, a, b, dollar = (encode_text(tokenizer, text)[0] for text in "qab$")
    end = dollar if stop else tokenizer.eos_token_id
    asked = Question(id="1", type="t", prompt="q", answer="ab", options=("a", "ab", "abb"), gold=1)
    for after_a, after_b, right in ((0.9, 0.4, 0), (0.1, 0.9, 1), (0.1, 0.3, 1), (0.2, 0.1, 0)):
        table = torch.full((len(tokenizer), len(tokenizer)), -60.0)
        table[q, a] = 0.0
        table[a, end], table[a, b] = math.log(after_a), math.log(1 - after_a)
        table[b, end], table[b, b] = math.log(after_b), math.log(1 - after_b)
        (reply,) = Asker(tokenizer, stop, choosing=True, generating=True).ask(Table(table), [asked])
        ab = (1 - after_a) * after_b
        expected = [after_a, ab, (1 - after_a) * (1 - after_b) * after_b]
        assert [math.exp(-nats) for nats in reply.nats] == pytest.approx(expected, rel=1e-5)
        assert reply.chosen == right
        # Greedily the likelier of going on and ending.
        assert reply.exact == (after_a < 0.5 and after_b > 0.5)


def test_an_answer_has_to_end_to_be_exact() -> None:
    tokenizer = merged_tokenizer()
    eos, size = tokenizer.eos_token_id, len(tokenizer)
    q, a, dollar = (encode_text(tokenizer, text)[0] for text in "qa$")
    asked = Question(id="1", type="t", prompt="q", answer="a")
    nothing = size + 3  # a row of a padded vocabulary: it stops the text and is no end
    for after, stop, exact in (
        (eos, "", True),
        (nothing, "", False),
        (dollar, "$", True),
        (eos, "$", True),
        (dollar, "", False),
    ):
        table = torch.zeros(size + 8, size + 8)
        table[q, a] = table[a, after] = table[dollar, eos] = 9.0
        (reply,) = Asker(tokenizer, stop, choosing=False, generating=True).ask(Table(table), [asked])
        assert reply.generated == ("a$" if after == dollar and not stop else "a")
        assert reply.exact == exact


def test_the_first_of_equals_is_chosen(superword_tokenizer: Any) -> None:
    size = len(superword_tokenizer)
    asked = Question(id="1", type="t", prompt="q", answer="b", options=("b", "a"), gold=0)
    other = Question(id="2", type="t", prompt="r", answer="b", options=("a", "b"), gold=1)
    asker = Asker(superword_tokenizer, "", choosing=True, generating=False)
    assert [reply.chosen for reply in asker.ask(Table(torch.zeros(size, size)), [asked, other])] == [0, 0]


def test_scores_that_are_no_numbers_are_refused_by_name(
    superword_tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    model = make_model(superword_tokenizer)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="question q0: .* not finite"):
        Asker(superword_tokenizer, "", choosing=True, generating=False).ask(model, QUESTIONS)


def test_questions_without_options_are_generated_only(superword_tokenizer: Any, make_model: Callable[..., Any]) -> None:
    asked = [*QUESTIONS[:2], Question(id="free", type="t", prompt="the", answer=" king")]
    asker = Asker(superword_tokenizer, "", choosing=True, generating=True)
    replies = asker.ask(make_model(superword_tokenizer), asked)
    assert replies[2].nats == () and replies[2].chosen == -1 and replies[2].generated is not None
    figures = split_figures(asked, replies)
    assert figures["acc"] is not None and figures["by_type"]["t"]["acc"] is None and figures["macro"] is None
    assert score_options(make_model(superword_tokenizer), [], []) == []


def test_figures() -> None:
    asked = [question(n, "ab"[n // 4], ("x", "yy") if n < 4 else ("x", "yy", "z", "w"), n % 2) for n in range(8)]
    right = [True, True, True, False, False, True, False, False]
    replies = [
        Reply((1.0,) * len(q.options), q.gold if ok else 1 - q.gold, q.gold, "", n < 2)
        for n, (q, ok) in enumerate(zip(asked, right))
    ]
    found = split_figures(asked, replies)
    assert found["n"] == 8 and found["acc"] == 0.5 and found["acc_bytes"] == 1.0 and found["exact"] == 0.25
    assert found["chance"] == pytest.approx((4 / 2 + 4 / 4) / 8)
    assert found["by_type"]["a"] == {"n": 4, "chance": 0.5, "acc": 0.75, "exact": 0.5}
    assert found["by_type"]["b"] == {"n": 4, "chance": 0.25, "acc": 0.25, "exact": 0.0}
    assert found["macro"] == 0.5 and found["macro_exact"] == 0.25
    assert found["norm"] == pytest.approx((0.25 / 0.5 + 0) / 2)
    assert split_figures([], [])["acc"] is None


def test_results_and_items(
    tmp_path: Path, tiny_corpus: Path, superword_tokenizer: Any, save: Callable[..., Path]
) -> None:
    points = {40: save(superword_tokenizer, "b", seed=2), 8: save(superword_tokenizer, "a", seed=1)}
    task = task_of()
    asked = {"pretrained": points[40], "point_questions": 10, "seed": 3, "device": "cpu"}
    results = answer(task, points, tiny_corpus, tmp_path / "out", **asked)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    table = pq.read_table(tmp_path / "out" / "items.parquet")
    assert {name: str(table.schema.field(name).type) for name in table.column_names} == COLUMNS
    rows = table.to_pylist()
    plain = [row for row in rows if not row["variant"]]
    assert [(row["point"], row["split"]) for row in plain] == (
        [(8, "test")] * 10 + [(8, "other")] * 9 + [(40, "test")] * 24 + [(40, "other")] * 9
    )
    for point, splits in results["points"].items():
        for split, figures in splits.items():
            own = [row for row in plain if row["point"] == int(point) and row["split"] == split]
            assert figures["n"] == len(own)
            for key, column in (("acc", "correct"), ("acc_bytes", "correct_bytes"), ("exact", "exact")):
                assert figures[key] == pytest.approx(sum(row[column] for row in own) / len(own))
    by_id = {q.id: q for split in task.splits.values() for q in split}
    for row in rows:
        asked = by_id[row["item"]]
        assert row["item_hash"] == asked.hash and row["n_options"] == len(asked.options) == len(row["choice_nats"])
        assert row["correct"] == (row["chosen"] == asked.gold == row["gold"])
        assert row["exact"] == (row["generated"] == asked.answer) or not row["exact"]
    assert results["items_sha256"] == hash_key(
        [[row["point"], row["split"], row["item"], row["item_hash"]] for row in plain], digits=64
    )
    assert results["words"] == {"n": 3, "single_tokens": pytest.approx(1 / 3)}
    assert results["digits_per_token"] == 1.0
    assert results["about"] == {"heuristics": {"test": {"first": 0.3}}, "list": "toy"}
    assert (results["format"], results["main"], results["retok_split"]) == (1, "other", "test")
    # The prompts of the matched split in other ids.
    assert list(results["retok"]) == ["stochastok-0.1", "stochastok-0.5", "stochastok-1", "dropout-0.1", "characters"]
    last = {row["item"]: row for row in plain if row["point"] == 40}
    for name, figures in results["retok"].items():
        own = [row for row in rows if row["variant"] == name]
        assert [row["item"] for row in own] == [q.id for q in QUESTIONS[:10]]
        assert figures["n"] == 10 and figures["growth"] > 0
        assert figures["acc"] == sum(row["correct"] for row in own) / 10
        same = sum(row["chosen"] == last[row["item"]]["chosen"] for row in own) / 10
        assert figures["agreement"] == pytest.approx(same)
        assert ("stable" in figures) == (name != "characters")
    growth = {name: own["growth"] for name, own in results["retok"].items()}
    assert growth["stochastok-0.1"] < growth["stochastok-0.5"] < growth["stochastok-1"] < growth["characters"]
    assert results["consistency"]["agreement"]["dropout-0.1"] == results["retok"]["dropout-0.1"]["stable"]
    assert results["consistency"]["static"]["words"] > 10


def test_the_same_again_and_elsewhere_under_another_seed(
    tmp_path: Path, superword_tokenizer: Any, save: Callable[..., Path]
) -> None:
    points = {1: save(superword_tokenizer, "a")}
    state = torch.random.get_rng_state()

    def run(seed: int, name: str) -> tuple[dict[str, Any], bytes]:
        found = answer(task_of(), points, None, tmp_path / name, point_questions=20, seed=seed)
        return found, (tmp_path / name / "items.parquet").read_bytes()

    first = run(3, "one")
    assert first == run(3, "two")
    assert first[0]["retok"] != run(4, "three")[0]["retok"]
    assert first[0]["consistency"] is None
    assert torch.equal(state, torch.random.get_rng_state())


def test_only_what_the_modes_ask(tmp_path: Path, superword_tokenizer: Any, save: Callable[..., Path]) -> None:
    points = {0: save(superword_tokenizer, "a")}
    found = answer(task_of(modes=("choice",)), points, None, tmp_path / "c", point_questions=5, seed=0)
    figures = found["points"]["0"]["test"]
    assert figures["acc"] is not None and figures["exact"] is None is figures["macro_exact"]
    assert "stochastok-1" not in found["retok"]
    found = answer(task_of(modes=("generate",), stop="$"), points, None, tmp_path / "g", point_questions=5, seed=0)
    figures = found["points"]["0"]["test"]
    assert figures["exact"] is not None and figures["acc"] is None is figures["norm"] is None
    assert found["retok"]["stochastok-1"]["acc"] is None
    rows = pq.read_table(tmp_path / "g" / "items.parquet").to_pylist()
    assert all(row["chosen"] is None and row["correct"] is None and row["choice_nats"] is None for row in rows)


def test_variants_spell_the_prompt_keyed_by_the_question(superword_tokenizer: Any) -> None:
    encoder = TextEncoder(superword_tokenizer)
    text = "which of the king, sea: A? naïve é"
    ids = encode_text(superword_tokenizer, text)
    found, missing = variants(superword_tokenizer, 5, generated=True)
    assert not missing
    for name, retokenize in found.items():
        made = {(q, draw): tuple(retokenize(ids, q, draw)) for q in ("a", "b", "c") for draw in range(8)}
        assert all(b"".join(encoder.bytes[i] for i in row) == text.encode() for row in made.values())
        assert len(set(made.values())) == 1 if name == "characters" else len(set(made.values())) > 1
        again = variants(superword_tokenizer, 5, generated=True)[0][name]
        assert tuple(again(ids, "b", 3)) == made["b", 3]
    characters = found["characters"](ids, "a", 0)
    assert len(characters) == len(text.encode())  # no letter beyond ASCII is an entry


def test_dropout_is_missing_where_there_are_no_merges(tmp_path: Path, save: Callable[..., Path], capfd: Any) -> None:
    tokenizer = Unigram(vocab_size=300).train(["the king saw the sea and the queen saw the king\n"] * 20)
    points = {1: save(tokenizer, "u")}
    found = answer(task_of(), points, None, tmp_path / "out", point_questions=5, seed=0)
    assert list(found["retok_missing"]) == ["dropout-0.1"]
    assert "byte-level BPE" in found["retok_missing"]["dropout-0.1"]
    assert "characters" in found["retok"] and "dropout-0.1" not in found["retok"]
    assert "not asked as dropout-0.1" in capfd.readouterr().err


def test_variants_that_learned_positions_cannot_hold_are_missing(
    tmp_path: Path, superword_tokenizer: Any, save: Callable[..., Path]
) -> None:
    task = task_of(modes=("choice",), splits={"test": QUESTIONS}, main="test", matched={})
    longest = max(len(encode_text(superword_tokenizer, q.prompt)) for q in QUESTIONS)
    points = {1: save(superword_tokenizer, "g", positions=longest + 10)}
    found = answer(task, points, None, tmp_path / "out", point_questions=24, seed=0)
    assert "do not fit the model's" in found["retok_missing"]["characters"]
    assert "stochastok-0.1" in found["retok"]


def test_digits_per_token(byte_tokenizer: Any, tmp_path: Path, save: Callable[..., Path]) -> None:
    tokenizer = merged_tokenizer("12", "345", " 67")
    asked = tuple(
        Question(id=str(n), type="t", prompt=text, answer="1") for n, text in enumerate(("$12+345=", "a 67", "8+9é"))
    )
    task = TaskData("sums", (), {"test": asked}, "test", modes=("generate",), stop="$")
    found = answer(task, {0: save(tokenizer, "t")}, None, tmp_path / "a", point_questions=9, seed=0)
    assert found["digits_per_token"] == pytest.approx((2 + 3 + 2 + 1 + 1 + 3) / 8)  # the answers are a digit each
    plain = TaskData("none", (), {"test": (Question("1", "t", "no number", "1"),)}, "test", modes=("generate",))
    found = answer(plain, {0: save(byte_tokenizer, "b")}, None, tmp_path / "b", point_questions=9, seed=0)
    assert found["digits_per_token"] is None


def test_refusals(tmp_path: Path, superword_tokenizer: Any, byte_tokenizer: Any, save: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="no model to ask"):
        answer(task_of(), {}, None, tmp_path / "out", point_questions=1, seed=0)
    one, other = save(superword_tokenizer, "a"), save(byte_tokenizer, "b")
    with pytest.raises(DataError, match="another tokenizer"):
        answer(task_of(), {1: other, 2: one}, None, tmp_path / "out", point_questions=1, seed=0)
    shutil.copytree(one, tmp_path / "c")
    (tmp_path / "c" / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="tokenizer.json: not found"):
        answer(task_of(), {1: tmp_path / "c"}, None, tmp_path / "out", point_questions=1, seed=0)
