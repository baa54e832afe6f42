"""Cells that are no numbers where numbers were expected: what they are meant as, and the way out."""

from __future__ import annotations

import re

from numpy.typing import NDArray

from zoo.core.arrays import is_number, numbers_of
from zoo.data._aside import moments

__all__ = ["Column", "as_part", "holds_numbers", "is_text", "reads_as_number", "way_out"]

Column = int | str

_GROUPED = re.compile(r"[+-]?\d{1,3}([,. '’]\d{3})+([.,]\d*)?")


def is_text(column: NDArray) -> bool:
    return column.dtype == object and numbers_of(column).dtype == object


def reads_as_number(cell: str, decimal: str) -> bool:
    return is_number(cell) if decimal == "." else "." not in cell and is_number(cell.replace(decimal, "."))


def way_out(column: NDArray, name: Column, value: str, decimal: str) -> str:
    """What to do about a cell that is no number, of a column of a table."""
    if decimal != "." and is_number(value):
        return f"Write decimals with {decimal!r}, or leave decimal= out"
    if is_decimal_comma(value):
        return 'Write decimals with a point, or pass decimal="," for a comma'
    if _GROUPED.fullmatch(value):
        return "Write numbers without marks between thousands"
    if value.endswith("%") or value[:1] in "$€£":
        return "Write numbers without units"
    if holds_numbers(column):
        return "Write a number, empty the cell where it stands for a gap, or choose with columns="
    dates = moments(column) is not None
    return f"Leave it out with columns=, or {f'sort by it with time={name!r}' if dates else as_part(name)}"


def as_part(name: Column) -> str:
    return f"read it as labels={name!r} or sequence={name!r}"


def is_decimal_comma(cell: str) -> bool:
    return cell.count(",") == 1 and cell.replace(",", "").lstrip("+-").isdigit()


def holds_numbers(column: NDArray) -> bool:
    """Whether one cell at least is meant as a number; the text beside it is then the mistake to point at."""
    if column.dtype != object:
        return True
    return any(cell is not None and (is_number(cell) or is_decimal_comma(cell)) for cell in column)
