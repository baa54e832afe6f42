"""Values that hold tensors (statistics, states of copies) as a list of tensors, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.statistics import Statistics

__all__ = ["tensors_in", "with_tensors"]


def tensors_in(value: Any) -> list[Tensor] | None:
    """All numbers of a value, a tensor each in a fixed order; None where something else stands among them."""
    try:
        return list(_numbers(value))
    except TypeError:
        return None


def _numbers(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, np.ndarray):
        yield torch.from_numpy(value)
    elif isinstance(value, (int, float)):
        yield torch.tensor(value, dtype=torch.float64)
    elif value is not None:
        for part in _parts(value).values():
            yield from _numbers(part)


def with_tensors(like: Any, values: Sequence[Tensor]) -> Any:
    """A value made as ``like`` is, of what :func:`tensors_in` gave of another: shapes may differ.

    Raises:
        ValueError: not as many as ``like`` has.
    """
    left = iter(values)
    try:
        made = _made(like, left)
    except StopIteration:
        raise ValueError("too few tensors") from None
    if next(left, None) is not None:
        raise ValueError("too many tensors")
    return made


def _made(like: Any, left: Iterator[Tensor]) -> Any:
    if isinstance(like, Tensor):
        return next(left).to(like.device)
    if isinstance(like, np.ndarray):
        return next(left).numpy()
    if isinstance(like, (int, float)):
        return type(like)(next(left))
    if like is None:
        return None
    parts = {name: _made(part, left) for name, part in _parts(like).items()}
    if isinstance(like, Statistics):
        return Statistics(**parts)
    if isinstance(like, dict):
        return parts
    if isinstance(like, (tuple, list)):
        return type(like)(parts.values())
    return dataclasses.replace(like, **parts)


def _parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, (dict, Statistics)):
        return dict(value)
    if type(value) in (tuple, list):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(type(value).__name__)
