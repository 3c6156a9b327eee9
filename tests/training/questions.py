"""A task whose answer is a word of the tiny corpus, and fine-tuning runs on it."""

from pathlib import Path
from typing import Any

from evaluation.subword.questions import Question, TaskData, write_task
from modeling import Llama
from tests.training.conftest import WORDS
from training import Engine
from training.api import prepare_finetune
from training.recipes import Finetuning

MODEL = Llama(hidden_size=32, layers=2, heads=2, mlp_size=64)
QUESTIONS, BATCH, ROWS = 96, 12, 4
STEPS = QUESTIONS // BATCH


def write_questions(folder: Path, count: int = QUESTIONS, stop: str = "", marker: str = "") -> Path:
    """Prompts and answers of several lengths."""
    train = []
    for i in range(count):
        words = [WORDS[(i + 3 * k) % len(WORDS)] for k in range(1 + i % 5)]
        prompt = f"{marker}Which is last of {', '.join(words)} ({i})? Answer:"
        train.append(Question(id=f"q{i}", type="last", prompt=prompt, answer=f" {' '.join(words[: 1 + i % 2])}"))
    asked = Question(id="a", type="last", prompt="Which?", answer=" sea")
    write_task(TaskData("last", tuple(train), {"test": (asked,)}, "test", modes=("generate",), stop=stop), folder)
    return folder


def write_finetune(artefacts: dict[str, Path], out: Path, questions: Path, **changes: Any) -> Path:
    """RUN_DIR/run.json for a fine-tuning of STEPS steps from random weights, saved every few of them."""
    settings = {
        "questions": QUESTIONS,
        "batch": BATCH,
        "rows": ROWS,
        "points": (20, 60),
        "lr": 3e-3,
        "min_warmup_steps": 2,
        "save_every_steps": 3,
        "wandb": "disabled",
        **changes.pop("finetuning", {}),
    }
    fields: dict[str, Any] = {
        "init_model": None,
        "model": MODEL,
        "context_tokens": 64,
        "tokenizer": artefacts["tokenizer"],
        "engine": Engine(device="cpu"),
        "label": "run",
        "seed": 0,
        **changes,
    }
    if fields["init_model"] is not None:
        fields |= {"model": None, "context_tokens": None}
    prepare_finetune(finetuning=Finetuning(**settings), questions=questions, out=out, **fields)
    return out
