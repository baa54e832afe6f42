"""Shapes and dtypes of one datum, which a fit keeps of its data."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zoo.core.data import Data, map_tensors

__all__ = ["describe_template", "expanded"]


def describe_template(template: Data) -> Any:
    """Shape and dtype of one row of each tensor; the data themselves are not saved. Of arguments that are no data,
    plain values are."""
    if isinstance(template, dict):
        return {"dict": {name: describe_template(t) for name, t in template.items()}}
    if isinstance(template, tuple):
        return {"tuple": [describe_template(t) for t in template]}
    if isinstance(template, Tensor):
        return {"shape": list(template.shape), "dtype": str(template.dtype).removeprefix("torch.")}
    return {"value": template if isinstance(template, (bool, int, float, str)) else None}


def expanded(template: Data, rows: int) -> Data:
    return map_tensors(lambda t: t.expand(rows, *t.shape[1:]) if t.dim() else t, template)
