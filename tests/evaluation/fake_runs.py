"""Made-up artefacts of four arms, as stages write them: `python -m tests.evaluation.fake_runs FOLDER` for a look."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation import positions
from evaluation.report import write_report

ARMS: dict[str, dict[str, Any]] = {
    "bytes": {"bpb": 2.93, "ratio": 1.0, "vocabulary": 256, "superwords": 0.0, "steps": 391, "flops_per_step": 1.02e10},
    "bpe": {"bpb": 2.58, "ratio": 3.03, "vocabulary": 2048, "superwords": 0.0, "steps": 410, "flops_per_step": 9.75e9},
    "superbpe": {
        "bpb": 2.66,
        "ratio": 3.44,
        "vocabulary": 2048,
        "superwords": 0.121,
        "steps": 462,
        "flops_per_step": 8.66e9,
    },
    "stochastok": {
        "bpb": 2.595,
        "ratio": 2.78,
        "vocabulary": 2048,
        "superwords": 0.0,
        "steps": 377,
        "flops_per_step": 1.06e10,
    },
}
TASKS = {"iso_cloze": (0.25, 0.02, 0.02), "iso_wordorder": (0.25, 0.22, 0.06), "iso_typo": (0.25, 0.1, 0.04)}
GREEDY = "iso_lastword"
"""A task with single choices: no accuracy, no chance."""
VARIANTS = ("plain", "typos", "upper")
MISSING = "the Hub has it no more"
DOMAINS = ("comedy", "history", "tragedy")


def write_runs(root: Path, arms: dict[str, dict[str, Any]] = ARMS, seeds: int = 3, text: str = "") -> dict[str, Any]:
    """Artefact folders under `root` as the stages write them, and the spec of a report on them.

    `text` is put into every place that holds text from outside: samples, ids, domains, config values.
    """
    entries = []
    for name, arm in arms.items():
        runs = []
        for seed in range(seeds):
            folders = {
                "corpus": root / "corpus" / "embedded-0a1b",
                "tokenizer": root / "tokenizer" / f"{name}-77aa",
                "encode": root / "encode" / f"{name}-88bb",
                "pretrain": root / "pretrain" / f"llama_demo-{name}-s{seed}-99cc",
                "evaluate": root / "evaluate" / f"llama_demo-{name}-s{seed}-10dd",
            }
            for stage, folder in folders.items():
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / "manifest.json", _manifest(stage, name, seed, arm, text))
            rng = np.random.Generator(np.random.PCG64([seed, *name.encode()]))
            value = arm["bpb"] + [0.004, -0.011, 0.016, -0.002, 0.009, -0.014, 0.003][seed] + rng.normal(0, 0.008)
            write_json(folders["corpus"] / "corpus.json", {"leak_share": 0.0042})
            write_json(folders["tokenizer"] / "metadata.json", {"algorithm": name, "vocab_size": arm["vocabulary"]})
            _pretrain(folders["pretrain"], name, seed, arm, value, rng)
            _evaluate(folders["evaluate"], arm, value, rng, text)
            runs.append({"seed": seed, **{stage: str(folder) for stage, folder in folders.items()}})
        entries.append({"name": name, "overrides": [f"tokenizer={name}"], "runs": runs})
    reference = root / "reference" / "embedded-11ee"
    reference.mkdir(parents=True, exist_ok=True)
    write_json(
        reference / "reference.json",
        {"byte_unigram": 4.537, "markov_2": 3.021, "markov_3": 2.702, "xz": 2.479, "train_bytes": 1, "test_bytes": 1},
    )
    first, *others = arms
    baseline = "bpe" if "bpe" in arms else first
    return {
        "experiment": "demo",
        "title": "At 4 × 10¹² FLOPs, which tokenizer makes the better small language model?",
        "notes": [
            "Superwords are expected to lose at this size: their rows are rare and undertrained. "
            "This is no verdict on SuperBPE."
        ],
        "arms": entries,
        "baseline": baseline,
        "endpoint": {
            "metric": "bits_per_byte",
            "arms": ["superbpe" if "superbpe" in arms else (others or [first])[0], baseline],
            "direction": "lower",
            "smallest_difference": 0.01,
        },
        "reference": str(reference),
    }


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False))


def _manifest(stage: str, name: str, seed: int, arm: dict[str, Any], text: str) -> dict[str, Any]:
    configs: dict[str, dict[str, Any]] = {
        "corpus": {"corpus": {"_target_": "tokenization.sources.Embedded"}},
        "tokenizer": {"tokenizer": {"_target_": f"tokenization.{name}", "vocab_size": arm["vocabulary"], "note": text}},
        "encode": {},
        "pretrain": {
            "transform": {"_target_": "StochasTok", "p": 0.1} if name == "stochastok" else {"_target_": "NoTransform"},
            "seed": seed,
            "engine": {"threads": 1},
        },
        "evaluate": {"evaluation": {"items": 100}},
    }
    config = configs[stage]
    if name == "superbpe" and stage == "tokenizer":
        config["tokenizer"]["transition"] = 0.75
    return {
        "stage": stage,
        "config": config,
        "inputs": {},
        "figures": {},
        "wall_s": 71.5 + seed,
        "provenance": {
            "isotok": "0.1.0",
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "dirty": False,
            "python": "3.11.2",
            "packages": {"torch": "2.13.0", "transformers": "5.23.0", "tokenizers": "0.23.3", "numpy": "2.3.5"},
            "machine": {"system": "Linux", "arch": "x86_64", "cpu": "Some CPU", "cores": 2},
        },
    }


def _pretrain(folder: Path, name: str, seed: int, arm: dict[str, Any], value: float, rng: np.random.Generator) -> None:
    steps, tokens = arm["steps"], 8 * round(512 / arm["ratio"] / 8) * 8
    per_step = tokens * arm["ratio"]
    lines = []
    for step in range(1, steps + 1):
        done = {
            "step": step,
            "tokens": step * tokens,
            "bytes": int(step * per_step),
            "flops": step * arm["flops_per_step"],
        }
        level = value + 4.2 * math.exp(-step / 22) + 0.55 * (1 - step / steps) ** 0.7
        nats = (level + rng.normal(0, 0.09)) * math.log(2) * int(per_step)
        lines.append(
            {**done, "train_nats": nats, "train_bytes": int(per_step), "train_bpb": 0, "lr": 1e-3, "grad_norm": 1.0}
        )
        if step == 1 or step % (steps // 12) == 0 or step == steps:
            lines.append({**done, "validation_bpb": level + 0.02})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    body = 786_560
    target = "tokenization.stochastok.StochasTok" if name == "stochastok" else "tokenization.transform.NoTransform"
    write_json(folder / "run.json", {"label": name, "seed": seed, "transform": {"_target_": target}})
    write_json(
        folder / "train.json",
        {
            "label": name,
            "seed": seed,
            "steps": steps,
            "context_tokens": tokens // 8,
            "rows": 8,
            "bytes_per_token": arm["ratio"],
            "flops": steps * arm["flops_per_step"],
            "flops_causal": steps * arm["flops_per_step"] * (0.84 if name == "bytes" else 0.94),
            "flops_published": steps * arm["flops_per_step"] * 0.97,
            "tokens": steps * tokens,
            "bytes": int(steps * per_step),
            "unique_bytes": int(steps * per_step),
            "passes": 0.62,
            "targets_per_update": tokens,
            "parameters": {
                "total": body + arm["vocabulary"] * 128,
                "body": body,
                "embedding": arm["vocabulary"] * 128,
                "head_share": arm["vocabulary"] * 128 / (body + arm["vocabulary"] * 128),
            },
            "lr": 0.0015,
            "inference_flops_per_byte": {
                "prefill": arm["flops_per_step"] / 3 / tokens / arm["ratio"],
                "decode": 1.06 * arm["flops_per_step"] / 3 / tokens / arm["ratio"],
            },
            "weights_sha256": "ab" * 32,
            "final_train_bpb": value,
            "final_validation_bpb": value + 0.02,
            "loss_falling": {},
        },
    )
    write_json(folder / "timing.json", {"wall_s": 70.25 + seed, "tokens_per_s": 7000.0, "device": "cpu"})


def _evaluate(folder: Path, arm: dict[str, Any], value: float, rng: np.random.Generator, text: str) -> None:
    shared = np.random.Generator(np.random.PCG64(9))
    n_documents, n_items = 90, 100
    sizes = shared.integers(800, 6000, n_documents)
    hardness = shared.normal(0, 0.15, n_documents)
    rates = value + hardness + rng.normal(0, 0.02, n_documents)
    rates += value - float((rates * sizes).sum() / sizes.sum())
    rows: list[dict[str, Any]] = [
        {
            "kind": "document",
            "item": f"work-{i:03}{text}",
            "group": f"author-{i % 34}",
            "domain": DOMAINS[i % 3] + text,
            "item_hash": f"{i:016x}",
            "bytes": int(sizes[i]),
            "tokens": int(sizes[i] / arm["ratio"]),
            "nats": float(rates[i] * sizes[i] * math.log(2)),
            "separator_nats": 3.0,
        }
        for i in range(n_documents)
    ]
    for row in rows:  # a document's beginning is the hardest
        parts = positions.bytes_in_bins(row["bytes"]) * (1.0 + np.array([0.5, 0.2, 0.1, 0, 0, 0]))
        row["position_nats"] = (row["nats"] * parts / parts.sum()).tolist()
    documents = list(rows)
    tasks: dict[str, Any] = {}
    for task, (chance, gain, seed_sd) in {**TASKS, GREEDY: (None, 0.1, 0.02)}.items():
        right = (chance or 0) + gain + (3 - arm["bpb"]) * gain + rng.normal(0, seed_sd / 4)
        for i in range(n_items):
            gold = int(shared.integers(0, 4))
            own = float(rng.normal(value * 14, 3)) * math.log(2)
            rows.append(
                {
                    "kind": task,
                    "item": f"{task}-{i:03}",
                    "group": f"author-{i % 34}",
                    "domain": DOMAINS[i % 3] + text,
                    "item_hash": f"{i:016x}",
                    "bytes": 14 + int(arm["ratio"]),
                    "tokens": 5,
                    "nats": own,
                    "gold": gold,
                    "greedy": bool(rng.random() < right),
                    "correct": None if chance is None else bool(rng.random() < right),
                    "correct_bytes": None if chance is None else bool(rng.random() < right),
                    "choice_nats": [own] * 4,
                    "choice_bytes": [14] * 4,
                }
            )
        mine = rows[-n_items:]
        gold_bits = sum(r["nats"] for r in mine) / math.log(2) / sum(r["bytes"] for r in mine)
        tasks[task] = {
            "n": n_items,
            "chance": chance,
            "headline": "greedy" if chance is None else "acc_bytes",
            "acc": None if chance is None else sum(r["correct"] for r in mine) / n_items,
            "acc_bytes": None if chance is None else sum(r["correct_bytes"] for r in mine) / n_items,
            "greedy": sum(r["greedy"] for r in mine) / n_items,
            "gold_bits_per_byte": gold_bits,
            "scoring": "backoff",
            "version": 1,
            "missing": None,
            "shortened": 7 if chance is None else 0,
        }
    cloze = tasks["iso_cloze"]
    cloze["by_variant"] = {
        name: {
            "acc_bytes": cloze["acc_bytes"] * (1 - 0.1 * at),
            "gold_bits_per_byte": cloze["gold_bits_per_byte"],
            "gold_bits_per_original_byte": cloze["gold_bits_per_byte"] + at,
            "relative_drop": 0.1 * at,
        }
        for at, name in enumerate(VARIANTS)
    }
    cloze["methods"] = {"naive": {"against": "backoff", "acc": 0.3, "differs": 0.125, "margin_gap": 0.5}}
    tasks["gone"] = {"n": 0, "chance": None, "missing": MISSING, "scoring": "backoff", "version": 3}

    def pool(some: list[dict[str, Any]]) -> dict[str, Any]:
        nats, n_bytes = sum(r["nats"] for r in some), sum(r["bytes"] for r in some)
        return {"bits_per_byte": nats / math.log(2) / n_bytes, "nats": nats, "bytes": n_bytes}

    domains = sorted({r["domain"] for r in documents})
    babble = (
        "the king was not so much as the king of the house, and the lord of the day was in the world to be a man of"
    )
    write_json(
        folder / "results.json",
        {
            "format": 1,
            "bpb": {
                **pool(documents),
                "tokens": sum(r["tokens"] for r in documents),
                "documents": n_documents,
                "separator_nats": 270.0,
                "by_position": positions.pool([r["position_nats"] for r in documents], [r["bytes"] for r in documents]),
                "by_domain": {d: pool([r for r in documents if r["domain"] == d]) for d in domains},
            },
            "intrinsic": {
                "bytes_per_token": arm["ratio"],
                "tokens": sum(r["tokens"] for r in documents),
                "bytes": int(sizes.sum()),
                "vocabulary_size": arm["vocabulary"],
                "vocabulary_used": int(0.93 * arm["vocabulary"]),
                "superword_share": arm["superwords"],
            },
            "tasks": tasks,
            "samples": [
                {"prompt": f"ACT {n}. Enter the KING.{text}\n", "text": f"KING.\n{babble}{text}"} for n in ("I", "II")
            ],
            "evaluation_items_sha256": "5c" * 32,
        },
    )
    text_columns = dict.fromkeys(("kind", "item", "group", "domain", "item_hash"), pa.string())
    whole_columns = dict.fromkeys(("bytes", "tokens", "gold"), pa.int64())
    real_columns = dict.fromkeys(("nats", "separator_nats"), pa.float64())
    other_columns = {
        "position_nats": pa.list_(pa.float64()),
        "correct": pa.bool_(),
        "correct_bytes": pa.bool_(),
        "greedy": pa.bool_(),
        "choice_nats": pa.list_(pa.float64()),
        "choice_bytes": pa.list_(pa.int64()),
    }
    schema = pa.schema({**text_columns, **whole_columns, **real_columns, **other_columns})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "items.parquet")


if __name__ == "__main__":
    import sys

    target = Path(sys.argv[1]) / "report" / "demo-22ff"
    target.mkdir(parents=True, exist_ok=True)
    write_report(write_runs(Path(sys.argv[1])), target)
    print(os.fspath(target / "report.html"))
