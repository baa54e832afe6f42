"""Hidden Markov model variational autoencoder: a chain of states, a Gaussian code a frame, a decoder of codes.

    z_1 ~ Categorical(initial_probs);  z_t | z_{t-1} ~ Categorical(transition_probs[z_{t-1}])
    c_t | z_t ~ N(code_means[z_t], code_covariances[z_t])
    x_t | c_t ~ likelihood(decoder(c_t))                                  t = 1..T
    q(c_t | x_t) = N(loc(x_t), F(x_t) F(x_t)^T)

Ebbers, Heymann, Drude, Glarner, Haeb-Umbach & Raj (2017), "Hidden Markov model variational autoencoder for acoustic
unit discovery". Given the codes the states are a hidden Markov model's: the chain sums them, ln p(c) is exact, and

    bound = E_q(c | x) [ln p(x | c) + ln p(c) - ln q(c | x)].

Or a chain q(z | x) stands in the guide, as it would if p(z | c) could not be had; its expectation is exact too.
Decoder and encoder are straight lines that networks bend, so that the model begins as a Gaussian HMM on the data's
principal coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import constraints

from guides import AmortizedChain, Residual, ResidualNormal
from guides.residual import COVARIANCES
from zoo.core.checks import assigned, positive
from zoo.core.contract import Axes, parameter
from zoo.core.data import Data
from zoo.core.isolation import kept_generators
from zoo.core.offers import follows
from zoo.core.sequences import inside, lengths_of
from zoo.densities.covariance import cholesky
from zoo.densities.distributions import Selected
from zoo.densities.expected import expected_log_densities
from zoo.errors import ZooError
from zoo.models.shared.code_particles import CodeParticles
from zoo.models.shared.code_starts import start_straight
from zoo.models.shared.deep_sequence import DeepSequenceModel
from zoo.models.shared.markov import finite, follow, go_on, many_paths
from zoo.structures import Chain

__all__ = ["HMMVAE"]

#: What becomes of the states under the guide.
STATES: tuple[str, ...] = ("summed", "amortized")
FRAMES: tuple[str, ...] = ("gaussian", "bernoulli")


class HMMVAE(DeepSequenceModel):
    """Variational autoencoder of frames whose codes follow a hidden Markov model of K states.

    Args:
        num_states: K, at least 1. num_features: D, at least 1.
        latent_dim: L of a code.
        hidden_dims: widths of the encoder's hidden layers, from x on; the decoder has them in reverse. () leaves both
            linear.
        likelihood: of a frame given its code: "gaussian", one standard deviation a feature, or "bernoulli" of features
            0 or 1.
        noise_scale: the Gaussian's standard deviation, in units of each feature's own; None: learned.
        states: "summed" leaves the states out of the guide: they are summed exactly under the codes it draws.
            "amortized" has q(z | x) in it, a Markov chain that a recurrent network reads off x: a lower bound.
        covariance: of q(c_t | x_t), "diag" or "full".
        hidden_dim: units of the recurrent network of the amortized chain, each way. activation: "tanh" or "relu".

    Shapes:
        x: (N, T, D) with ``lengths`` (N,), or (T, D). code_means: (K, L). code_covariances: (K, L, L).
        transition_probs: (K, K), [i, j] = p(z_t = j | z_{t-1} = i). predict(x): (N, T), -1 beyond a length.
        elbo_parts(x, S): bound (N,), with "reconstruction" and "kl" (N,), nats. log_weights(x, S): (S, N), nats.

    Raises:
        ZooError: a name that is not known; x of another shape, or outside the likelihood's support.

    Example:
        >>> model, x = tiny()
        >>> model.predict(**x).shape
        torch.Size([3, 4])
    """

    reference = "Ebbers et al. (2017), Hidden Markov model variational autoencoder for acoustic unit discovery"
    inits = ("principal", "random", "current")
    default_data = "known_chain"
    #: The start is no random one, and the chain above the codes follows what the networks do.
    step = 0.1
    reads_as: ClassVar[dict[str, str]] = {"code_covariances": "code_scale_tril"}
    axes: ClassVar[Axes] = {
        "initial_probs": ("state",),
        "transition_probs": ("state", "next state"),
        "code_means": ("state", "code"),
        "code_covariances": ("state", "code", "other code"),
    }
    initial_probs: Tensor
    transition_probs: Tensor
    code_scale_tril: Tensor
    decoder: Residual

    def __init__(
        self,
        num_states: int,
        num_features: int,
        latent_dim: int = 2,
        hidden_dims: Sequence[int] = (64, 64),
        likelihood: str = "gaussian",
        noise_scale: float | None = None,
        states: str = "summed",
        covariance: str = "diag",
        hidden_dim: int = 32,
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self._choice("likelihood", likelihood, FRAMES)
        if noise_scale is not None and (likelihood != "gaussian" or not 0 < noise_scale < math.inf):
            raise ZooError(
                f"{who}: noise_scale expected a number above 0 and likelihood='gaussian', got {noise_scale} and "
                f"{likelihood!r}. Leave it out to have it learned."
            )
        self._set_up(num_features, likelihood, noise=noise_scale)
        self.states, self.covariance = self._choice("states", states, STATES), covariance
        self._choice("covariance", covariance, COVARIANCES)
        self.num_states = k = positive(num_states, "num_states", who)
        self.latent_dim = positive(latent_dim, "latent_dim", who)
        widths = self._widths(hidden_dims, activation)
        self.encoder = ResidualNormal(num_features, latent_dim, widths, covariance, activation)
        self.decoder = Residual(latent_dim, self.likelihood.num_outputs, widths[::-1], activation)
        self.initial_probs = parameter(torch.full((k,), 1.0 / k), constraints.simplex)
        self.transition_probs = parameter(torch.full((k, k), 1.0 / k), constraints.simplex)
        self.code_means = nn.Parameter(torch.randn(k, latent_dim) / math.sqrt(latent_dim))
        self.code_scale_tril = parameter(torch.eye(latent_dim).repeat(k, 1, 1), constraints.lower_cholesky)
        if states == "amortized":
            self.chain = AmortizedChain(num_features, k, positive(hidden_dim, "hidden_dim", who))

    # The chain and its codes ----------------------------------------------------------------------------------------

    @property
    def log_initial(self) -> Tensor:
        """ln p(z_1), (K,)."""
        return torch.log_softmax(self.initial_probs_unconstrained, -1)

    @property
    def log_transition(self) -> Tensor:
        """ln p(z_t = j | z_{t-1} = i) at [i, j], (K, K)."""
        return torch.log_softmax(self.transition_probs_unconstrained, -1)

    @property
    def code_covariances(self) -> Tensor:
        """Of the codes in each state, (K, L, L)."""
        return self.code_scale_tril @ self.code_scale_tril.mT

    @code_covariances.setter
    def code_covariances(self, value: Any) -> None:
        who = f"{type(self).__name__}.code_covariances"
        self.code_scale_tril = cholesky(assigned(value, self.code_scale_tril, who), who)

    def components(self) -> dist.TorchDistribution:
        """p(c_t | z_t) for each state, batch (K,)."""
        return dist.MultivariateNormal(self.code_means, scale_tril=self.code_scale_tril)

    def code_log_prob(self, codes: Tensor, factor: Tensor | None = None) -> Tensor:
        """ln p(c | z = k) of codes (..., L), (..., K) nats; with a factor, its mean over N(codes, F F^T)."""
        return expected_log_densities(codes, self.code_means, self.code_scale_tril, factor)

    def path_given(self, emission: Tensor, lengths: Tensor) -> Chain:
        """ln p(z, c) of all paths, by ``emission``, log-densities (N, T, K) of codes; its log-partition is ln p(c)."""
        return Chain(finite(self.log_initial), finite(self.log_transition), emission, lengths)

    # Programs -------------------------------------------------------------------------------------------------------

    def model(self, x: Tensor, lengths: Tensor | None = None) -> None:
        log_initial, log_transition, components = self.log_initial, self.log_transition, self.components()
        lengths = lengths_of(x, lengths)
        with pyro.plate("data", x.shape[0]):
            z = None
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=cast(Any, t < lengths)):
                    logits = log_initial if z is None else follow(log_transition, z)
                    z = pyro.sample(f"z_{t}", dist.Categorical(logits=logits))
                    c = pyro.sample(f"c_{t}", Selected(components, z))
                    pyro.sample(f"x_{t}", self.likelihood(self.decoder(c)), obs=x[:, t])

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        lengths = lengths_of(x, lengths)
        q = self.encoder(x)
        chain: tuple[Tensor, Tensor] | None = self.chain(x, lengths) if self.states == "amortized" else None
        with pyro.plate("data", x.shape[0]):
            z = None
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=cast(Any, t < lengths)):
                    pyro.sample(f"c_{t}", _step(q, t))
                    if chain is not None:
                        logits = chain[0] if z is None else follow(chain[1][:, t - 1], z)
                        z = pyro.sample(f"z_{t}", dist.Categorical(logits=logits))

    # Bounds ---------------------------------------------------------------------------------------------------------

    def _drawn(self, x: Tensor, lengths: Tensor, num_particles: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of S draws of the codes: ln p(x | c), ln q(c | x), (S, N) nats, and ln p(c_t | z_t), (S, N, T, K)."""
        there = inside(x, lengths)
        rows = x[there]
        loc, factor = self.encoder.moments(rows)
        shape = (num_particles, len(x), self.latent_dim)
        noise = torch.stack([torch.randn(shape, dtype=x.dtype, device=x.device) for _ in range(x.shape[1])], 2)
        codes, log_q = self.encoder.draw(loc, factor, noise[:, there])
        log_p = self.likelihood.log_prob(self.decoder(codes), rows)
        emission = _padded(self.code_log_prob(codes), there)
        return _padded(log_p, there).sum(-1), _padded(log_q, there).sum(-1), emission

    def log_weights(self, x: Tensor, lengths: Tensor | None = None, num_particles: int = 1) -> Tensor:
        """ln p(x, c_k) - ln q(c_k | x) of draws of the codes, the states summed exactly, (K, N) nats."""
        return self._weights(x, lengths_of(x, lengths), num_particles)[1]

    def _weights(
        self, x: Tensor, lengths: Tensor, num_particles: int, amortized: bool = False
    ) -> tuple[Tensor, Tensor]:
        reconstruction, log_q, emission = self._drawn(x, lengths, num_particles)
        lengths = lengths.repeat(num_particles)
        path = self.path_given(emission.flatten(0, 1), lengths)
        if amortized:
            first, steps = self.chain(x, lengths[: len(x)])
            first, steps = (v.repeat(num_particles, *[1] * (v.dim() - 1)) for v in (first, steps))
            q = Chain(first, steps, torch.zeros_like(path.emission), lengths)
            prior = q.expect(path) + q.entropy()
        else:
            prior = path.log_partition()
        return reconstruction, reconstruction + prior.reshape(num_particles, -1) - log_q

    def elbo_parts(
        self, x: Tensor, lengths: Tensor | None = None, num_particles: int = 1
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The bound and its parts, each (N,) nats, at draws of the codes; the states summed over exactly.

        Where the decoder has next to no noise, what ln p(x | c) and ln q(c | x) lose to a draw is the same and cancels:
        the bound then hardly varies.
        """
        found = self._weights(x, lengths_of(x, lengths), num_particles, self.states == "amortized")
        reconstruction, bound = (values.mean(0) for values in found)
        return bound, {"reconstruction": reconstruction, "kl": reconstruction - bound}

    def particles(self, x: Tensor, lengths: Tensor, num_particles: int, proposal: str = "guide") -> CodeParticles:
        """See :mod:`zoo.core.particles`; each sums the states exactly above its codes."""
        return CodeParticles(self, x, lengths_of(x, lengths), num_particles, proposal == "prior")

    # States ---------------------------------------------------------------------------------------------------------

    def path(self, x: Tensor, lengths: Tensor | None = None) -> Chain:
        """The best q(z | x) beside q(c | x): a chain of the codes' expected log-densities in each state."""
        lengths = lengths_of(x, lengths)
        there = inside(x, lengths)
        emission = self.code_log_prob(*self.encoder.moments(x[there]))
        return self.path_given(_padded(emission.unsqueeze(0), there)[0], lengths)

    @torch.no_grad()
    @follows("model", "guide")
    def state_probs(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """q(z_t = k | x), (N, T, K), of that chain; zero beyond a sequence's length."""
        probs: Tensor = self.path(x, lengths).marginals().emission
        return probs

    @follows("model", "guide")
    def predict(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The most probable path of that chain, (N, T) integers, -1 beyond a sequence's length."""
        with torch.no_grad():
            return self.path(x, lengths).argmax()[0]

    @follows("model", "guide")
    def filter(self, x: Data) -> Tensor:
        """q(z_t | x_1..x_t), (N, T, K): that chain, as far as it has come."""
        data: Any = self.prepare(x)
        with torch.no_grad():
            return self.path(**data).filtered()

    @torch.no_grad()
    @follows("model", "guide")
    def continuation(self, x: Tensor, lengths: Tensor | None = None, *, num_steps: int, num_samples: int = 1) -> Tensor:
        """Draws of what follows each sequence, (num_samples, N, num_steps, D), by torch's generator."""
        lengths = lengths_of(x, lengths)
        last = self.path(x, lengths).filtered()[torch.arange(len(x), device=x.device), lengths - 1]
        states = go_on(self.log_transition, dist.Categorical(last).sample((num_samples,)), num_steps)[..., 1:]
        return self._decoded(states)

    @torch.no_grad()
    def reconstruct(self, x: Data, num_samples: int = 10) -> Tensor:
        """E[x_t | c_t] under the guide, (N, T, D), the mean of so many draws; zero beyond a length."""
        data: Any = self.prepare(x)
        there = inside(data["x"], data["lengths"])
        loc, factor = self.encoder.moments(data["x"][there])
        codes, _ = self.encoder.draw(loc, factor, torch.randn(num_samples, *loc.shape).to(loc))
        means = self.likelihood.mean(self.decoder(codes)).mean(0, keepdim=True)
        return _padded(means, there)[0]

    @torch.no_grad()
    def codes(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """E_q [c_t | x_t], (N, T, L); zero beyond a sequence's length."""
        there = inside(x, lengths_of(x, lengths))
        return _padded(self.encoder.moments(x[there])[0].unsqueeze(0), there)[0]

    @torch.no_grad()
    def state_means(self) -> Tensor:
        """What each state's mean code is decoded to, (K, D)."""
        return self.likelihood.mean(self.decoder(self.code_means))

    @property
    def num_components(self) -> int:
        """K, under the name mixtures have for it."""
        return self.num_states

    def align_features(self) -> Tensor:
        """What tells the states apart: what they are decoded to, (K, D)."""
        return self.state_means()

    @torch.no_grad()
    def permute_components(self, order: Tensor) -> None:
        """Relabel: state ``k`` becomes what ``order[k]`` was."""
        for value in (self.initial_probs_unconstrained, self.code_means, self.code_scale_tril_unconstrained):
            value.copy_(value[order].clone())
        steps = self.transition_probs_unconstrained
        steps.copy_(steps[order][:, order].clone())
        if self.states == "amortized":
            self.chain.permute(order)

    @torch.no_grad()
    def sample(self, num_data: int, num_steps: int) -> Tensor:
        """New sequences, (num_data, num_steps, D), by torch's generator."""
        return self._decoded(many_paths(self.log_initial, self.log_transition, num_data, num_steps))

    def _decoded(self, states: Tensor) -> Tensor:
        """Frames (..., D) drawn in these states (...)."""
        codes = Selected(self.components(), states).sample()
        drawn: Tensor = self.likelihood(self.decoder(codes)).sample()
        return drawn

    # Starts ---------------------------------------------------------------------------------------------------------

    def reset_guide(self) -> None:
        """New networks, and new states, about sqrt(2) apart."""
        super().reset_guide()
        with torch.no_grad():
            self.code_means.normal_(0.0, 1 / math.sqrt(self.latent_dim))

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """A Gaussian HMM on the principal coordinates, networks that add nothing yet; "random": networks as drawn."""
        if init == "current":
            return
        rows = self.frames(x)
        self.encoder.set_from(rows)
        if self.states == "amortized":
            self.chain.set_from(rows)
        self.likelihood.set_from(rows)
        with torch.no_grad():
            self.decoder.straight.bias.copy_(self.likelihood.start(rows))
        if init == "principal":
            start_straight(self, x, rows)


def _step(q: Any, t: int) -> dist.TorchDistribution:
    """q(c_t | x_t), batch (N,), of q over all steps."""
    if isinstance(q, dist.MultivariateNormal):
        return dist.MultivariateNormal(q.loc[:, t], scale_tril=q.scale_tril[:, t])
    return dist.Normal(q.base_dist.loc[:, t], q.base_dist.scale[:, t]).to_event(1)


def _padded(values: Tensor, there: Tensor) -> Tensor:
    """Values (S, M, ...) of the steps that are there as (S, N, T, ...), zero elsewhere."""
    out = values.new_zeros(len(values), *there.shape, *values.shape[2:])
    out[:, there] = values
    return out


def tiny() -> tuple[HMMVAE, dict[str, Tensor]]:
    """The smallest honest instance, ragged, and data drawn about its own states."""
    model = HMMVAE(num_states=2, num_features=3, latent_dim=1, hidden_dims=(3,), hidden_dim=3)
    model.transition_probs = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    with kept_generators(), torch.no_grad():
        torch.manual_seed(0)
        model.code_means.copy_(torch.tensor([[-1.0], [1.5]]))
        x = model.sample(3, 4)
    return model, model.validate({"x": x, "lengths": torch.tensor([4, 2, 3])})
