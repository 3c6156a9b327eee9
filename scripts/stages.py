"""One function a stage: explicit inputs (folders, recipes) and an output folder, whose figures go to the manifest.

`build_node` is what executors call: it holds the store's lock, runs the stage and publishes the artefact.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from isotok.errors import IsotokError
from isotok.files import check_free_space, is_full
from isotok.progress import say
from isotok.recipe import build
from scripts.store import Node, Store

Folders = dict[str, Path]
Figures = dict[str, Any]


def build_node(node: Node, store: Store) -> Path:
    """Build one artefact whose inputs exist, or find it built; returns its folder."""
    folders = {role: store.folder(made) for role, made in node.inputs.items()}
    with store.building(node) as place:
        if place is not None:
            out, figures = place
            say(f"{node.stage}: {node.name}")
            check_free_space(out, 50e6, f"stage {node.stage}")
            try:
                figures.update(_STAGES[node.stage](node, folders, out))
            except OSError as error:
                raise IsotokError(f"{node.stage} {node.name}: {_say_os_error(error)}") from error
    return store.folder(node)


def _corpus(node: Node, folders: Folders, out: Path) -> Figures:
    from tokenization import build_corpus

    return build_corpus(build(node.config["corpus"], "corpus"), out)


def _count(node: Node, folders: Folders, out: Path) -> Figures:
    from tokenization import count_corpus

    return count_corpus(folders["corpus"], build(node.config["chunking"], "tokenizer"), out)


def _tokenizer(node: Node, folders: Folders, out: Path) -> Figures:
    from tokenization import train_tokenizer

    recipe = build(node.config["tokenizer"], "tokenizer")
    counted = {chunking: folders[f"count/{chunking.label}"] for chunking in getattr(recipe, "chunkings", ())}
    return train_tokenizer(recipe, folders["corpus"], out, counted)


def _encode(node: Node, folders: Folders, out: Path) -> Figures:
    from tokenization import encode_corpus

    return encode_corpus(folders["corpus"], folders["tokenizer"], out)


def _pretrain(node: Node, folders: Folders, out: Path) -> Figures:
    from scripts.compose import plugins_added
    from scripts.worker import start_worker
    from training.api import prepare_run

    recipes = {
        group: build(node.config[group], group) for group in ("model", "transform", "budget", "training", "engine")
    }
    prepare_run(
        **recipes,
        tokens=folders["encode"],
        tokenizer=folders["tokenizer"],
        out=out,
        label=node.name,
        seed=node.config["seed"],
        corpus=str(folders["corpus"].resolve()),
    )
    return start_worker(out, recipes["engine"], plugins_added())


def _evaluate(node: Node, folders: Folders, out: Path) -> Figures:
    from evaluation.evaluate import evaluate

    engine = build(node.config["engine"], "engine")
    return evaluate(
        build(node.config["evaluation"], "evaluation"),
        model_dir=folders["pretrain"] / "model",
        corpus=folders["corpus"],
        context_bytes=node.config["context_bytes"],
        out=out,
        device=engine.device,
        threads=engine.threads,
        benchmark=folders.get("benchmark"),
    )


def _benchmark(node: Node, folders: Folders, out: Path) -> Figures:
    from evaluation.benchmarks import build_benchmark

    return build_benchmark(build(node.config["benchmark"], "benchmark"), node.config["fingerprint"], out)


def _reference(node: Node, folders: Folders, out: Path) -> Figures:
    from evaluation.reference import write_reference

    return write_reference(build(node.config["evaluation"], "evaluation"), folders["corpus"], out)


def _report(node: Node, folders: Folders, out: Path) -> Figures:
    from evaluation.report import write_report

    study = node.config["study"]
    arms = []
    for arm in node.config["arms"]:
        runs = []
        for seed in arm["seeds"]:
            evaluated = node.inputs[f"{arm['name']}/{seed}"]
            trained = evaluated.inputs["pretrain"]
            store = Store(out.parent.parent)
            made = {"evaluate": evaluated, "pretrain": trained, **trained.inputs}
            runs.append({"seed": seed, **{role: str(store.folder(n).resolve()) for role, n in made.items()}})
        arms.append({"name": arm["name"], "overrides": arm["overrides"], "runs": runs})
    names = [arm["name"] for arm in arms]
    baseline = study["baseline"] or names[0]
    others = [name for name in names if name != baseline]
    spec = {
        "experiment": node.config["experiment"],
        "title": study["title"] or node.config["experiment"],
        "notes": study["notes"],
        "arms": arms,
        "baseline": baseline,
        "endpoint": {
            "metric": "bits_per_byte",
            "arms": [study["endpoint_arm"] or (others[0] if others else baseline), baseline],
            "direction": "lower",
            "smallest_difference": study["smallest_difference"],
        },
        "reference": str(folders["reference"].resolve()),
    }
    return write_report(spec, out)


def _comparison(node: Node, folders: Folders, out: Path) -> Figures:
    from evaluation.compare import write_comparison

    tokenizers = {name: folders[f"tokenizer/{name}"] for name in node.config["tokenizers"]}
    return write_comparison(tokenizers, folders["corpus"], out, build(node.config["comparison"], "comparison"))


_STAGES: dict[str, Callable[[Node, Folders, Path], Figures]] = {
    "corpus": _corpus,
    "count": _count,
    "tokenizer": _tokenizer,
    "encode": _encode,
    "pretrain": _pretrain,
    "benchmark": _benchmark,
    "evaluate": _evaluate,
    "reference": _reference,
    "report": _report,
    "comparison": _comparison,
}


def _say_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if is_full(error):
        return f"{where}no space left on the disk; free some or set store=PATH to another disk, then run again"
    return f"{where}{error.strerror or error}"
