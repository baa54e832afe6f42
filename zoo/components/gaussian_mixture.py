"""Components that are Gaussian mixtures themselves: M Gaussians in each of K states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.components.gaussian import GaussianComponents
from zoo.core.contract import Axes, parameter
from zoo.core.statistics import Statistics

__all__ = ["GaussianMixtureComponents"]


class GaussianMixtureComponents(GaussianComponents):
    """K mixtures of M Gaussians each: ``mixture_weights`` (K, M), ``means`` (K M, D), states outermost."""

    axes: ClassVar[Axes] = {
        "mixture_weights": ("component", "mixture"),
        "means": ("component mixture", "feature"),
        "covariances": ("component mixture", "feature", "other feature"),
    }
    keeps: tuple[str, ...] = ("mixture_weights",)
    mixture_weights: Tensor
    mixture_weights_unconstrained: Tensor

    def add_mixtures(self, k: int, m: int, d: int, covariance_type: str, covariance_floor: float) -> None:
        """Create the parameters; called by a model's constructor.

        Args:
            k, m, d: how many states, components of each, features.
            covariance_type, covariance_floor: as of :class:`zoo.GaussianMixture`.

        Raises:
            ZooError: a type that is not known, a floor that is no fraction.
        """
        self.num_mixtures = m
        self.add_components(k * m, d, covariance_type, covariance_floor)
        self.mixture_weights = parameter(torch.full((k, m), 1.0 / m, dtype=self.dtype), constraints.simplex)

    def entries(self, axis: str) -> Sequence[str] | None:
        if axis != f"{self.part} mixture":
            return super().entries(axis)
        k, m = self.mixture_weights.shape
        return [f"{i}.{j}" for i in range(k) for j in range(m)]

    def components(self) -> dist.TorchDistribution:
        k, m = self.mixture_weights.shape
        inner = super().components()
        if isinstance(inner, dist.MultivariateNormal):
            inner = dist.MultivariateNormal(
                inner.loc.reshape(k, m, -1), scale_tril=inner.scale_tril.reshape(k, m, *inner.scale_tril.shape[-2:])
            )
        else:
            scale = inner.base_dist.scale
            inner = dist.Normal(inner.mean.reshape(k, m, -1), scale.reshape(k, m, -1)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.log_mixture_weights), inner)

    @property
    def log_mixture_weights(self) -> Tensor:
        """ln mixture_weights, (K, M)."""
        return torch.log_softmax(self.mixture_weights_unconstrained, -1)

    def _each(self, x: Tensor) -> Tensor:
        """ln p(x, m | k), (N, K, M)."""
        each = super().component_log_prob(x)
        return each.reshape(len(x), *self.mixture_weights.shape) + self.log_mixture_weights

    def component_log_prob(self, x: Tensor) -> Tensor:
        return self._each(x).logsumexp(-1)

    def diagonal(self) -> tuple[Tensor, Tensor] | None:
        return None  # states are mixtures here

    def row_size(self) -> int:
        return self.num_mixtures * super().row_size()

    def component_statistics(self, x: Tensor, weight: Tensor) -> dict[str, Any]:
        if weight.shape[1] == len(self.means):
            inner = weight
        else:
            inner = (weight.unsqueeze(-1) * self._each(x).softmax(-1)).flatten(1)
        return super().component_statistics(x, inner)

    def update_components(self, statistics: Statistics) -> list[str]:
        if self.stays("mixture_weights"):
            return super().update_components(statistics)
        counts = statistics["moments"].count.reshape(self.mixture_weights.shape)
        counts = counts + self.weight_counts() * (self.log_mixture_weights > -math.inf)
        total = counts.sum(-1, keepdim=True)
        weights = counts / total.where(total > 0, torch.ones_like(total))
        self.mixture_weights = weights.where(total > 0, self.mixture_weights.detach())
        return super().update_components(statistics)

    def part_names(self, which: list[int]) -> list[str]:
        return [f"component {m} of {self.part} {k}" for k, m in (divmod(index, self.num_mixtures) for index in which)]

    def weight_counts(self) -> float:
        """What a Dirichlet prior adds to the count of each component in each state; a weight of zero stays zero."""
        return 0.0

    def align_features(self) -> Tensor:
        """What to match states by: their mean rows, (K, D)."""
        k, m = self.mixture_weights.shape
        return (self.mixture_weights.unsqueeze(-1) * self.means.reshape(k, m, -1)).sum(1).detach()
