"""Parameters as tables to read: rounded, a few rows and columns of each, "…" for what is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.reporting.parameters import Parameter
from zoo.reporting.tables import Table, columns

__all__ = ["DIGITS", "cut", "numbers", "parameter_tables", "parameter_text"]

#: Significant digits where no standard error tells how many are known.
DIGITS = 4
#: Rows of a table, and tables of one parameter.
ROWS, SLICES = 16, 4
#: Characters across a screen.
WIDTH = 100
_MORE = "…"


def numbers(values: NDArray[Any], errors: NDArray[Any] | None = None, each: bool = False) -> list[str]:
    """A column of numbers: beside an error as far as that tells, else to :data:`DIGITS` digits of the largest.

    What would vanish at that many decimals has two digits of its own; an exact zero is "0".

    Args:
        each: whether every number has its own unit, and all its digits.
    """
    if errors is not None:
        return [_with_error(float(v), float(e)) for v, e in zip(values, errors, strict=True)]
    if values.dtype.kind in "iub":
        return [str(int(v)) for v in values]
    if each:
        return ["0" if v == 0 else f"{v:#.{DIGITS}g}".rstrip(".") for v in values.tolist()]
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    top = math.floor(math.log10(largest)) if largest > 0 else 0
    if not -5 < top < 7:
        return ["0" if v == 0 else f"{v:.{DIGITS - 1}e}" for v in values.tolist()]
    decimals = max(0, DIGITS - 1 - top)
    return [_one(v, decimals) for v in values.tolist()]


def _one(value: float, decimals: int) -> str:
    if value == 0:
        return "0"
    if math.isfinite(value) and abs(value) < 10.0 ** (1 - decimals):
        return f"{value:.2g}"
    return f"{value:.{decimals}f}"


def _with_error(value: float, error: float) -> str:
    if not (math.isfinite(error) and error > 0):
        return f"{value:.{DIGITS}g}"
    decimals = 1 - math.floor(math.log10(error))
    return f"{value:.{max(0, decimals)}f} ± {error:.{max(0, decimals)}f}" if decimals < 8 else f"{value:.{DIGITS}g}"


def cut(parameters: Sequence[Parameter], width: int = WIDTH) -> bool:
    """Whether the tables leave anything out."""
    tables = parameter_tables(parameters, width)
    return any(_MORE in cell for t in tables for row in [[t.title, t.columns[-1][0]], *t.rows] for cell in row)


def parameter_text(parameters: Sequence[Parameter], width: int = WIDTH) -> str:
    """The tables one below the other; "" where there is no parameter."""
    tables = parameter_tables(parameters, width)
    return "\n\n".join("\n".join([*filter(None, [t.title]), columns(t, rule=False)]).rstrip() for t in tables)


def parameter_tables(parameters: Sequence[Parameter], width: int = WIDTH) -> list[Table]:
    """A table for each parameter along two axes or more; those along one axis share one.

    Args:
        width: characters that a table may take.
    """
    tables, done = list[Table](), set[str]()
    for p in parameters:
        if p.name in done:
            continue
        if p.values.ndim < 2:
            alike = [q for q in parameters if q.axes == p.axes and q.entries == p.entries]
            done |= {q.name for q in alike}
            tables.append(_side_by_side(alike, width))
        elif p.values.ndim == 2:
            tables.append(_matrix(p.name, p.values, p.errors, p.axes, p.entries, width))
        else:
            tables += _slices(p, width)
    return tables


def _side_by_side(alike: Sequence[Parameter], width: int) -> Table:
    """Parameters of one axis, or of none: a row a place, a column a parameter."""
    first = alike[0]
    if not first.axes:
        names = [p.name for p in alike]
        cells = [numbers(p.values.reshape(1), _flat(p.errors))[0] for p in alike]
        return Table("", [("parameter", False), ("value", True)], list(map(list, zip(names, cells, strict=True))))
    parts = [(p.name, p.values, p.errors) for p in alike]
    return _table("", _word(first.axes[0]), first.entries[0], parts, width)


def _flat(errors: NDArray[Any] | None) -> NDArray[Any] | None:
    return None if errors is None else errors.reshape(1)


def _matrix(
    title: str, values: NDArray[Any], errors: NDArray[Any] | None, axes: Sequence[str],
    entries: Sequence[Sequence[Any]], width: int,
) -> Table:  # fmt: skip
    """Rows along the first axis, columns along the second."""
    kind = axes[1].split()[-1]
    numbered = all(isinstance(e, int) for e in entries[1])
    said = numbered and not axes[1].startswith("index") and len(entries[1]) <= 8 and kind != axes[0].split()[-1]
    heads = [f"{kind} {e}" if said else str(e) for e in entries[1]]
    parts = [
        (head, values[:, j], None if errors is None else errors[:, j]) for j, head in enumerate(heads[: width // 2])
    ]
    named = "" if axes[0].startswith("index") else f" ({axes[0]}, {axes[1]})"
    return _table(title + named, _word(axes[0]), entries[0], parts, width, len(heads) > len(parts))


def _slices(p: Parameter, width: int) -> list[Table]:
    """A parameter of three axes: its diagonals if there is nothing else, one for all if all are one, else each."""
    first, rest = p.values.reshape(-1, *p.values.shape[-2:]), p.axes[-2:]
    errors = None if p.errors is None else p.errors.reshape(first.shape)
    square = first.shape[1] == first.shape[2] and p.entries[-2] == p.entries[-1]
    if p.values.ndim == 3 and square and not (first * (1 - np.eye(first.shape[1]))).any():
        sd = None if errors is None else errors.diagonal(axis1=1, axis2=2)
        return [_matrix(f"{p.name}, diagonals", first.diagonal(axis1=1, axis2=2), sd, p.axes[:2], p.entries[:2], width)]
    if len(first) > 1 and (first == first[0]).all():
        one = None if errors is None else errors[0]
        return [_matrix(f"{p.name}, of every {p.axes[0]}", first[0], one, rest, p.entries[-2:], width)]
    labels = [", ".join(f"{p.axes[i]} {p.entries[i][at]}" for i, at in enumerate(index))
              for index in np.ndindex(*p.values.shape[:-2])]  # fmt: skip
    shown = [
        _matrix(f"{p.name}, {label}", first[i], None if errors is None else errors[i], rest, p.entries[-2:], width)
        for i, label in enumerate(labels[:SLICES])
    ]
    left = len(labels) - len(shown)
    return [*shown, Table(f"{p.name}, {_MORE} {left} more", [("", False)], [])] if left else shown


def _word(axis: str) -> str:
    return "" if axis.startswith("index") else axis


def _table(
    title: str, axis: str, entries: Sequence[Any],
    parts: Sequence[tuple[str, NDArray[Any], NDArray[Any] | None]], width: int, more: bool = False,
) -> Table:  # fmt: skip
    """Columns of numbers beside the places along an axis, as many as there is room for."""
    last = len(entries) if len(entries) <= ROWS else ROWS - 2
    rows = [[str(entry)] for entry in entries[:last]]
    heads = [axis]
    used = max(len(axis), *(len(row[0]) for row in rows), 0)
    for i, (head, values, errors) in enumerate(parts):
        cells = numbers(np.asarray(values)[:last], None if errors is None else errors[:last], axis == "feature")
        wide = max([len(head), *map(len, cells)]) + 2
        if i and used + wide + (3 if i + 1 < len(parts) else 0) > width:
            more = True
            break
        used += wide
        heads.append(head)
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    if more:
        heads.append(_MORE)
        for row in rows:
            row.append("")
    if last < len(entries):
        rows.append([_MORE, *[""] * (len(heads) - 1)])
    label_is_number = all(isinstance(entry, int) for entry in entries)
    return Table(title, [(head, bool(i) or label_is_number) for i, head in enumerate(heads)], rows)
