"""Recipes refuse what they do not know, and say it in terms of the user's keys."""

from typing import Annotated, Literal

import pytest

from isotok.errors import ConfigError
from isotok.recipe import OWN_PACKAGES, Field, Impl, build, describe, recipe


@recipe
class Inner:
    size: int = 1


@recipe
class Thing:
    size: Annotated[int, Field(gt=0)]
    kind: Literal["a", "b"] = "a"
    workers: Impl[int] = 1
    rows: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.kind == "b" and self.size == 13:
            raise ValueError("size=13 does not go with kind=b")


def make(**fields):
    return build({"_target_": f"{__name__}.Thing", **fields}, "thing")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"size": 1, "kid": "a"},
            r"thing.kid: unknown key of Thing; did you mean kind\? \(allowed: size, kind, workers, rows\)",
        ),
        ({"size": "many"}, r"thing.size='many': Input should be a valid integer"),
        ({"size": 0}, r"thing.size=0: Input should be greater than 0"),
        ({"size": 1, "kind": "c"}, r"thing.kind='c': Input should be 'a' or 'b'"),
        ({}, r"thing.size: required by Thing"),
        ({"size": 1, "rows": "x"}, r"thing.rows='x': Input should be a valid integer.*, or: Input should be 'auto'$"),
        ({"size": 0, "rows": 0}, r"thing.size=0: .*; thing.rows=0: .*greater than or equal to 1, or: "),
        ({"size": 13, "kind": "b"}, r"thing: size=13 does not go with kind=b"),
    ],
)
def test_wrong_keys_types_ranges_and_combinations_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        make(**fields)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.Thing", "no module 'nowhere'"),
        ("isotok.recipe.Nothing", "has no 'Nothing'"),
        ("pathlib.Path", "not a recipe"),
        (None, "import path"),
    ],
)
def test_only_recipes_are_built(target, message):
    with pytest.raises(ConfigError, match=message):
        build({"_target_": target}, "thing")


def test_saved_configs_build_own_targets_only():
    with pytest.raises(ConfigError, match="only targets in"):
        build({"_target_": "os.path.Thing"}, "thing", allow=OWN_PACKAGES)


def test_describe_round_trips_and_leaves_impl_out_of_keys():
    thing = make(size=3, workers=8)
    assert build(describe(thing), "thing") == thing
    assert "workers" not in describe(thing, with_impl=False)
    assert describe(thing, with_impl=False) == describe(make(size=3, workers=2), with_impl=False)


def test_frozen():
    with pytest.raises(Exception, match=r"frozen|assign"):
        make(size=3).size = 4
