"""Cells, tables as plain data, and how numbers are written in the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    text: str
    sort: float | str | None = None
    muted: bool = False
    link: str = ""
    note: str = ""
    """A second, smaller line."""


@dataclass(frozen=True)
class Table:
    """`columns` are (title, hint); the first column names the row. `numeric` columns are set right."""

    caption: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    sortable: bool = False
    numeric: bool = True


def number(value: float | None, digits: int = 3) -> str:
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", "−")


def p_value(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else number(value)


def signed(value: float | None, digits: int = 3) -> str:
    return MISSING if value is None else f"{value:+.{digits}f}".replace("-", "−")


def count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1%}"


def power(value: float | None) -> str:
    """1.23 × 10¹²"""
    if value is None:
        return MISSING
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def span(interval: Sequence[float] | None, digits: int = 3, write: Callable[[float | None, int], str] = signed) -> str:
    return MISSING if interval is None else f"[{write(interval[0], digits)}, {write(interval[1], digits)}]"
