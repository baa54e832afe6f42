"""Amortized codes of several discrete variables a datum: independent categoricals, independent bits."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from guides.networks import MLP

__all__ = ["AmortizedBits", "AmortizedCode"]


class AmortizedCode(MLP):
    """A network from x to V independent categorical variables of K values each, as one-hot rows.

    Args:
        num_features: D. num_variables: V. num_categories: K. hidden_dims: widths of hidden layers.
        activation: "tanh" or "relu".

    Shapes:
        inputs: x, (..., num_features), to a distribution of batch shape (...) and event shape (V, K).

    Example:
        >>> q = AmortizedCode(4, 2, 3)(torch.zeros(5, 4))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        num_features: int,
        num_variables: int,
        num_categories: int,
        hidden_dims: Sequence[int] = (),
        activation: str = "tanh",
    ) -> None:
        super().__init__((num_features, *hidden_dims, num_variables * num_categories), activation)
        self.code = (num_variables, num_categories)

    def forward(self, *inputs: Tensor) -> dist.Independent:
        logits = super().forward(*inputs)
        return dist.OneHotCategorical(logits=logits.unflatten(-1, self.code)).to_event(1)


class AmortizedBits(MLP):
    """A network from x to V independent bits.

    Args:
        num_features: D. num_variables: V. hidden_dims: widths of hidden layers. activation: "tanh" or "relu".

    Shapes:
        inputs: x, (..., num_features), to a distribution of batch shape (...) and event shape (V,).

    Example:
        >>> q = AmortizedBits(4, 6)(torch.zeros(5, 4))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([6]))
    """

    def __init__(
        self, num_features: int, num_variables: int, hidden_dims: Sequence[int] = (), activation: str = "tanh"
    ) -> None:
        super().__init__((num_features, *hidden_dims, num_variables), activation)

    def forward(self, *inputs: Tensor) -> dist.Independent:
        return dist.Bernoulli(logits=super().forward(*inputs)).to_event(1)
