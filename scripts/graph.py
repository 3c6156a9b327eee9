"""Recipes → the graph of artefacts, keyed by everything that changes a result and nothing else."""

from collections.abc import Iterable
from typing import Any

from evaluation.benchmarks import NoBenchmark
from evaluation.compare import Comparison
from evaluation.subword.folder import NoTask
from isotok.errors import ConfigError
from isotok.files import hash_key
from isotok.recipe import describe
from scripts.compose import Experiment, Run, group_options
from scripts.store import Node
from training.api import init_fingerprint

# Bump a stage's format when the same recipe and inputs come to give another result or another layout.
FORMATS = {
    "corpus": 1,
    "count": 1,
    "tokenizer": 2,
    "encode": 2,
    "pretrain": 2,
    "benchmark": 1,
    "evaluate": 2,
    "task": 2,
    "finetune": 1,
    "answers": 2,
    "reference": 1,
    "report": 3,
    "task_report": 2,
    "comparison": 1,
}


class Graph:
    """Makes nodes and keeps what is costly to know twice: fingerprints of corpora and of existing tokenizers."""

    def __init__(self) -> None:
        self._fingerprints: dict[str, dict[str, Any]] = {}

    def corpus(self, run: Run) -> Node:
        extra = {"fingerprint": self._fingerprint(run.corpus)}
        return _node("corpus", run.corpus.label, {}, {"corpus": run.corpus}, extra=extra)

    def _fingerprint(self, recipe: Any) -> dict[str, Any]:
        # With impl fields: a local corpus' paths are one, and other paths are other text.
        ident = hash_key(describe(recipe))
        if ident not in self._fingerprints:
            self._fingerprints[ident] = recipe.fingerprint()
        return self._fingerprints[ident]

    def _weights(self, folder: str) -> dict[str, Any]:
        if folder not in self._fingerprints:
            self._fingerprints[folder] = init_fingerprint(folder)
        return self._fingerprints[folder]

    def tokenizer(self, run: Run) -> Node:
        corpus = self.corpus(run)
        inputs = {"corpus": corpus}
        # Counts belong to the corpus: every tokenizer that needs the same ones shares them.
        for chunking in getattr(run.tokenizer, "chunkings", ()):
            counted = {"corpus": corpus}
            name = f"{corpus.name}-{chunking.label}"
            inputs[f"count/{chunking.label}"] = _node("count", name, counted, {"chunking": chunking})
        extra = {"fingerprint": self._fingerprint(run.tokenizer)} if hasattr(run.tokenizer, "fingerprint") else None
        return _node("tokenizer", run.tokenizer.label, inputs, {"tokenizer": run.tokenizer}, extra=extra)

    def encode(self, run: Run) -> Node:
        inputs = {"corpus": self.corpus(run), "tokenizer": self.tokenizer(run)}
        return _node("encode", run.tokenizer.label, inputs, {}, resumable=True)

    def pretrain(self, run: Run) -> Node:
        encoded = self.encode(run)
        recipes = {name: getattr(run, name) for name in ("model", "transform", "budget", "training")}
        plain = run.transform.label == "plain"
        label = run.tokenizer.label if plain else f"{run.tokenizer.label}-{run.transform.label}"
        # Weights to go on from are told by what is in them, not by where they lie.
        init = {"init": self._weights(run.training.init_from)} if run.training.init_from else {}
        return _node(
            "pretrain",
            f"{run.model.label}-{label}-s{run.seed}",
            {**encoded.inputs, "encode": encoded},
            recipes,
            extra={"seed": run.seed, **init},
            impl={"engine": describe(run.engine)},
            resumable=True,
        )

    def evaluate(self, run: Run) -> Node:
        if run.evaluation.scoring == "bytes" and not getattr(run.tokenizer, "exact_byte_scores", True):
            raise ConfigError(
                f"tokenizer {run.tokenizer.label}: exact byte scores need byte-level BPE; "
                "set evaluation.scoring=backoff for all arms"
            )
        trained = self.pretrain(run)
        inputs = {"corpus": trained.inputs["corpus"], "tokenizer": trained.inputs["tokenizer"], "pretrain": trained}
        if has_benchmark(run):
            inputs["benchmark"] = self.benchmark(run)
        extra = {"context_bytes": run.budget.context_bytes}
        recipes = {"evaluation": run.evaluation}
        return _node("evaluate", trained.name, inputs, recipes, extra=extra, impl={"engine": describe(run.engine)})

    def benchmark(self, run: Run) -> Node:
        """Downstream tasks made elsewhere, shared by all arms. Raises ConfigError for benchmark=none."""
        if not has_benchmark(run):
            names = ", ".join(name for name in group_options("benchmark") if name != "none")
            raise ConfigError(f"benchmark=none has no tasks; choose one of {names}")
        extra = {"fingerprint": self._fingerprint(run.benchmark)}
        return _node("benchmark", run.benchmark.label, {}, {"benchmark": run.benchmark}, extra=extra)

    def task(self, run: Run) -> Node:
        """The questions of a subword task, shared by all arms. Raises ConfigError for task=none."""
        if not has_task(run):
            names = ", ".join(name for name in group_options("task") if name != "none")
            raise ConfigError(f"task=none has no questions; choose one of {names}")
        extra = {"fingerprint": self._fingerprint(run.task)} if hasattr(run.task, "fingerprint") else None
        return _node("task", run.task.label, {"corpus": self.corpus(run)}, {"task": run.task}, extra=extra)

    def finetune(self, run: Run) -> Node:
        """A model after the task's training questions, from its pretraining or, as a control, from initial weights."""
        task = self.task(run)
        if not run.task.fine_tuned:
            raise ConfigError(f"task={run.task.label} is asked of pretrained models: it has nothing to fine-tune on")
        recipes, extra = {"finetuning": run.finetuning}, {"seed": run.seed}
        if run.finetuning.init == "pretrained":
            trained = self.pretrain(run)
            name, inputs = trained.name, {"pretrain": trained}
        else:
            encoded = self.encode(run)
            name, inputs = f"{run.model.label}-{run.tokenizer.label}-scratch-s{run.seed}", {"encode": encoded}
            recipes["model"] = run.model
            extra["context_bytes"] = run.budget.context_bytes
        inputs |= {"tokenizer": self.tokenizer(run), "task": task}
        impl = {"engine": describe(run.engine)}
        return _node("finetune", f"{name}-{task.name}", inputs, recipes, extra=extra, impl=impl, resumable=True)

    def answers(self, run: Run) -> Node:
        """The task's questions asked of a model: at each point of its fine-tuning, or of the pretrained one."""
        task = self.task(run)
        inputs = {"corpus": self.corpus(run), "tokenizer": self.tokenizer(run), "task": task}
        if is_pretrained(run):
            inputs["pretrain"] = self.pretrain(run)
        if run.task.fine_tuned:
            inputs["finetune"] = self.finetune(run)
            name = inputs["finetune"].name
        else:
            name = f"{inputs['pretrain'].name}-{task.name}"
        extra = {"seed": run.evaluation.seed, "point_questions": run.task.point_questions}
        return _node("answers", name, inputs, {}, extra=extra, impl={"engine": describe(run.engine)})

    def reference(self, run: Run) -> Node:
        corpus = self.corpus(run)
        return _node("reference", corpus.name, {"corpus": corpus}, {"evaluation": run.evaluation})

    def target(self, experiment: Experiment) -> Node:
        """What an experiment ends in: the report on its models or on their task, or the comparison of tokenizers."""
        if experiment.study.subject == "tokenizers":
            return self.comparison(experiment)
        with_task = [arm.name for arm in experiment.arms if any(map(has_task, arm.runs.values()))]
        if with_task and len(with_task) < len(experiment.arms):
            without = next(arm.name for arm in experiment.arms if arm.name not in with_task)
            raise ConfigError(f"task: arm {with_task[0]} has one and arm {without} none; give every arm the same")
        return self.task_report(experiment) if with_task else self.report(experiment)

    def comparison(self, experiment: Experiment) -> Node:
        """The tokenizers of all arms on the test split of their corpus, which must be one; seeds play no part."""
        runs = {arm.name: next(iter(arm.runs.values())) for arm in experiment.arms}
        inputs = {f"tokenizer/{name}": self.tokenizer(run) for name, run in runs.items()}
        corpora = {self.corpus(run) for run in runs.values()}
        if len(corpora) > 1:
            raise ConfigError(
                f"study.subject=tokenizers compares on one text, but the arms have {len(corpora)} corpora; "
                "give every arm the same corpus"
            )
        inputs["corpus"] = corpora.pop()
        recipes = {"comparison": Comparison()}
        return _node("comparison", experiment.name, inputs, recipes, extra={"tokenizers": list(runs)})

    def report(self, experiment: Experiment) -> Node:
        if experiment.study.metric not in ("", "bits_per_byte"):
            raise ConfigError(f"study.metric={experiment.study.metric}: needs a task (task=langgame, say)")
        inputs: dict[str, Node] = {}
        rounding = {bool(run.engine.zero) for run in experiment.runs() if run.training.precision == "bf16"}
        if len(rounding) > 1:
            raise ConfigError(
                "engine.zero: with training.precision=bf16 ZeRO rounds otherwise than the other engines; give all arms "
                "engine.zero=0, or all of them another"
            )
        for arm in experiment.arms:
            for seed, run in arm.runs.items():
                inputs[f"{arm.name}/{seed}"] = self.evaluate(run)
        asked = {node.inputs.get("benchmark") for node in inputs.values()}
        if len(asked) > 1:
            names = sorted(node.name if node else "none" for node in asked)
            raise ConfigError(f"benchmark: the arms have different ones ({', '.join(names)}); give every arm the same")
        inputs["reference"] = self.reference(experiment.runs()[0])
        return _node("report", experiment.name, inputs, {}, extra=_about(experiment))

    def task_report(self, experiment: Experiment) -> Node:
        """The arms on one task, with bits per byte of those that were pretrained."""
        if experiment.study.metric == "bits_per_byte":
            raise ConfigError("study.metric=bits_per_byte: with a task it is task_auc, task_accuracy or task_exact")
        inputs: dict[str, Node] = {}
        for arm in experiment.arms:
            for seed, run in arm.runs.items():
                answered = inputs[f"answers/{arm.name}/{seed}"] = self.answers(run)
                if "pretrain" in answered.inputs:
                    inputs[f"evaluate/{arm.name}/{seed}"] = self.evaluate(run)
        asked = {node.inputs["task"] for node in inputs.values() if node.stage == "answers"}
        if len(asked) > 1:
            names = sorted(node.folder_name for node in asked)
            raise ConfigError(f"task: the arms have different ones ({', '.join(names)}); give every arm the same")
        return _node("task_report", experiment.name, inputs, {}, extra=_about(experiment))


