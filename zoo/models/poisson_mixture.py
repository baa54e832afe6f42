"""Poisson mixture model: counts from one of K groups.

    z ~ Categorical(weights)
    x_d | z ~ Poisson(rates[z, d])        d = 1..D, independent given z

McLachlan & Peel (2000), Finite Mixture Models, section 1.14 and chapter 5; EM for one feature: Hasselblad (1969),
"Estimation of finite mixtures of distributions from the exponential family", section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.batch import Data
from zoo.checks import counts as check_counts
from zoo.model import parameter
from zoo.models.mixture import Mixture
from zoo.statistics import Statistics

__all__ = ["PoissonMixture"]


class PoissonMixture(Mixture):
    """Mixture of K groups of D independent Poisson counts.

    A rate may be exactly zero (a feature that never occurs in a component): a count of 0 then scores 0 nats and any
    other -inf.

    Args:
        num_components: K, at least 1.
        num_features: D, at least 1.
        hidden_dims: widths of the encoder's hidden layers; none by default, as the exact posterior's logits are
            linear in x.

    Shapes:
        x: (N, D), whole numbers from 0.
        weights: (K,). rates: (K, D), at least 0.
        log_marginal(x): (N,), nats. posterior(x): Categorical, batch (N,), K outcomes.
        e_step(x): ``counts`` (K,) and ``sums`` (K, D), the data's sum by component.

    Raises:
        ZooError: x of another shape, not finite, negative or fractional.

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(x).shape
        torch.Size([12])
    """

    default_data = "earthquakes"
    reference = "McLachlan & Peel (2000), Finite Mixture Models, ch. 5"
    per_component = ("weights", "rates")

    rates: Tensor
    rates_unconstrained: Tensor

    def __init__(self, num_components: int, num_features: int, hidden_dims: Sequence[int] = ()) -> None:
        super().__init__(num_components, num_features, hidden_dims)
        # Distinct rates: equal components would stay equal under EM and EG alike.
        rates = 0.5 + torch.rand(num_components, num_features, dtype=self.dtype)
        self.rates = parameter(rates, constraints.nonnegative)

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
        log_prob = x @ finite.mT - log_rates.exp().sum(-1) - log_factorials(x).sum(-1, keepdim=True)
        if not zero.any():
            return log_prob
        return log_prob.masked_fill(x @ zero.to(x.dtype).mT > 0, -torch.inf)

    def weighted_statistics(self, x: Tensor, responsibilities: Tensor) -> dict[str, Tensor]:
        return {"sums": responsibilities.mT @ x}

    def update_components(self, statistics: Statistics) -> list[str]:
        counts = statistics["counts"].unsqueeze(-1)
        alive = counts > 0
        rates = statistics["sums"] / counts.where(alive, torch.ones_like(counts))
        self.rates = rates.where(alive, self.rates.detach())
        return []

    def initialize(self, x: Tensor, init: str, restart: int = 0) -> None:
        """Cluster, one M step, then off the boundary: at a rate of zero no gradient leads anywhere."""
        super().initialize(x, init, restart)
        if init == "current":
            return
        overall = (x.sum(0) + 0.5) / (x.shape[0] + 0.5)  # (D,), positive
        counts = self.weights.detach().unsqueeze(-1) * x.shape[0]
        self.rates = (counts * self.rates.detach() + overall) / (counts + 1)

    def validate(self, x: Data) -> Tensor:
        return check_counts(super().validate(x), type(self).__name__)

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


def tiny() -> tuple[PoissonMixture, Tensor]:
    """The smallest honest instance, and data from it."""
    model = PoissonMixture(num_components=2, num_features=2)
    model.weights = torch.tensor([0.4, 0.6])
    model.rates = torch.tensor([[1.0, 6.0], [4.0, 2.0]])
    generator = torch.Generator().manual_seed(0)
    z = torch.bernoulli(torch.full((12,), 0.6, dtype=torch.float64), generator=generator).long()
    return model, torch.poisson(model.rates.detach()[z], generator=generator)
