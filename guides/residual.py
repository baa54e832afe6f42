"""A straight line and what bends it: a network beside a linear map, and a Gaussian whose mean is such a sum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from guides.networks import ACTIVATIONS, MLP, Standardize

__all__ = ["COVARIANCES", "Residual", "ResidualNormal"]

#: How the dimensions of a :class:`ResidualNormal` may hang together.
COVARIANCES: tuple[str, ...] = ("diag", "full")
#: Below this a standard deviation is of no use to a float32 network.
_SMALLEST = 1e-5


class Residual(nn.Module):
    """W x + b + g(x), with g a network; without hidden layers there is no g.

    Where a model starts from a linear one, W and b are set to it and g to zero (:meth:`straighten`): what the network
    adds is learned from there.

    Args:
        num_inputs, num_outputs: sizes of what goes in and comes out.
        hidden_dims: widths of g's hidden layers; () leaves g out.
        activation: "tanh" or "relu".

    Shapes:
        x: (..., num_inputs) to (..., num_outputs).

    Example:
        >>> Residual(4, 2, (8,))(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, num_inputs: int, num_outputs: int, hidden_dims: Sequence[int] = (), activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.straight = nn.Linear(num_inputs, num_outputs)
        self.bent = MLP((num_inputs, *hidden_dims, num_outputs), activation) if hidden_dims else None

    @torch.no_grad()
    def straighten(self, weight: Tensor, bias: Tensor) -> None:
        """W is ``weight`` (num_outputs, num_inputs), b is ``bias`` (num_outputs,); g is zero, its hidden layers as
        drawn."""
        self.straight.weight.copy_(weight)
        self.straight.bias.copy_(bias)
        if self.bent is not None:
            last = self.bent[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.straight(x)
        return out if self.bent is None else out + self.bent(x)


class ResidualNormal(nn.Module):
    """q(z | x) = N(W x + b + g(x), F(x) F(x)^T), x standardised; F diagonal or lower triangular.

    Args:
        num_features: D. latent_dim: L. hidden_dims: widths of the hidden layers, which g and F share; () makes the mean
            linear in x.
        covariance: "diag" or "full".
        activation: "tanh" or "relu".

    Shapes:
        x: (..., D). moments(x): mean (..., L), and F: standard deviations (..., L), or (..., L, L).

    Example:
        >>> q = ResidualNormal(4, 2, (8,))(torch.zeros(3, 4))
        >>> q.batch_shape, q.event_shape
        (torch.Size([3]), torch.Size([2]))
    """

    def __init__(
        self,
        num_features: int,
        latent_dim: int,
        hidden_dims: Sequence[int] = (),
        covariance: str = "diag",
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        self.latent_dim, self.covariance = latent_dim, covariance
        self.standardize = Standardize(num_features)
        self.straight = nn.Linear(num_features, latent_dim)
        self.body = nn.Sequential()
        if hidden_dims:
            self.body = nn.Sequential(MLP((num_features, *hidden_dims), activation), ACTIVATIONS[activation]())
        self.bent = nn.Linear(hidden_dims[-1], latent_dim) if hidden_dims else None
        width = hidden_dims[-1] if hidden_dims else num_features
        self.raw_scale = nn.Linear(width, latent_dim)
        below = latent_dim * (latent_dim - 1) // 2
        self.lower = nn.Linear(width, below) if covariance == "full" and below else None

    def set_from(self, x: Tensor) -> None:
        """Standardise by the mean and scale of ``x`` (N, D)."""
        self.standardize.set_from(x)

    @torch.no_grad()
    def straighten(self, weight: Tensor, bias: Tensor, scale: Tensor) -> None:
        """The mean is W x + b of standardised x, W ``weight`` (L, D) and b ``bias`` (L,); F is diagonal, ``scale``
        (L,), for all; hidden layers as drawn."""
        self.straight.weight.copy_(weight)
        self.straight.bias.copy_(bias)
        for head in (self.bent, self.raw_scale, self.lower):
            if head is not None:
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)
        self.raw_scale.bias.copy_((scale - _SMALLEST).clamp_min(1e-7).expm1().log())

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., L) and F of q(z | x): standard deviations (..., L), or lower triangular (..., L, L)."""
        inputs = self.standardize(x)
        hidden = self.body(inputs)
        loc = self.straight(inputs)
        if self.bent is not None:
            loc = loc + self.bent(hidden)
        scale = softplus(self.raw_scale(hidden)) + _SMALLEST
        if self.covariance == "diag":
            return loc, scale
        factor = scale.diag_embed()
        if self.lower is not None:
            row, column = torch.tril_indices(self.latent_dim, self.latent_dim, -1, device=x.device)
            below = torch.zeros_like(factor)
            below[..., row, column] = self.lower(hidden) * scale[..., row]
            factor = factor + below
        return loc, factor

    def draw(self, loc: Tensor, factor: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z = loc + F noise (..., L), and ln q(z | x) (...), of standard normal ``noise`` (..., L).

        Args:
            loc, factor: mean and F, as :meth:`moments` gives them.
        """
        if self.covariance == "diag":
            z, diagonal = loc + factor * noise, factor
        else:
            z = loc + (factor @ noise.unsqueeze(-1)).squeeze(-1)
            diagonal = factor.diagonal(dim1=-2, dim2=-1)
        constant = 0.5 * self.latent_dim * math.log(2 * math.pi)
        return z, -0.5 * noise.square().sum(-1) - diagonal.log().sum(-1) - constant

    def distribution(self, loc: Tensor, factor: Tensor) -> dist.TorchDistribution:
        """N(loc, F F^T) of batch shape (...) and event shape (L,).

        Args:
            loc, factor: mean and F, as :meth:`moments` gives them.
        """
        if self.covariance == "diag":
            return dist.Normal(loc, factor).to_event(1)
        return dist.MultivariateNormal(loc, scale_tril=factor)

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        return self.distribution(*self.moments(x))
