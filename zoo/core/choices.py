"""What a model says of discrete latents, for estimators that draw, relax or sum them without running its programs."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["Choices"]


class Choices(Protocol):
    """p(x, z) and q(z | x) of N data whose latents are discrete: the numbers that the two programs give, and the same
    draws under the same random numbers. All are differentiable, in nats; draws carry no gradient."""

    def bound(self) -> Tensor:
        """E_q [ln p(x, z) - ln q(z | x)], (N,), summed exactly."""

    def outcomes(self) -> Tensor | None:
        """ln q(z | x) of each of the K values that z may have, (N, K); None where they are too many for a table."""

    def draw(self, num_particles: int) -> tuple[Tensor, Tensor]:
        """ln p(x, z_s) and ln q(z_s | x), each (S, N), at S draws of q a datum."""

    def relax(self, num_particles: int, temperature: float | Tensor, straight_through: bool) -> Tensor:
        """ln p(x | z_s) less KL(q(z | x) || p(z)) of the discrete variables, (S, N), z_s drawn from q's relaxation
        (:class:`guides.relaxed.RelaxedCategorical`); of a chain each KL is that given the state before."""
