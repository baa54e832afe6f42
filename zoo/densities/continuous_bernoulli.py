"""The continuous Bernoulli distribution (Loaiza-Ganem & Cunningham 2019)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

__all__ = ["ContinuousBernoulli", "log_normalizer"]


_ONE = Size()


def log_normalizer(logits: Tensor) -> Tensor:
    """ln C(l) of the continuous Bernoulli, elementwise: C = l / tanh(l / 2), which is 2 at l = 0.

    Loaiza-Ganem & Cunningham (2019), "The continuous Bernoulli", equation 7, which reads 2 atanh(1 - 2λ) / (1 - 2λ) for
    the mean parameter λ = sigmoid(l) and is 0 / 0 at λ = 1/2. Near there a series in l stands for it.
    """
    half = logits.abs() / 2
    small = half < 0.05
    safe = half.where(~small, torch.ones_like(half))
    square = half.square()
    series = square * (1 / 3 - square * (7 / 90 - square * 62 / 2835))
    # tanh is 1 from about 9 on in float32: the logarithm of it is then exactly 0, as it should be.
    return math.log(2) + torch.where(small, series, safe.log() - safe.tanh().log())


class ContinuousBernoulli(dist.TorchDistribution):
    """Continuous Bernoulli by its logits, at any size of these; torch's own clamps its probs, and blurs near one half.

    Loaiza-Ganem & Cunningham (2019), section 3: the density (equation 6), its mean (equation 8) and inverse
    distribution function (appendix), all written in l rather than in sigmoid(l).

    Args:
        logits: l, any shape.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        return ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.logits - softplus(self.logits) + log_normalizer(self.logits)

    @property
    def mean(self) -> Tensor:
        """1 / (1 - exp(-l)) - 1 / l, and near 0 its series 1/2 + l/12 - l^3/720."""
        logits = self.logits
        small = logits.abs() < 0.1
        safe = logits.where(~small, torch.ones_like(logits))
        return torch.where(small, 0.5 + logits / 12 - logits**3 / 720, -1 / torch.expm1(-safe) - 1 / safe)

    def icdf(self, value: Tensor) -> Tensor:
        """ln(1 + u (exp(l) - 1)) / l, for positive l by 1 minus that of -l and 1 - u: nothing overflows then."""
        negative = torch.where(self.logits > 0, -self.logits, self.logits)  # abs has no slope at 0
        small = negative > -1e-3
        safe = negative.where(~small, -torch.ones_like(negative))
        u = torch.where(self.logits > 0, 1 - value, value)
        found = torch.where(small, u + negative * u * (1 - u) / 2, torch.log1p(u * torch.expm1(safe)) / safe)
        return torch.where(self.logits > 0, 1 - found, found)

    def rsample(self, sample_shape: Any = _ONE) -> Tensor:
        u = torch.rand(Size(sample_shape) + self.logits.shape, dtype=self.logits.dtype, device=self.logits.device)
        return self.icdf(u).clamp(0.0, 1.0)
