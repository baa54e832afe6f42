"""The von Mises distribution of angles: its exact density, its concentration from a resultant, the circle as a support.

Mardia & Jupp (2000), Directional Statistics, sections 3.5.4 and 5.3.1. torch's density has ln I0 to seven digits only.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, constraints, transform_to

__all__ = ["VonMises", "circular", "most_likely", "wrapped"]


class _Circular(constraints.Constraint):
    def check(self, value: Tensor) -> Tensor:
        return (value >= -math.pi) & (value < math.pi)


#: Angles in radians, in [-π, π): whatever real number stands behind one is taken modulo 2π.
circular = _Circular()


@transform_to.register(_Circular)
class _Wrapped(Transform):
    domain, codomain = constraints.real, circular

    def __init__(self, _: Any = None) -> None:
        super().__init__()

    def _call(self, x: Tensor) -> Tensor:
        return wrapped(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return y


class VonMises(dist.VonMises):
    """Density exp(κ cos(x - μ)) / (2π I0(κ)), with ln I0 to the last digit at any concentration κ."""

    def log_prob(self, value: Tensor) -> Tensor:
        # cos - 1 as a square: near the mean of a narrow one the difference would lose half the digits.
        away = -2 * ((value - self.loc) / 2).sin().square()
        return self.concentration * away - torch.special.i0e(self.concentration).log() - math.log(2 * math.pi)

    def expand(self, batch_shape: Any, _instance: Any = None) -> VonMises:
        loc, concentration = self.loc.expand(batch_shape), self.concentration.expand(batch_shape)
        return VonMises(loc, concentration, validate_args=False)


def wrapped(x: Tensor) -> Tensor:
    """Angles modulo 2π, in [-π, π); what lies there stays to the last digit."""
    return torch.where((x >= -math.pi) & (x < math.pi), x, torch.remainder(x + math.pi, 2 * math.pi) - math.pi)


def most_likely(cosines: Tensor, sines: Tensor, count: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Mean direction in [-π, π) and concentration, positive and at most ``largest``, of the highest likelihood.

    The concentration κ solves I1(κ) / I0(κ) = R, the mean resultant length, by Newton's method (Mardia & Jupp 2000,
    section 5.3.1) from the approximation of Banerjee et al. (2005), equation 4.4. All arguments broadcast.

    Args:
        cosines, sines: weighted sums of cos x and sin x.
        count: the sum of the weights; where it is zero the result means nothing.
    """
    resultant = (torch.hypot(cosines, sines) / count.clamp_min(torch.finfo(count.dtype).tiny)).clamp_max(1)
    kappa = resultant * (2 - resultant.square()) / (1 - resultant.square()).clamp_min(1e-12)
    for _ in range(20):
        kappa = kappa.clamp_min(1e-8).minimum(largest)
        ratio = torch.special.i1e(kappa) / torch.special.i0e(kappa)
        # The slope is above its bound but for rounding, which is all that is left of it at a very large κ.
        slope = (1 - ratio / kappa - ratio.square()).maximum(0.3 / (1 + kappa.square()))
        kappa = kappa - (ratio - resultant) / slope
    return wrapped(torch.atan2(sines, cosines)), kappa.clamp_min(1e-8).minimum(largest)
