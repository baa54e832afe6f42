"""Data frames as tables, those of typed files and those at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.core.arrays import NotNumbers, is_missing, series_array
from zoo.data._loaded import Loaded
from zoo.data._table import Table, arrange
from zoo.errors import ZooError

__all__ = ["from_frame", "is_frame", "read_frame"]

#: What error texts call a data frame.
SOURCE = "the data frame"


def is_frame(data: Any) -> bool:
    """Whether data are a frame of pandas, which need not be imported for it."""
    return type(data).__module__.partition(".")[0] == "pandas" and getattr(data, "ndim", 0) == 2


def read_frame(frame: Any, **options: Any) -> Loaded:
    """A data frame as a file of its columns is read; ``options`` of :func:`~zoo.data._table.arrange`.

    Raises:
        ZooError: as :func:`~zoo.data._table.arrange`; an option of files.
    """
    for name in ("decimal", "sentences", "vocabulary"):
        value = options.pop(name)
        if value not in (None, False, "."):
            raise ZooError(f"{name}= is for files, got {value!r} with a data frame. Leave it out.")
    if options["labels"] is True:
        raise ZooError("labels=True is for the named data sets, got it with a data frame. Pass the column's name.")
    options["labels"] = None if options["labels"] is False else options["labels"]
    return arrange(from_frame(SOURCE, frame), **options)


def from_frame(source: str, frame: Any) -> Table:
    """The columns of a frame; ``source`` is what error texts call it."""
    if not frame.shape[0] or not frame.shape[1]:
        raise ZooError(f"{source} has {len(frame)} rows and {frame.shape[1]} columns, expected data. Check it.")
    columns: list[NDArray] = []
    for i in range(frame.shape[1]):
        try:
            columns.append(series_array(frame.iloc[:, i]))
        except NotNumbers:  # dates, lists and the like are text to us, to be left out by columns=
            cells = frame.iloc[:, i].astype(object).to_numpy()
            text = np.empty(len(cells), dtype=object)
            text[:] = [None if is_missing(cell) else str(cell) for cell in cells]
            columns.append(text)
    named = any(isinstance(name, str) and name for name in frame.columns)
    return Table(source, tuple(map(str, frame.columns)) if named else None, columns)
