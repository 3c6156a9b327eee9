"""A report from the artefacts of an experiment: results.json, results.csv, results.md, items.parquet, report.html.

`write_report` reads, compares and writes; what the numbers mean is in `stats`, what the reader must know besides
them in `caveats`, how they look in `tables` and `figures`.
"""

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluation import caveats, curves, figures, tables
from evaluation.document_tables import document_tables
from evaluation.gather import (
    BITS_PER_BYTE,
    DOCUMENT,
    REFERENCES,
    STAGES,
    TASK_METRICS,
    Arm,
    Study,
    domains,
    gather,
    merged_items,
    missing_tasks,
    position_bins,
    position_metric,
    sample,
    tasks,
)
from evaluation.markdown import markdown
from evaluation.segmentation_table import shared_spans
from evaluation.stats import A_BETTER, B_BETTER, CANNOT_TELL, Comparison, compare, estimate, holm, seeds_rule
from evaluation.task_figures import headlines, task_figures
from evaluation.task_tables import task_tables
from isotok.files import write_json, write_text

FORMAT = 1
AA_SEEDS = 6
TEMPLATES = Path(__file__).parent / "templates"


def write_report(spec: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write the report of an experiment into the folder `out` and return its headline figures.

    `spec`: experiment, title, notes, arms (name, overrides, runs: seed and the five artefact folders), baseline,
    endpoint (metric, arms, direction, smallest_difference; may be missing), reference (folder with reference.json).
    Everything in results.json but "provenance" and "timing" depends on the artefacts' results alone.
    Raises DataError or ConfigError when the arms cannot be compared.
    """
    out.mkdir(parents=True, exist_ok=True)
    study = gather(spec)
    lines = curves.read_curves(study)
    results = build_results(study, lines, out)
    write_json(out / "results.json", results)
    write_text(out / "results.csv", results_csv(results))
    write_text(out / "results.md", markdown(results))
    pq.write_table(merged_items(study), out / "items.parquet", compression="zstd")
    write_text(out / "report.html", render(results, lines))
    primary = next((c for c in results["comparisons"] if c["kind"] == "primary"), None)
    return {
        "arms": {name: arm["bits_per_byte"]["mean"] for name, arm in results["arms"].items()},
        "endpoint": primary
        and {key: primary[key] for key in ("metric", "arms", "delta", "interval", "rule", "verdict")},
    }


def build_results(study: Study, lines: curves.Curves, out: Path) -> dict[str, Any]:
    """Everything the report shows, as JSON data."""
    spans = shared_spans(study)
    arms = {name: _arm(study, arm, lines) | {"segmentations": spans.get(name)} for name, arm in study.arms.items()}
    results: dict[str, Any] = {
        "format": FORMAT,
        "experiment": study.experiment,
        "title": study.title,
        "baseline": study.baseline,
        "endpoint": study.endpoint and asdict(study.endpoint),
        "evaluation_items_sha256": study.items_sha256,
        "notes": list(study.notes),
        "arms": arms,
        "missing_tasks": missing_tasks(study),
        "comparisons": _comparisons(study),
        "references": study.references,
        "provenance": _provenance(study, out),
        "timing": _timing(study),
    }
    results["caveats"] = caveats.caveats(study, results)
    made: dict[str, Any] = plain(results)
    return made


def results_csv(results: Mapping[str, Any]) -> str:
    """One row a run."""
    rows = []
    for name, arm in results["arms"].items():
        for run in arm["runs"]:
            rows.append({"arm": name, **flat(run)})
    header = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def page_environment() -> jinja2.Environment:
    """Where pages come from: the templates with the shared style and script, all text escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        js=(TEMPLATES / "report.js").read_text(encoding="utf-8"),
    )
    return environment


