"""A distribution over any finite list of values, for latents that are neither binary nor numbered from zero."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["FiniteSupport"]


class FiniteSupport(dist.TorchDistribution):
    """p(values[k]) = softmax(logits)[k].

    Args:
        values: (K,) or (K, ...), all different; what follows K is the event's shape.
        logits: (..., K), unnormalised log-probabilities.

    Example:
        >>> q = FiniteSupport(torch.tensor([1.0, 5.0]), torch.tensor([0.0, 0.0]))
        >>> q.log_prob(torch.tensor(5.0)).exp()
        tensor(0.5000)
    """

    arg_constraints: ClassVar = {"logits": constraints.independent(constraints.real, 1)}
    has_enumerate_support = True

    def __init__(self, values: Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        self.values, self.logits = values, logits.log_softmax(-1)
        super().__init__(logits.shape[:-1], values.shape[1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> Any:
        event = self.values.dim() - 1
        return constraints.independent(constraints.real, event) if event else constraints.real

    def expand(self, batch_shape: Any, _instance: Any = None) -> FiniteSupport:
        return FiniteSupport(self.values, self.logits.expand(*batch_shape, self.logits.shape[-1]), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.values[torch.distributions.Categorical(logits=self.logits).sample(torch.Size(sample_shape))]

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(value), of the batch shape; minus infinity for a value that is not among them."""
        event = self.values.dim() - 1
        same = value.unsqueeze(-1 - event) == self.values
        same = same.flatten(-event).all(-1) if event else same  # (..., K)
        log_prob = torch.broadcast_to(self.logits, torch.broadcast_shapes(self.logits.shape, same.shape))
        return torch.where(same, log_prob, torch.full_like(log_prob, -torch.inf)).amax(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        event = self.values.shape[1:]
        values = self.values.reshape(-1, *[1] * len(self.batch_shape), *event)
        return values.expand(-1, *self.batch_shape, *event) if expand else values
