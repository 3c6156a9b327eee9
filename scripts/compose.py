"""Overrides → configs → recipes. Hydra composes; everything is built and checked before any stage starts."""

import dataclasses
import difflib
import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from isotok.errors import ConfigError
from isotok.recipe import Field, build, describe, recipe

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
GROUPS = (
    "corpus",
    "tokenizer",
    "transform",
    "model",
    "budget",
    "training",
    "engine",
    "evaluation",
    "benchmark",
    "task",
    "finetuning",
)
RUN_KEYS = ("seed", "store", "jobs", "plugins", "assume")
EXPERIMENT_KEYS = ("arms", "seeds", "grid", "study")


@recipe
class Study:
    """What an experiment asks; see configs/config.yaml."""

    subject: Literal["models", "tokenizers"] = "models"
    title: str = ""
    notes: list[str] = Field(default_factory=list)
    baseline: str = ""
    endpoint_arm: str = ""
    metric: Literal["", "bits_per_byte", "task_auc", "task_accuracy", "task_exact"] = ""
    split: str = ""
    smallest_difference: float = 0.01
    twins: list[list[str]] = Field(default_factory=list)


@recipe
class Settings:
    """The keys of configs/config.yaml that are neither a group nor the study's."""

    seed: Annotated[int, Field(ge=0)]
    seeds: list[Annotated[int, Field(ge=0)]]
    store: str
    jobs: Annotated[int, Field(ge=1)] | Literal["auto"]
    plugins: list[str]
    arms: dict[str, list[str]]
    grid: dict[str, list[Any]]


@recipe
class Assume:
    """Stand-ins that `isotok plan` takes for token data that does not exist yet."""

    vocab_size: Annotated[int, Field(ge=1)] | None = None
    bytes_per_token: float | None = None
    train_bytes: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One arm at one seed: every recipe built, nothing run."""

    corpus: Any
    tokenizer: Any
    transform: Any
    model: Any
    budget: Any
    training: Any
    engine: Any
    evaluation: Any
    benchmark: Any
    task: Any
    finetuning: Any
    seed: int
    assume: Assume

    def describe(self) -> dict[str, Any]:
        return {group: describe(getattr(self, group)) for group in GROUPS} | {"seed": self.seed}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """A named list of overrides and its runs by seed."""

    name: str
    overrides: tuple[str, ...]
    runs: dict[int, Run]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that one command line asks for."""

    name: str
    study: Study
    arms: tuple[Arm, ...]
    store: Path
    jobs: int | str
    plugins: tuple[str, ...]

    def runs(self) -> list[Run]:
        return [run for arm in self.arms for run in arm.runs.values()]


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The composed config as plain data. Raises ConfigError for a key, group or value that nothing knows."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    # arms and grid are open: a name that is not there yet is added without Hydra's plus signs.
    searched = [*_search_path(overrides), *(re.sub(r"^(?=(arms|grid)\b)", "++", text) for text in overrides)]
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = OmegaConf.to_container(hydra_compose("config", overrides=searched), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_unknown_key(error, overrides) or _first_lines(error)) from None
    assert isinstance(config, dict)
    known = (*GROUPS, *RUN_KEYS, *EXPERIMENT_KEYS)
    for key in map(str, config):
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"{key}: no such key{hint} (top-level keys: {', '.join(known)})")
    return {str(key): value for key, value in config.items()}


def build_run(config: dict[str, Any]) -> Run:
    """Build every recipe of a composed config, naming group and key of what is wrong."""
    for group in GROUPS:
        if not isinstance(config.get(group), dict):
            raise ConfigError(f"{group}={config.get(group)!r}: choose one of {', '.join(group_options(group))}")
    settings = build_settings(config)
    recipes = {group: build(config[group], group) for group in GROUPS}
    assume = build({"_target_": "scripts.compose.Assume", **config["assume"]}, "assume")
    return Run(**recipes, seed=settings.seed, assume=assume)


def build_settings(config: dict[str, Any]) -> Settings:
    """The checked top-level keys of a composed config."""
    keys = {field.name: config[field.name] for field in dataclasses.fields(Settings)}  # type: ignore[arg-type]
    settings: Settings = build({"_target_": "scripts.compose.Settings", **keys}, "")
    return settings


