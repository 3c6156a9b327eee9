"""lm-eval's tasks by name: what single tasks a name stands for, in which form they ask, on which data."""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotok.errors import ConfigError, DataError
from isotok.files import sha256_file

LIKELIHOOD = ("multiple_choice", "loglikelihood")
NEEDS_GENERATION = "needs generation: not in likelihood form"
_LOCAL = ("json", "csv", "parquet", "text", "arrow")  # builders of `datasets` that read files
_HUB_FILE = re.compile(r"hf://datasets/(?P<path>[^/@]+/[^/@]+)(@[^/]+)?/")


@dataclass(frozen=True)
class Leaf:
    """One task of lm-eval. `config` is what its file `yaml` says, functions by name only, with `overrides`."""

    name: str
    config: Mapping[str, Any]
    overrides: Mapping[str, Any]
    yaml: Path

    @property
    def unfit(self) -> str | None:
        """Why it has no likelihood form, or None."""
        if "class" in self.config:
            return "a program of lm-eval's, not a config: not in likelihood form"
        form = self.config.get("output_type", "generate_until")
        if form == "loglikelihood_rolling":
            return "scores whole documents: isotok has its own corpora for that"
        return None if form in LIKELIHOOD else NEEDS_GENERATION

    @property
    def hub(self) -> str | None:
        """The Hub dataset that it reads, None for local files."""
        path = str(self.config.get("dataset_path") or "")
        if path in _LOCAL:
            names = {found["path"] for found in map(_HUB_FILE.match, self._files()) if found}
            if len(names) > 1:
                raise DataError(f"task {self.name}: reads files of several datasets ({', '.join(sorted(names))})")
            return next(iter(names), None)
        return path if path and not Path(path).exists() else None

    def local_files(self) -> dict[str, str]:
        """sha256 of each local data file, and of its YAML where that is not lm-eval's own."""
        files = {name: Path(name) for name in self._files() if not _HUB_FILE.match(name)}
        folder = Path(str(self.config.get("dataset_path") or ""))
        if folder.name and folder.exists():
            found = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
            files |= {path.relative_to(folder.parent).as_posix(): path for path in found}
        if _package() not in self.yaml.resolve().parents:
            files[self.yaml.name] = self.yaml
        missing = [name for name, path in files.items() if not path.is_file()]
        if missing:
            raise DataError(f"task {self.name}: no file {missing[0]} (paths in a task are from the current folder)")
        return {Path(name).name: sha256_file(path) for name, path in files.items()}

    def pinned(self, revision: str | None, cache: Path) -> dict[str, Any]:
        """Its config, functions and all, reading that commit of its dataset; with local files, their cache in `cache`.

        Loading functions runs code of the task's, which for some (not likelihood tasks) fetches more.
        """
        from lm_eval.tasks._yaml_loader import load_yaml

        config = {**load_yaml(self.yaml, resolve_func=True), **self.overrides}
        kwargs = dict(self.config.get("dataset_kwargs") or {})
        if revision is None:
            kwargs["cache_dir"] = str(cache)
        elif str(self.config.get("dataset_path")) in _LOCAL:
            kwargs["data_files"] = _map_files(
                kwargs["data_files"], lambda name: _HUB_FILE.sub(rf"hf://datasets/\g<path>@{revision}/", name)
            )
        else:
            kwargs["revision"] = revision
        # The scores are our own; lm-eval's metrics may want the network, or more requests.
        metrics = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
        for key in ("tag", "group", "task_list", "task_alias"):
            config.pop(key, None)
        # Where solved examples come from the questions themselves, lm-eval leaves out the one that is asked only if
        # the config names the split for both.
        fewshot = config.get("fewshot_config") or {}
        asked = config.get("test_split") or config.get("validation_split")
        other = [config.get(key) for key in ("training_split", "validation_split", "test_split")]
        solved = fewshot.get("split") or config.get("fewshot_split") or next(filter(None, other), None)
        if asked and solved == asked and not fewshot.get("samples"):
            config |= {"test_split": asked, "fewshot_split": asked}
        return {**config, "task": self.name, "dataset_kwargs": kwargs, "metric_list": metrics}

    def _files(self) -> list[str]:
        found: list[str] = []
        files = (self.config.get("dataset_kwargs") or {}).get("data_files", [])
        _map_files(files, lambda name: found.append(name) or name)  # type: ignore[func-returns-value]
        return found


def _map_files(files: Any, change: Any) -> Any:
    """`data_files` of `datasets` (a path, a list, or either by split) with each path changed."""
    if isinstance(files, Mapping):
        return {split: _map_files(paths, change) for split, paths in files.items()}
    return [change(str(path)) for path in files] if isinstance(files, list | tuple) else change(str(files))


def find_leaves(name: str, overrides: Mapping[str, Any], include_path: str | None) -> list[Leaf]:
    """The tasks that `name` (a task, group or tag of lm-eval) stands for, with `overrides` of their configs.

    `include_path` is a folder with YAML of one's own. Raises ConfigError for an unknown name.
    """
    index = _index(include_path)
    if name not in index:
        import difflib

        close = difflib.get_close_matches(name, list(index), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"benchmark.tasks: lm-eval has no task {name!r}{hint}")
    return list(_leaves(name, overrides, index))


def _leaves(name: str, overrides: Mapping[str, Any], index: Mapping[str, Any]) -> Iterator[Leaf]:
    entry = index[name]
    if entry.yaml_path is None:  # a tag
        for member in sorted(entry.tags):
            yield from _leaves(member, overrides, index)
        return
    config = entry.cfg
    if isinstance(config.get("task"), list):
        yield from _members(config["task"], overrides, index)
        return
    yield Leaf(name, {**config, **overrides}, overrides, Path(entry.yaml_path))


def _members(members: list[Any], overrides: Mapping[str, Any], index: Mapping[str, Any]) -> Iterator[Leaf]:
    for member in members:
        if isinstance(member, dict) and isinstance(member.get("task"), list):  # a group written within a group
            yield from _members(member["task"], overrides, index)
            continue
        own = {k: v for k, v in member.items() if k not in ("task", "group")} if isinstance(member, dict) else {}
        name = member.get("task") or member["group"] if isinstance(member, dict) else member
        yield from _leaves(name, {**own, **overrides}, index)


@functools.cache
def _index(include_path: str | None) -> Mapping[str, Any]:
    from lm_eval.tasks import TaskManager

    if include_path is not None and not Path(include_path).is_dir():
        raise ConfigError(f"benchmark.include_path={include_path}: no such folder")
    index: Mapping[str, Any] = TaskManager(include_path=include_path).task_index
    return index


def _package() -> Path:
    import lm_eval

    return Path(lm_eval.__file__).resolve().parent
