"""Amortized categorical guide: q(z | x) = Categorical(softmax(network(x)))."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from guides.networks import MLP

__all__ = ["AmortizedCategorical"]


class AmortizedCategorical(MLP):
    """A network from x to the logits of one of K categories.

    With ``hidden_dims=()`` the logits are linear in x, which contains the exact posterior of mixtures
    whose components share an exponential family with linear statistics (Poisson, Bernoulli).

    Args:
        num_features: D. num_categories: K. hidden_dims: widths of hidden layers; () makes the logits linear in x.

    Shapes:
        inputs: x, (..., num_features), to a Categorical of batch shape (...) over ``num_categories``.

    Example:
        >>> AmortizedCategorical(4, 3, (8,))(torch.zeros(5, 4))
        Categorical(logits: torch.Size([5, 3]))
    """

    def __init__(self, num_features: int, num_categories: int, hidden_dims: Sequence[int] = (32,)) -> None:
        super().__init__((num_features, *hidden_dims, num_categories))

    @torch.no_grad()
    def permute(self, order: Tensor) -> None:
        """Category ``k`` becomes what ``order[k]`` was, ``order`` (K,)."""
        for value in self[-1].parameters():
            value.copy_(value[order].clone())

    def log_probs(self, x: Tensor) -> Tensor:
        """ln q(z | x), (..., num_categories), nats, of x (..., num_features): the table of the distribution that a call
        gives."""
        return torch.log_softmax(super().forward(x), -1)

    def forward(self, *inputs: Tensor) -> dist.Categorical:
        return dist.Categorical(logits=super().forward(*inputs))
