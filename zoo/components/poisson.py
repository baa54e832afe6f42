"""Independent Poisson counts, in log space."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.components.base import Components
from zoo.core.checks import counts as check_counts
from zoo.core.contract import Axes, parameter
from zoo.core.data import Data
from zoo.core.statistics import Statistics, weighted_mean, wide

__all__ = ["LogPoisson", "PoissonComponents", "log_factorials"]


class PoissonComponents(Components):
    """K groups of D independent Poisson counts; rates (K, D), zero allowed."""

    axes: ClassVar[Axes] = {"rates": ("component", "feature")}
    per_component: tuple[str, ...] = ("rates",)
    independent = True
    keeps: tuple[str, ...] = ("rates",)
    rates: Tensor
    rates_unconstrained: Tensor

    def add_components(self, k: int, d: int) -> None:
        """Create the parameters of ``k`` components over ``d`` features; called by a model's constructor."""
        # Distinct rates: equal components would stay equal under EM and EG alike.
        self.rates = parameter(0.5 + torch.rand(k, d, dtype=self.dtype), constraints.nonnegative)

    @property
    def log_rates(self) -> Tensor:
        """ln rates, (K, D), -inf for a rate of zero: what is stored, so nothing is lost on the way."""
        return self.rates_unconstrained

    def components(self) -> dist.TorchDistribution:
        return LogPoisson(self.log_rates).to_event(1)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """ln p(x_n | z_n = k), (N, K), nats: one matrix product, with rates of zero taken apart (0 * -inf is NaN)."""
        log_rates = self.log_rates
        zero = log_rates == -torch.inf
        finite = log_rates.masked_fill(zero, 0.0)
        missing = x.isnan()
        if missing.any():
            x, there = x.nan_to_num(0.0), (~missing).to(x.dtype)
            log_prob = x @ finite.mT - there @ log_rates.exp().mT - log_factorials(x).sum(-1, keepdim=True)
        else:
            log_prob = x @ finite.mT - log_rates.exp().sum(-1) - log_factorials(x).sum(-1, keepdim=True)
        if not zero.any():
            return log_prob
        return log_prob.masked_fill(x @ zero.to(x.dtype).mT > 0, -torch.inf)

    def rules_out(self) -> bool:
        return bool((self.log_rates == -torch.inf).any())

    def component_statistics(self, x: Tensor, weight: Tensor) -> dict[str, Any]:
        x, weight = wide(x), wide(weight)
        missing = x.isnan()
        if missing.any():
            return {"sums": weight.mT @ x.nan_to_num(0.0), "seen": weight.mT @ (~missing).to(x.dtype)}
        sums = weight.mT @ x
        return {"sums": sums, "seen": weight.sum(0).unsqueeze(-1).expand_as(sums)}

    def update_components(self, statistics: Statistics) -> list[str]:
        if self.stays("rates"):
            return []
        sums, seen, strength = statistics["sums"], statistics["seen"], self.pseudo_counts()
        if strength:
            sums, seen = sums + strength * self.overall, seen + strength
        alive = seen > 0
        rates = sums / seen.where(alive, torch.ones_like(seen))
        self.rates = rates.where(alive, self.rates.detach())
        return []

    def fill(self, mean: Tensor) -> Tensor:
        return mean.round()  # whole, as they are

    def overall_statistic(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        return weighted_mean(x, weights)

    def pseudo_row(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        mean, count = self.overall_statistic(x, weights), len(x) if weights is None else float(weights.sum())
        return mean.where(mean > 0, torch.full_like(mean, 0.5 / (count + 0.5)))  # what never occurs stays possible

    def component_log_prior(self) -> Tensor:
        return (torch.special.xlogy(self.overall, self.rates) - self.rates).sum()

    def leave_boundary(self, x: Tensor, counts: Tensor, shake: bool = True) -> None:
        overall = (x.sum(0) + 0.5) / (x.shape[0] + 0.5)  # (D,), positive
        counts = counts.unsqueeze(-1)
        self.rates = (counts * self.rates.detach() + overall) / (counts + 1)

    def check_rows(self, x: Data) -> Tensor:
        return check_counts(super().check_rows(x), type(self).__name__)

    def align_features(self) -> Tensor:
        """What to match components by, (K, D)."""
        return self.rates.detach()


class LogPoisson(dist.Poisson):
    """Poisson by the logarithm of its rate, which may be -inf; torch's has NaN gradients at a rate of zero."""

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogPoisson:
        return LogPoisson(self.log_rate.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        zero = self.log_rate == -torch.inf
        linear = value * self.log_rate.masked_fill(zero, 0.0)
        return (linear - self.rate - torch.lgamma(value + 1)).masked_fill(zero & (value > 0), -torch.inf)


def log_factorials(x: Tensor, largest: int = 4096) -> Tensor:
    """ln x! of each count. Small whole numbers are looked up, which is several times faster than ``lgamma``."""
    index = x.long()
    if x.numel() > largest and bool((index == x).all()) and int(index.min()) >= 0 and int(index.max()) <= largest:
        return torch.lgamma(torch.arange(largest + 1, dtype=x.dtype, device=x.device) + 1)[index]
    return torch.lgamma(x + 1)
