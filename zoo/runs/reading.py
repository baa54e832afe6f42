"""Data that a fit is asked about, by the path of a file or the name of a set, as its model takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.core import contract
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data
from zoo.data.opening import opened
from zoo.runs.making import is_source

__all__ = ["prepared"]


def prepared(model: LatentVariableModel, x: Any, **options: Any) -> Data:
    """Data checked by the model, see :func:`zoo.core.contract.prepared`; of a file the columns of its fit, by name.

    Raises:
        ZooError: a file that cannot be read, or lacks a column; data that are none for the model.
    """
    text = isinstance(x, str) and is_source(x, model)
    prose = model.takes_sentences and str(x).endswith(".txt")
    if (isinstance(x, Path) or text) and not prose and not Path(x).is_dir():
        from zoo.data import read

        names = {} if model.schema is None else model.schema.columns
        columns, targets = names.get(""), names.get("1")
        file = bool(Path(x).suffix)
        x = read(
            x,
            columns=list(columns) if columns and file else None,
            targets=list(targets) if targets and file else None,
            symbols=model.takes_symbols,
            measured=file,
        ).data
    else:
        x = opened(x, pair=bool(model.fields.given))
    return contract.prepared(model, x, **options)
