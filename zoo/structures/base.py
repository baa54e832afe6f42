"""What every structure answers: an exact sum over the values of a discrete object (a path, an alignment, a tree).

A structure is a frozen dataclass of log-potentials, in nats, for a batch of N items. The weight of a value, its
*parts*, is the sum of the potentials that it uses; a potential of -inf forbids. Nothing need be normalised.

    log_partition()   (N,), ln of the sum over all values of exp(weight); its gradient is the posterior
    marginals()       the same structure, each potential replaced by how often it is expected to be used
    argmax()          the most probable parts, and their weight (N,)
    sample()          exact draws of parts
    score(parts)      the weight of given parts
    entropy()         (N,) of p(parts) = exp(score - log_partition)
    expect(other)     (N,), the mean under p of another structure's score: cross-entropies, bounds of structured guides

All but ``argmax`` and ``sample`` are differentiable once. The gradient of the log-partition is the vector of expected
counts (Eisner, 2016, "Inside-outside and forward-backward algorithms are just backprop"); that of an expectation of a
score is the covariance of that score with the counts (Li & Eisner, 2009, "First- and second-order expectation
semirings"). An impossible item has the log-partition -inf, no posterior (entropy and expectation are NaN) and gradient
zero everywhere.

A new structure is one file: a subclass with ``potentials``, ``solve``, ``moments``, ``argmax``, ``sample`` and
``score``, ending with ``tiny()``, the smallest honest instance.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from zoo.core.once import once
from zoo.errors import ZooError

__all__ = ["Structure", "Weighable"]

Parts = TypeVar("Parts")
Self = TypeVar("Self", bound="Structure[Any]")


class Weighable(Protocol):
    """Counts item by item that would take too much room: their weighted sums can be had, and nothing else."""

    def weighted(self, weights: Tensor) -> Tensor:
        """The sum over the items of weight (N,) times counts, in the potential's shape."""


Counts = Tensor | Weighable


