"""Supports without their edges, for parameters with a prior.

A Dirichlet(0.5), a Beta(0.1, 0.9) or a Gamma(0.5, 1) has an infinite density at an edge of its support, and a flat
prior on a scale leaves that to the likelihood: the mode is then the highest point a little way off the edges, over the
same set for every estimator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, constraints, transform_to
from torch.distributions.transforms import ComposeTransform

__all__ = ["NARROW", "WIDE", "Inset", "inset", "is_simplex", "margin_of", "without_bound"]

#: How far off the edges of a simplex or an interval a parameter stays: a fraction of the support's width.
NARROW = 1e-6
#: How far off the only edge of a support: a fraction of the way to the prior's median.
WIDE = 1e-9


class Inset(constraints.Constraint):
    """What lies at least ``margin`` off the edges of ``base``: a simplex, an interval, or a half line.

    Args:
        base: a constraint of torch's.
        margin: distance to keep, broadcasts over values.
    """

    def __init__(self, base: Any, margin: Tensor | float) -> None:
        self.base, self.margin = base, margin
        self.event_dim = base.event_dim

    def check(self, value: Tensor) -> Tensor:
        distance = self.distance(value)
        off = distance >= 0.999 * self.margin_like(value)
        return self.base.check(value) & (off.all(-1) if self.event_dim else off)

    def margin_like(self, value: Tensor) -> Tensor:
        """The margin in a value's dtype."""
        return torch.as_tensor(self.margin, dtype=value.dtype, device=value.device)

    def distance(self, value: Tensor) -> Tensor:
        """From each entry to the nearest edge of the base."""
        low, high = _bounds(self.base)
        below = value - low if low is not None else None
        above = high - value if high is not None and not self.is_simplex else None
        if below is None or above is None:
            return above if below is None else below  # type: ignore[return-value]
        return torch.minimum(below, above)

    def away(self, value: Tensor) -> Tensor:
        """The direction away from the nearest edge, 1 or -1, by entry."""
        low, high = _bounds(self.base)
        if high is None or self.is_simplex:
            return torch.ones_like(value)
        if low is None:
            return -torch.ones_like(value)
        return torch.where(value - low <= high - value, torch.ones_like(value), -torch.ones_like(value))

    @property
    def bounded(self) -> bool:
        """Whether the base has edges on every side: a simplex or an interval."""
        return None not in _bounds(self.base)

    @property
    def fraction(self) -> float:
        """The margin as a fraction of its unit."""
        return (float(self.margin) if self.is_simplex else NARROW) if self.bounded else WIDE

    @property
    def unit(self) -> str:
        """What the margin is a fraction of."""
        return "of the support" if self.bounded else "of the prior's median"

    @property
    def is_simplex(self) -> bool:
        """Whether rows add up to one."""
        return isinstance(self.base, type(constraints.simplex))

    def __repr__(self) -> str:
        return f"{self.base!r} off its edges"


class _Shift(Transform):
    """From the whole of a support to what lies off its edges: affine, so that nothing bends."""

    bijective = True

    def __init__(self, target: Inset) -> None:
        super().__init__(cache_size=0)
        self.target = target
        self.domain, self.codomain = target.base, target

    def _affine(self, like: Tensor) -> tuple[Any, Any]:
        """(offset, slope): the image of v is offset + slope v."""
        base, margin = self.target.base, self.target.margin_like(like)
        low, high = _bounds(base)
        if self.target.is_simplex:
            return margin, 1 - like.shape[-1] * margin
        if low is None:
            return -margin, 1.0
        if high is None:
            return margin, 1.0
        slope = 1 - 2 * margin / (high - low)
        return low + margin - slope * low, slope

    def _call(self, x: Tensor) -> Tensor:
        offset, slope = self._affine(x)
        return offset + slope * x

    def _inverse(self, y: Tensor) -> Tensor:
        offset, slope = self._affine(y)
        low, high = _bounds(self.target.base)
        x = (y - offset) / slope
        # The edge itself is infinitely far in free coordinates: end a hair before it.
        hair = 1e-9 * self.target.margin_like(y)
        if low is not None:
            x = torch.maximum(x, low + hair)
        if high is not None and not self.target.is_simplex:
            x = torch.minimum(x, high - hair)
        return x / x.sum(-1, keepdim=True) if self.target.is_simplex else x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        _, slope = self._affine(x)
        return torch.as_tensor(slope).to(x).log().expand(x.shape)


@transform_to.register(Inset)
def _(constraint: Inset) -> Transform:
    return ComposeTransform([transform_to(constraint.base), _Shift(constraint)])


def _bounds(base: Any) -> tuple[Any, Any]:
    if isinstance(base, type(constraints.simplex)):
        return 0.0, 1.0
    return getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)


def inset(support: Any, typical: Tensor) -> Any:
    """A support without its edges; one that has none, or of another kind, as it is.

    Args:
        support: of a prior.
        typical: a value well inside, of the prior's shape: the unit of a half line.
    """
    if isinstance(support, constraints.independent):
        return constraints.independent(inset(support.base_constraint, typical), support.reinterpreted_batch_ndims)
    if isinstance(support, type(constraints.simplex)):
        return Inset(support, min(NARROW, 0.01 / typical.shape[-1]))
    low, high = _bounds(support)
    if low is None and high is None:
        return support
    if low is not None and high is not None:
        return Inset(support, NARROW * (torch.as_tensor(high) - torch.as_tensor(low)))
    away = (typical - (low if high is None else high)).abs().detach()
    away = torch.where(away.isfinite() & (away > 0), away, torch.ones_like(away))
    return Inset(support, WIDE * away)


def margin_of(constraint: Any) -> Inset | None:
    """The inset behind a parameter's constraint, if it has one."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint if isinstance(constraint, Inset) else None


def is_simplex(constraint: Any) -> bool:
    """Whether a parameter's last dimension adds up to one."""
    inset = margin_of(constraint)
    base = constraint if inset is None else inset.base
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    return isinstance(base, type(constraints.simplex))


def without_bound(fn: Any, support: Any, typical: Tensor) -> bool:
    """Whether a density grows without bound towards an edge that no inset keeps off (a singular matrix).

    Along rays in free coordinates a bounded density ends by falling; one that is infinite at the edge keeps rising.
    """
    base = support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    if isinstance(base, type(constraints.real)):
        return False  # no edge; along a ray an angle's density only comes round again
    transform = transform_to(support)
    origin = transform.inv(typical)
    generator = torch.Generator().manual_seed(0)
    for _ in range(16):
        ray = torch.randn(origin.shape, generator=generator, dtype=torch.float64).to(origin)
        heights = [float(fn.log_prob(transform(origin + t * ray)).sum()) for t in (3.0, 6.0, 9.0)]
        if heights[1] - heights[0] > 0.1 and heights[2] - heights[1] > 0.1:
            return True
    return False