def build_experiment(overrides: Sequence[str], *, multirun: bool = False) -> Experiment:
    """One run, or all arms × grid × seeds of an experiment: defaults ← experiment ← command line ← the arm's own.

    With `multirun`, comma lists on the command line become the grid (`seed=0,1` the seeds).
    Raises ConfigError naming the arm for whatever its config gets wrong, and for two arms that are one.
    """
    swept: dict[str, list[str]] = {}
    if multirun:
        overrides, swept = _split_sweep(overrides)
    base = compose(overrides)
    settings = build_settings(base)
    add_plugins(settings.plugins)
    study = build({"_target_": "scripts.compose.Study", **base["study"]}, "study")
    if settings.seeds and any(text.partition("=")[0] == "seed" for text in overrides):
        raise ConfigError(f"seed: this experiment has seeds={settings.seeds}; set seeds=[...] instead")
    seeds = swept.pop("seed", []) or settings.seeds or [settings.seed]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds={seeds}: a seed twice is one run, not two")
    arms = []
    for name, arm_overrides in _cross(settings.arms or {"": []}, settings.grid | swept).items():
        runs = {}
        for seed in seeds:
            try:
                run = build_run(compose([*overrides, *arm_overrides, f"seed={seed}"]))
            except ConfigError as error:
                raise ConfigError(f"arm {name}: {error}" if name else str(error)) from None
            runs[run.seed] = run
        if len(runs) > 1 and next(iter(runs.values())).training.init_from:
            raise ConfigError(
                f"arm {name}: training.init_from with {len(runs)} seeds: they would begin with the same weights and "
                "read the same text in the same order, so they are no independent runs; give one seed"
            )
        shown = name or next(iter(runs.values())).tokenizer.label
        arms.append(Arm(name=shown, overrides=tuple(arm_overrides), runs=runs))
    names = [arm.name for arm in arms]
    for key in ("baseline", "endpoint_arm"):
        if getattr(study, key) and getattr(study, key) not in names:
            raise ConfigError(f"study.{key}={getattr(study, key)}: no such arm (arms: {', '.join(names)})")
    _refuse_twins(arms, study)
    return Experiment(
        name=_experiment_name(overrides) or study.title or names[0],
        study=study,
        arms=tuple(arms),
        store=Path(settings.store),
        jobs=settings.jobs,
        plugins=tuple(settings.plugins),
    )


_plugins: list[str] = []


def plugins_added() -> list[str]:
    """Folders that `add_plugins` put on the import path of this process."""
    return list(_plugins)


def add_plugins(paths: Sequence[str]) -> None:
    """Put folders with a user's own recipes at the end of the import path."""
    for path in paths:
        if not Path(path).is_dir():
            raise ConfigError(f"plugins: {path} is not a folder")
        absolute = str(Path(path).resolve())
        if absolute not in sys.path:
            sys.path.append(absolute)
        if absolute not in _plugins:
            _plugins.append(absolute)


def group_options(group: str) -> list[str]:
    """Names of the YAML files in a config group."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def _search_path(overrides: Sequence[str]) -> list[str]:
    # A plugin folder may bring YAML of its own: PLUGIN/configs/tokenizer/mine.yaml.
    paths: list[str] = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "plugins":
            paths += [part.strip(" '\"") for part in value.strip("[] ").split(",") if part.strip(" '\"")]
    folders = [str(Path(path).resolve() / "configs") for path in paths if (Path(path) / "configs").is_dir()]
    return [f"hydra.searchpath=[{','.join('file://' + folder for folder in folders)}]"] if folders else []


def _split_sweep(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    fixed, swept = [], {}
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(_first_lines(error)) from None
    for text, override in zip(overrides, parsed):
        if override.is_sweep_override():
            swept[override.get_key_element()] = [str(value) for value in override.sweep_string_iterator()]
        else:
            fixed.append(text)
    return fixed, swept


def _cross(arms: dict[str, list[str]], grid: dict[str, list[Any]]) -> dict[str, list[str]]:
    crossed = {}
    for name, overrides in arms.items():
        for values in itertools.product(*grid.values()):
            extra = [f"{key}={value}" for key, value in zip(grid, values)]
            crossed[", ".join([name, *extra] if name else extra)] = [*overrides, *extra]
    return crossed


def _refuse_twins(arms: Sequence[Arm], study: Study) -> None:
    seen: dict[str, str] = {}
    for arm in arms:
        # Of a corpus all fields: paths are no part of the recipe's key, but other paths are other text.
        key = repr(
            [{g: describe(getattr(run, g), with_impl=g == "corpus") for g in GROUPS} for run in arm.runs.values()]
        )
        other = seen.setdefault(key, arm.name)
        if other != arm.name and not any({other, arm.name} <= set(twins) for twins in study.twins):
            raise ConfigError(
                f"arms {other} and {arm.name} are one and the same; "
                "change one, or name them in study.twins for an A/A test"
            )


def _experiment_name(overrides: Sequence[str]) -> str:
    chosen = [text.partition("=")[2] for text in overrides if text.partition("=")[0] == "experiment"]
    return chosen[-1] if chosen else ""


def _unknown_key(error: Exception, overrides: Sequence[str]) -> str | None:
    """For a key that the chosen configs do not have: what is allowed there instead of Hydra's advice to add it."""
    found = re.search(r"Could not override '([^']+)'", str(error))
    if found is None:
        return None
    key = found.group(1)
    rest = [text for text in overrides if text.partition("=")[0].lstrip("+~") != key]
    parent, _, last = key.rpartition(".")
    level: Any = compose(rest)
    for part in parent.split(".") if parent else []:
        level = level.get(part) if isinstance(level, dict) else None
    if not isinstance(level, dict):
        return f"{key}: no such key; {parent} has no keys of its own"
    allowed = [name for name in level if name != "_target_"]
    close = difflib.get_close_matches(last, allowed, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    chosen = f" of {str(level['_target_']).rsplit('.', 1)[-1]}" if "_target_" in level else ""
    return f"{key}: no such key{chosen}{hint} (allowed: {', '.join(allowed) or 'none'})"


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    skip = ("Config search path", "provider=", "See https", "full_key", "object_type")
    text = " ".join(line for line in lines if not line.startswith(skip))
    return text.replace("To append to your config use", "To add a key use")
