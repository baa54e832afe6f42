"""What importance weights p(x, z) / q(z | x) of a one-dimensional z are on average, by integrals instead of draws."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal

__all__ = ["Weights", "weights_on_a_line"]


class Weights(NamedTuple):
    """Of each datum, (N,): ln p(x); the bound E_q ln w, and the variance of ln w; the variance of w over its mean^2."""

    evidence: Tensor
    elbo: Tensor
    log_variance: Tensor
    relative_variance: Tensor


def weights_on_a_line(model: Any, x: Tensor, half: float = 40.0, num: int = 20_001) -> Weights:
    """The weights' moments under a VAE of one latent dimension, by the rectangle rule (exact to rounding here)."""
    z = torch.linspace(-half, half, num, dtype=torch.float64).reshape(-1, 1, 1)
    with torch.no_grad():
        loc, scale = model.encoder.moments(x)
        log_q = Normal(loc, scale).log_prob(z).squeeze(-1)  # (num, N)
        log_joint = model.likelihood.log_prob(model.decoder(z), x) + Normal(0.0, 1.0).log_prob(z).squeeze(-1)
    step = 2 * half / (num - 1)
    log_weight, mass = log_joint - log_q, log_q.exp() * step
    evidence = (step * log_joint.exp()).sum(0).log()
    elbo = (mass * log_weight).sum(0)
    second = (mass * (2 * (log_weight - evidence)).exp()).sum(0)
    return Weights(evidence, elbo, (mass * (log_weight - elbo).square()).sum(0), second - 1)
