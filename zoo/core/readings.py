"""A model's attributes and answers as plain numbers: what is read off a model that has been fitted.

A parameter read in a model's own methods is part of torch's graph, so that what these compute can be differentiated.
Read from outside, off a model in ``eval()`` mode (as every fitted one is), it is a number.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from zoo.core.data import at_hand, call, split, stream_of, tensors
from zoo.core.data import plain as plain_data
from zoo.core.memory import rows_at_once
from zoo.errors import ZooError

__all__ = [
    "Axes",
    "computing",
    "declared",
    "method_of_data",
    "network_names",
    "parameter_values",
    "plain",
    "property_of_numbers",
]

Axes = dict[str, tuple[str, ...]]

#: Methods of a datum's own that take arrays, lists and data frames too.
TAKES_DATA = frozenset({"log_marginal", "posterior", "predict", "elbo", "e_step", "posterior_means"})
#: Methods that look at data alone, whatever stands beside their rows.
OF_ROWS = frozenset({"probe", "initialize", "starting", "create", "datum_size", "why_impossible"})


#: Methods that count something of data, which of a stream is added up.
COUNTING = frozenset({"num_units", "num_rows"})


class _Depth(threading.local):
    value = 0


_depth = _Depth()


def computing(method: Callable[..., Any]) -> Callable[..., Any]:
    """A model's method, in which parameters are read as part of the graph."""

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        _depth.value += 1
        try:
            return method(self, *args, **kwargs)
        finally:
            _depth.value -= 1

    return wrapped


def property_of_numbers(made: property) -> property:
    """A model's property, which may be computed from parameters."""
    get = made.fget
    if get is None:
        return made

    @functools.wraps(get)
    def wrapped(self: Any) -> Any:
        _depth.value += 1
        try:
            value = get(self)
        finally:
            _depth.value -= 1
        return plain(self, value)

    return property(wrapped, made.fset, made.fdel, made.__doc__)


def plain(model: Any, value: Any) -> Any:
    """A parameter's value as it is read: from outside a fitted model's methods, numbers of their own."""
    if _depth.value or model.training or not isinstance(value, Tensor) or not value.requires_grad:
        return value
    return value.detach().clone()


def of_rows(method: Callable[..., Any]) -> Callable[..., Any]:
    """A model's method that sees of its data the rows alone, of a stream a sample."""

    @functools.wraps(method)
    def wrapped(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, at_hand(plain_data(x)), *args, **kwargs)

    return wrapped


def over_pieces(method: Callable[..., Any]) -> Callable[..., Any]:
    """A model's method that counts something of data: of a stream piece by piece."""

    @functools.wraps(method)
    def wrapped(self: Any, x: Any) -> Any:
        stream = stream_of(x)
        if stream is None:
            return method(self, x)
        return sum(method(self, piece) for piece in split(x, rows_at_once(stream.row_numbers)))

    return wrapped


def takes_arrays(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the data that takes them as ``zoo.fit`` does; of arrays it gives numbers without a graph."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        data = (*args, *(value for name, value in kwargs.items() if name != "known"))
        if not all(isinstance(value, (Tensor, bool, type(None))) for value in data):
            return _of_arrays(self, method, signature.bind(self, *args, **kwargs).arguments)
        try:
            return method(self, *args, **kwargs)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            if _depth.value or isinstance(error, ZooError):
                raise
            return _laid_out(self, method, signature.bind(self, *args, **kwargs).arguments, error)

    return wrapped


def _parts(model: Any, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a method's arguments those that are data, by name, and the others."""
    names = list(inspect.signature(type(model).model).parameters)[1:]
    rest = dict(list(arguments.items())[1:])
    return {name: rest.pop(name) for name in names if rest.get(name) is not None}, rest


def _laid_out(model: Any, method: Callable[..., Any], arguments: dict[str, Any], error: Exception) -> Any:
    """What failed on tensors, once more on these as the model lays them out (one sequence as a batch of one).

    Raises:
        ZooError: they are no data for the model. Where they were laid out so before, what it raised is raised again.
    """
    data, rest = _parts(model, arguments)
    if not data or set(data) == set(model.fields.given):
        raise error
    x = model.prepare(next(iter(data.values())) if len(data) == 1 else data)
    taken = [(value.shape, value.dtype) for value in tensors(x)]
    if taken[: len(data)] == [(value.shape, value.dtype) for value in data.values()]:
        raise error
    return call(functools.partial(method, model, **rest), x)


def _of_arrays(model: Any, method: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    data, rest = _parts(model, arguments)
    if not data or any(isinstance(value, (int, float)) for value in data.values()):
        return method(model, **dict(list(arguments.items())[1:]))
    alone = bool(model.fields.given) and set(data) <= set(model.fields.given)
    x = model.prepare(next(iter(data.values())) if len(data) == 1 else data, given_alone=alone)
    with torch.no_grad():
        return call(functools.partial(method, model, **rest), x)


def method_of_data(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """A model's method as it is called: with data in every form that this one takes."""
    made = of_rows(method) if name in OF_ROWS else over_pieces(method) if name in COUNTING else method
    return takes_arrays(computing(made)) if name in TAKES_DATA else computing(made)


def declared(model: nn.Module, attribute: str) -> dict[str, Any]:
    """What a model's classes declare in a dict of this name, together; a subclass has the last word."""
    return {
        key: value for cls in reversed(type(model).__mro__) for key, value in cls.__dict__.get(attribute, {}).items()
    }


def parameter_values(model: nn.Module, names: set[str] | None = None) -> dict[str, Tensor]:
    """Parameters by the names that users know, constrained; then what is declared beside them.

    Args:
        names: which of ``named_parameters`` to tell; None for all.
    """
    values: dict[str, Tensor] = {}
    reads_as = declared(model, "reads_as")
    other = {raw: shown for shown, raw in reads_as.items()}
    for full in dict(model.named_parameters()):
        *path, leaf = full.split(".")
        leaf = leaf.removesuffix("_unconstrained")
        if names is None or full in names:
            leaf = leaf if path else other.get(leaf, leaf)
            values[".".join((*path, leaf))] = getattr(model.get_submodule(".".join(path)), leaf)
    for shown in {**reads_as, **declared(model, "axes")}:  # without a parameter of its own, as a stationary start
        if shown not in values and isinstance(value := getattr(model, shown, None), Tensor):
            values[shown] = value
    return values


def network_names(model: nn.Module) -> set[str]:
    """Which of ``named_parameters`` are weights of a network: of a torch module that is no Pyro program."""
    return {full for full, _ in model.named_parameters() if "$$$" in full or _in_network(model, full)}


def _in_network(model: nn.Module, full: str) -> bool:
    path, _, leaf = full.rpartition(".")
    owner = model.get_submodule(path)
    if leaf.removesuffix("_unconstrained") in owner.__dict__.get("_pyro_params", {}):
        return False
    ready = any(cls.__module__.startswith("torch.nn") and cls is not nn.Module for cls in type(owner).__mro__)
    return ready or not isinstance(owner, PyroModule)
