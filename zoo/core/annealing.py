"""A way from what can be drawn to an energy's distribution: what contrastive estimators and annealing rest on."""

from __future__ import annotations

import abc

from torch import Tensor

__all__ = ["AnnealingPath"]


class AnnealingPath(abc.ABC):
    """Densities f_t, not normalised, from f_0 = independent units to f_1 = exp(-energy), at t in [0, 1].

    States are (S, ...), chains side by side; random numbers are torch's.

    Attributes:
        log_base: ln of the integral of f_0, nats, ().
    """

    log_base: Tensor

    @abc.abstractmethod
    def start(self, num_chains: int) -> Tensor:
        """Independent draws from f_0."""

    @abc.abstractmethod
    def at_data(self, x: Tensor) -> Tensor:
        """States whose visible units are data (N, D), the hidden ones drawn given them."""

    @abc.abstractmethod
    def move(self, state: Tensor, t: float = 1.0) -> Tensor:
        """A sweep of Gibbs sampling, which leaves f_t in place."""

    @abc.abstractmethod
    def log_density(self, state: Tensor, t: float = 1.0) -> Tensor:
        """ln f_t, (S,), nats, differentiable in the parameters."""

    def log_ratio(self, state: Tensor, new: float, old: float) -> Tensor:
        """ln f_new - ln f_old, (S,), nats."""
        return self.log_density(state, new) - self.log_density(state, old)
