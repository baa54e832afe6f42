"""Data at a model's door: read by the names of its fit, checked, in its dtype and on its device."""

from __future__ import annotations

import copy
from typing import Any

from zoo.core.admitting import admitted
from zoo.core.data import Data, as_data
from zoo.core.schema import Schema
from zoo.core.streams import Stream

__all__ = ["prepared", "read_by"]


def read_by(model: Any, x: Any) -> Data:
    """Data as tensors, by the names of columns and the symbols of the model's fit; not checked."""
    return as_data(x, copy.deepcopy(model.schema), model.takes_symbols)


def prepared(model: Any, x: Any, new: bool = False, given_alone: bool = False) -> Data:
    """Data checked by the model, in its dtype and on its device.

    Args:
        model: a :class:`zoo.core.contract.LatentVariableModel`. x: arrays, frames, tensors, sequences, text, a stream.
        given_alone: whether to take no more than what is given, of a model of p(observed | given).
        new: whether the model is to be fitted to them: it then takes their names of columns and symbols for its own,
            and would read them by those of an earlier fit otherwise.

    Raises:
        ZooError: what is no data for the model; columns or symbols that are not those of its fit.
    """
    schema = Schema() if new or model.schema is None else copy.deepcopy(model.schema)
    x = as_data(x, schema, model.takes_symbols)
    if new and schema:
        model.schema = schema
    return admitted(model, x, new, given_alone) if isinstance(x, Stream) else model.adopt(x, given_alone)
