"""Small tables of nothing but numbers, without pandas, whose import takes longer than they do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["numbers"]

#: Bytes up to which Python's own reading of numbers takes less than the import of pandas.
_SMALL = 1 << 20
_CHARACTERS = b"0123456789+-.eE\n"


def numbers(body: bytes, separator: bytes, width: int) -> list[NDArray] | None:
    """Columns of int64 or float64 to the bit as pandas has them; None where a cell is missing or no number, where
    records differ in length, where anything is quoted or padded, or where there is much.

    Args:
        body: the records, one a line.
        separator: what stands between two cells.
        width: cells in a record.
    """
    if len(body) > _SMALL or body.translate(None, _CHARACTERS + separator):
        return None
    rows = [line.split(separator) for line in body.split(b"\n") if line]
    if not rows or any(len(row) != width for row in rows):
        return None
    try:
        columns = [_column(cells) for cells in zip(*rows, strict=True)]
    except (ValueError, OverflowError):
        return None
    return columns if all(np.isfinite(column).all() for column in columns) else None


def _column(cells: tuple[bytes, ...]) -> NDArray:
    try:
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    except ValueError:
        return np.array([float(cell) for cell in cells])
