"""Weighted moments of Gaussian leaves, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.automatic.sums import Use, Weighted, contract, one
from zoo.core.statistics import Moments, pooled, varying
from zoo.densities import gaussian

__all__ = ["Cells", "Part", "Parts", "moments", "overall_variance"]


@dataclass
class Cells:
    """Weighted moments of a Gaussian leaf's data, one for every combination of its arguments' rows.

    Shapes (A is what the arguments' batch shapes broadcast to; D the event of a multivariate leaf):
        count: A. mean: A or A + (D,). scatter: A, or A + (D, D), about the mean.
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor

    def __add__(self, other: Cells) -> Cells:
        return Cells(*pooled(self, other))

    def merged(self, features: int) -> Moments:
        """The data's own moments by feature, over all cells; count, mean and scatter of one shape (1, F).

        Args:
            features: right dimensions of the cells that are features; of a multivariate leaf, all of (D,).
        """
        count, scatter = self.count, self.scatter
        if scatter.dim() > count.dim():
            count, scatter, features = count.unsqueeze(-1), scatter.diagonal(dim1=-2, dim2=-1), 1
        tail = self.mean.shape[self.mean.dim() - features :]
        count, mean, scatter = (
            v.expand(self.mean.shape).reshape(-1, tail.numel()) for v in (count, self.mean, scatter)
        )
        total = count.sum(0, keepdim=True)
        centre = (count * mean).sum(0, keepdim=True) / total.where(total > 0, torch.ones_like(total))
        spread = (scatter + count * (mean - centre).square()).sum(0, keepdim=True)
        return Moments(total, centre, spread)


@dataclass
class Part:
    """A use in a Gaussian leaf: the leaf's cells and other arguments, or for a prior of a location its weight."""

    use: Use
    args: dict[str, Tensor]
    cells: Cells | None
    weight: Tensor | None = None


@dataclass
class Parts:
    """The parts of all uses, in each of the pieces of the data whose leaves have entries of their own.

    Where the leaves of two pieces are of the same entries their cells add, so that a piece costs no memory.
    """

    pieces: list[list[Part]]

    def __add__(self, other: Parts) -> Parts:
        pieces = list(self.pieces)
        for new in other.pieces:
            place = next((i for i, old in enumerate(pieces) if _alike(old, new)), len(pieces))
            pieces[place:] = [new] if place == len(pieces) else [_joined(pieces[place], new), *pieces[place + 1 :]]
        return Parts(pieces)


def _alike(a: list[Part], b: list[Part]) -> bool:
    return all(x.use.leaf.alike(y.use.leaf) for x, y in zip(a, b, strict=True))


def _joined(a: list[Part], b: list[Part]) -> list[Part]:
    return [replace(x, cells=x.cells + y.cells) if x.cells and y.cells else x for x, y in zip(a, b, strict=True)]


def overall_variance(parts: list[Moments]) -> Tensor:
    """The variance by feature of all the data that a scale serves, (F,); never zero."""
    count = sum((p.count for p in parts), torch.zeros_like(parts[0].count))
    safe = count.where(count > 0, torch.ones_like(count))
    mean = sum((p.count * p.mean for p in parts), torch.zeros_like(count)) / safe
    spread = sum((p.scatter + p.count * (p.mean - mean).square() for p in parts), torch.zeros_like(count))
    return varying((spread / safe)[0], mean[0])


def moments(given: Weighted) -> Cells:
    """Moments over all that the arguments do not tell apart. Two passes, so that no digits are lost far from zero."""
    if isinstance(given.share, Moments):
        shape = torch.broadcast_shapes(*(v.shape for v in given.args.values()))
        done = given.share
        wide = done.count.unsqueeze(-1).expand(done.mean.shape)
        return Cells(*(v.reshape(shape) for v in (wide, done.mean, done.scatter)))
    leaf, w = given.leaf, given.weight
    assert leaf.value is not None
    x = leaf.value.to(w.dtype)
    if leaf.family == "LogNormal":
        x = x.log()
    if leaf.family == "MultivariateNormal":
        return _matrix_moments(w, x, given.args)
    shape = torch.broadcast_shapes(*(v.shape for v in given.args.values()))
    rows = _rows_and_groups(w, x, shape, leaf.events)
    if rows is not None:
        found = gaussian.weighted_moments(*rows, True, rows[0].mean(0).expand(rows[1].shape[1], -1))
        wide = found.count.unsqueeze(-1).expand(found.mean.shape)
        return Cells(*(v.reshape(shape) for v in (wide, found.mean, found.scatter)))
    count = contract(w, one(w), shape)
    mean = contract(w, x, shape) / count.where(count > 0, torch.ones_like(count))
    return Cells(count, mean, contract(w, (x - mean).square(), shape))


def _rows_and_groups(w: Tensor, x: Tensor, shape: torch.Size, events: int) -> tuple[Tensor, Tensor] | None:
    """Rows (M, E) and weights (M, G), where the leaf is that simple: one weight a row and group for all features."""
    if events > 1 or w.dim() != 2 + events or len(shape) != 1 + events or (events and w.shape[-1] != 1):
        return None
    features = shape[-1] if events else 1
    if x.shape != (w.shape[0], 1, features)[: 2 + events] or shape[0] != w.shape[1]:
        return None
    return x.reshape(w.shape[0], features), w.reshape(w.shape[0], w.shape[1])


def _matrix_moments(w: Tensor, x: Tensor, args: dict[str, Tensor]) -> Cells:
    shape = torch.broadcast_shapes(*(v.shape[: v.dim() - (1 if k == "loc" else 2)] for k, v in args.items()))
    d = x.shape[-1]
    if w.dim() == 2 and shape == w.shape[1:] and x.shape == (w.shape[0], 1, d):
        rows = x.reshape(-1, d)
        found = gaussian.weighted_moments(rows, w, False, rows.mean(0).expand(w.shape[1], -1))
        return Cells(found.count, found.mean, found.scatter)
    count = contract(w, one(w), shape)
    safe = count.where(count > 0, torch.ones_like(count))
    mean = contract(w.unsqueeze(-1), x, torch.Size([*shape, d])) / safe.unsqueeze(-1)
    away = x - mean
    scatter = contract((w.unsqueeze(-1) * away).unsqueeze(-1), away.unsqueeze(-2), torch.Size([*shape, d, d]))
    return Cells(count, mean, scatter)
