"""Columns of a table that measure nothing: they tell rows apart, or say when they were taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoo.core.arrays import is_number, numbers_of

__all__ = ["mixed_up", "moments", "odd_moment", "set_aside"]

_IDENTIFIERS = {"id", "ids", "uid", "uuid", "guid", "key", "row", "rowid"}
_TIMES = {"t", "time", "date", "datetime", "timestamp", "step"}

#: With fewer rows, a column without a telling name may count them by chance.
FEWEST = 10


def set_aside(
    names: Sequence[str], columns: Sequence[NDArray], chosen: Sequence[int], which: NDArray[np.int64] | None
) -> dict[int, str]:
    """Columns to leave out where nobody has said which to read, and what they are; none where no other would be left.

    Args:
        names: of all columns.
        columns: one array a column, (N,): numbers, or objects where any cell is text.
        chosen: the columns in question.
        which: (N,), the sequence that each row is of, or None.
    """
    found = {i: why for i in chosen if (why := _purpose(names[i], columns[i], which)) is not None}
    return found if len(found) < len(chosen) else {}


def _purpose(name: str, column: NDArray, which: NDArray[np.int64] | None) -> str | None:
    """What a column is, if it measures nothing. Counts and prices may be all different too: a name must say more."""
    name, number = name.strip().lower(), len(column)
    values = numbers_of(column) if column.dtype == object else column.astype(np.float64)
    if number < 2:
        return None
    named = name in _IDENTIFIERS or name.endswith(("_id", " id"))
    if values.dtype == object:
        cells = list(column)
        words = all(cell is not None and not is_number(cell) for cell in cells)
        if words and len(set(cells)) == number and (named or number >= FEWEST):
            return "all different text"
        return "a time that goes up" if name in _TIMES and _goes_up(moments(column), which) else None
    whole = bool((values == np.round(values)).all())  # no NaN either
    if (
        whole
        and len(np.unique(values)) == number
        and (named or (name == "index" and bool((np.diff(values) > 0).all())))
    ):
        return "all different whole numbers"
    if whole and values[0] in (0, 1) and number >= FEWEST and np.array_equal(values, values[0] + np.arange(number)):
        return "counts the rows"
    if whole and which is not None and _counts(values, which):
        return "counts the steps"
    return "a time that goes up" if name in _TIMES and _goes_up(values, which) else None


def _counts(values: NDArray[np.float64], which: NDArray[np.int64]) -> bool:
    """Whether each sequence's values are 0, 1, 2, ..., or 1, 2, 3, ..., and one is long."""
    order = np.argsort(which, kind="stable")
    _, first, lengths = np.unique(which[order], return_index=True, return_counts=True)
    steps = values[order] - np.repeat(values[order][first], lengths)
    expected = np.arange(len(values)) - np.repeat(first, lengths)
    start = values[order][first]
    return bool(
        lengths.max() >= FEWEST and start[0] in (0, 1) and (start == start[0]).all() and (steps == expected).all()
    )


def _goes_up(values: NDArray[np.float64] | None, which: NDArray[np.int64] | None) -> bool:
    """Whether values increase from row to row of each sequence, in more rows than would by chance."""
    if values is None or np.isnan(values).any():
        return False
    if which is None:
        return len(values) >= FEWEST and bool((np.diff(values) > 0).all())
    order = np.argsort(which, kind="stable")
    within = np.diff(which[order]) == 0
    return int(within.sum()) >= FEWEST // 2 and bool((np.diff(values[order])[within] > 0).all())


def mixed_up(name: str, column: NDArray, which: NDArray[np.int64]) -> bool:
    """Whether a column is called a time, and each sequence's rows have times of their own that go up and down."""
    if name.strip().lower() not in _TIMES:
        return False
    values = moments(column)
    if values is None or np.isnan(values).any() or _goes_up(values, which):
        return False
    order = np.lexsort((values, which))
    within = np.diff(which[order]) == 0
    return int(within.sum()) >= FEWEST // 2 and bool((np.diff(values[order])[within] > 0).all())


def odd_moment(column: NDArray) -> object:
    """The first cell that is no date in ISO 8601, of text that :func:`moments` cannot read."""
    import pandas as pd

    cells = pd.Series(list(column), dtype=object)
    dates = pd.to_datetime(cells, format="ISO8601", utc=True, errors="coerce")
    return next(
        (cell for cell, date in zip(cells, dates, strict=True) if cell is not None and pd.isna(date)), column[0]
    )


def moments(column: NDArray) -> NDArray[np.float64] | None:
    """Times as numbers that keep their order, NaN where one is missing; None for text that holds no ISO 8601 dates."""
    values = numbers_of(column) if column.dtype == object else column
    if values.dtype != object:
        return values.astype(np.float64)
    import pandas as pd

    try:
        dates = pd.to_datetime(pd.Series(list(column), dtype=object), format="ISO8601", utc=True)
    except (ValueError, TypeError):
        return None
    return np.where(dates.isna(), np.nan, (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)).astype(float)
