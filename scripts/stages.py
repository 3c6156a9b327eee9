"""One function a stage: explicit inputs (folders, recipes) and an output folder, whose figures go to the manifest.

`build_node` is what executors call: it holds the store's lock, runs the stage and publishes the artefact.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from isotok.errors import DataError, IsotokError
from isotok.files import check_free_space, is_full, read_json
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
    from training.api import init_fingerprint, prepare_run

    recipes = {
        group: build(node.config[group], group) for group in ("model", "transform", "budget", "training", "engine")
    }
    came_from = recipes["training"].init_from
    if came_from and init_fingerprint(came_from) != node.config["init"]:
        raise DataError(f"training.init_from={came_from}: changed while it was in use; run again")
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


def _task(node: Node, folders: Folders, out: Path) -> Figures:
    from evaluation.subword.lm_eval_tasks import write_lm_eval
    from evaluation.subword.questions import write_task

    recipe = build(node.config["task"], "task")
    data = recipe.data(folders["corpus"])
    if "fingerprint" in node.config and recipe.fingerprint() != node.config["fingerprint"]:
        raise DataError(f"task {data.name}: its folder changed while it was in use; run again")
    written = write_task(data, out)
    write_lm_eval(data, out)
    return {"name": data.name, "main": data.main, "files": written["files"], "heuristics": data.about.get("heuristics")}


def _finetune(node: Node, folders: Folders, out: Path) -> Figures:
    from scripts.compose import plugins_added
    from scripts.worker import start_worker
    from tokenization import TokenData
    from training.api import prepare_finetune
    from training.budget import plain_context_tokens

    engine = build(node.config["engine"], "engine")
    random = "model" in node.config
    context = None
    if random:
        context = plain_context_tokens(node.config["context_bytes"], TokenData.open(folders["encode"], "train"))
    prepare_finetune(
        finetuning=build(node.config["finetuning"], "finetuning"),
        init_model=None if random else folders["pretrain"] / "model",
        model=build(node.config["model"], "model") if random else None,
        context_tokens=context,
        questions=folders["task"],
        tokenizer=folders["tokenizer"],
        engine=engine,
        out=out,
        label=node.name,
        seed=node.config["seed"],
    )
    return start_worker(out, engine, plugins_added())


def _answers(node: Node, folders: Folders, out: Path) -> Figures:
    from evaluation.subword.answers import answer
    from evaluation.subword.questions import read_task

    pretrained = folders["pretrain"] / "model" if "pretrain" in folders else None
    if "finetune" in folders:
        points = {int(folder.name): folder for folder in sorted((folders["finetune"] / "points").iterdir())}
    else:
        assert pretrained is not None
        points = {0: pretrained}
    engine = build(node.config["engine"], "engine")
    return answer(
        read_task(folders["task"], train=False),
        points,
        folders["corpus"],
        out,
        pretrained=pretrained,
        point_questions=node.config["point_questions"],
        seed=node.config["seed"],
        device=engine.device,
        threads=engine.threads,
    )


def _reference(node: Node, folders: Folders, out: Path) -> Figures:
    from evaluation.reference import write_reference

    return write_reference(build(node.config["evaluation"], "evaluation"), folders["corpus"], out)


def _report(node: Node, folders: Folders, out: Path) -> Figures:
    from evaluation.report import write_report

    def made(arm: str, seed: int) -> dict[str, Node]:
        evaluated = node.inputs[f"{arm}/{seed}"]
        trained = evaluated.inputs["pretrain"]
        return {"evaluate": evaluated, "pretrain": trained, **trained.inputs}

    spec = _study(node, out, made, "bits_per_byte", "lower")
    return write_report({**spec, "reference": str(folders["reference"].resolve())}, out)


def _task_report(node: Node, folders: Folders, out: Path) -> Figures:
    from evaluation.subword.report import write_task_report

    def made(arm: str, seed: int) -> dict[str, Node | None]:
        answered = node.inputs[f"answers/{arm}/{seed}"]
        roles = ("pretrain", "finetune", "task", "tokenizer")
        evaluated = node.inputs.get(f"evaluate/{arm}/{seed}")
        return {"answers": answered, "evaluate": evaluated, **{role: answered.inputs.get(role) for role in roles}}

    answers = read_json(next(folder for role, folder in folders.items() if "answers" in role) / "results.json")
    usual = "task_accuracy" if "choice" in answers["modes"] else "task_exact"
    if usual == "task_accuracy" and len(answers["points"]) > 1:
        usual = "task_auc"
    spec = _study(node, out, made, node.config["study"]["metric"] or usual, "higher")
    spec["endpoint"]["split"] = node.config["study"]["split"]
    return write_task_report(spec, out)


def _study(
    node: Node, out: Path, made: Callable[[str, int], Mapping[str, Node | None]], metric: str, direction: str
) -> dict[str, Any]:
    """What a report is told: its arms with the folders of each run, and the endpoint that was declared.

    made: arm, seed → nodes by role, None where a run has none.
    """
    study, store, arms = node.config["study"], Store(out.parent.parent), []
    for arm in node.config["arms"]:
        runs = []
        for seed in arm["seeds"]:
            folders = {role: n and str(store.folder(n).resolve()) for role, n in made(arm["name"], seed).items()}
            runs.append({"seed": seed, **folders})
        arms.append({"name": arm["name"], "overrides": arm["overrides"], "runs": runs})
    names = [arm["name"] for arm in arms]
    baseline = study["baseline"] or names[0]
    others = [name for name in names if name != baseline]
    return {
        "experiment": node.config["experiment"],
        "title": study["title"] or node.config["experiment"],
        "notes": study["notes"],
        "arms": arms,
        "baseline": baseline,
        "endpoint": {
            "metric": metric,
            "arms": [study["endpoint_arm"] or (others[0] if others else baseline), baseline],
            "direction": direction,
            "smallest_difference": study["smallest_difference"],
        },
    }


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
    "task": _task,
    "finetune": _finetune,
    "answers": _answers,
    "reference": _reference,
    "report": _report,
    "task_report": _task_report,
    "comparison": _comparison,
}


def _say_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if is_full(error):
        return f"{where}no space left on the disk; free some or set store=PATH to another disk, then run again"
    return f"{where}{error.strerror or error}"
