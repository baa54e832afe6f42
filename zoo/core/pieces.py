"""Answers about many data, taken piece by piece: beyond the answer itself, memory stays bounded."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call, map_tensors, num_data, split, stream_of, tensors
from zoo.core.memory import LARGE, rows_at_once
from zoo.core.statistics import Statistics

#: How many times as many numbers as usual, of a stream whose statistics are added: an E step shares them out.
PIECES = 8

__all__ = ["added", "by_pieces", "categorical", "gathered", "pieces", "statistics_of", "total_of"]


def pieces(model: LatentVariableModel, x: Data, times: int = 1, method: str = "") -> Iterator[Data]:
    """The data in pieces that a model can work on in bounded memory, or in so many times that.

    A user's own program gets all its data at once: what it does with a part of them is not known. So does a method that
    takes pieces itself.
    """
    stream = stream_of(x)
    if stream is None and (not model.splits or method in model.in_pieces):
        return iter([x])
    size = model.datum_size(x)
    return split(x, rows_at_once(size if stream is None else max(size, stream.row_numbers), times))


def added(e_step: Callable[..., Statistics], x: Data, numbers: int) -> Statistics:
    """The statistics of the data, added up over pieces of them where a datum takes so many numbers."""
    return functools.reduce(operator.add, (call(e_step, piece) for piece in split(x, rows_at_once(numbers, LARGE))))


def statistics_of(model: LatentVariableModel, x: Data, **options: Any) -> Statistics:
    """What a model's ``e_step`` says of the data; of a stream, added up over its pieces.

    Args:
        options: of that ``e_step``.
    """
    statistics: Statistics = total_of(model, x, "e_step", **options)
    return statistics


def total_of(model: LatentVariableModel, x: Data, method: str, **options: Any) -> Any:
    """What a model's method says of the data, which adds; of a stream, added up over its pieces.

    Args:
        options: of that method.
    """
    step = getattr(model, method)
    step = functools.partial(step, **options) if options else step
    if (stream := stream_of(x)) is None:
        return call(step, x)
    size = stream.row_numbers  # the more rows at once, the less each costs
    if method not in model.in_pieces:
        size = max(model.datum_size(x), PIECES // 2 * size)
    return functools.reduce(operator.add, (call(step, piece) for piece in split(x, rows_at_once(size, PIECES))))


def by_pieces(model: LatentVariableModel, x: Data, answer: Callable[[Data], Any], method: str = "") -> Any:
    """``answer(x)``, put together from those to pieces of the data.

    Args:
        method: the model's method that answers.
        answer: gives a tensor whose first dimension runs over the data, a distribution of such a batch shape, or a dict
            of these by name. Distributions that cannot be put together are asked for all data at once.
    """
    parts = pieces(model, x, method=method)
    rows, first_piece = num_data(x), next(parts)
    first = answer(first_piece)
    if num_data(first_piece) == rows:
        return first
    leaves = _leaves(first, num_data(first_piece))
    if leaves is None:
        return answer(x)
    whole = [_room(leaf, rows) for leaf in leaves]
    for target, leaf in zip(whole, leaves, strict=True):
        target[: len(leaf)] = leaf
    del leaves
    done = num_data(first_piece)
    for piece in parts:
        more = _leaves(answer(piece), num_data(piece))
        assert more is not None
        for target, leaf in zip(whole, more, strict=True):
            target[done : done + len(leaf)] = leaf
        done += num_data(piece)
    return _like(first, iter(whole))


def gathered(parts: Iterable[Any], rows: int) -> Any:
    """Data (tensors, or tuples or dicts of them) one after the other, ``rows`` in all; each is let go once copied."""
    whole: Any = None
    done = 0
    for part in parts:
        size = num_data(part)
        if size == rows:
            return part
        if whole is None:
            whole = map_tensors(lambda t: _room(t, rows), part)
        for target, value in zip(tensors(whole), tensors(part), strict=True):
            target[done : done + size] = value
        done += size
    return whole


def _room(part: Tensor, rows: int) -> Tensor:
    return part.new_empty((rows, *part.shape[1:]))


#: By family: the parameters it is put together from, and how many dimensions each has without a row's own.
_PARAMETERS: dict[type, dict[str, int]] = {
    dist.Categorical: {"logits": 1},
    dist.OneHotCategorical: {"logits": 1},
    dist.Bernoulli: {"logits": 0},
    dist.Normal: {"loc": 0, "scale": 0},
    dist.MultivariateNormal: {"loc": 1, "_unbroadcasted_scale_tril": 2},
}


def _leaves(answer: Any, rows: int) -> list[Tensor] | None:
    """The tensors of an answer that run over the data; None where an answer cannot be put together from such."""
    if isinstance(answer, Tensor):
        return [answer] if answer.dim() and len(answer) == rows else None
    if isinstance(answer, dict):
        parts = [_leaves(value, rows) for value in answer.values()]
        return None if any(part is None for part in parts) else [leaf for part in parts for leaf in part or ()]
    if isinstance(answer, torch.distributions.Independent):
        return _leaves(answer.base_dist, rows)
    if type(answer) not in _PARAMETERS or answer.batch_shape[:1] != (rows,):
        return None
    return [value for _, value in _own_rows(answer)]


def _own_rows(answer: Any) -> list[tuple[str, Tensor]]:
    """The parameters of a distribution that differ from row to row; a covariance may be one for all."""
    values = [(name, getattr(answer, name), shared) for name, shared in _PARAMETERS[type(answer)].items()]
    return [(name, value) for name, value, shared in values if value.dim() > shared]


def _like(first: Any, leaves: Iterator[Tensor]) -> Any:
    """An answer as the first piece's, of the leaves of all pieces."""
    if isinstance(first, Tensor):
        return next(leaves)
    if isinstance(first, dict):
        return {name: _like(value, leaves) for name, value in first.items()}
    if isinstance(first, torch.distributions.Independent):
        return dist.Independent(_like(first.base_dist, leaves), first.reinterpreted_batch_ndims, validate_args=False)
    values = {name: getattr(first, name) for name in _PARAMETERS[type(first)]}
    values |= {name: next(leaves) for name, _ in _own_rows(first)}
    if isinstance(first, dist.Categorical):
        return categorical(values["logits"])
    named = {name.removeprefix("_unbroadcasted_"): value for name, value in values.items()}
    return type(first)(**named, validate_args=False)


def categorical(logits: Tensor | None = None, probs: Tensor | None = None) -> dist.Categorical:
    """A Categorical of (log-)probabilities (..., K) that are normalised already: without the copies that would make."""
    name, values = ("logits", logits) if probs is None else ("probs", probs)
    assert values is not None
    made = dist.Categorical(**{name: values[:1]}, validate_args=False)
    setattr(made, name, values)
    made._param = values
    made._batch_shape = values.shape[:-1]
    return made
