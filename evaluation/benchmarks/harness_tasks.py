"""Tasks of lm-eval as items: its own task objects give context, choices and right answer; no code for single datasets.

Datasets come from the Hugging Face Hub at a commit that is looked up once and recorded, or from local files.
"""

import importlib.metadata
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass as checked

from evaluation.benchmarks.boundary import common_start, move_space
from evaluation.benchmarks.leaves import Leaf, find_leaves
from evaluation.tasks.items import Item, TaskSet
from isotok.errors import DataError, IsotokError
from isotok.keyed import keyed_int
from isotok.progress import say, track
from isotok.recipe import Field, Impl, recipe


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Spec:
    """One entry of `tasks`; see configs/benchmark/olmes_cf.yaml."""

    task: str | list[str] | None = None
    normalization: Literal["none", "bytes", "pmi"] = "bytes"
    unconditional: str | None = None
    revision: str = "auto"
    config: dict[str, Any] = field(default_factory=dict)
    missing: str | None = None
    use: bool = True

    def __post_init__(self) -> None:
        if self.revision != "auto" and not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(f"revision={self.revision!r} is not pinned: give a commit of 40 hex digits, or auto")
        if self.normalization == "pmi" and self.unconditional is None:
            raise ValueError('normalization=pmi needs `unconditional`, like "Answer:"')


@dataclass
class _Made:
    items: list[Item] = field(default_factory=list)
    left_out: int = 0
    version: int | str = 1
    whole: bool = False