def _about(experiment: Experiment) -> dict[str, Any]:
    """What a report says of its experiment."""
    return {
        "experiment": experiment.name,
        "study": describe(experiment.study),
        "arms": [
            {"name": arm.name, "overrides": list(arm.overrides), "seeds": list(arm.runs)} for arm in experiment.arms
        ],
    }


def has_benchmark(run: Run) -> bool:
    """Whether tasks made elsewhere are asked for; without, keys are what they would be without this group."""
    return not isinstance(run.benchmark, NoBenchmark)


def has_task(run: Run) -> bool:
    """Whether a subword task is asked for."""
    return not isinstance(run.task, NoTask)


def is_pretrained(run: Run) -> bool:
    """False for the control that is fine-tuned from initial weights."""
    return not has_task(run) or not run.task.fine_tuned or run.finetuning.init == "pretrained"


def ancestors(nodes: Iterable[Node]) -> list[Node]:
    """The nodes and all they need, each once, inputs before users."""
    ordered: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node not in ordered:
            for made in node.inputs.values():
                visit(made)
            ordered[node] = None

    for node in nodes:
        visit(node)
    return list(ordered)


def _node(
    stage: str,
    name: str,
    inputs: dict[str, Node],
    recipes: dict[str, Any],
    *,
    extra: dict[str, Any] | None = None,
    impl: dict[str, Any] | None = None,
    resumable: bool = False,
) -> Node:
    identity = {
        "stage": stage,
        "format": FORMATS[stage],
        "recipes": {group: describe(made, with_impl=False) for group, made in recipes.items()},
        "inputs": {role: made.key for role, made in inputs.items()},
        "extra": extra or {},
    }
    config = {group: describe(made) for group, made in recipes.items()} | (extra or {}) | (impl or {})
    safe = "".join(char if char.isalnum() or char in "._-=" else "-" for char in name)[:80]
    return Node(
        stage=stage,
        name=safe,
        key=hash_key(identity),
        format=FORMATS[stage],
        inputs=inputs,
        config=config,
        resumable=resumable,
    )
