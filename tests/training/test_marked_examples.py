"""Questions with marks: the meta token's id stands there, in fine-tuning and asking, and nowhere else."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.subword.answers import answer
from evaluation.subword.asking import Asker
from evaluation.subword.questions import Question, TaskData, write_task
from isotok.errors import ConfigError
from isotok.files import read_json
from modeling import MetaLlama
from tokenization import load_tokenizer
from tokenization.tokenizer import encode_marked, encode_text
from training import Engine
from training.api import prepare_finetune
from training.examples import read_examples
from training.recipes import Finetuning
from training.worker import run

MODEL = MetaLlama(hidden_size=48, layers=2, heads=2, mlp_size=96, placement="none")


def question(number: int) -> Question:
    """Which of two words the mark stands behind: nothing but the mark says."""
    first, second = ("sea", "ship") if number % 2 else ("ship", "sea")
    prompt = f"{first} {second} {'stone ' * (number // 4 % 5)}which?"
    mark = len(first) if number // 2 % 2 else len(first) + 1 + len(second)
    answer = first if number // 2 % 2 else second
    return Question(
        id=str(number),
        type="which",
        prompt=f"{number} {prompt}",
        answer=f" {answer}",
        marks=(mark + 1 + len(str(number)),),
    )


def task(train: int = 400) -> TaskData:
    made = [question(number) for number in range(train + 40)]
    return TaskData(
        name="which", train=tuple(made[:train]), splits={"test": tuple(made[train:])}, main="test", modes=("generate",)
    )


def test_parts_are_encoded_apart(artefacts: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(artefacts["tokenizer"])
    texts, marks = ["the ship", "stone", "a sea", "sea"], [(3,), (), (1, 5), (1,)]
    made = encode_marked(tokenizer, texts, marks, 999)

    def e(text: str) -> list[int]:
        return list(encode_text(tokenizer, text))

    assert made == [
        [*e("the"), 999, *e(" ship")], e("stone"), [*e("a"), 999, *e(" sea"), 999], [*e("s"), 999, *e("ea")],
    ]  # fmt: skip
    assert encode_marked(tokenizer, ["stone"], [()], None) == [e("stone")]
    with pytest.raises(ConfigError, match="'the ship' has marks: they need a model with a meta token"):
        encode_marked(tokenizer, texts, marks, None)


def test_the_string_of_the_meta_token_in_text_stays_text(artefacts: dict[str, Path]) -> None:
    """It has no string: no text encodes to its id."""
    tokenizer = load_tokenizer(artefacts["tokenizer"])
    for text in ("_META_", "<|meta|>", "_PAUSE_ 292", f"{len(tokenizer)}"):
        ids = encode_text(tokenizer, text)
        assert max(ids) < len(tokenizer) and tokenizer.decode(ids) == text


def test_examples_and_prompts_have_the_same_ids(artefacts: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(artefacts["tokenizer"])
    write_task(task(8), tmp_path / "task")
    examples = read_examples(tmp_path / "task", tokenizer, len(tokenizer))
    asker = Asker(tokenizer, "", choosing=False, generating=True, meta_id=len(tokenizer))
    for number, prompt in enumerate(asker.prompts([question(n) for n in range(8)])):
        inputs, targets = examples.block(number)
        assert inputs.tolist()[: len(prompt) + 1] == [tokenizer.eos_token_id, *prompt]
        assert prompt.count(len(tokenizer)) == 1 and len(tokenizer) not in targets
    with pytest.raises(ConfigError, match="has marks"):
        read_examples(tmp_path / "task", tokenizer)


@pytest.mark.slow
def test_a_model_learns_what_only_the_mark_says(artefacts: dict[str, Path], tmp_path: Path) -> None:
    write_task(task(), tmp_path / "task")
    prepare_finetune(
        finetuning=Finetuning(questions=4000, points=(), batch=20, rows=10, max_epochs=20, lr=3e-3, wandb="disabled"),
        init_model=None,
        model=MODEL,
        context_tokens=64,
        questions=tmp_path / "task",
        tokenizer=artefacts["tokenizer"],
        engine=Engine(device="cpu"),
        out=tmp_path / "run",
        label="run",
        seed=0,
    )
    run(tmp_path / "run")
    last = max((tmp_path / "run" / "points").iterdir())
    asked: Any = answer(task(), {4000: last}, None, tmp_path / "out", point_questions=40, seed=0, device="cpu")
    assert asked["points"]["4000"]["test"]["exact"] > 0.9
    assert asked["retok"] == {} and "marks" in asked["retok_missing"]["other ids"]
    lines = (tmp_path / "task" / "test.jsonl").read_text().splitlines()
    assert all(len(json.loads(line)["marks"]) == 1 for line in lines)
    assert read_json(last / "config.json")["meta_token_id"] == len(load_tokenizer(artefacts["tokenizer"]))
