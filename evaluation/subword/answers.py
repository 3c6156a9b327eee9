"""Stage `answers`: a task's questions to the models of a run -> results.json (figures) and items.parquet (answers)."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.subword.asking import Asker, Reply, text_limit
from evaluation.subword.questions import Question, TaskData, chance
from evaluation.subword.retokenize import is_random, variants
from isotok.errors import ConfigError, DataError
from isotok.files import hash_key, sha256_file, write_json
from isotok.progress import say

FORMAT = 1
DRAWS = 4
DRAWN_QUESTIONS = 400
"""Random re-encodings that have to agree, of so many questions at most."""
_NUMBER = re.compile(r"[0-9]+")


def answer(
    task: TaskData,
    points: Mapping[int, Path],
    corpus: Path | None,
    out: Path,
    *,
    pretrained: Path | None = None,
    point_questions: int,
    seed: int,
    device: str = "auto",
    threads: int = 1,
) -> dict[str, Any]:
    """Ask the task of the model at each point (questions learned from → Hugging Face folder with its tokenizer).

    Every point is asked the first `point_questions` of each split, the last one all of them; the last one is also
    asked the split of the headline, or its match in the training distribution, in other encodings of the prompts.
    The consistency of encodings is probed on `pretrained` over the test text of `corpus`; without either it is left
    out: a model that knows the task's questions alone says little of text.

    Writes `out`/results.json and items.parquet; returns the content of the former, which is the same for the same
    models, device kind and threads. Raises ConfigError without points, DataError where tokenizers differ or a model
    gives no numbers.
    """
    import torch

    if not points:
        raise ConfigError(f"task {task.name}: no model to ask")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _answer(task, points, corpus, out, pretrained, point_questions, seed, device)
    finally:
        torch.set_num_threads(before)


def _answer(
    task: TaskData,
    points: Mapping[int, Path],
    corpus: Path | None,
    out: Path,
    pretrained: Path | None,
    point_questions: int,
    seed: int,
    device: str,
) -> dict[str, Any]:
    from evaluation.checkpoint import check_vocabulary, load_model
    from evaluation.subword.consistency import consistency
    from modeling.meta_injection import meta_id_of
    from tokenization.tokenizer import load_tokenizer

    last = max(points)
    _same_tokenizer(list(points.values()))
    tokenizer = load_tokenizer(points[last])
    figures: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    retok: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    probed: dict[str, Any] | None = None
    choosing, generating = ("choice" in task.modes), ("generate" in task.modes)
    for point in sorted(points):
        model = load_model(points[point], device)
        check_vocabulary(model, tokenizer, f"{points[point]}")
        meta_id = meta_id_of(model.config)
        asker = Asker(tokenizer, task.stop, choosing=choosing, generating=generating, meta_id=meta_id)
        own = {
            split: questions if point == last else questions[:point_questions]
            for split, questions in task.splits.items()
        }
        figures[str(point)] = {}
        for split, questions in own.items():
            name = f"{task.name} {split} after {point}"
            limit = text_limit(task.splits[split], task.stop)
            replies = asker.ask(model, questions, most_bytes=limit, name=name)
            figures[str(point)][split] = split_figures(questions, replies)
            rows += [_row(point, split, "", q, reply) for q, reply in zip(questions, replies)]
            if point == last and split == task.matched.get(task.main, task.main):
                plain = replies[:point_questions]
        say(_in_words(task, point, figures[str(point)]))
        if point == last:
            split = task.matched.get(task.main, task.main)
            asked = task.splits[split][:point_questions]
            retok, missing, more = _retokenized(asker, model, task, point, split, asked, plain, seed)
            rows += more
            if corpus is not None and pretrained == points[last]:
                probed = consistency(model, tokenizer, corpus, seed)
    if corpus is not None and pretrained is not None and pretrained != points[last]:
        _same_tokenizer([points[last], pretrained])
        probed = consistency(load_model(pretrained, device), tokenizer, corpus, seed)
    if probed is not None:
        probed["agreement"] = {name: own["stable"] for name, own in retok.items() if "stable" in own}
    results = {
        "format": FORMAT,
        "task": task.name,
        "main": task.main,
        "modes": list(task.modes),
        "matched": dict(task.matched),
        "about": dict(task.about),
        "words": _single_tokens(asker, task.words),
        "digits_per_token": _digits_per_token(asker, task.splits[task.main]),
        "points": figures,
        "retok": retok,
        "retok_split": task.matched.get(task.main, task.main),
        "retok_missing": missing,
        "consistency": probed,
        "items_sha256": hash_key(
            [[r["point"], r["split"], r["item"], r["item_hash"]] for r in rows if not r["variant"]], digits=64
        ),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_items(rows, out / "items.parquet")
    write_json(out / "results.json", results)
    return results


def split_figures(questions: Sequence[Question], replies: Sequence[Reply]) -> dict[str, Any]:
    """Shares of right answers, over all and by type; None where the mode is not asked.

    acc: of the likeliest option, acc_bytes: per byte, exact: of generated texts; chance: of guessing. macro,
    macro_exact: means over types; norm: the mean over types of (acc - chance) / (1 - chance).
    """
    types: dict[str, list[int]] = {}
    for at, question in enumerate(questions):
        types.setdefault(question.type, []).append(at)
    by_type = {}
    for name, places in types.items():
        mine = _shares([questions[at] for at in places], [replies[at] for at in places])
        by_type[name] = {key: mine[key] for key in ("n", "chance", "acc", "exact")}
    norms = [
        None if own["acc"] is None or own["chance"] == 1 else (own["acc"] - own["chance"]) / (1 - own["chance"])
        for own in by_type.values()
    ]
    return {
        **_shares(questions, replies),
        "macro": _mean([own["acc"] for own in by_type.values()]),
        "macro_exact": _mean([own["exact"] for own in by_type.values()]),
        "norm": _mean(norms),
        "by_type": by_type,
    }


def _shares(questions: Sequence[Question], replies: Sequence[Reply]) -> dict[str, Any]:
    pairs = [(question, reply) for question, reply in zip(questions, replies) if reply.nats]
    return {
        "n": len(questions),
        "chance": chance([question for question, _ in pairs]),
        "acc": _mean([float(reply.chosen == question.gold) for question, reply in pairs]),
        "acc_bytes": _mean([float(reply.chosen_bytes == question.gold) for question, reply in pairs]),
        "exact": _mean([None if reply.exact is None else float(reply.exact) for reply in replies]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """None where there is nothing, or a value is missing."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _retokenized(
    asker: Asker,
    model: Any,
    task: TaskData,
    point: int,
    split: str,
    questions: Sequence[Question],
    plain: Sequence[Reply],
    seed: int,
) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[dict[str, Any]]]:
    """Figures by variant, missing variants with the reason, rows of items.parquet.

    agreement: share of questions answered as in the canonical encoding; stable: share of the first DRAWN_QUESTIONS
    answered alike under all DRAWS draws of a random variant; growth: ids after / before - 1. acc, exact, agreement and
    the rows are of the first draw.
    """
    if any(question.marks for question in questions):
        return {}, {"other ids": "prompts have marks, which no other encoding has"}, []
    found, missing = variants(asker.tokenizer, seed, generated=asker.generating)
    prompts = asker.encode([question.prompt for question in questions])
    limit = text_limit(task.splits[split], task.stop)

    figures: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    for name, retokenize in found.items():
        draws = []
        for draw in range(DRAWS if is_random(name) else 1):
            asked = questions if draw == 0 else questions[:DRAWN_QUESTIONS]
            draws.append([retokenize(ids, question.id, draw) for question, ids in zip(asked, prompts)])
        if too_long := asker.beyond(model, questions, [ids for drawn in draws for ids in drawn]):
            missing[name] = too_long
            continue
        replies, *more = (
            asker.ask(model, questions[: len(ids)], ids, most_bytes=limit, name=f"{task.name} {split} as {name}")
            for ids in draws
        )
        growth = sum(map(len, draws[0])) / sum(map(len, prompts)) - 1
        own = _shares(questions, replies)
        figures[name] = {
            "n": len(questions),
            "acc": own["acc"],
            "exact": own["exact"],
            "agreement": _mean([float(_said(a) == _said(b)) for a, b in zip(plain, replies)]),
            "growth": growth,
        }
        if more:
            figures[name]["stable"] = _mean(
                [float(len({_said(reply) for reply in drawn}) == 1) for drawn in zip(replies, *more)]
            )
        rows += [_row(point, split, name, question, reply) for question, reply in zip(questions, replies)]
    for name, reason in missing.items():
        say(f"answers: prompts are not asked as {name}: {reason}")
    return figures, missing, rows