@recipe
class HarnessTasks:
    """A list of lm-eval's tasks, at most `items` of each, picked by `seed` and task.

    name: of the list.
    tasks: by the name they are shown under: `task` (lm-eval's name of a task, group or tag, or several; default: the
        same), `normalization` and `unconditional` (see evaluation.tasks.items.TaskSet), `revision` (of its dataset:
        `auto`, the newest, looked up when the run starts, or a commit), `config` (keys of lm-eval's task to change),
        `missing` (a reason why it can only be listed), `use: false` (left out altogether).
    shots: solved examples before each question, drawn by lm-eval's sampler of the task.
    include_path: a folder with task YAML of one's own.
    """

    name: str
    tasks: dict[str, dict[str, Any]]
    items: Annotated[int, Field(ge=1)] = 1000
    shots: Annotated[int, Field(ge=0)] = 0
    seed: int = 1234
    include_path: Impl[str | None] = None

    @model_validator(mode="after")
    def _known_keys(self) -> Self:
        for name, given in self.tasks.items():
            try:
                TypeAdapter(Spec).validate_python(given)
            except ValidationError as error:
                problem = error.errors()[0]
                key = ".".join(str(part) for part in problem["loc"])
                raise ValueError(f"tasks.{name}{'.' if key else ''}{key}: {problem['msg']}") from None
        if not self._specs():
            raise ValueError("tasks: none is used")
        return self

    @property
    def label(self) -> str:
        return re.sub(r"[^a-z0-9_]+", "_", self.name.lower()) or "tasks"

    def _specs(self) -> dict[str, Spec]:
        made = {name: Spec(**given) for name, given in self.tasks.items()}
        return {name: spec for name, spec in made.items() if spec.use}

    def _leaves(self, name: str, spec: Spec) -> list[Leaf]:
        names = [spec.task] if isinstance(spec.task, str) else spec.task or [name]
        return [leaf for one in names for leaf in find_leaves(one, spec.config, self.include_path)]

    def fingerprint(self) -> dict[str, Any]:
        """Version of lm-eval, and by task the commit of each dataset (`unreachable: KIND OF ERROR` in its place) and
        checksums of local files. Raises DataError where no task can be had."""
        from tokenization.hub import newest_revision

        say(f"benchmark: looking up tasks and datasets of {self.name}")
        found: dict[str, Any] = {}
        failed: dict[str, str] = {}
        reason = "no task has a likelihood form"
        some = False
        for name, spec in self._specs().items():
            entry: dict[str, Any] = {"revisions": {}, "files": {}}
            leaves = [] if spec.missing else self._leaves(name, spec)
            if any(leaf.unfit for leaf in leaves):
                leaves = []
            for leaf in leaves:
                path = leaf.hub
                entry["files"] |= leaf.local_files()
                if path is None:
                    continue
                revision = spec.revision
                if revision == "auto" and path not in failed:
                    try:
                        revision = newest_revision(path)
                    except DataError as error:
                        reason = str(error).partition("; check")[0]
                        kind = re.search(r"\((\w+)", reason)
                        failed[path] = kind[1] if kind else "DataError"
                entry["revisions"][path] = f"unreachable: {failed[path]}" if revision == "auto" else revision
            some = some or bool(leaves and not _unreachable(entry))
            found[name] = entry
        if not some:
            raise DataError(
                f"benchmark {self.name}: no task can be had ({reason}); check the network, or write the tasks where "
                "there is one (`isotok export-tasks`) and read them with benchmark=folder benchmark.path=DIR"
            )
        return {"lm_eval": importlib.metadata.version("lm_eval"), "tasks": found}

    def task_sets(self, fingerprint: Mapping[str, Any]) -> tuple[list[TaskSet], dict[str, Any]]:
        """(the tasks in their order, where they are from)."""
        tasks, notes = [], {}
        for name, spec in track(self._specs().items(), f"tasks of {self.name}", len(self._specs())):
            entry = fingerprint["tasks"][name]
            made, missing = self._make(name, spec, entry)
            if missing:
                say(f"benchmark: {name} is missing: {missing}")
            task = TaskSet(
                name,
                tuple(made.items),
                version=made.version,
                normalization=spec.normalization,
                unconditional=spec.unconditional,
                missing=missing,
            )
            tasks.append(task)
            notes[name] = {**entry, "task": spec.task or name, "left_out": made.left_out, "whole_strings": made.whole}
        source = {"benchmark": self.name, "lm_eval": fingerprint["lm_eval"], "shots": self.shots, "tasks": notes}
        return tasks, source

    def _make(self, name: str, spec: Spec, entry: Mapping[str, Any]) -> tuple[_Made, str | None]:
        made = _Made()
        if spec.missing:
            return made, spec.missing
        leaves = self._leaves(name, spec)
        unfit = next((leaf.unfit for leaf in leaves if leaf.unfit), None)
        if unfit or (unfit := _unreachable(entry)):
            return made, unfit
        share = -(-self.items // len(leaves))  # of a group: as many of each of its tasks
        for leaf in leaves:
            try:
                self._add(made, leaf, entry, share)
            except IsotokError:
                raise
            except Exception as error:  # lm-eval, datasets and what they stand on raise dozens of kinds
                first = (str(error).strip().splitlines() or [""])[0]
                return _Made(), f"{leaf.name}: cannot be read ({type(error).__name__}: {first})"
        return (made, None) if made.items else (_Made(), "none of its questions has one right answer among its choices")

    def _add(self, made: _Made, leaf: Leaf, entry: Mapping[str, Any], n: int) -> None:
        from lm_eval.tasks import TaskManager

        from evaluation.tasks.run import kept_random_state, quiet

        with tempfile.TemporaryDirectory(prefix="isotok-lm-eval-") as cache, quiet(), kept_random_state():
            revision = entry["revisions"].get(leaf.hub)
            config = leaf.pinned(revision, Path(cache))
            manager = TaskManager(include_path=cache, include_defaults=False)  # knows no names: the config is whole
            task: Any = manager.load([config])["tasks"][leaf.name]
            version = task.VERSION
            made.version = version if isinstance(version, int | str) else str(version)
            docs = task.eval_docs
            order = sorted(range(len(docs)), key=lambda i: (keyed_int(self.seed, leaf.name, i), i))
            kept = 0
            for i in order:
                if kept == n:
                    break
                task.set_fewshot_seed(keyed_int(self.seed, leaf.name, i, "shots", bits=32))
                asked = _question(task, docs[i], self.shots)
                if asked is None:
                    made.left_out += 1
                    continue
                kept += 1
                context, choices, gold = asked
                made.whole = made.whole or bool(task.multiple_input)
                ident = f"{leaf.name}:{i}"
                made.items.append(Item(ident, ident, ident, leaf.name, context, choices, gold))


def _question(task: Any, doc: Any, shots: int) -> tuple[str, tuple[str, ...], int] | None:
    """(context, choices, index of the right one) as lm-eval asks; None where not one choice is right.

    Where the choice stands in the context (WinoGrande), lm-eval scores what follows it. Items have one context, so the
    strings behind their common beginning are scored whole ("full" scoring; Trinh and Le 2018, arXiv 1806.02847).
    """
    context = task.fewshot_context(doc, num_fewshot=shots)
    requests = task.construct_requests(doc, context)
    pairs = [request.args for request in (requests if isinstance(requests, list) else [requests])]
    if task.OUTPUT_TYPE == "loglikelihood":
        gold: Any = 0
    else:
        gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        if isinstance(gold, list) and len(gold) == 1:
            gold = gold[0]
        if isinstance(gold, str):
            choices = task.doc_to_choice(doc)
            gold = choices.index(gold) if gold in choices else None
        if not isinstance(gold, int) or not 0 <= gold < len(pairs):
            return None
    if not all(text for _, text in pairs):
        return None
    return (*move_space(*common_start([(str(before), str(text)) for before, text in pairs])), int(gold))


def _unreachable(entry: Mapping[str, Any]) -> str | None:
    for path, revision in entry["revisions"].items():
        if revision.startswith("unreachable"):
            return f"{path}: the Hub did not say which commit is its newest ({revision.removeprefix('unreachable: ')})"
    return None
