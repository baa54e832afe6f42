"""The parameters of a fit, for a person: by name, along axes with names, as tables, a data frame, plain values.

What an axis runs over is read off what the model declares (``axes``, ``entries``); one that declares nothing gets
numbers. Weights of networks are counted, not listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from zoo.core.readings import network_names
from zoo.reporting.subjects import Fitted

__all__ = ["LISTED", "Network", "Parameter", "frame", "networks_of", "parameters_of", "record"]

#: The most numbers of one parameter that a file lists; what is larger stays in ``model.safetensors``.
LISTED = 100_000


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: as users know it. values: constrained.
        axes: a word for each axis. entries: along each, names or numbers from 0.
        errors: standard errors (posterior standard deviations), shaped as the values, where these are known.
    """

    name: str
    values: NDArray[Any]
    axes: tuple[str, ...]
    entries: tuple[tuple[Any, ...], ...]
    errors: NDArray[Any] | None = None

    @property
    def listed(self) -> bool:
        """Whether it is small enough to be written out."""
        return self.values.size <= LISTED


@dataclass(frozen=True)
class Network:
    """A network: what it is made of, a phrase, and how many numbers it has."""

    name: str
    layers: str
    size: int

    def __str__(self) -> str:
        return f"{self.name}: {self.size:,} numbers{f' ({self.layers})' if self.layers else ''}"


def parameters_of(fit: Fitted) -> list[Parameter]:
    """Every parameter that is no network's, in the model's order."""
    model, values = fit.model, fit.parameters
    left_out = _shown_networks(fit)
    axes, errors = model.named_axes(), _errors(fit)
    found = []
    for name, value in values.items():
        if name in left_out:
            continue
        words = axes.get(name, ())
        if len(words) != value.ndim:
            words = tuple(f"index {i + 1}" if i else "index" for i in range(value.ndim))
        entries = tuple(_entries(model, word, size) for word, size in zip(words, value.shape, strict=True))
        error = errors.get(name)
        known = error is not None and error.shape == value.shape
        found.append(Parameter(name, value, words, entries, error if known else None))
    return found


def _entries(model: Any, axis: str, size: int) -> tuple[Any, ...]:
    named: Sequence[str] | None = model.entries(axis)
    return tuple(range(size)) if named is None or len(named) != size else tuple(map(str, named))


def _errors(fit: Fitted) -> dict[str, NDArray[Any]]:
    """Standard deviations of the parameters' draws, where a fit has these."""
    if fit.draws is None:
        return {}
    return {name: value.double().std(0).cpu().numpy() for name, value in fit.draws.flat().items() if len(value) > 1}


def _shown_networks(fit: Fitted) -> set[str]:
    """Names that weights of networks have among ``fit.parameters``."""
    model = fit.model
    weights = network_names(model)
    return set(model.named_values(weights)) - set(model.named_values(set()))


def networks_of(fit: Fitted) -> list[Network]:
    """The networks whose weights are among the fit's parameters: the model's parts, each with its layers."""
    sizes: dict[str, int] = {}
    values, weights = fit.parameters, _shown_networks(fit)
    for name, value in values.items():
        if name in weights:
            part = name.partition(".")[0]
            sizes[part] = sizes.get(part, 0) + value.size
    parts = dict(fit.model.named_children())
    return [Network(name, _layers(parts.get(name)), size) for name, size in sizes.items()]


def _layers(module: nn.Module | None) -> str:
    """Of what a network is made, layer by layer; "" where that is not known, or long."""
    if module is None:
        return ""
    leaves = [m for m in module.modules() if not any(True for _ in m.children())]
    words = [_layer(m) for m in leaves]
    return ", ".join(words) if len(words) <= 8 else f"{len(words)} layers, from {words[0]} to {words[-1]}"


def _layer(module: nn.Module) -> str:
    kind = type(module).__name__
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        return f"{kind} {module.in_features} to {module.out_features}"
    return f"{kind} {' x '.join(map(str, weight.shape))}" if isinstance(weight, nn.Parameter) else kind


def frame(parameters: Sequence[Parameter]) -> Any:
    """A pandas ``DataFrame`` with a row for every number: ``parameter``, a column for each kind of axis (empty where a
    parameter has none), ``value``, and ``standard_error`` where these are known."""
    import pandas as pd

    words = list(dict.fromkeys(word for p in parameters for word in p.axes))
    columns: dict[str, list[Any]] = {name: [] for name in ("parameter", *words, "value", "standard_error")}
    for p in parameters:
        for index in np.ndindex(*p.values.shape):
            at = {word: p.entries[i][index[i]] for i, word in enumerate(p.axes)}
            columns["parameter"].append(p.name)
            for word in words:
                columns[word].append(at.get(word))
            columns["value"].append(p.values[index].item())
            columns["standard_error"].append(None if p.errors is None else float(p.errors[index]))
    if all(p.errors is None for p in parameters):
        del columns["standard_error"]
    return pd.DataFrame({name: pd.Series(column, dtype=_kind(column)) for name, column in columns.items()})


def _kind(column: Sequence[Any]) -> Any:
    """Whole numbers stay whole beside entries that are missing."""
    there = [value for value in column if value is not None]
    if there and all(isinstance(value, int) and not isinstance(value, bool) for value in there):
        return "Int64"
    return None if there and all(isinstance(value, float) for value in there) else object


def record(fit: Fitted, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Plain values for JSON: ``parameters`` by name, nested lists; ``axes``, what these run over; ``standard_errors``
    and ``networks`` where there are any; ``left_out``, shapes of what is too large to list."""
    listed = [p for p in parameters if p.listed]
    made: dict[str, Any] = {
        "parameters": {p.name: p.values.tolist() for p in listed},
        "axes": {
            p.name: [{"axis": word, "entries": list(e)} for word, e in zip(p.axes, p.entries, strict=True)]
            for p in listed
        },
    }
    more = {
        "standard_errors": {p.name: p.errors.tolist() for p in listed if p.errors is not None},
        "networks": {n.name: {"numbers": n.size, "layers": n.layers} for n in networks_of(fit)},
        "left_out": {p.name: list(p.values.shape) for p in parameters if not p.listed},
    }
    return made | {name: value for name, value in more.items() if value}
