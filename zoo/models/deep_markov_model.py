"""Deep Markov model: a Gaussian state-space model whose transitions and emissions are networks.

    z_t | z_{t-1} ~ N(loc(z_{t-1}), diag(scale(z_{t-1}))^2)               t = 1..T, z_0 learned
        loc = (1 - gate) * linear(z) + gate * proposal(z)
        scale = softplus(linear(relu(proposal(z))))
    x_t | z_t ~ likelihood(emitter(z_t))
    q(z | x) = prod_t q(z_t | z_{t-1}, x_t..x_T), from a recurrent network that runs backward over x

Krishnan, Shalit & Sontag (2017), "Structured inference networks for nonlinear state space models".
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import softplus

from guides.combiner import CELLS, Combiner
from guides.flows import FLOWS
from guides.networks import MLP
from guides.packing import Packing, Padding
from zoo.core.checks import positive
from zoo.core.contract import Axes
from zoo.core.data import Data
from zoo.core.isolation import kept_generators
from zoo.core.sequences import lengths_of
from zoo.models.shared.state_space import StateSpaceModel, normal

__all__ = ["DeepMarkovModel", "GatedTransition"]

#: Keeps the standard deviation of a transition off zero.
_SMALLEST = 1e-5


class GatedTransition(nn.Module):
    """p(z_t | z_{t-1}): a gate, coordinate by coordinate, between a linear step, at first none, and a network's.

    Args:
        latent_dim: L. hidden_dim: width of the two networks' hidden layers.

    Shapes:
        z: (..., L) to the mean and the standard deviation of the next, each (..., L).
    """

    def __init__(self, latent_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate = MLP((latent_dim, hidden_dim, latent_dim), "relu")
        self.proposal = MLP((latent_dim, hidden_dim, latent_dim), "relu")
        self.linear = nn.Linear(latent_dim, latent_dim)
        self.raw_scale = nn.Linear(latent_dim, latent_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The linear step leaves z where it is."""
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        proposal = self.proposal(z)
        loc = torch.lerp(self.linear(z), proposal, self.gate(z).sigmoid())
        return loc, softplus(self.raw_scale(proposal.relu())) + _SMALLEST


