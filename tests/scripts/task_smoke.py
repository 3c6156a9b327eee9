"""A whole subword-task experiment in a minute, as the command line runs it."""

from pathlib import Path

from tokenization.sources import Embedded


def write_texts(folder: Path) -> Path:
    """Some of the shipped text, a file a document: enough for a list of a few hundred words."""
    folder.mkdir()
    for i, document in enumerate(Embedded().documents()):
        if i % 40 == 0:
            (folder / f"{i:04d}.txt").write_text(document.text, encoding="utf-8")
    return folder


def task_arguments(files: Path) -> list[str]:
    return [
        "experiment=smoke",
        "corpus=local",
        f"corpus.paths=[{files}/*.txt]",
        "corpus.test_fraction=0.2",
        "tokenizer.vocab_size=600",
        "evaluation.tasks=[]",
        "evaluation.samples=0",
        "evaluation.segmentations=4",
        "task=langgame",
        "task.words=300",
        "task.train_questions=128",
        "task.test_questions=8",
        "task.point_questions=24",
        "finetuning.questions=128",
        "finetuning.batch=16",
        "finetuning.points=[64,128]",
        "finetuning.wandb=disabled",
        "training.wandb=disabled",
        'arms.superbpe=["tokenizer=superbpe"]',
        'arms.stochastok=["transform=stochastok"]',
        'arms.no_pretrain=["finetuning.init=random"]',
    ]
