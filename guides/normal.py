"""Amortized diagonal Gaussian: a network's body, and two heads for mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from guides.networks import ACTIVATIONS, MLP, ConvEncoder

__all__ = ["AmortizedNormal"]

#: Below this a standard deviation is of no use to a float32 network.
_SMALLEST = 1e-5


class AmortizedNormal(nn.Module):
    """q(z | x) = N(loc(x), diag(scale(x))^2), both read off one hidden layer; Kingma & Welling (2014), appendix C.2.

    Args:
        num_features: D. latent_dim: L. hidden_dims: widths of the hidden layers; () makes loc linear in x.
        activation: "tanh" or "relu".
        architecture: "mlp", or "conv" for square images of one channel (hidden_dims[-1] is then the dense layer).

    Shapes:
        inputs: x, (..., D), to a Normal of batch shape (...) and event shape (L,). Several inputs whose widths add up
        to D are taken side by side, broadcast against each other.

    Example:
        >>> q = AmortizedNormal(4, 2, (8,))(torch.zeros(3, 4))
        >>> q.batch_shape, q.event_shape
        (torch.Size([3]), torch.Size([2]))
    """

    def __init__(
        self,
        num_features: int,
        latent_dim: int,
        hidden_dims: Sequence[int] = (400,),
        activation: str = "tanh",
        architecture: str = "mlp",
    ) -> None:
        super().__init__()
        width = hidden_dims[-1] if hidden_dims else num_features
        self.body: nn.Module
        if architecture == "conv":
            self.body = ConvEncoder(num_features, width, activation=activation)
        elif hidden_dims:
            self.body = nn.Sequential(MLP((num_features, *hidden_dims), activation), ACTIVATIONS[activation]())
        else:
            self.body = nn.Identity()
        self.loc = nn.Linear(width, latent_dim)
        self.raw_scale = nn.Linear(width, latent_dim)

    def set_from(self, x: Tensor) -> None:
        """Standardise inputs, or the first of them, by the mean and scale of ``x`` (N, D), where a layer is there."""
        for module in self.body.modules():
            if isinstance(module, MLP):
                module.set_from(x)

    def hidden(self, *inputs: Tensor) -> Tensor:
        """The last hidden layer (..., H), H = hidden_dims[-1]: what a flow is conditioned on."""
        out: Tensor
        if len(inputs) > 1 and isinstance(self.body, nn.Sequential):
            first, last = self.body
            out = last(first(*inputs))
            return out
        shape = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
        out = self.body(
            torch.cat([x.expand(*shape, x.shape[-1]) for x in inputs], -1) if len(inputs) > 1 else inputs[0]
        )
        return out

    def heads(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), each (..., L), from the last hidden layer."""
        return self.loc(hidden), softplus(self.raw_scale(hidden)) + _SMALLEST

    def moments(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), each (..., L)."""
        return self.heads(self.hidden(*inputs))

    def forward(self, *inputs: Tensor) -> dist.Independent:
        loc, scale = self.moments(*inputs)
        return dist.Normal(loc, scale).to_event(1)


def standard_normal(like: Tensor, size: int) -> dist.Independent:
    """N(0, I) over ``size`` dimensions, in the dtype and on the device of ``like``."""
    zero = torch.zeros(size, dtype=like.dtype, device=like.device)
    return dist.Normal(zero, torch.ones_like(zero)).to_event(1)
