"""Sequences whose latents are Gaussian given a state that carries the past: draws, forecasts, filtering.

    z_t ~ N(loc, diag(scale)^2), both of the state h_{t-1}
    x_t ~ likelihood of what is emitted from h_{t-1} and z_t
    h_t = advance(h_{t-1}, z_t, x_t)

Of a deep Markov model h_t is z_t; of a recurrent one it is a network's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.core.checks import positive
from zoo.core.contract import prepared
from zoo.core.data import Data, split
from zoo.core.memory import rows_at_once
from zoo.core.particles import Particles, by_length, follow
from zoo.core.pieces import gathered
from zoo.core.sequences import lengths_of
from zoo.models.shared.deep_sequence import DeepSequenceModel

__all__ = ["StateSpaceModel", "StatefulParticles", "normal"]

#: Particles a sequence of filters and forecasts, at least.
FILTERING = 100


def normal(moments: tuple[Tensor, Tensor]) -> dist.Independent:
    """N(loc, diag(scale)^2) of loc and scale (..., L)."""
    return dist.Normal(*moments).to_event(1)


class StatefulParticles(Particles, Protocol):
    """Particles of a :class:`StateSpaceModel`.

    Attributes:
        states: (S, N, H): h_t after the last step that each sequence has come to.
    """

    @property
    def states(self) -> Tensor: ...


class StateSpaceModel(DeepSequenceModel):
    """Base class of models with a state: a subclass has ``begin``, ``prior``, ``emit``, ``advance``, ``particles``."""

    latent_dim: int

    def begin(self, num_data: int) -> Tensor:
        """h_0, (num_data, H)."""
        raise NotImplementedError

    def prior(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """loc and scale of z_t given h_{t-1} (..., H), each (..., L)."""
        raise NotImplementedError

    def emit(self, state: Tensor, z: Tensor) -> Tensor:
        """What the likelihood of x_t reads, given h_{t-1} (..., H) and z_t (..., L)."""
        raise NotImplementedError

    def advance(self, state: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """h_t (..., H), given h_{t-1}, z_t and x_t (..., D)."""
        raise NotImplementedError

    def particles(self, x: Tensor, lengths: Tensor, num_particles: int, proposal: str = "guide") -> StatefulParticles:
        """See :mod:`zoo.core.particles`."""
        raise NotImplementedError

    # Draws ----------------------------------------------------------------------------------------------------------

    def _rolled(self, state: Tensor, num_steps: int) -> Tensor:
        """Draws of the next frames from states (..., H), (..., num_steps, D)."""
        frames = []
        for _ in range(num_steps):
            z = normal(self.prior(state)).sample()
            frames.append(self.likelihood(self.emit(state, z)).sample())
            state = self.advance(state, z, frames[-1])
        return torch.stack(frames, -2)

    @torch.no_grad()
    def sample(self, num_data: int, num_steps: int) -> Tensor:
        return self._rolled(self.begin(num_data), num_steps)

    @torch.no_grad()
    def continuation(self, x: Tensor, lengths: Tensor | None = None, *, num_steps: int, num_samples: int = 1) -> Tensor:
        """Draws of what follows each sequence, (num_samples, N, num_steps, D): from particles led along all of x, of at
        least 100 as many as are asked for, by their weights."""
        parts = list[Tensor]()
        size = max(FILTERING, num_samples)
        for piece in self._pieces({"x": x, "lengths": lengths_of(x, lengths)}, size):
            order, back = by_length(piece)
            particles = self.particles(piece["x"][order], piece["lengths"][order], size)
            weights = follow(particles, 0.5).log_weights.exp()  # (S, N)
            chosen = torch.multinomial(weights.mT, num_samples, replacement=True).mT
            states = particles.states
            states = states.gather(0, chosen.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
            parts.append(self._rolled(states, num_steps)[:, back])
        return torch.cat(parts, 1)

    def forecast(self, x: Data, num_steps: int, num_samples: int = 100) -> Tensor:
        """Draws of the next ``num_steps`` frames of each sequence, (num_samples, N, num_steps, D)."""
        positive(num_steps, "num_steps", f"{self.name}.forecast")
        positive(num_samples, "num_samples", f"{self.name}.forecast")
        return self.continuation(**prepared(self, x), num_steps=num_steps, num_samples=num_samples)

    @torch.no_grad()
    def filter(self, x: Data, num_particles: int = FILTERING) -> Tensor:
        """E[z_t | x_1..x_t], (N, T, L), by a particle filter; zero beyond a sequence's length."""
        data = prepared(self, x)
        return gathered(
            (self._filtered(piece, num_particles) for piece in self._pieces(data, num_particles)), len(data["x"])
        )

    def _filtered(self, x: dict[str, Tensor], num_particles: int) -> Tensor:
        order, back = by_length(x)
        means = x["x"].new_zeros(*x["x"].shape[:2], self.latent_dim)
        particles = self.particles(x["x"][order], x["lengths"][order], num_particles)

        def watch(t: int, log_weights: Tensor) -> None:
            means[: log_weights.shape[1], t] = (log_weights.exp().unsqueeze(-1) * particles.latents).sum(0)

        follow(particles, 0.5, watch=watch)
        return means[back]

    def _pieces(self, x: Data, num_particles: int) -> Iterator[dict[str, Tensor]]:
        return split(x, rows_at_once(self.datum_size(x) * num_particles))
