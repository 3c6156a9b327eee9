"""Made-up answers of five arms, as stages write them: `python -m tests.evaluation.subword.fake_task_runs FOLDER`."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.subword.report import write_task_report

# half: questions after which half of what can be learned is; top: what is right in the end; ood: on unseen words.
ARMS: dict[str, dict[str, Any]] = {
    "deterministic": {"half": 14_000, "top": 0.9, "ood": 0.72, "growth": 0.0, "transform": "NoTransform", "bpb": 2.58},
    "dropout": {"half": 11_000, "top": 0.92, "ood": 0.76, "growth": 0.081, "transform": "BPEDropout", "bpb": 2.61},
    "stochastok_05": {"half": 9_000, "top": 0.93, "ood": 0.8, "growth": 0.04, "transform": "StochasTok", "bpb": 2.59},
    "stochastok": {"half": 7_000, "top": 0.95, "ood": 0.85, "growth": 0.082, "transform": "StochasTok", "bpb": 2.6},
    "no_pretrain": {"half": 30_000, "top": 0.8, "ood": 0.5, "growth": None, "transform": None, "bpb": None},
}
POINTS = (5000, 10_000, 20_000, 40_000)
SPLITS = ("words", "test", "affix", "template")
MATCHED = {"words": "test", "affix": "test", "template": "test"}
TYPES = ("most", "contains", "starts", "ends", "longest", "shortest")
HEURISTICS = {"longest": 0.384, "shortest": 0.299, "first": 0.251}
VARIANTS = {"stochastok-0.1": (0.08, 0.95), "stochastok-0.5": (0.38, 0.8), "dropout-0.1": (0.35, 0.82)}
EARLY, LATE = 120, 180
"""Questions of a split at points before the last, and at the last."""

COLUMNS = {
    "point": pa.int64(),
    **dict.fromkeys(("split", "variant", "item", "item_hash", "type", "group"), pa.string()),
    **dict.fromkeys(("n_options", "gold", "chosen"), pa.int64()),
    **dict.fromkeys(("correct", "correct_bytes", "exact"), pa.bool_()),
    "choice_nats": pa.list_(pa.float64()),
    "generated": pa.string(),
}


def write_task_runs(
    root: Path,
    arms: Mapping[str, Mapping[str, Any]] = ARMS,
    seeds: int = 3,
    *,
    points: Sequence[int] = POINTS,
    generated: bool = False,
    level: float | None = None,
    text: str = "",
) -> dict[str, Any]:
    """Artefact folders under `root`, and the spec of a report on them.

    generated: answers are written, not chosen, and nothing is fine-tuned. level: what every arm gets, instead of its
    own curve. `text` is put into every place that holds text from outside.
    """
    entries = []
    for number, (name, arm) in enumerate(arms.items()):
        runs = []
        for seed in range(seeds):
            folders: dict[str, Path | None] = {
                "task": root / "task" / "langgame-12ab",
                "tokenizer": root / "tokenizer" / "bpe-77aa",
                "pretrain": None if arm["bpb"] is None else root / "pretrain" / f"tiny-{number}-s{seed}-99cc",
                "finetune": None if generated else root / "finetune" / f"tiny-{number}-s{seed}-31ff",
                "answers": root / "answers" / f"tiny-{number}-s{seed}-10dd",
                "evaluate": None if arm["bpb"] is None else root / "evaluate" / f"tiny-{number}-s{seed}-52ee",
            }
            for stage, folder in folders.items():
                if folder is not None:
                    folder.mkdir(parents=True, exist_ok=True)
                    write_json(folder / "manifest.json", _manifest(stage, arm, seed, text))
            _task(folders["task"], generated, text)
            write_json(folders["tokenizer"] / "metadata.json", {"algorithm": "bpe", "vocab_size": 4096})
            _trained(folders, arm, seed)
            _answers(folders["answers"], number, arm, seed, points, generated, level, text)
            runs.append({"seed": seed, **{stage: folder and str(folder) for stage, folder in folders.items()}})
        entries.append({"name": name, "overrides": [f"transform={arm['transform']}{text}"], "runs": runs})
    names = list(arms)
    baseline = "deterministic" if "deterministic" in arms else names[0]
    others = [name for name in names if name != baseline]
    return {
        "experiment": "stochastok",
        "title": "Do models that saw words in several encodings know more about their letters?",
        "notes": ["A toy size: this is no verdict on StochasTok at the sizes of its paper."],
        "arms": entries,
        "baseline": baseline,
        "endpoint": {
            "metric": "task_exact" if generated else "task_auc" if len(points) > 1 else "task_accuracy",
            "split": "",
            "arms": ["stochastok" if "stochastok" in arms else (others or names)[0], baseline],
            "direction": "higher",
            "smallest_difference": 0.02,
        },
    }


def write_json(path: Path | None, data: Any) -> None:
    assert path is not None
    path.write_text(json.dumps(data, ensure_ascii=False))


def rewrite(path: Path, change: Any) -> None:
    """Change JSON data in place."""
    data = json.loads(path.read_text())
    change(data)
    write_json(path, data)


def accuracy(rows: Sequence[Mapping[str, Any]], **where: Any) -> float:
    """The share right of rows of items.parquet, a plain loop."""
    kept = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return sum(row["correct"] for row in kept) / len(kept)


def refresh(folder: Path) -> None:
    """Write results.json anew from changed items."""
    rows = pq.read_table(folder / "items.parquet").to_pylist()
    rewrite(folder / "results.json", lambda results: results.update(points=_figures(rows)))


def write_items(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(COLUMNS)), folder / "items.parquet")


def _manifest(stage: str, arm: Mapping[str, Any], seed: int, text: str) -> dict[str, Any]:
    config = (
        {"transform": {"_target_": f"tokenization.{arm['transform']}", "note": text}} if stage == "pretrain" else {}
    )
    return {
        "stage": stage,
        "config": config | {"seed": seed},
        "wall_s": 41.5 + seed,
        "provenance": {"isotok": "0.1.0", "packages": {"torch": "2.13.0"}, "machine": {"cpu": f"Some CPU{text}"}},
    }


def _task(folder: Path | None, generated: bool, text: str) -> None:
    files = {split: {"n": LATE, "sha256": hashlib.sha256(split.encode()).hexdigest()} for split in SPLITS}
    heuristics = {"nothing carried": 0.12} if generated else HEURISTICS | {f"last{text}": 0.248}
    write_json(
        None if folder is None else folder / "task.json",
        {
            "format": 1,
            "name": "addition" if generated else "langgame",
            "files": files if generated else {"train": {"n": 40_000, "sha256": "ab" * 32}, **files},
            "main": "words",
            "modes": ["generate"] if generated else ["choice"],
            "matched": MATCHED,
            "words": ["the"],
            "stop": "",
            "about": {"heuristics": dict.fromkeys(SPLITS, heuristics)},
        },
    )


def _trained(folders: Mapping[str, Path | None], arm: Mapping[str, Any], seed: int) -> None:
    parameters = {"total": 1_310_848, "body": 786_560}
    growth = arm["growth"] or 0.0
    if folders["pretrain"] is not None:
        write_json(folders["pretrain"] / "run.json", {"transform": {"_target_": f"tokenization.x.{arm['transform']}"}})
        write_json(folders["pretrain"] / "timing.json", {"wall_s": 70.25 + seed})
        figures = {
            "growth": growth,
            "flops": 1.2e13,
            "bytes": int(5.1e6 / (1 + growth)),
            "unique_bytes": int(5.1e6 / (1 + growth)),
            "tokens": 1_700_000,
            "passes": 0.6,
            "steps": 1300,
            "lr": 0.0015,
            "bytes_per_token": 3.0 / (1 + growth),
            "parameters": parameters,
        }
        write_json(folders["pretrain"] / "train.json", figures)
    if folders["finetune"] is not None:
        figures = {"questions": 40_000, "steps": 625, "flops": 8.1e12, "tokens": 1_240_000, "lr": 0.0005}
        write_json(folders["finetune"] / "train.json", figures | {"parameters": parameters})
    if folders["evaluate"] is not None:
        value = arm["bpb"] + [0.004, -0.01, 0.006, 0.0][seed]
        spans = {
            "spans": 200,
            "crossed": 0,
            "canonical": value,
            "canonicalised": value - 0.02,
            "marginal": value - 0.03,
        }
        write_json(folders["evaluate"] / "results.json", {"bpb": {"bits_per_byte": value}, "segmentations": spans})


def _answers(
    folder: Path | None,
    number: int,
    arm: Mapping[str, Any],
    seed: int,
    points: Sequence[int],
    generated: bool,
    level: float | None,
    text: str,
) -> None:
    assert folder is not None
    rng = np.random.Generator(np.random.PCG64([seed, number]))
    shift = rng.normal(0, 0.015)
    rows: list[dict[str, Any]] = []
    for point in points:
        for split in SPLITS:
            top = arm["ood"] if split == "words" else arm["top"] - 0.03 * SPLITS.index(split)
            learned = point / (point + arm["half"]) if point else 0.5
            right = 0.25 + (top - 0.25) * learned + shift if level is None else level
            n = LATE if point == points[-1] else EARLY
            rows += [_row(point, split, "", i, rng.random() < right, rng, generated, text) for i in range(n)]
    plain = [row for row in rows if row["point"] == points[-1] and row["split"] == "test"][:EARLY]
    for variant, (_, agreement) in VARIANTS.items():
        for i, row in enumerate(plain):
            right = row["exact"] if generated else row["correct"]
            if rng.random() > agreement:
                right = rng.random() < 0.25
            rows.append(_row(points[-1], "test", variant, i, bool(right), rng, generated, text))
    write_items(folder, rows)
    consistency = {
        "static": {
            "words": 2000,
            "log2_encodings": 5.4,
            "several": 0.98,
            "exposed": {"intra-word resegmentation": 0.97, "plural or possessive tail": 0.21},
            "spellings": 128,
            "cut": 0.1,
        },
        "phantom": {
            "words": 200,
            "crossed": 0,
            "mean": 0.02 + (arm["growth"] or 0),
            "median": 0.004,
            "mean_most": 0.13,
        },
        "generation": {"words": 900, "phantom": 0.03, "types": {"intra-word resegmentation": 12, "acronym split": 0}},
        "agreement": {"stochastok-0.1": 0.9},
    }
    results = {
        "format": 1,
        "task": "addition" if generated else "langgame",
        "words": {"n": 0 if generated else 1000, "single_tokens": None if generated else 0.81},
        "digits_per_token": 1.4 if generated else None,
        "points": _figures(rows),
        "retok": {v: {"agreement": a, "growth": g, "stable": a - 0.05} for v, (g, a) in VARIANTS.items()},
        "consistency": None if arm["bpb"] is None else consistency,
    }
    write_json(folder / "results.json", results)


def _row(
    point: int,
    split: str,
    variant: str,
    i: int,
    right: bool,
    rng: np.random.Generator,
    generated: bool,
    text: str,
) -> dict[str, Any]:
    gold = i % 4
    chosen = gold if right else (gold + 1) % 4
    return {
        "point": point,
        "split": split,
        "variant": variant,
        "item": f"{split}-{i:04}{text}",
        "item_hash": f"{i:016x}",
        "type": TYPES[i % len(TYPES)] + text,
        "group": f"word-{i % 45}" if i % 7 else "",
        "n_options": 0 if generated else 4,
        "gold": -1 if generated else gold,
        "chosen": None if generated else chosen,
        "correct": None if generated else right,
        "correct_bytes": None if generated else bool(right or rng.random() < 0.1),
        "exact": right if generated else None,
        "choice_nats": None if generated else [float(chosen != k) for k in range(4)],
        "generated": ("1" if right else "2") if generated else None,
    }


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    parts = sorted({(row["point"], row["split"]) for row in rows if not row["variant"]})
    for point, split in parts:
        mine = [row for row in rows if (row["point"], row["split"], row["variant"]) == (point, split, "")]
        found.setdefault(str(point), {})[split] = {
            "n": len(mine),
            "acc": _share(mine, "correct"),
            "acc_bytes": _share(mine, "correct_bytes"),
            "exact": _share(mine, "exact"),
        }
    return found


def _share(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = [row[column] for row in rows]
    return None if None in values else math.fsum(values) / len(values)


if __name__ == "__main__":
    import sys

    options = {"generated": True, "points": (0,)} if "addition" in sys.argv else {}
    target = Path(sys.argv[1]) / "report" / "stochastok-22ff"
    target.mkdir(parents=True, exist_ok=True)
    write_task_report(write_task_runs(Path(sys.argv[1]), **options), target)  # type: ignore[arg-type]
    print(os.fspath(target / "report.html"))