class Structure(abc.ABC, Generic[Parts]):
    """Base class of structures; see the module.

    A potential is shared by all items, or has a leading dimension N more. Counts of a shared one are summed over items
    wherever they stand beside it.

    Attributes:
        potentials: names of the fields that are log-potentials; the others say what they are potentials of.
    """

    potentials: ClassVar[tuple[str, ...]]

    # What a structure computes --------------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def num_items(self) -> int:
        """N."""

    @property
    @abc.abstractmethod
    def part_shape(self) -> tuple[int, ...]:
        """The shape of one item's parts, where they are one tensor."""

    @abc.abstractmethod
    def value(self) -> Tensor:
        """(N,), the log-partition alone, without a graph."""

    @abc.abstractmethod
    def solve(self, by_item: Sequence[bool]) -> tuple[Tensor, tuple[Counts, ...]]:
        """The log-partition (N,) and the expected counts of each potential, without a graph.

        ``by_item`` says of which shared potentials the counts are wanted item by item, (N, ...) or :class:`Weighable`;
        of the others they come summed, in the potential's own shape.
        """

    @abc.abstractmethod
    def moments(self: Self, other: Self | None, gradient: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The mean under p of another structure's score (of ln p itself without one), (N,), without a graph.

        With ``gradient``, also its covariances with the counts of each potential, item by item; anything where the
        mean is not finite.

        Args:
            other: a structure over the same objects; None for this one. gradient: whether covariances are wanted.
        """

    @abc.abstractmethod
    def argmax(self) -> tuple[Parts, Tensor]:
        """The most probable parts and their weight (N,), -inf where an item is impossible."""

    @abc.abstractmethod
    def sample(self, num_samples: int = 1, generator: torch.Generator | None = None) -> Parts:
        """Exact, independent draws of each item's parts, (num_samples, N, ...).

        Args:
            num_samples: at least 1. generator: torch's, for the random numbers; None takes the global one.
        """

    @abc.abstractmethod
    def score(self, parts: Parts) -> Tensor:
        """The weight of parts (..., N, ...) in nats, (..., N); -inf for what is no value of the structure.

        Raises:
            ZooError: parts of another shape.
        """

    # What follows from it -------------------------------------------------------------------------------------------

    def log_partition(self) -> Tensor:
        """ln of the sum over all values of exp(weight), (N,), nats; -inf where nothing is possible.

        Its gradient is the posterior: the expected counts, zero where an item is impossible. It can be differentiated
        once; a second time raises.
        """
        value: Tensor = _LogPartition.apply(self, *self._tensors())
        return value

    @torch.no_grad()
    def marginals(self: Self) -> Self:
        """The structure with each potential replaced by its expected counts: what an M step needs."""
        _, counts = self.solve([False] * len(self.potentials))
        return self._with(
            [c.to(t.dtype) for c, t in zip(counts, self._tensors(), strict=True) if isinstance(c, Tensor)]
        )

    def entropy(self) -> Tensor:
        """-E ln p, (N,), nats; NaN for an impossible item, which has no posterior. Differentiable once."""
        value: Tensor = _Mean.apply(self, None, *self._tensors())
        return -value

    def expect(self: Self, other: Self) -> Tensor:
        """The mean of ``other.score`` under p, <other's potentials, marginals>, (N,), nats.

        Differentiable once in both. With q of log-partition zero, E_q ln p(x, z) + H(q) is
        ``q.expect(p) + q.entropy()``. -inf where p allows what ``other`` forbids, and then without a gradient; NaN
        where p is impossible.

        Raises:
            ZooError: the two are not structures over the same values.
        """
        self._check_alike(other)
        pairs = [torch.broadcast_tensors(a, b) for a, b in zip(self._tensors(), other._tensors(), strict=True)]
        mine, theirs = zip(*pairs, strict=True)
        value: Tensor = _Mean.apply(self._with(mine), other._with(theirs), *mine, *theirs)
        return value

    def log_prob(self, parts: Parts) -> Tensor:
        """ln p(parts), (..., N), nats: score less log-partition.

        Raises:
            ZooError: parts of another shape.
        """
        return self.score(parts) - self.log_partition()

    def _tensors(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in self.potentials)

    def _with(self: Self, tensors: Sequence[Tensor]) -> Self:
        return dataclasses.replace(self, **dict(zip(self.potentials, tensors, strict=True)))  # type: ignore[type-var]

    def _check_alike(self, other: Structure[Any]) -> None:
        """That two structures range over the same values: of one kind, one size, and equal but for the potentials."""
        if type(other) is not type(self) or other.num_items != self.num_items:
            raise ZooError(
                f"expect: expected a {type(self).__name__} over {self.num_items} items, got a {type(other).__name__} "
                f"over {other.num_items if isinstance(other, Structure) else 'none'}; both must range over the same "
                "values."
            )
        for name in self.potentials:
            a, b = getattr(self, name).shape, getattr(other, name).shape
            rank = min(len(a), len(b))
            if (len(a) == len(b) and a != b) or a[len(a) - rank :] != b[len(b) - rank :]:
                raise ZooError(
                    f"expect: {name} expected shape {tuple(a)} as here, got {tuple(b)}; both must range over the same "
                    "values."
                )


class _LogPartition(torch.autograd.Function):
    """The value with the posterior as its gradient, computed together where a gradient will be wanted."""

    @staticmethod
    def forward(ctx: Any, structure: Structure[Any], *potentials: Tensor) -> Tensor:
        needed = ctx.needs_input_grad[1:]
        if not any(needed):
            return structure.value()
        value, counts = structure.solve(needed)
        _keep(ctx, counts, potentials)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_chained(gradient, ctx.needs_input_grad[1:], *_kept(ctx))


class _Mean(torch.autograd.Function):
    """The mean of another structure's score, or of ln p; its gradient are covariances, and expected counts."""

    @staticmethod
    def forward(ctx: Any, structure: Structure[Any], other: Structure[Any] | None, *potentials: Tensor) -> Tensor:
        count = len(structure.potentials)
        needed = ctx.needs_input_grad[2:]
        value, factors = structure.moments(other, any(needed[:count]))
        found: tuple[Counts, ...] = _cleared(factors, value) or (value,) * count  # of no consequence without a gradient
        if other is not None:
            found = (*found, *(structure.solve(needed[count:])[1] if any(needed[count:]) else (value,) * count))
        _keep(ctx, found, potentials)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_chained(gradient, ctx.needs_input_grad[2:], *_kept(ctx))


def _keep(ctx: Any, counts: Sequence[Counts], potentials: Sequence[Tensor]) -> None:
    """For the backward pass; what is no tensor stands beside."""
    ctx.weighable = [None if isinstance(c, Tensor) else c for c in counts]
    ctx.save_for_backward(*(c if isinstance(c, Tensor) else None for c in counts), *potentials)


def _kept(ctx: Any) -> tuple[list[Counts], Sequence[Tensor]]:
    """The counts and potentials that were kept."""
    half = len(ctx.weighable)
    saved = ctx.saved_tensors
    return [c if w is None else w for c, w in zip(saved[:half], ctx.weighable, strict=True)], saved[half:]


def _cleared(factors: Sequence[Tensor], value: Tensor) -> tuple[Tensor, ...]:
    """Zero for the items whose mean is not finite: nothing can be said of how it would move."""
    finite = value.isfinite()
    if finite.all():
        return tuple(factors)
    return tuple(f.masked_fill(~finite.reshape(-1, *[1] * (f.dim() - 1)), 0.0) for f in factors)


def _chained(
    gradient: Tensor, needed: Sequence[bool], factors: Sequence[Counts], potentials: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradient (N,) of the values times their derivatives, in the potentials' shapes and dtypes."""
    found: list[Tensor | None] = []
    for wanted, factor, potential in zip(needed, factors, potentials, strict=True):
        if not wanted:
            found.append(None)
            continue
        if not isinstance(factor, Tensor):
            found.append(factor.weighted(gradient).to(potential.dtype))
            continue
        weight = gradient.to(factor.dtype)
        if factor.dim() > potential.dim():  # shared by the items
            result = torch.tensordot(weight, factor, 1)
        else:
            result = weight.reshape(-1, *[1] * (factor.dim() - 1)) * factor
        found.append(result.to(potential.dtype))
    return list(once((gradient, *potentials), found))
