"""Data as models take them: one tensor, a tuple of tensors, or a dict of tensors; batch first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ZooError

__all__ = ["Data", "as_data", "call", "map_tensors", "num_data", "split", "take", "tensors"]

Data: TypeAlias = Any  # Tensor | tuple[Tensor, ...] | dict[str, Tensor]


def as_data(x: Any) -> Data:
    """Arrays, nested lists and data frames become tensors; tuples and dicts keep their structure.

    Raises:
        ZooError: ``x`` holds text or other non-numbers.
    """
    if isinstance(x, Tensor):
        return x.detach()
    if isinstance(x, dict):
        return {name: as_data(value) for name, value in x.items()}
    if isinstance(x, tuple):
        return tuple(as_data(value) for value in x)
    try:
        array = np.asarray(x)
        return torch.as_tensor(array if array.dtype != object else array.astype(float))
    except (TypeError, ValueError) as error:
        raise ZooError(
            f"data expected numbers, got {type(x).__name__} ({error}). Convert it to a float array."
        ) from None


def map_tensors(function: Callable[[Tensor], Tensor], x: Data) -> Data:
    if isinstance(x, dict):
        return {name: map_tensors(function, value) for name, value in x.items()}
    if isinstance(x, tuple):
        return tuple(map_tensors(function, value) for value in x)
    return function(x) if isinstance(x, Tensor) else x


def tensors(x: Data) -> list[Tensor]:
    if isinstance(x, dict):
        return [t for value in x.values() for t in tensors(value)]
    if isinstance(x, tuple):
        return [t for value in x for t in tensors(value)]
    return [x] if isinstance(x, Tensor) else []


def num_data(x: Data) -> int:
    """Rows of ``x``: the length of its first tensor's first dimension; 0-d data count as one."""
    first = tensors(x)[:1]
    return (first[0].shape[0] if first[0].dim() else 1) if first else 0


def take(x: Data, index: Tensor | slice) -> Data:
    """The rows ``index`` of every tensor that has as many rows as the data."""
    rows = num_data(x)
    return map_tensors(lambda t: t[index] if t.dim() and t.shape[0] == rows else t, x)


def split(x: Data, rows: int) -> Iterator[Data]:
    """The data in pieces of at most ``rows`` rows: memory then stays bounded however many data there are."""
    total = num_data(x)
    if total <= rows:
        yield x
        return
    for begin in range(0, total, rows):
        yield take(x, slice(begin, begin + rows))


def call(function: Callable[..., Any], x: Data) -> Any:
    """Call a program with its data: a tuple spreads over arguments, a dict over keywords."""
    if isinstance(x, dict):
        return function(**x)
    if isinstance(x, tuple):
        return function(*x)
    return function(x)
