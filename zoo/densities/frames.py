"""One symbol in each frame of sequences of unequal length, independent of each other."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["Frames"]

#: The most values, of all frames together, that are listed.
LISTED = 4096


class Frames(dist.TorchDistribution):
    """p(z) = product over t < length of exp(log_probs[t, z_t]); z_t is -1 beyond the length.

    Args:
        log_probs: (N, T, C), nats, normalised over C.
        lengths: (N,), 1 to T.

    Shapes:
        batch (N,), event (T,). Its values can be enumerated where (C + 1)^T is at most 4096.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, log_probs: Tensor, lengths: Tensor, validate_args: bool | None = None) -> None:
        self.log_probs, self.lengths = log_probs, lengths
        super().__init__(log_probs.shape[:1], log_probs.shape[1:2], validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.integer, 1)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        steps, symbols = self.log_probs.shape[-2:]
        return (symbols + 1) ** steps <= LISTED

    def expand(self, batch_shape: Any, _instance: Any = None) -> Frames:
        new = self._get_checked_instance(Frames, _instance)
        new.log_probs, new.lengths = self.log_probs, self.lengths
        super(Frames, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape[:-1]
            logits = self.log_probs.expand(shape + self.log_probs.shape)
            return torch.distributions.Categorical(logits=logits).sample().masked_fill(~self._inside, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., N), nats; -inf where a symbol is none, or stands beyond a length."""
        inside = self._inside
        wrong = ((value < 0) == inside).any(-1)
        steps, rows = torch.arange(value.shape[-1], device=value.device), torch.arange(len(inside), device=value.device)
        each = self.log_probs[rows.unsqueeze(-1), steps, value.clamp(0)]
        total = torch.where(inside, each, 0.0).sum(-1).masked_fill(wrong, -torch.inf)
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values, those of sequences of other lengths among them, which have the probability zero."""
        steps, symbols = self.log_probs.shape[-2:]
        values = torch.tensor(list(itertools.product(range(-1, symbols), repeat=steps)), device=self.log_probs.device)
        values = values.reshape(-1, *[1] * len(self.batch_shape), steps)
        return values.expand(-1, *self.batch_shape, steps) if expand else values

    @property
    def _inside(self) -> Tensor:
        """(N, T), which frames there are."""
        return torch.arange(self.log_probs.shape[1], device=self.log_probs.device) < self.lengths.unsqueeze(-1)
