"""Data as models take them: one tensor, a tuple of tensors, or a dict of tensors; batch first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from numbers import Number
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from zoo.core.arrays import check_padding
from zoo.core.passes import beginnings, through
from zoo.core.rows import Rows, present
from zoo.core.schema import Schema, read_leaf
from zoo.core.statistics import weighted
from zoo.core.streams import BlockOrder, Stream
from zoo.errors import ZooError

__all__ = [
    "Data",
    "Fields",
    "arguments",
    "as_data",
    "at_hand",
    "batches",
    "beside",
    "between",
    "call",
    "changed",
    "count",
    "map_tensors",
    "mass",
    "num_data",
    "num_features_of",
    "numbers",
    "once",
    "passed",
    "plain",
    "split",
    "stacked",
    "stream_of",
    "take",
    "tensors",
    "total",
    "weights_of",
]

#: Tensor | tuple[Tensor, ...] | dict[str, Tensor]; beside tensors, arguments that are no data. Or a Stream of these.
Data: TypeAlias = Any

B = TypeVar("B", bound=Any)


class Fields(NamedTuple):
    """What a model's data are called.

    Attributes:
        observed: what its programs are a density of.
        given: what that depends on; the model is p(observed | given). In its methods what is given comes first.
    """

    observed: tuple[str, ...] = ("x",)
    given: tuple[str, ...] = ()

    def named(self, x: Data) -> dict[str, Any]:
        """Data by name: a tuple is in the order of the programs' arguments, anything else is the first field."""
        values = x if isinstance(x, tuple) else (x,)
        return x if isinstance(x, dict) else dict(zip((*self.given, *self.observed), values, strict=False))

    def checked(self, x: Data, who: str) -> dict[str, Any]:
        """As :meth:`named`, of a dict or a tuple that has these fields, or some of them.

        Raises:
            ZooError: other names, or something else.
        """
        names = (*self.given, *self.observed)
        values = self.named(x) if isinstance(x, (dict, tuple)) else {}
        if not values or not set(values) <= set(names) or (isinstance(x, tuple) and len(x) > len(names)):
            got = ", ".join(map(str, x)) if isinstance(x, dict) else f"a {type(x).__name__}"
            raise ZooError(f"{who}: data expected a dict of {', '.join(names)}, got {got}. Name them so.")
        return values

    def given_of(self, x: Data) -> dict[str, Any]:
        """Of data, or of what is given alone, the latter."""
        return {name: value for name, value in self.named(x).items() if name in self.given}


def as_data(x: Any, schema: Schema | None = None, symbols: bool = False) -> Data:
    """Arrays, nested lists and data frames become tensors; tuples and dicts keep their structure.

    Every kind of numpy's and pandas' has one reading (``zoo/core/arrays.py``): missing entries are NaN, what is no real
    number is refused by its kind. A list of sequences of unequal length becomes ``{"x": padded, "lengths": lengths}``.
    A tuple or dict is the arguments of a program: what in it is no data (a number, a word, None, a function, a
    namespace, a network) goes to the program as it is.

    Args:
        schema: names of columns and symbols to read by; what is new is noted in it.
        symbols: whether text is coded, 0, 1, ... in sorted order.

    Raises:
        ZooError: ``x`` holds text or other non-numbers; other columns or symbols than the schema's.
    """
    schema = Schema() if schema is None else schema
    if isinstance(x, Stream):
        order = None if x.columns is None else schema.arrange(x.columns, "")
        return x if order is None else x.then(functools.partial(_rearranged, order=order))
    if not isinstance(x, (dict, tuple)):
        return read_leaf(x, schema, "", symbols)
    places: Iterator[Any] = iter(x.keys() if isinstance(x, dict) else range(len(x)))

    def read(value: Any) -> Any:
        place = next(places)
        if isinstance(value, (dict, tuple)):
            return as_data(value)
        if not _is_data(value) and not (symbols and isinstance(value, (str, list)) and place in ("x", 0)):
            return value
        leaf = read_leaf(value, schema, "" if place in ("x", 0) else str(place), symbols)
        if isinstance(leaf, dict) and not (isinstance(x, dict) and place == "x" and "lengths" not in x):
            raise ZooError(f"data expected rows of one length in {place!r}, got unequal ones. Pad them.")
        return leaf

    data = _mapped(read, x)
    if isinstance(data, dict) and isinstance(data.get("x"), dict) and set(data["x"]) == {"x", "lengths"}:
        data = {**data, **data["x"]}
    return data