def _said(reply: Reply) -> int | str | None:
    """The answer: of a choice the option, else the text."""
    return reply.chosen if reply.nats else reply.generated


def _same_tokenizer(folders: Sequence[Path]) -> None:
    files = [folder / "tokenizer.json" for folder in folders]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: not found; a model's folder holds its tokenizer")
        if sha256_file(file) != sha256_file(files[0]):
            raise DataError(f"{file}: another tokenizer than {files[0]}; the models of a task share one")


def _single_tokens(asker: Asker, words: Sequence[str]) -> dict[str, Any]:
    """The share of words that are one id after a space."""
    ids = asker.encode([f" {word}" for word in words])
    return {"n": len(words), "single_tokens": _mean([float(len(row) == 1) for row in ids])}


def _digits_per_token(asker: Asker, questions: Sequence[Question]) -> float | None:
    """Digits over the ids that show them, in the numbers of prompts and of generated answers, which are encoded apart.

    None where prompts have no numbers.
    """
    backend = asker.tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    asked = [question for question in questions if _NUMBER.search(question.prompt)]
    texts = [text for question in asked for text in (question.prompt, "" if question.options else question.answer)]
    digits = tokens = 0
    for text, encoding in zip(texts, backend.encode_batch(texts, add_special_tokens=False)):
        for number in _NUMBER.finditer(text):
            digits += number.end() - number.start()
            tokens += sum(begin < number.end() and end > number.start() for begin, end in encoding.offsets)
    return digits / tokens if tokens else None