class DeepMarkovModel(StateSpaceModel):
    """Deep Markov model of sequences of D features.

    Args:
        num_features: D, at least 1.
        latent_dim: L of the state z_t.
        hidden_dim: units of the guide's recurrent network, and of its combiner.
        likelihood: "bernoulli", "gaussian", or "gaussian_mixture" of ``num_components``.
        transition_dim, emission_dim: widths of the hidden layers of transition and emitter.
        cell: "gru", or "rnn" for plain rectified units, as published.
        flow: None, "planar" or "iaf": what bends q(z_t | z_{t-1}, x). num_flows: how many, one after another.
        weight_decay: precision of a normal prior on every weight, the guide's too.

    Shapes:
        x: (N, T, D) with ``lengths`` (N,), or (T, D). z: (N, T, L), in the programs a site z_t (N, L) for each step.
        elbo_parts(x, lengths, S): bound (N,), with "reconstruction" and "kl" (N,), nats, sums over the steps.
        log_weights(x, lengths, K): (K, N), nats. filter(x): (N, T, L). forecast(x, num_steps, num_samples):
        (num_samples, N, num_steps, D).

    Raises:
        ZooError: a name that is not known; x of another width, values outside the likelihood's support, lengths that
            do not fit.

    Example:
        >>> model, x = tiny()
        >>> model.elbo_parts(**x)[0].shape
        torch.Size([3])
    """

    reference = "Krishnan, Shalit & Sontag (2017), Structured inference networks for nonlinear state space models"
    default_data = "known_chords"
    axes: ClassVar[Axes] = {"start": ("code",)}
    annealing = 0.2
    annealing_start = 0.2

    def __init__(
        self,
        num_features: int,
        latent_dim: int = 64,
        hidden_dim: int = 200,
        likelihood: str = "bernoulli",
        num_components: int = 1,
        transition_dim: int = 100,
        emission_dim: int = 100,
        cell: str = "gru",
        flow: str | None = None,
        num_flows: int = 1,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self._set_up(num_features, likelihood, num_components, weight_decay=weight_decay)
        self.latent_dim = positive(latent_dim, "latent_dim", who)
        self.hidden_dim = positive(hidden_dim, "hidden_dim", who)
        positive(transition_dim, "transition_dim", who)
        positive(emission_dim, "emission_dim", who)
        positive(num_flows, "num_flows", who)
        self._choice("cell", cell, list(CELLS))
        self._choice("flow", flow, (None, *FLOWS))
        self.start = nn.Parameter(torch.zeros(latent_dim))
        self.transition = GatedTransition(latent_dim, transition_dim)
        self.decoder = MLP((latent_dim, emission_dim, emission_dim, self.likelihood.num_outputs), "relu")
        self.combiner = Combiner(num_features, latent_dim, hidden_dim, cell, flow, num_flows)

    # The programs ---------------------------------------------------------------------------------------------------

    def model(self, x: Tensor, lengths: Tensor | None = None) -> None:
        lengths = lengths_of(x, lengths)
        z: Tensor = self.start
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=cast(Any, t < lengths)):
                    z = pyro.sample(f"z_{t}", normal(self.transition(z)))
                    pyro.sample(f"x_{t}", self.likelihood(self.decoder(z)), obs=x[:, t])

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        lengths = lengths_of(x, lengths)
        z: Tensor = self.combiner.start
        packing = Packing(lengths)
        ahead = packing.unpack(self.combiner.ahead(packing.pack(x), packing), x.shape[1])
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=cast(Any, t < lengths)):
                    z = pyro.sample(f"z_{t}", self.combiner(z, ahead[:, t]))

    # The same, as functions of tensors --------------------------------------------------------------------------------

    def _draw(self, x: Tensor, lengths: Tensor | None, num_particles: int) -> tuple[Packing, Any, Tensor, Any]:
        """Frames in their packing, the guide's paths, ln p(x_t | z_t) (F, S), and what p(z_t | z_{t-1}) is made of."""
        lengths = lengths_of(x, lengths)
        packing = Packing(lengths) if x.device.type == "cpu" else Padding(lengths, x.shape[1])
        frames, shape = packing.pack(x), (num_particles, len(x), self.latent_dim)
        noise = [torch.randn(shape, dtype=x.dtype, device=x.device) for _ in packing.sizes]  # as the program draws it
        paths = self.combiner.paths(self.combiner.ahead(frames, packing), packing, packing.pack_draws(noise))
        each = self.likelihood.log_prob(self.decoder(paths.z), frames.unsqueeze(1))
        return packing, paths, each, self.transition(packing.before(paths.z, self.start))

    def elbo_parts(
        self, x: Tensor, lengths: Tensor | None = None, num_particles: int = 1
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The bound that ``svi`` climbs, and its parts, each (N,) nats; differentiable.

        bound = reconstruction - kl; the KL of each step is in closed form given the step before (equation 6 of the
        paper), with flows by the draws that serve the reconstruction.
        """
        packing, paths, each, (loc, scale) = self._draw(x, lengths, num_particles)
        if len(self.combiner.flows):
            kl = paths.log_prob - _log_normal(paths.z, loc, scale)
        else:
            ratio = (paths.scale / scale).square()
            kl = 0.5 * (ratio + ((paths.loc - loc) / scale).square() - 1 - ratio.log()).sum(-1)
        reconstruction, kl = packing.sums(torch.stack([each.mean(1), kl.mean(1)], -1)).unbind(-1)
        return reconstruction - kl, {"reconstruction": reconstruction, "kl": kl}

    def log_weights(self, x: Tensor, lengths: Tensor | None = None, num_particles: int = 1) -> Tensor:
        """ln p(x, z_k) - ln q(z_k | x) of K paths a sequence, (K, N) nats; differentiable."""
        packing, paths, each, moments = self._draw(x, lengths, num_particles)
        return packing.sums(each + _log_normal(paths.z, *moments) - paths.log_prob).mT

    # Step by step ---------------------------------------------------------------------------------------------------

    def begin(self, num_data: int) -> Tensor:
        return self.start.expand(num_data, -1)

    def prior(self, state: Tensor) -> tuple[Tensor, Tensor]:
        moments: tuple[Tensor, Tensor] = self.transition(state)
        return moments

    def emit(self, state: Tensor, z: Tensor) -> Tensor:
        outputs: Tensor = self.decoder(z)
        return outputs

    def advance(self, state: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return z

    def particles(self, x: Tensor, lengths: Tensor, num_particles: int, proposal: str = "guide") -> Walkers:
        return Walkers(self, x, lengths_of(x, lengths), num_particles, proposal == "prior")

    # What is looked at, starts --------------------------------------------------------------------------------------

    @torch.no_grad()
    def reconstruct(self, x: Data, num_samples: int = 10) -> Tensor:
        """E[x_t | z_t] under the guide, (N, T, D), the mean of so many draws; zero beyond a length."""
        data: Any = self.prepare(x)
        packing, paths, *_ = self._draw(data["x"], data["lengths"], num_samples)
        return packing.unpack(self.likelihood.mean(self.decoder(paths.z)).mean(1), data["x"].shape[1])

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Networks as drawn; the emitter's last bias is what suits the frames without z."""
        if init != "current":
            self.start_from(self.frames(x), self.combiner)


class Walkers:
    """Particles of a deep Markov model: :class:`zoo.core.particles.Particles`."""

    def __init__(self, model: DeepMarkovModel, x: Tensor, lengths: Tensor, size: int, from_prior: bool) -> None:
        self.model, self.x, self.lengths, self.from_prior = model, x, lengths, from_prior
        self.packing = Packing(lengths)
        self.ahead = None if from_prior else model.combiner.ahead(self.packing.pack(x), self.packing)
        self.latents = model.start.expand(size, len(x), -1)
        self.ended: list[Tensor] = []

    @property
    def states(self) -> Tensor:
        return torch.cat([self.latents, *self.ended[::-1]], 1)

    def step(self, t: int) -> Tensor:
        model, n, first = self.model, self.packing.sizes[t], self.packing.edges[t]
        if n < self.latents.shape[1]:
            self.ended.append(self.latents[:, n:])
        before = self.latents[:, :n]
        prior = normal(model.transition(before))
        if self.ahead is None:
            self.latents = z = prior.rsample()
            excess = z.new_zeros(())
        else:
            known = before if t else model.combiner.start.expand_as(before)
            q = model.combiner(known, self.ahead[first : first + n])
            self.latents = z = q.rsample()
            excess = q.log_prob(z) - prior.log_prob(z)
        return model.likelihood.log_prob(model.decoder(z), self.x[:n, t]) - excess

    def resample(self, ancestors: Tensor) -> None:
        self.latents = self.latents.gather(0, ancestors.unsqueeze(-1).expand_as(self.latents))


def _log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """ln N(z; loc, diag(scale)^2) over the last dimension, nats."""
    return dist.Normal(loc, scale, validate_args=False).log_prob(z).sum(-1)


def tiny() -> tuple[DeepMarkovModel, dict[str, Tensor]]:
    """The smallest honest instance, and ragged data from it."""
    model = DeepMarkovModel(num_features=3, latent_dim=2, hidden_dim=3, transition_dim=3, emission_dim=3)
    last: Any = [*model.decoder.children()][-1]
    with torch.no_grad():
        last.weight.mul_(8)
    with kept_generators():
        torch.manual_seed(0)
        x = model.sample(3, 4)
    return model, model.validate({"x": x, "lengths": torch.tensor([4, 2, 3])})