def render(results: Mapping[str, Any], lines: curves.Curves) -> str:
    """The HTML page: one file, all text escaped, no network."""
    page = (
        page_environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            tables=tables.all_tables(results) | document_tables(results) | task_tables(results),
            figures=figures.all_figures(results, lines),
            top=tables.top_box(results),
            samples=_samples(results),
            versions_differ=caveats.version_differences(results),
            reference_names=REFERENCES,
            palette=figures.PALETTE,
            palette_dark=figures.PALETTE_DARK,
        )
    )
    return str(page)


def _samples(results: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, int]]]]:
    """(prompt, [(arm, text, colour)]) for the prompts that all arms were given."""
    arms = results["arms"]
    texts = {name: {s["prompt"]: s["text"] for s in arm["samples"]["texts"]} for name, arm in arms.items()}
    prompts = [prompt for prompt in texts[results["baseline"]] if all(prompt in given for given in texts.values())]
    colours = {name: i % len(figures.PALETTE) for i, name in enumerate(arms)}
    return [(prompt, [(name, texts[name][prompt], colours[name]) for name in arms]) for prompt in prompts]


def _arm(study: Study, arm: Arm, lines: curves.Curves) -> dict[str, Any]:
    first = arm.runs[0]
    return {
        "seeds": list(arm.seeds),
        "rule": seeds_rule(len(arm.runs)),
        "transform": first.transform,
        "bits_per_byte": asdict(estimate(sample(arm, BITS_PER_BYTE))),
        "domains": {d: asdict(estimate(sample(arm, BITS_PER_BYTE, d))) for d in domains(study)},
        "positions": {p: asdict(estimate(sample(arm, position_metric(p)))) for p in position_bins(study)},
        "tasks": task_figures(study, arm),
        "quantities": _quantities(arm),
        "loss_falling": curves.still_falling(lines[arm.name]),
        "samples": {"seed": first.seed, "texts": first.results.get("samples", [])},
        "runs": [
            {
                "seed": run.seed,
                "bits_per_byte": run.results["bpb"]["bits_per_byte"],
                "separator_nats": run.results["bpb"].get("separator_nats"),
                "domains": {d: v["bits_per_byte"] for d, v in sorted(run.results["bpb"].get("by_domain", {}).items())},
                "tasks": {t: {m: v.get(m) for m in TASK_METRICS} for t, v in run.results.get("tasks", {}).items()},
                "intrinsic": run.results.get("intrinsic", {}),
                "train": {key: value for key, value in run.train.items() if key not in ("label", "seed")},
            }
            for run in arm.runs
        ],
    }


def _quantities(arm: Arm) -> dict[str, Any]:
    """What the arms spent and what they are: means over seeds of figures that hardly move between seeds."""

    def mean(*path: str) -> float | None:
        values = []
        for run in arm.runs:
            value: Any = run.train
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if not isinstance(value, int | float):
                return None
            values.append(value)
        return values[0] if len(set(values)) == 1 else sum(values) / len(values)

    def inference(phase: str) -> float | None:
        """On test text, which every arm reads in its canonical encoding, whatever transform it was trained under."""
        cost, trained = mean("inference_flops_per_byte", phase), mean("bytes_per_token")
        canonical = intrinsic.get("bytes_per_token")
        return cost * trained / canonical if cost and trained and canonical else None

    first = arm.runs[0]
    intrinsic = first.results.get("intrinsic", {})
    context, ratio, metas = mean("context_tokens"), mean("bytes_per_token"), mean("meta_tokens")
    documents = first.items.filter(pc.equal(first.items["kind"], DOCUMENT))
    return {
        **{
            key: mean(key)
            for key in (
                "flops",
                "flops_causal",
                "flops_published",
                "tokens",
                "bytes",
                "unique_bytes",
                "passes",
                "steps",
            )
        },
        "targets_per_update": mean("targets_per_update"),
        "warmup_share": mean("warmup_share"),
        "long_windows": first.results.get("bpb", {}).get("long_windows"),
        "separator_nats": _separator_nats(arm),
        "rows": mean("rows"),
        "parameters_total": mean("parameters", "total"),
        "parameters_body": mean("parameters", "body"),
        "head_share": mean("parameters", "head_share"),
        "context_tokens": context,
        "meta_tokens": metas,
        "context_bytes": (context - (metas or 0)) * ratio if context is not None and ratio is not None else None,
        "bits_per_byte_with_metas": _with_metas(arm),
        "lr": mean("lr"),
        "inference_flops_per_byte_prefill": inference("prefill"),
        "inference_flops_per_byte_decode": inference("decode"),
        "vocabulary_size": intrinsic.get("vocabulary_size", first.tokenizer.get("vocab_size")),
        "vocabulary_used": intrinsic.get("vocabulary_used"),
        "superword_share": intrinsic.get("superword_share"),
        "bytes_per_token": intrinsic.get("bytes_per_token"),
        "test_documents": documents.num_rows,
        "test_groups": len(documents["group"].unique()),
        "leak_share": first.corpus.get("leak_share"),
    }