def _rearranged(x: Data, order: list[int]) -> Data:
    """Data with other columns, of a pair those of its first, of sequences those of their steps."""
    if isinstance(x, dict):
        return {**x, "x": x["x"][..., order]}
    return (x[0][:, order], *x[1:]) if isinstance(x, tuple) else x[:, order]


def _is_data(argument: Any) -> bool:
    """Whether an argument beside others is data: an array or a frame, or numbers in a list."""
    if isinstance(argument, (str, bytes, Number, np.generic, type, torch.nn.Module)) or argument is None:
        return False
    if isinstance(argument, list):
        return all(isinstance(value, Number) or _is_data(value) for value in argument)
    return isinstance(argument, (Tensor, dict, tuple)) or hasattr(argument, "__array__")


def _mapped(function: Callable[[Any], Any], x: Data) -> Data:
    """A tuple or dict with a function of its values; the same object where that changes none."""
    if isinstance(x, dict):
        named = {name: function(value) for name, value in x.items()}
        return x if all(named[name] is x[name] for name in x) else named
    values = tuple(function(value) for value in x)
    if all(new is old for new, old in zip(values, x, strict=True)):
        return x
    return type(x)(*values) if hasattr(x, "_fields") else values


def map_tensors(function: Callable[[Tensor], Tensor], x: Data) -> Data:
    """The data with a function of their tensors; of a stream, of those that will be taken from it."""
    if isinstance(x, Rows):
        data, weights = map_tensors(function, x.data), None if x.weights is None else function(x.weights)
        return replace(x, data=data, weights=weights, known={n: function(v) for n, v in x.known.items()})
    if isinstance(x, Stream):
        return x.then(functools.partial(map_tensors, function))
    if isinstance(x, (dict, tuple)):
        return _mapped(lambda value: map_tensors(function, value), x)
    return function(x) if isinstance(x, Tensor) else x


def arguments(x: Data) -> list[Any]:
    """What tuples and dicts hold, one after the other: data and what is none. A stream is known by its first row."""
    x = plain(x)
    if isinstance(x, Stream):
        x = x.take(slice(0, 1))
    if isinstance(x, (dict, tuple)):
        return [leaf for value in (x.values() if isinstance(x, dict) else x) for leaf in arguments(value)]
    return [x]


def tensors(x: Data) -> list[Tensor]:
    return [value for value in arguments(x) if isinstance(value, Tensor)]


def num_data(x: Data) -> int:
    """Rows of ``x``: the length of its first tensor's first dimension; 0-d data, or none at all, count as one."""
    if (stream := stream_of(x)) is not None:
        return len(stream)
    first = tensors(x)[:1]
    return first[0].shape[0] if first and first[0].dim() else 1


def take(x: Data, index: Tensor | slice) -> Data:
    """The rows ``index`` of every tensor that has as many rows as the data; of a stream they come into memory."""
    if isinstance(x, Stream):
        return x.take(index)
    if isinstance(x, Rows):
        beside = {name: values[index] for name, values in x.known.items()}
        weights = None if x.weights is None else x.weights[index]
        return replace(x, data=take(x.data, index), weights=weights, known=beside)
    rows = num_data(x)
    return map_tensors(lambda t: t[index] if t.dim() and t.shape[0] == rows else t, x)


def split(x: Data, rows: int) -> Iterator[Data]:
    """The data in pieces of at most ``rows`` rows: memory then stays bounded however many data there are."""
    whole = num_data(x)
    if stream_of(x) is not None:
        for begin in beginnings(whole, rows):
            yield take(x, slice(begin, begin + rows))
        return
    if whole <= rows:
        yield x
        return
    for begin in range(0, whole, rows):
        yield take(x, slice(begin, begin + rows))


def stream_of(x: Data) -> Stream | None:
    """The stream that data come from; None where they are in memory."""
    x = plain(x)
    return x if isinstance(x, Stream) else None


def at_hand(x: Data) -> Data:
    """The data; of a stream a sample in memory, which stands for all where a start or a scale is taken."""
    stream = stream_of(x)
    return x if stream is None else stream.sample if isinstance(x, Stream) else take(x, stream.sample_rows)


def between(x: Data, begin: int, end: int) -> Data:
    """The rows from one to another, which share the data's memory, or stay in their file."""
    stream = stream_of(x)
    if stream is None:
        return take(x, slice(begin, end))
    if isinstance(x, Rows):
        rest = take(replace(x, data=torch.empty(len(stream), 0)), slice(begin, end))
        return replace(rest, data=stream.part(begin, end))
    return stream.part(begin, end)


