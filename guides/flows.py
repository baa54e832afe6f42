"""Normalising flows on top of an amortized Gaussian, steered by the encoder's hidden layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyro.distributions as dist
from pyro.distributions import transforms
from torch import Tensor, nn

from guides.normal import AmortizedNormal

__all__ = ["FLOWS", "AmortizedFlow"]

#: One step of a flow over L dimensions given a context of C numbers, by name.
FLOWS: dict[str, Callable[[int, int], nn.Module]] = {
    "planar": lambda size, context: transforms.conditional_planar(size, context, [context]),
    "iaf": lambda size, context: transforms.conditional_affine_autoregressive(
        size, context, [max(4 * size, 16)], log_scale_min_clip=-5.0, log_scale_max_clip=3.0
    ),
}


class AmortizedFlow(nn.Module):
    """q(z | x): a diagonal Gaussian, bent by a chain of flows whose parameters depend on x as well.

    "planar" is Rezende & Mohamed (2015), "Variational inference with normalizing flows", equation 10; "iaf" is Kingma
    et al. (2016), "Improved variational inference with inverse autoregressive flow". Both can score what they have
    drawn; a planar flow cannot score anything else, an inverse autoregressive one takes L passes for it.

    Args:
        base: the Gaussian, and the hidden layer the flows are conditioned on.
        context_dim: C, the width of that layer. latent_dim: L. kind: a name in ``FLOWS``. length: flows in the chain.

    Shapes:
        x: (N, D) to a distribution of batch shape (N,) and event shape (L,).

    Example:
        >>> from guides import AmortizedNormal
        >>> base = AmortizedNormal(4, 2, (8,))
        >>> q = AmortizedFlow(base, 4, 2, "iaf", 2)(torch.zeros(3, 4))
        >>> q.batch_shape, q.event_shape
        (torch.Size([3]), torch.Size([2]))
    """

    def __init__(self, base: AmortizedNormal, context_dim: int, latent_dim: int, kind: str, length: int) -> None:
        super().__init__()
        self.base = base
        self.flows = nn.ModuleList([FLOWS[kind](latent_dim, context_dim) for _ in range(length)])

    def set_from(self, x: Tensor) -> None:
        """Standardise the base's inputs by the mean and scale of ``x`` (N, D)."""
        self.base.set_from(x)

    def forward(self, x: Tensor) -> dist.TransformedDistribution:
        context = self.base.hidden(x)
        gaussian = dist.Normal(*self.base.heads(context)).to_event(1)
        flows: Iterable[Any] = self.flows
        return dist.TransformedDistribution(gaussian, [flow.condition(context) for flow in flows])