def _with_metas(arm: Arm) -> float | None:
    """Bits per byte of the test text with meta tokens in its contexts, mean over seeds; None for arms without any."""
    figures = [run.results.get("bpb_with_metas") for run in arm.runs]
    known = [float(made["bits_per_byte"]) for made in figures if made is not None]
    return sum(known) / len(known) if known and len(known) == len(figures) else None


def _separator_nats(arm: Arm) -> float | None:
    """Of the end-of-text that closes a document, mean over documents and seeds."""
    figures = [run.results["bpb"] for run in arm.runs]
    if any(row.get("separator_nats") is None or not row.get("documents") for row in figures):
        return None
    return sum(float(row["separator_nats"]) / row["documents"] for row in figures) / len(figures)


def _comparisons(study: Study) -> list[dict[str, Any]]:
    """The primary endpoint first, then every arm against the baseline by table, each table one Holm family."""
    found = []
    endpoint, base = study.endpoint, study.arms[study.baseline]
    primary_pair: set[str] = set()
    if endpoint:
        a, b = (study.arms[name] for name in endpoint.arms)
        primary_pair = {a.name, b.name}
        result = compare(
            sample(a, endpoint.metric),
            sample(b, endpoint.metric),
            lower_is_better=endpoint.lower_is_better,
            smallest_difference=endpoint.smallest_difference,
        )
        found.append(_pooled(study, _entry("primary", endpoint.metric, None, a, b, result), a, b))
    others = [arm for arm in study.arms.values() if arm.name != base.name]
    delta = endpoint.smallest_difference if endpoint and endpoint.metric == BITS_PER_BYTE else None
    families: list[list[tuple[str, str | None, bool]]] = [
        [(BITS_PER_BYTE, None, True)],
        [(BITS_PER_BYTE, domain, True) for domain in domains(study)],
        [(position_metric(name), None, True) for name in position_bins(study)],
        [(f"{task}.{measure}", None, False) for task, measure in headlines(study).items()],
        [(f"{task}.gold_bits_per_byte", None, True) for task in tasks(study)],
    ]
    for family in families:
        cells = [
            (arm, metric, domain, lower)
            for metric, domain, lower in family
            for arm in others
            if not (endpoint and metric == endpoint.metric and domain is None and {arm.name, base.name} == primary_pair)
        ]
        compared = [
            compare(
                sample(arm, metric, domain),
                sample(base, metric, domain),
                lower_is_better=lower,
                smallest_difference=delta if metric == BITS_PER_BYTE and domain is None else None,
            )
            for arm, metric, domain, lower in cells
        ]
        for (arm, metric, domain, _), result in zip(cells, holm(compared)):
            found.append(_pooled(study, _entry("exploratory", metric, domain, arm, base, result), arm, base))
    found.extend(_noise_row(arm) for arm in study.arms.values() if len(arm.runs) >= AA_SEEDS)
    return found


