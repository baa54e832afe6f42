"""Expected sufficient statistics: they add, so that a data set can be taken in any number of pieces.

Out-of-core, online and distributed EM all follow from ``e_step(a) + e_step(b) == e_step(a and b)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Moments",
    "Statistics",
    "pooled",
    "varying",
    "weighted",
    "weighted_mean",
    "weighted_sum",
    "weighted_variance",
    "wide",
]


@dataclass(frozen=True)
class Moments:
    """Weighted count, mean and scatter about that mean, for each of K weightings of the data.

    Kept about the mean, not about zero, so that clusters far from the origin and tight around
    themselves lose no digits. Two sets are merged by the update of Chan, Golub & LeVeque (1983),
    "Algorithms for computing the sample variance", equation 2.1.

    Shapes:
        count: (K,), the summed weights.
        mean: (K, D), the weighted mean; any finite value where the count is zero.
        scatter: (K, D, D), sum of w (x - mean)(x - mean)^T; or (K, D), its diagonal.
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor

    def __add__(self, other: Moments) -> Moments:
        return Moments(*pooled(self, other))

    def __mul__(self, factor: float) -> Moments:
        return Moments(self.count * factor, self.mean, self.scatter * factor)

    def about(self, centre: Tensor) -> Moments:
        """The moments with the scatter about other points, (K, D), as their means.

        Args:
            centre: the points.
        """
        delta = self.mean - centre
        cross = delta.square() if self.scatter.dim() == 2 else delta.unsqueeze(-1) * delta.unsqueeze(-2)
        weight = self.count.reshape(-1, *[1] * (cross.dim() - 1))
        return Moments(self.count, centre, self.scatter + weight * cross)

    def merged(self) -> Moments:
        """All K weightings as one (K = 1). With weights that sum to one a datum: the data's own moments."""
        total = self.count.sum()
        share = self.count / total.where(total > 0, torch.ones_like(total))
        mean = share @ self.mean  # (D,)
        delta = self.mean - mean
        weighted = self.count.unsqueeze(-1) * delta
        cross = (weighted * delta).sum(0) if self.scatter.dim() == 2 else weighted.mT @ delta
        return Moments(total.reshape(1), mean.unsqueeze(0), (self.scatter.sum(0) + cross).unsqueeze(0))


def pooled(a: Any, b: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and scatter of two sets of data from those of each (Chan, Golub & LeVeque 1983, equation 2.1).

    Shapes:
        count: A. mean: A, or A and features. scatter: as the mean, or with a last dimension more, of products.
    """
    count = a.count + b.count
    share = b.count / count.where(count > 0, torch.ones_like(count))
    delta = b.mean - a.mean
    cross = delta.unsqueeze(-1) * delta.unsqueeze(-2) if a.scatter.dim() > a.mean.dim() else delta.square()

    def trailing(values: Tensor, like: Tensor) -> Tensor:
        return values[(..., *[None] * (like.dim() - values.dim()))]

    mean = a.mean + trailing(share, delta) * delta
    return count, mean, a.scatter + b.scatter + trailing(a.count * share, cross) * cross


class Statistics(Mapping[str, Any]):
    """Named sufficient statistics, a commutative monoid under ``+``; ``*`` scales them (online EM).

    The ``values`` are tensors or :class:`Moments`, by name. Three names are always there:

    - ``num_data``: number of data (rows, or sequences);
    - ``log_likelihood``: total exact ln p(x) of those data at the parameters the E step used;
    - ``objective``: what EM climbs: the log-likelihood, or ln p(x, z) at the most probable z for hard EM.

    Example:
        >>> half = zoo.Statistics(2, -3.0, total=torch.tensor([1.0, 2.0]))
        >>> (half + half)["total"]
        tensor([2., 4.])
    """

    def __init__(self, num_data: float, log_likelihood: Tensor, objective: Tensor | None = None, **values: Any) -> None:
        self._values: dict[str, Any] = {
            "num_data": float(num_data),
            "log_likelihood": log_likelihood,
            "objective": log_likelihood if objective is None else objective,
            **values,
        }

    @classmethod
    def _of(cls, values: dict[str, Any]) -> Statistics:
        new = cls.__new__(cls)
        new._values = values
        return new

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __add__(self, other: Statistics) -> Statistics:
        if self.keys() != other.keys():
            raise TypeError(f"Statistics + Statistics: expected the names {sorted(self)}, got {sorted(other)}.")
        return self._of({name: value + other[name] for name, value in self.items()})

    def __mul__(self, factor: float) -> Statistics:
        return self._of({name: value * factor for name, value in self.items()})

    def __repr__(self) -> str:
        return f"Statistics({', '.join(self)})"


def wide(values: Tensor) -> Tensor:
    """In float64, where the device has it: sums, scatters and their factors lose no more than the data have lost."""
    return values if values.device.type == "mps" else values.double()


def weighted(values: Tensor, weights: Tensor | None) -> Tensor:
    """Values (N, ...) times the weights (N,) of their rows; None where each counts once."""
    return values if weights is None else values * weights.to(values.dtype).reshape(-1, *[1] * (values.dim() - 1))


def weighted_sum(values: Tensor, weights: Tensor | None) -> Tensor:
    """The sum of values (N, ...) over rows that count ``weights`` (N,) times."""
    return weighted(values, weights).sum(0)


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of values (N, ...) over rows that count ``weights`` (N,) times."""
    return values.mean(0) if weights is None else weighted_sum(values, weights) / weights.sum()


def weighted_variance(values: Tensor, weights: Tensor | None) -> Tensor:
    """The variance of values (N, ...) over rows that count ``weights`` (N,) times, dividing by their sum."""
    if weights is None:
        return values.var(0, correction=0)
    return weighted_mean((values - weighted_mean(values, weights)).square(), weights)


def varying(variance: Tensor, mean: Tensor) -> Tensor:
    """Variances (D,) in which a constant feature, with no scale of its own, takes the average of the others.

    Never zero: without any variation, one. What rounding leaves of a constant feature counts as constant.
    """
    rounding = (mean * torch.finfo(variance.dtype).eps).square() * 16
    moving = variance > rounding
    if moving.all():
        return variance
    typical = variance[moving].mean() if moving.any() else torch.ones_like(variance[0])
    return variance.where(moving, typical)
