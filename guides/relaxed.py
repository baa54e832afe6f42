"""Relaxed discrete variables, reparametrised in log space.

The Gumbel-softmax of Jang, Gu & Poole (2017) and Maddison, Mnih & Teh (2017). Only draws are offered: the
density of a relaxed variable has no place in a bound on a discrete model, so there is no ``log_prob``.
"""

from __future__ import annotations

import torch
from torch import Size, Tensor
from torch.nn.functional import logsigmoid

__all__ = ["RelaxedBernoulli", "RelaxedCategorical"]


_ONE = Size()


def _exponential(like: Tensor, shape: Size) -> Tensor:
    """Standard exponential draws, never zero: -log of one is then finite (a Gumbel draw)."""
    draws = torch.empty(shape, dtype=like.dtype, device=like.device).exponential_()
    return draws.clamp_min(torch.finfo(like.dtype).tiny)


class RelaxedCategorical:
    """softmax((logits + Gumbel noise) / temperature), a point of the simplex.

    Args:
        temperature: positive, a number or a tensor (); 0 is the discrete variable, in the limit.
        logits: (..., K), need not be normalised; -inf allowed (that corner is never taken).
        straight_through: return the nearest corner, with the gradient of the relaxed point.

    Raises:
        ValueError: a temperature that is not positive.

    Example:
        >>> RelaxedCategorical(0.5, torch.zeros(3, 4)).rsample().shape
        torch.Size([3, 4])
    """

    def __init__(self, temperature: float | Tensor, logits: Tensor, straight_through: bool = False) -> None:
        if not isinstance(temperature, Tensor) and not temperature > 0:
            raise ValueError(f"RelaxedCategorical: temperature expected a positive number, got {temperature}.")
        self.temperature, self.logits, self.straight_through = temperature, logits, straight_through

    @property
    def batch_shape(self) -> Size:
        """The logits' shape without K."""
        return self.logits.shape[:-1]

    def expand(self, batch_shape: Size) -> RelaxedCategorical:
        """The same distribution over a larger ``batch_shape``; keeps ``straight_through``."""
        logits = self.logits.expand(*batch_shape, self.logits.shape[-1])
        return RelaxedCategorical(self.temperature, logits, self.straight_through)

    def log_rsample(self, sample_shape: Size = _ONE) -> Tensor:
        """ln z of a relaxed draw, (sample_shape, ..., K); finite where z itself would underflow to 0."""
        noise = -_exponential(self.logits, sample_shape + self.logits.shape).log()
        return torch.log_softmax((self.logits + noise) / self.temperature, -1)

    def rsample(self, sample_shape: Size = _ONE) -> Tensor:
        """A draw z on the simplex, (sample_shape, ..., K), differentiable in the logits."""
        soft = self.log_rsample(sample_shape).exp()
        if not self.straight_through:
            return soft
        corner = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        return corner + (soft - soft.detach())


class RelaxedBernoulli:
    """sigmoid((logits + logistic noise) / temperature), the binary case; shapes (...) throughout.

    Args:
        temperature: positive, a number or a tensor (); towards 0 the draws become bits. logits: of one against zero.
        straight_through: draws are bits, with the gradient of the relaxed ones.

    Raises:
        ValueError: a temperature that is not positive.

    Example:
        >>> RelaxedBernoulli(0.5, torch.zeros(3, 4)).rsample().shape
        torch.Size([3, 4])
    """

    def __init__(self, temperature: float | Tensor, logits: Tensor, straight_through: bool = False) -> None:
        if not isinstance(temperature, Tensor) and not temperature > 0:
            raise ValueError(f"RelaxedBernoulli: temperature expected a positive number, got {temperature}.")
        self.temperature, self.logits, self.straight_through = temperature, logits, straight_through

    @property
    def batch_shape(self) -> Size:
        """The logits' shape."""
        return self.logits.shape

    def expand(self, batch_shape: Size) -> RelaxedBernoulli:
        """The same distribution over a larger ``batch_shape``; keeps ``straight_through``."""
        return RelaxedBernoulli(self.temperature, self.logits.expand(batch_shape), self.straight_through)

    def rsample(self, sample_shape: Size = _ONE) -> Tensor:
        """A draw in [0, 1], (sample_shape, ...), differentiable in the logits."""
        shape = sample_shape + self.logits.shape
        noise = _exponential(self.logits, shape).log() - _exponential(self.logits, shape).log()
        soft = logsigmoid((self.logits + noise) / self.temperature).exp()
        if not self.straight_through:
            return soft
        return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())