def _noise_row(arm: Arm) -> dict[str, Any]:
    """A/A: the first three seeds of an arm against the next three, where it has six."""
    a, b = (Arm(f"{arm.name}, seeds {r[0].seed}–{r[2].seed}", (), r) for r in (arm.runs[:3], arm.runs[3:6]))
    return _entry("A/A", BITS_PER_BYTE, None, a, b, compare(sample(a, BITS_PER_BYTE), sample(b, BITS_PER_BYTE)))


def _pooled(study: Study, entry: dict[str, Any], a: Arm, b: Arm) -> dict[str, Any]:
    """Without its verdict, of whatever kind, where the domains that it pools differ clearly in opposite directions."""
    if entry["metric"] != BITS_PER_BYTE or entry["domain"] is not None:
        return entry
    disagreeing = _opposite_domains(study, a, b)
    return {**entry, "opposite_domains": disagreeing} | ({"verdict": CANNOT_TELL} if disagreeing else {})


def _opposite_domains(study: Study, a: Arm, b: Arm) -> list[str]:
    """Domains with clear differences, when they do not all point one way: then no pooled claim is made."""
    compared = holm([compare(sample(a, BITS_PER_BYTE, d), sample(b, BITS_PER_BYTE, d)) for d in domains(study)])
    clear = {d: c.verdict for d, c in zip(domains(study), compared) if c.verdict in (A_BETTER, B_BETTER)}
    return sorted(clear) if len(set(clear.values())) > 1 else []


def _entry(kind: str, metric: str, domain: str | None, a: Arm, b: Arm, result: Comparison) -> dict[str, Any]:
    return {"kind": kind, "metric": metric, "domain": domain, "arms": [a.name, b.name], **asdict(result)}


def _provenance(study: Study, out: Path) -> dict[str, Any]:
    """Where the numbers come from; the only part with paths, as links relative to the report."""
    manifests, configs = {}, {}
    distinct: dict[str, list[str]] = {}
    for arm in study.arms.values():
        for run in arm.runs:
            manifests[f"{arm.name}/{run.seed}"] = {
                stage: link(run.folders[stage] / "manifest.json", out) for stage, made in run.manifests.items() if made
            }
            for stage in ("tokenizer", "encode", "pretrain", "evaluate"):
                for name, value in flat(run.manifests[stage].get("provenance", {})).items():
                    values = distinct.setdefault(name, [])
                    if str(value) not in values:
                        values.append(str(value))
        first = arm.runs[0]
        configs[arm.name] = flat({stage: first.manifests[stage].get("config", {}) for stage in STAGES})
    reference = study.reference_folder
    return {
        "manifests": manifests,
        "reference": link(reference / "reference.json", out) if reference else None,
        "versions": dict(sorted(distinct.items())),
        "overrides": {arm.name: list(arm.overrides) for arm in study.arms.values()},
        "config_differences": config_differences(configs, study.baseline),
    }


def config_differences(configs: Mapping[str, Mapping[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """Keys in which an arm's configs (of its first seed) differ from the baseline's."""
    keys = sorted({key for config in configs.values() for key in config})
    rows = []
    for key in keys:
        values = {name: config.get(key) for name, config in configs.items()}
        if key.rpartition(".")[2] != "seed" and any(value != values[baseline] for value in values.values()):
            rows.append({"key": key, "values": values})
    return rows


def _timing(study: Study) -> dict[str, Any]:
    return {
        f"{arm.name}/{run.seed}": {
            **{f"{stage}_wall_s": run.manifests[stage].get("wall_s") for stage in STAGES},
            **run.timing,
        }
        for arm in study.arms.values()
        for run in arm.runs
    }


def link(path: Path, out: Path) -> str:
    """From a page in the folder `out` to a file, relative."""
    return quote(Path(os.path.relpath(path.resolve(), out.resolve())).as_posix(), safe="/.-_~=")


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted keys."""
    made: dict[str, Any] = {}
    for key, value in data.items():
        made.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return made


def plain(data: Any) -> Any:
    """Tuples to lists and keys to strings, so that what is rendered is what results.json holds."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return data
