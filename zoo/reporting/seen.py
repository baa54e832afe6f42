"""What pictures show of data and of a fit: points, steps, responsibilities, parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.data import Data, num_data, take, tensors
from zoo.errors import ZooError
from zoo.reporting.page import Array, array
from zoo.reporting.subjects import Fitted

__all__ = [
    "MAX_POINTS",
    "few",
    "names_along",
    "parameter_of",
    "posterior_means",
    "responsibilities",
    "steps_of",
    "visible",
]


MAX_POINTS = 5000


def responsibilities(fit: Fitted, x: Data) -> Array | None:
    """p(z = k | x_n), (N, K), where the posterior is one discrete variable a datum; else None."""
    try:
        posterior = fit.posterior(x)
    except (ZooError, NotImplementedError):
        return None
    probs = getattr(posterior, "probs", None)
    if not getattr(posterior, "has_enumerate_support", False) or not isinstance(probs, Tensor) or probs.dim() != 2:
        return None
    return array(probs)


def posterior_means(fit: Fitted, x: Data) -> Array | None:
    try:
        mean = getattr(fit.posterior(x), "mean", None)
    except (ZooError, NotImplementedError):
        return None
    return array(mean) if isinstance(mean, Tensor) and mean.dim() == 2 else None


def visible(x: Any) -> tuple[Data, Array]:
    """At most 5000 data, a seeded choice, as the model takes them; and their feature vectors (M, D)."""
    from zoo.core.data import as_data

    x = as_data(x, symbols=True)
    total = num_data(x)
    if total > MAX_POINTS:
        x = take(x, torch.as_tensor(np.sort(np.random.default_rng(0).choice(total, MAX_POINTS, replace=False))))
    values = steps_of(x)
    return x, values[few(len(values))]


def steps_of(x: Data) -> Array:
    """Feature vectors (M, D) of data: their rows, or of sequences the steps that are there."""
    values = array(tensors(x)[0])
    lengths = x.get("lengths") if isinstance(x, dict) else None
    if isinstance(lengths, Tensor):
        values = values[np.arange(values.shape[1]) < array(lengths)[:, None]]
    return values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(-1, 1)


def few(rows: int) -> Any:
    """Which of so many rows a picture shows."""
    if rows <= MAX_POINTS:
        return slice(None)
    return np.sort(np.random.default_rng(0).choice(rows, MAX_POINTS, replace=False))


def names_along(model: Any, axis: str, size: int, bare: bool = False) -> list[str]:
    """What to call the places of an axis ("feature"): their names where the model knows them, else numbers.

    Args:
        bare: whether numbers stand without the axis' word.
    """
    known = model.entries(axis)
    if known is not None and len(known) == size:
        return [str(name) for name in known]
    return [str(i) if bare else f"{axis} {i}" for i in range(size)]


def parameter_of(model: Any, name: str) -> Array | None:
    value = model.quantity(name)
    return None if value is None else array(value)
