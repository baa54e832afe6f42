"""Weighted sums over the data, by the parameter entries that they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.automatic.leaves import Leaf
from zoo.automatic.lookup import Lookup, ParameterSpace
from zoo.core.statistics import Moments

__all__ = ["Sums", "Use", "Weighted", "contract", "one"]


@dataclass
class Use:
    """A parameter's appearance as one argument of a leaf, or as the value of a prior (``argument`` "value")."""

    leaf: Leaf
    argument: str
    lookup: Lookup


@dataclass
class Weighted:
    """A leaf with its weight in this M step; of a Gaussian leaf, its moments where the E step has summed already."""

    leaf: Leaf
    share: Tensor | Moments
    args: dict[str, Tensor]

    @property
    def weight(self) -> Tensor:
        """Its weight over its batch."""
        assert isinstance(self.share, Tensor)
        return self.share


def contract(weight: Tensor, term: Tensor, shape: torch.Size) -> Tensor:
    """The sum of ``weight * term`` over every dimension that ``shape`` (aligned right) lacks or has at size one."""
    rank = max(weight.dim(), term.dim(), len(shape))
    target = (1,) * (rank - len(shape)) + tuple(shape)
    sides = [t.reshape((1,) * (rank - t.dim()) + tuple(t.shape)) for t in (weight, term)]
    full = [max(s.shape[i] for s in sides) for i in range(rank)]
    letters = [[i for i in range(rank) if s.shape[i] > 1] for s in sides]
    out = [i for i in range(rank) if target[i] > 1 and full[i] > 1]
    squeezed = [s.reshape([n for n in s.shape if n > 1]) for s in sides]
    total = torch.einsum(squeezed[0], letters[0], squeezed[1].to(squeezed[0].dtype), letters[1], out)
    total = total.reshape([full[i] if i in out else 1 for i in range(rank)])
    return total.expand(target).reshape(shape)


class Sums:
    """Sums over the data, by parameter entry."""

    def __init__(self, space: ParameterSpace, like: Tensor) -> None:
        self.total = like.new_zeros(space.size + 1)  # the last takes what belongs to constants

    def add(self, ids: Tensor, term: Tensor) -> None:
        """Add ``term`` (of the shape of ``ids``) to the entries ``ids``."""
        self.total.index_add_(0, torch.where(ids < 0, len(self.total) - 1, ids).reshape(-1), term.reshape(-1))

    def add_weighted(self, ids: Tensor, weight: Tensor, term: Tensor) -> None:
        """Add the sum of weight * term to the entries ``ids``, which broadcast against both."""
        self.add(ids, contract(weight, term, ids.shape))

    @property
    def entries(self) -> Tensor:
        """The sums, (number of entries,)."""
        return self.total[:-1]


def one(like: Tensor) -> Tensor:
    return like.new_ones(())