def _row(point: int, split: str, variant: str, question: Question, reply: Reply) -> dict[str, Any]:
    chosen = bool(reply.nats)
    return {
        "point": point,
        "split": split,
        "variant": variant,
        "item": question.id,
        "item_hash": question.hash,
        "type": question.type,
        "group": question.group,
        "n_options": len(question.options),
        "gold": question.gold,
        "chosen": reply.chosen if chosen else None,
        "correct": reply.chosen == question.gold if chosen else None,
        "correct_bytes": reply.chosen_bytes == question.gold if chosen else None,
        "exact": reply.exact,
        "choice_nats": list(reply.nats) if chosen else None,
        "generated": reply.generated,
    }


def write_items(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One row per question and point; `variant` names the encoding of the prompt, empty where it is the tokenizer's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("point", pa.int64()),
            ("split", pa.string()),
            ("variant", pa.string()),
            ("item", pa.string()),
            ("item_hash", pa.string()),
            ("type", pa.string()),
            ("group", pa.string()),
            ("n_options", pa.int64()),
            ("gold", pa.int64()),
            ("chosen", pa.int64()),
            ("correct", pa.bool_()),
            ("correct_bytes", pa.bool_()),
            ("exact", pa.bool_()),
            ("choice_nats", pa.list_(pa.float64())),
            ("generated", pa.string()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")


def _in_words(task: TaskData, point: int, figures: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for split, own in figures.items():
        said = [f"{key} {own[key]:.3f}" for key in ("acc", "exact") if own[key] is not None]
        parts.append(f"{split} {', '.join(said)} ({own['n']:,})")
    return f"answers: {task.name} after {point:,} questions: {'; '.join(parts)}"
