"""Amortized Gaussian guide with a linear mean and one covariance shared by all data."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guides.networks import Standardize

__all__ = ["AmortizedGaussian"]


class AmortizedGaussian(nn.Module):
    """q(z | x) = N(V x + b, S) with a full S = L L^T that does not depend on x.

    The exact posterior of every linear-Gaussian model has this form, so the bound can become tight.

    Args:
        num_features: D. latent_dim: L.

    Shapes:
        x: (..., num_features) to a MultivariateNormal of batch shape (...) and event shape (latent_dim,).

    Example:
        >>> q = AmortizedGaussian(4, 2)(torch.zeros(3, 4))
        >>> q.batch_shape, q.event_shape
        (torch.Size([3]), torch.Size([2]))
    """

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.standardize = Standardize(num_features)
        self.linear = nn.Linear(num_features, latent_dim)
        self.log_diagonal = nn.Parameter(torch.zeros(latent_dim))
        self.lower = nn.Parameter(torch.zeros(latent_dim, latent_dim))

    def reset_parameters(self) -> None:
        """Unit covariance; the linear layer resets itself."""
        nn.init.zeros_(self.log_diagonal)
        nn.init.zeros_(self.lower)

    def set_from(self, x: Tensor) -> None:
        """Standardise by the mean and scale of ``x`` (N, num_features)."""
        self.standardize.set_from(x)

    @property
    def scale_tril(self) -> Tensor:
        """L, (latent_dim, latent_dim), with a positive diagonal."""
        return self.lower.tril(-1) + self.log_diagonal.exp().diag_embed()

    def forward(self, x: Tensor) -> dist.MultivariateNormal:
        return dist.MultivariateNormal(self.linear(self.standardize(x)), scale_tril=self.scale_tril)
