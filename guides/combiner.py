"""The structured guide of deep Markov models: what came before is combined with what is still to come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guides.flows import FLOWS
from guides.networks import Standardize
from guides.packing import Packing
from guides.walks import moments, recur, walk

__all__ = ["CELLS", "Combiner", "Paths"]

#: Recurrent networks over time, by name.
CELLS: dict[str, type[nn.GRU | nn.RNN]] = {"gru": nn.GRU, "rnn": nn.RNN}


class Paths(NamedTuple):
    """Draws of a :class:`Combiner`, frame by frame as :class:`Packing` has them, each (F, S, L) but the last.

    Attributes:
        z: what was drawn. loc, scale: of the Gaussians it was drawn from; with flows, of those that the flows bent.
        log_prob: ln q(z_t | z_{t-1}, x), (F, S) nats.
    """

    z: Tensor
    loc: Tensor
    scale: Tensor
    log_prob: Tensor


class Combiner(nn.Module):
    """q(z | x) = prod_t q(z_t | z_{t-1}, x_t, ..., x_T) of Krishnan, Shalit & Sontag (2017), "Structured inference
    networks for nonlinear state space models", section 4 ("DKS").

        g_t = a recurrent network over x_T, ..., x_t
        h_t = (tanh(W z_{t-1} + b) + g_t) / 2
        z_t ~ N(loc(h_t), diag(scale(h_t))^2), bent by flows, where there are any, that depend on h_t

    Args:
        num_features: D. latent_dim: L. hidden_dim: H, of g and h.
        cell: of the recurrent network, "gru" or "rnn"; the second is a plain one of rectified units.
        flow: "planar" or "iaf", or None. num_flows: how many, one after another.

    Shapes:
        x: (F, D), the frames of sequences as a packing has them. packing: a :class:`Packing` of their lengths.
        ahead: (F, H). z: (..., L).

    Example:
        >>> guide, frames = Combiner(3, 2, 8), torch.zeros(2, 5, 3)
        >>> packing = Packing(torch.tensor([5, 4]))
        >>> ahead = guide.ahead(packing.pack(frames), packing)
        >>> q = guide(torch.zeros(9, 2), ahead)
        >>> q.batch_shape, q.event_shape
        (torch.Size([9]), torch.Size([2]))
    """

    def __init__(
        self,
        num_features: int,
        latent_dim: int,
        hidden_dim: int,
        cell: str = "gru",
        flow: str | None = None,
        num_flows: int = 1,
    ) -> None:
        super().__init__()
        self.standardize = Standardize(num_features)
        options: dict[str, Any] = {"nonlinearity": "relu"} if cell == "rnn" else {}
        self.recurrent: Any = CELLS[cell](num_features, hidden_dim, **options)
        self.memory = nn.Parameter(torch.zeros(hidden_dim))
        self.start = nn.Parameter(torch.zeros(latent_dim))
        self.from_z = nn.Linear(latent_dim, hidden_dim)
        self.heads = nn.Linear(hidden_dim, 2 * latent_dim)
        chain = [FLOWS[flow](latent_dim, hidden_dim) for _ in range(num_flows)] if flow is not None else []
        self.flows = nn.ModuleList(chain)

    def reset_parameters(self) -> None:
        """Before the first step nothing is known."""
        nn.init.zeros_(self.memory)
        nn.init.zeros_(self.start)

    def set_from(self, rows: Tensor) -> None:
        """Standardise frames by the mean and scale of rows (M, D)."""
        self.standardize.set_from(rows)

    def ahead(self, x: Tensor, packing: Packing) -> Tensor:
        """g: what each frame and those after it say, (F, H)."""
        inputs = packing.mirrored(self.standardize(x))
        return packing.mirrored(recur(self.recurrent, inputs, self.memory, packing))

    def combined(self, z: Tensor, ahead: Tensor) -> Tensor:
        """h_t given z_{t-1} (..., L) and g_t (..., H), (..., H)."""
        return 0.5 * (self.from_z(z).tanh() + ahead)

    def forward(self, z: Tensor, ahead: Tensor) -> dist.TorchDistribution:
        """q(z_t | z_{t-1}, x), of batch shape (...) and event shape (L,), given z_{t-1} and g_t."""
        hidden = self.combined(z, ahead)
        gaussian = dist.Normal(*moments(self.heads(hidden))).to_event(1)
        flows: Iterable[Any] = self.flows
        bent = [flow.condition(hidden) for flow in flows]
        return dist.TransformedDistribution(gaussian, bent) if bent else gaussian

    def paths(self, ahead: Tensor, packing: Packing, noise: Tensor) -> Paths:
        """Draws of whole paths by standard normal noise (F, S, L), given g (F, H); differentiable."""
        if len(self.flows):
            return self._bent(ahead, packing, noise)
        z, outputs = walk(ahead, noise, self.start, self.from_z, self.heads, packing)
        loc, scale = moments(outputs)
        return Paths(z, loc, scale, _gaussian(noise, scale))

    def _bent(self, ahead: Tensor, packing: Packing, noise: Tensor) -> Paths:
        z, found = self.start.expand(packing.sizes[0], *noise.shape[1:]), list[tuple[Tensor, ...]]()
        for first, last in zip(packing.edges, packing.edges[1:], strict=False):
            hidden = self.combined(z[: last - first], ahead[first:last].unsqueeze(1))
            loc, scale = moments(self.heads(hidden))
            z, log_prob = loc + scale * noise[first:last], _gaussian(noise[first:last], scale)
            flows: Iterable[Any] = self.flows
            for flow in flows:
                bending = flow.condition(hidden)
                straight, z = z, bending(z)
                log_prob = log_prob - bending.log_abs_det_jacobian(straight, z)
            found.append((z, loc, scale, log_prob))
        return Paths(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _gaussian(noise: Tensor, scale: Tensor) -> Tensor:
    """ln N(loc + scale noise; loc, scale^2) summed over the last dimension, nats."""
    return dist.Normal(0.0, 1.0, validate_args=False).log_prob(noise).sum(-1) - scale.log().sum(-1)
