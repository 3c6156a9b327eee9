"""The report from made-up artefacts of four arms: what it refuses, what it writes, what it never says."""

import csv
import json
import math
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.gather import gather
from evaluation.report import write_report
from isotok.errors import ConfigError, DataError

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> $x_1$ & \u2028 ]]>"
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
                _json(folder / "manifest.json", _manifest(stage, name, seed, arm, text))
            rng = np.random.Generator(np.random.PCG64([seed, *name.encode()]))
            value = arm["bpb"] + [0.004, -0.011, 0.016, -0.002, 0.009, -0.014, 0.003][seed] + rng.normal(0, 0.008)
            _json(folders["corpus"] / "corpus.json", {"leak_share": 0.0042})
            _json(folders["tokenizer"] / "metadata.json", {"algorithm": name, "vocab_size": arm["vocabulary"]})
            _pretrain(folders["pretrain"], name, seed, arm, value, rng)
            _evaluate(folders["evaluate"], arm, value, rng, text)
            runs.append({"seed": seed, **{stage: str(folder) for stage, folder in folders.items()}})
        entries.append({"name": name, "overrides": [f"tokenizer={name}"], "runs": runs})
    reference = root / "reference" / "embedded-11ee"
    reference.mkdir(parents=True, exist_ok=True)
    _json(
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


def _json(path: Path, data: Any) -> None:
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
    _json(folder / "run.json", {"label": name, "seed": seed, "transform": {"_target_": target}})
    _json(
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
    _json(folder / "timing.json", {"wall_s": 70.25 + seed, "tokens_per_s": 7000.0, "device": "cpu"})


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
    documents = list(rows)
    tasks: dict[str, Any] = {}
    for task, (chance, gain, seed_sd) in TASKS.items():
        right = chance + gain + (3 - arm["bpb"]) * gain + rng.normal(0, seed_sd / 4)
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
                    "correct": bool(rng.random() < right),
                    "correct_bytes": bool(rng.random() < right),
                    "choice_nats": [own] * 4,
                    "choice_bytes": [14] * 4,
                }
            )
        mine = rows[-n_items:]
        tasks[task] = {
            "n": n_items,
            "chance": chance,
            "acc": sum(r["correct"] for r in mine) / n_items,
            "acc_bytes": sum(r["correct_bytes"] for r in mine) / n_items,
            "gold_bits_per_byte": sum(r["nats"] for r in mine) / math.log(2) / sum(r["bytes"] for r in mine),
            "scoring": "backoff",
            "version": 1,
        }

    def pool(some: list[dict[str, Any]]) -> dict[str, Any]:
        nats, n_bytes = sum(r["nats"] for r in some), sum(r["bytes"] for r in some)
        return {"bits_per_byte": nats / math.log(2) / n_bytes, "nats": nats, "bytes": n_bytes}

    domains = sorted({r["domain"] for r in documents})
    babble = (
        "the king was not so much as the king of the house, and the lord of the day was in the world to be a man of"
    )
    _json(
        folder / "results.json",
        {
            "format": 1,
            "bpb": {
                **pool(documents),
                "tokens": sum(r["tokens"] for r in documents),
                "documents": n_documents,
                "separator_nats": 270.0,
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
        "correct": pa.bool_(),
        "correct_bytes": pa.bool_(),
        "choice_nats": pa.list_(pa.float64()),
        "choice_bytes": pa.list_(pa.int64()),
    }
    schema = pa.schema({**text_columns, **whole_columns, **real_columns, **other_columns})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "items.parquet")


Report = Callable[..., tuple[dict[str, Any], str, Path]]


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Write runs and their report; yields (results.json, report.html, folder)."""

    def make(change: Callable[[dict[str, Any]], None] | None = None, **keys: Any) -> tuple[dict[str, Any], str, Path]:
        spec = write_runs(tmp_path / "runs", **keys)
        if change:
            change(spec)
        out = tmp_path / "runs" / "report" / "demo-22ff.partial"
        out.mkdir(parents=True, exist_ok=True)
        write_report(spec, out)
        return json.loads((out / "results.json").read_text()), (out / "report.html").read_text(), out

    return make


class Page(HTMLParser):
    """Tags, links, table rows and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("script", "style", "td", "th"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if not self.inside or self.inside[-1] not in ("script", "style"):
            self.text += data


def test_files_and_agreement(report: Report) -> None:
    results, html, out = report()
    assert {p.name for p in out.iterdir()} == {
        "results.json",
        "results.csv",
        "results.md",
        "items.parquet",
        "report.html",
    }
    with open(out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for row in rows:
        run = next(r for r in results["arms"][row["arm"]]["runs"] if r["seed"] == int(row["seed"]))
        assert float(row["bits_per_byte"]) == run["bits_per_byte"]
        assert float(row["train.flops"]) == run["train"]["flops"]
        assert float(row["tasks.iso_cloze.acc"]) == run["tasks"]["iso_cloze"]["acc"]
    items = pq.read_table(out / "items.parquet")
    assert items.column_names[:2] == ["arm", "seed"]
    assert items.num_rows == 12 * (90 + 300)
    for name, arm in results["arms"].items():
        values = [run["bits_per_byte"] for run in arm["runs"]]
        assert arm["bits_per_byte"]["mean"] == pytest.approx(sum(values) / 3)
        assert f"{arm['bits_per_byte']['mean']:.3f}" in html
        assert f"| {name} " in (out / "results.md").read_text()


def test_primary_endpoint_comes_first_and_matches_a_hand_calculation(report: Report) -> None:
    results, html, _ = report()
    primary = results["comparisons"][0]
    assert (primary["kind"], primary["arms"]) == ("primary", ["superbpe", "bpe"])
    assert sum(c["kind"] == "primary" for c in results["comparisons"]) == 1
    a, b = (np.array([r["bits_per_byte"] for r in results["arms"][n]["runs"]]) for n in primary["arms"])
    assert primary["delta"] == pytest.approx(a.mean() - b.mean())
    assert primary["se_seeds"] == pytest.approx(math.sqrt(a.var(ddof=1) / 3 + b.var(ddof=1) / 3))
    assert primary["se"] == pytest.approx(math.hypot(primary["se_seeds"], primary["se_items"]))
    assert primary["verdict"] == "B better"
    assert "bpe better" in Page(html).text
    assert all(c["kind"] == "exploratory" for c in results["comparisons"][1:])


def test_equal_input_gives_equal_bytes(report: Report) -> None:
    _, first, out = report()
    kept = {p.name: p.read_bytes() for p in out.iterdir()}
    _, second, _ = report()
    assert first == second
    assert kept == {p.name: p.read_bytes() for p in out.iterdir()}


def test_paths_and_times_only_where_they_belong(report: Report, tmp_path: Path) -> None:
    results, html, out = report()
    deterministic = {key: value for key, value in results.items() if key not in ("provenance", "timing")}
    text = json.dumps(deterministic)
    assert str(tmp_path) not in text
    assert "wall_s" not in text
    assert str(tmp_path) not in html
    for links in results["provenance"]["manifests"].values():
        for link in links.values():
            assert (out / link).is_file()


def test_one_file_without_network(report: Report) -> None:
    _, html, _ = report()
    assert "http" not in html.replace("http-equiv", "")
    assert "//" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", html, flags=re.S)
    page = Page(html)
    assert not any(tag in ("link", "img", "iframe", "object", "embed", "base", "form") for tag, _ in page.tags)
    for tag, attributes in page.tags:
        assert "src" not in attributes
        assert not any(key.startswith("on") for key in attributes)
        if tag == "a":
            assert re.match(r"#|(\.\./)|results\.|items\.", str(attributes["href"]))
    assert "url(" not in re.sub(r"url\(#", "", html)
    assert "@import" not in html


def test_foreign_text_is_inert(report: Report) -> None:
    """Text from data sets, models and configs, and names of arms, stays text."""
    arms = {"bpe": ARMS["bpe"], EVIL: ARMS["superbpe"], "#0067a5": ARMS["bytes"]}

    def harm(spec: dict[str, Any]) -> None:
        spec["title"] = spec["experiment"] = EVIL
        spec["notes"] = [EVIL]

    folder_safe = {name.replace("/", "∕"): arm for name, arm in arms.items()}
    results, html, out = report(harm, arms=folder_safe, text=EVIL)
    page = Page(html)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(tag == "img" for tag, _ in page.tags)
    assert "<script>alert" not in html
    assert page.text.count("alert(1)") > 10
    assert EVIL in results["notes"]
    assert "<script>" not in (out / "results.md").read_text().replace("\\<", "")


def test_ids_on_the_page_are_unique(report: Report) -> None:
    ids = [a["id"] for _, a in Page(report()[1]).tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_tables_and_curves_are_there_without_scripts(report: Report) -> None:
    results, html, _ = report()
    page = Page(re.sub(r"<script>.*?</script>", "", html, flags=re.S))
    first_cells = {row[0] for row in page.rows if row}
    assert set(results["arms"]) <= {cell.removesuffix("baseline") for cell in first_cells}
    for quantity in (
        "training FLOPs, full T² attention",
        "training FLOPs, causal ½T²",
        "unique bytes among them",
        "learning rate",
    ):
        assert quantity in first_cells
    assert sum(tag == "svg" for tag, _ in page.tags) == 9
    hidden = [attributes for _, attributes in page.tags if "hidden" in attributes]
    assert all(attributes.get("class") == "toggle" for attributes in hidden)
    for text in ("bpe", "superbpe"):
        assert text in page.text
    assert "rank" not in re.sub("no ranking|rank nothing", "", page.text)


def test_what_the_reader_must_know(report: Report) -> None:
    _, html, _ = report()
    text = Page(html).text
    assert re.search(r"bytes read \d+% less text than bpe", text)
    assert "One learning rate for all arms (0.0015), not tuned per arm" in text
    assert "Seeds vary the initial weights and the draws of the transform" in text
    assert "Under 500 steps" in text
    assert "stochastok trained on varied tokenizations" in text
    assert "Superwords are expected to lose" in text
    assert "Runs differ in" not in text
    assert "A/A" not in text


def test_different_versions_are_named(report: Report) -> None:
    def other_torch(spec: dict[str, Any]) -> None:
        path = Path(spec["arms"][0]["runs"][1]["pretrain"]) / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["provenance"]["packages"]["torch"] = "2.9.1"
        _json(path, manifest)

    assert "Runs differ in packages.torch" in Page(report(other_torch)[1]).text


def test_other_items_are_refused_by_name(tmp_path: Path) -> None:
    spec = write_runs(tmp_path)
    path = Path(spec["arms"][2]["runs"][1]["evaluate"]) / "results.json"
    results = json.loads(path.read_text())
    results["evaluation_items_sha256"] = "00" * 32
    _json(path, results)
    with pytest.raises(DataError, match="arm superbpe seed 1 was evaluated on other items than arm bytes seed 0"):
        gather(spec)


def test_figures_that_contradict_their_items_are_refused(tmp_path: Path) -> None:
    spec = write_runs(tmp_path)
    path = Path(spec["arms"][0]["runs"][0]["evaluate"]) / "results.json"
    results = json.loads(path.read_text())
    results["bpb"]["bits_per_byte"] *= 1.01
    _json(path, results)
    with pytest.raises(DataError, match="arm bytes seed 0.*add up to"):
        gather(spec)


def test_wrong_specs_are_refused(tmp_path: Path) -> None:
    spec = write_runs(tmp_path)
    with pytest.raises(ConfigError, match="baseline='none' is not an arm"):
        gather({**spec, "baseline": "none"})
    with pytest.raises(ConfigError, match="endpoint.arms: 'none'"):
        gather({**spec, "endpoint": {**spec["endpoint"], "arms": ["bpe", "none"]}})
    with pytest.raises(ConfigError, match="endpoint.metric='perplexity'"):
        gather({**spec, "endpoint": {**spec["endpoint"], "metric": "perplexity"}})
    with pytest.raises(ConfigError, match="two arms are called"):
        gather({**spec, "arms": [*spec["arms"], spec["arms"][0]]})
    with pytest.raises(DataError, match="no finished run"):
        gather({**spec, "arms": [*spec["arms"], {"name": "late", "overrides": [], "runs": []}]})


def test_one_seed_and_two_seeds(report: Report) -> None:
    results, html, _ = report(seeds=1)
    assert results["comparisons"][0]["interval"] is None
    assert results["comparisons"][0]["verdict"] == "cannot tell"
    assert "one seed: not comparable" in html
    assert all(task["at_chance"] for arm in results["arms"].values() for task in arm["tasks"].values())
    results, html, _ = report(seeds=2)
    assert results["comparisons"][0]["interval"] is None
    assert results["comparisons"][0]["range"]
    assert "two seeds: range only" in html


def test_one_arm(report: Report) -> None:
    results, html, _ = report(arms={"bpe": ARMS["bpe"]})
    assert results["comparisons"] == []
    assert "no primary endpoint" in html


def test_task_endpoint_and_other_direction(report: Report) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["endpoint"] = {"metric": "iso_wordorder.acc_bytes", "arms": ["bpe", "bytes"], "direction": "higher"}

    results, html, _ = report(change)
    assert results["comparisons"][0]["metric"] == "iso_wordorder.acc_bytes"
    assert "iso_wordorder, accuracy per byte (higher is better)" in html


def test_endpoint_declared_the_other_way_round(report: Report) -> None:
    """The leaderboard's Δ is always arm minus baseline."""

    def turn(spec: dict[str, Any]) -> None:
        spec["endpoint"]["arms"] = ["bpe", "superbpe"]

    results, html, _ = report(turn)
    primary = results["comparisons"][0]
    row = next(r for r in Page(html).rows if r and r[0] == "superbpe")
    assert row[2].startswith(f"{-primary['delta']:+.3f}")
    assert row[3] == "worse"


def test_tasks_at_chance_are_grey(report: Report) -> None:
    results, html, _ = report()
    grey = {
        (name, task) for name, arm in results["arms"].items() for task, row in arm["tasks"].items() if row["at_chance"]
    }
    assert ("bpe", "iso_wordorder") not in grey
    assert any(task == "iso_cloze" for _, task in grey)
    assert html.count('class="muted"') > len(grey)


def test_noise_row_only_with_six_seeds(report: Report) -> None:
    results, html, _ = report(arms={"bpe": ARMS["bpe"], "superbpe": ARMS["superbpe"]}, seeds=6)
    assert next(c["arms"] for c in results["comparisons"] if c["kind"] == "A/A") == ["bpe, seeds 0–2", "bpe, seeds 3–5"]
    assert "A/A: bpe, seeds 0–2" in html


def test_domains_that_disagree_end_the_claim(report: Report) -> None:
    """A pooled verdict would depend on the mixture of domains."""

    def move(spec: dict[str, Any]) -> None:
        for run in spec["arms"][2]["runs"]:
            folder = Path(run["evaluate"])
            table = pq.read_table(folder / "items.parquet").to_pylist()
            for row in table:
                if row["kind"] == "document":
                    row["nats"] += row["bytes"] * math.log(2) * (0.6 if row["domain"] == "comedy" else -0.6)
            pq.write_table(pa.Table.from_pylist(table), folder / "items.parquet")
            results = json.loads((folder / "results.json").read_text())
            documents = [row for row in table if row["kind"] == "document"]
            total = sum(row["bytes"] for row in documents) * math.log(2)
            results["bpb"]["bits_per_byte"] = sum(row["nats"] for row in documents) / total
            _json(folder / "results.json", results)

    results, html, _ = report(move)
    primary = results["comparisons"][0]
    assert primary["p"] < 0.05
    assert primary["verdict"] == "cannot tell"
    assert "no pooled claim" in html


def test_resumed_metrics_count_once(tmp_path: Path) -> None:
    from evaluation.curves import read_curves, still_falling

    spec = write_runs(tmp_path, arms={"bpe": ARMS["bpe"]}, seeds=1)
    before = read_curves(gather(spec))
    path = Path(spec["arms"][0]["runs"][0]["pretrain"]) / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines + lines[-50:]))
    assert read_curves(gather(spec)) == before
    assert still_falling(before["bpe"])["falling"]


if __name__ == "__main__":  # a look at the page: python tests/evaluation/test_report.py FOLDER
    import sys

    target = Path(sys.argv[1]) / "report" / "demo-22ff"
    target.mkdir(parents=True, exist_ok=True)
    write_report(write_runs(Path(sys.argv[1])), target)
    print(os.fspath(target / "report.html"))
