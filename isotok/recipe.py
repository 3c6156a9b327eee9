"""Recipes: frozen, keyword-only pydantic dataclasses that a YAML names through `_target_`.

A recipe holds what a stage needs to know and nothing else. Fields that change only the speed of a result
(workers, device, micro-batch, compile) are annotated `Impl[...]`: they are kept out of artefact keys.
A user adds a tokenizer, model or corpus by writing one such class and one YAML in their own package;
there is no registry.
"""

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from isotok.errors import ConfigError

T = TypeVar("T")

OWN_PACKAGES = ("isotok", "tokenization", "modeling", "training", "evaluation", "scripts")


class _ImplMark:
    def __repr__(self) -> str:
        return "impl"


_IMPL = _ImplMark()
Impl = Annotated[T, _IMPL]
"""`workers: Impl[int] = 1`: changes how fast a result comes, never the result."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def recipe(cls: type[T]) -> type[T]:
    """Class decorator: frozen, keyword-only, unknown keys refused, types, literals and ranges checked."""
    wrapped = pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)
    wrapped.__isotok_recipe__ = True  # type: ignore[attr-defined]
    return wrapped  # type: ignore[return-value]  # pydantic's stub gives its own protocol


def is_recipe(obj: object) -> bool:
    return getattr(type(obj), "__isotok_recipe__", False)


def target(obj: object) -> str:
    """The import path of a recipe's class, as YAML's `_target_` names it."""
    return f"{type(obj).__module__}.{type(obj).__qualname__}"


def impl_fields(cls: type) -> set[str]:
    """Names of the fields that are marked `Impl`."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        hints.update(getattr(base, "__annotations__", {}))
    return {name for name, hint in hints.items() if _IMPL in getattr(hint, "__metadata__", ())}


def describe(obj: object, *, with_impl: bool = True) -> dict[str, Any]:
    """The recipe as plain data with its `_target_`, every default filled in; `build(describe(r)) == r`.

    With `with_impl=False` only what changes the result is left: this is what artefact keys hash.
    """
    skip = set() if with_impl else impl_fields(type(obj))
    data: dict[str, Any] = {"_target_": target(obj)}
    for field in dataclasses.fields(obj):  # type: ignore[arg-type]
        if field.name in skip:
            continue
        value = getattr(obj, field.name)
        if is_recipe(value):
            value = describe(value, with_impl=with_impl)
        elif isinstance(value, tuple | list):
            value = [describe(v, with_impl=with_impl) if is_recipe(v) else v for v in value]
        data[field.name] = value
    return data


def build(config: Mapping[str, Any], where: str, *, allow: tuple[str, ...] | None = None) -> Any:
    """Build the recipe that `config["_target_"]` names from the other keys.

    `where` is the config group, used to name keys in errors. `allow` limits the top-level packages a target
    may come from: pass `OWN_PACKAGES` for a config read back from an artefact, which is data, not code.
    Raises ConfigError naming key, value and what is allowed.
    """
    fields = dict(config)
    path = fields.pop("_target_", None)
    if not isinstance(path, str) or "." not in path:
        raise ConfigError(f"{where}._target_={path!r}: needs a recipe's import path, 'package.module.Class'")
    module_name, class_name = path.rsplit(".", 1)
    if allow is not None and module_name.split(".")[0] not in allow:
        raise ConfigError(f"{where}._target_={path}: only targets in {', '.join(allow)} are built from a saved config")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise
        raise ConfigError(f"{where}._target_={path}: no module {module_name!r} (your own: plugins=[PATH])") from None
    except AttributeError:
        raise ConfigError(f"{where}._target_={path}: module {module_name!r} has no {class_name!r}") from None
    if not getattr(cls, "__isotok_recipe__", False):
        raise ConfigError(f"{where}._target_={path}: not a recipe (decorate the class with @isotok.recipe.recipe)")
    for key, value in fields.items():
        if isinstance(value, Mapping) and "_target_" in value:
            fields[key] = build(value, f"{where}.{key}", allow=allow)
    try:
        return cls(**fields)
    except ValidationError as error:
        raise ConfigError(_explain(error, cls, where)) from None


def _explain(error: ValidationError, cls: type, where: str) -> str:
    problems = []
    names = [field.name for field in dataclasses.fields(cls)]
    for key, kind, messages, value in _merged(error):
        at = ".".join(part for part in (where, key) if part)
        if kind == "unexpected_keyword_argument":
            close = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            problems.append(f"{at}: unknown key of {cls.__name__}{hint} (allowed: {', '.join(names)})")
        elif kind in ("missing", "missing_keyword_only_argument"):
            problems.append(f"{at}: required by {cls.__name__} and not given")
        else:
            shown = f"={value!r}" if key else ""
            problems.append(f"{at}{shown}: {', or: '.join(messages)}")
    return "; ".join(problems)


def _merged(error: ValidationError) -> list[tuple[str, str, list[str], Any]]:
    """(key, kind, messages, value) of each problem, the alternatives of a union in one.

    pydantic reports a value that fits no alternative once for each, with the alternative's name after the key.
    """
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for problem in error.errors():
        same = (problem["loc"][:1], id(problem["input"]))
        groups.setdefault(same if len(problem["loc"]) > 1 else (problem["loc"], problem["type"]), []).append(problem)
    merged = []
    for problems in groups.values():
        path = problems[0]["loc"]
        if len(problems) > 1:
            path = tuple(part for part, *others in zip(*(p["loc"] for p in problems)) if all(o == part for o in others))
        messages = [problem["msg"].removeprefix("Value error, ") for problem in problems]
        merged.append((".".join(str(part) for part in path), problems[0]["type"], messages, problems[0]["input"]))
    return merged


__all__ = ["OWN_PACKAGES", "Field", "Impl", "build", "describe", "impl_fields", "is_recipe", "recipe", "target"]