def batches(x: Data, size: int, device: torch.device | None = None) -> Sequence[Tensor]:
    """Numbers of the rows of batches of so many, all in a random order, by torch's generator."""
    if stream_of(x) is not None:
        return BlockOrder(num_data(x), size, int(torch.randint(2**62, (1,))))
    return torch.randperm(num_data(x)).to(device).split(size)


def passed(order: Sequence[B], x: Data, done: int = 0) -> Iterator[B]:
    """Batches of an order one after the other, after so many rows; of a stream it is told how far they have come."""
    return iter(order) if stream_of(x) is None else through(order, num_data(x), done)


def numbers(x: Data) -> int:
    """How many numbers data are."""
    stream = stream_of(x)
    return sum(t.numel() for t in tensors(x)) if stream is None else len(stream) * stream.row_numbers


def plain(x: Data) -> Data:
    """The data without what stands beside their rows."""
    return x.data if isinstance(x, Rows) else x


def beside(x: Data) -> list[Tensor]:
    """The tensors that stand beside the rows: weights, and what is known of latents."""
    return [] if not isinstance(x, Rows) else [t for t in (x.weights, *x.known.values()) if t is not None]


def weights_of(x: Data) -> Tensor | None:
    """How often each row counts, (N,); None where each counts once."""
    return x.weights if isinstance(x, Rows) else None


def count(x: Data) -> float:
    """How many rows the data are: the sum of their weights."""
    weights = weights_of(x)
    return num_data(x) if weights is None else float(weights.sum())


def total(values: Tensor, x: Data) -> Tensor:
    """The sum of one number a row, (N,), each as often as its row counts."""
    return weighted(values, weights_of(x)).sum()


def changed(x: Data, data: Data) -> Data:
    """Other data in the place of the rows, with what stands beside them."""
    return replace(x, data=data) if isinstance(x, Rows) else data


def once(x: Data) -> Data:
    """The data with each row counted once."""
    return replace(x, weights=None, mean_weight=1.0) if isinstance(x, Rows) else x


def mass(x: Data) -> float:
    """What a batch's sum over rows is divided by, for a mean: its rows, each of the mean weight of all the data."""
    return num_data(x) * (x.mean_weight if isinstance(x, Rows) else 1)


def call(function: Callable[..., Any], x: Data) -> Any:
    """Call a program with its data: a tuple spreads over arguments, a dict over keywords.

    With :class:`~zoo.core.rows.Rows`, programs run under their weights and known latents, and a function that declares
    ``weights`` or ``known`` is given them.

    Raises:
        ZooError: the data are a stream, which no program takes as one.
    """
    if isinstance(x, Stream):
        function = getattr(function, "func", function)
        raise ZooError(
            f"{getattr(function, '__name__', 'a program')} expected data in memory, got the {len(x)} rows of {x.name}, "
            f"which are read in pieces. Take some of them: x = zoo.open_data(...).take(slice(0, 10_000))."
        )
    if isinstance(x, Rows):
        told = x.told(function)
        with present(x):
            return call(functools.partial(function, **told) if told else function, x.data)
    if isinstance(x, dict):
        return function(**x)
    if isinstance(x, tuple):
        return function(*x)
    return function(x)


def num_features_of(x: Data) -> int | None:
    """The features that each row of the data has, D; None where they are no tensors.

    Padded sequences (N, T) whose lengths say so have one; other tensors as many as their last axis is long.
    """
    first = next(iter(tensors(x)), None)
    if first is None:
        return None
    lengths = x.get("lengths") if isinstance(x, dict) else None
    padded = isinstance(lengths, Tensor) and lengths.shape == first.shape[:1] and int(lengths.sum()) != len(first)
    return 1 if first.dim() < 2 or (padded and first.dim() == 2) else first.shape[-1]


def stacked(x: Tensor, lengths: Tensor, num_features: int) -> Tensor:
    """Sequences that come one below the other, (sum of lengths, D), as a batch (N, T, D); others as they are."""
    below = (x.dim() == 2 and x.shape[1] == num_features) or (x.dim() == 1 and num_features == 1)
    if not below or lengths.dim() != 1 or not (lengths >= 1).all() or (lengths != lengths.round()).any():
        return x
    if int(lengths.sum()) != x.shape[0]:
        return x
    parts = x.reshape(-1, num_features).split([int(length) for length in lengths])
    check_padding("data", len(parts), int(lengths.max()), num_features, x.numel())
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
