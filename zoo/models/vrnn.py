"""Variational recurrent neural network: a latent in each frame, and one recurrent memory of latents and frames.

    z_t ~ N(loc, diag(scale)^2)              of h_{t-1}
    x_t ~ likelihood(decoder)                of h_{t-1} and z_t
    h_t = GRU(h_{t-1}, [x_t, z_t])           h_0 = 0
    q(z_t | x_1..x_t, z_1..z_{t-1})          Gaussian, of h_{t-1} and x_t

Chung, Kastner, Dinh, Goel, Courville & Bengio (2015), "A recurrent latent variable model for sequential data". The mean
of q is that of the prior and a correction, as in Fraccaro et al. (2016) and Maddison et al. (2017).
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import linear

from guides.networks import Standardize
from guides.packing import Packing
from guides.walks import moments
from zoo.core.checks import positive
from zoo.core.data import Data
from zoo.core.sequences import lengths_of
from zoo.models.shared.state_space import StateSpaceModel, normal

__all__ = ["VRNN"]


class VRNN(StateSpaceModel):
    """Variational recurrent neural network over sequences of D features.

    Args:
        num_features: D. latent_dim: L of each z_t.
        hidden_dim: H, units of the GRU and of each network's one hidden layer.
        likelihood, num_components, weight_decay: see :class:`~zoo.models.shared.deep_sequence.DeepSequenceModel`.

    Shapes:
        data: x (N, T, D), lengths (N,). z_0, z_1, ...: (N, L).
        elbo_parts(x, S): bound (N,), with "reconstruction" and "kl" (N,), nats. log_weights(x, K): (K, N), nats.
        filter(x): (N, T, L). forecast(x, num_steps, num_samples): (num_samples, N, num_steps, D).

    Raises:
        ZooError: x of another shape, lengths that do not fit, values outside the likelihood's support.

    Example:
        >>> model, data = tiny()
        >>> model.log_weights(**data, num_particles=5).shape
        torch.Size([5, 3])
    """

    reference = "Chung et al. (2015), A recurrent latent variable model for sequential data"
    default_data = "known_chords"
    #: Of the default learning rate 0.02 this makes Adam's 3e-3, which with few sequences a step serves these best.
    step = 0.15
    batch_size = 16

    def __init__(
        self,
        num_features: int,
        latent_dim: int = 32,
        hidden_dim: int = 32,
        likelihood: str = "bernoulli",
        num_components: int = 1,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self._set_up(num_features, likelihood, num_components, weight_decay=weight_decay)
        self.latent_dim = positive(latent_dim, "latent_dim", self.name)
        self.hidden_dim = h = positive(hidden_dim, "hidden_dim", self.name)
        self.standardize = Standardize(num_features)
        self.features, self.of_latent = nn.Linear(num_features, h), nn.Linear(latent_dim, h)
        # First layers side by side, one product a step: of the state, for prior, decoder and the gates of the GRU; of
        # z_t, for decoder and gates; of x_t, for the gates.
        self.from_state, self.from_latent = nn.Linear(h, 5 * h), nn.Linear(h, 4 * h, bias=False)
        self.from_features = nn.Linear(h, 3 * h)
        self.encoder_state, self.encoder_features = nn.Linear(h, h), nn.Linear(h, h, bias=False)
        self.prior_heads, self.encoder_heads = nn.Linear(h, 2 * latent_dim), nn.Linear(h, 2 * latent_dim)
        self.decoder = nn.Linear(h, self.likelihood.num_outputs)

    # The networks ---------------------------------------------------------------------------------------------------

    def read(self, x: Tensor) -> Tensor:
        """What all networks see of frames (..., D), (..., H)."""
        return self.features(self.standardize(x)).relu()

    def begin(self, num_data: int) -> Tensor:
        return next(self.decoder.parameters()).new_zeros(num_data, self.hidden_dim)

    def prior(self, state: Tensor) -> tuple[Tensor, Tensor]:
        return moments(self.prior_heads(self.from_state(state)[..., : self.hidden_dim].relu()))

    def encode(self, state: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """loc and scale of q(z_t | h_{t-1}, x_t), each (..., L), of states and ``features`` of x (..., H)."""
        loc, _ = self.prior(state)
        hidden = (self.encoder_state(state) + self.encoder_features(features)).relu()
        correction, scale = moments(self.encoder_heads(hidden))
        return loc + correction, scale

    def emit(self, state: Tensor, z: Tensor) -> Tensor:
        h = self.hidden_dim
        outputs: Tensor = self.decoder(
            (self.from_state(state)[..., h : 2 * h] + self.from_latent(self.of_latent(z).relu())[..., :h]).relu()
        )
        return outputs

    def advance(self, state: Tensor, z: Tensor, x: Tensor) -> Tensor:
        h = self.hidden_dim
        inputs = self.from_features(self.read(x)) + self.from_latent(self.of_latent(z).relu())[..., h:]
        return _gated(state, self.from_state(state)[..., 2 * h :], inputs)

    # The programs ---------------------------------------------------------------------------------------------------

    def model(self, x: Tensor, lengths: Tensor | None = None) -> None:
        lengths, state = lengths_of(x, lengths), self.begin(len(x))
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                with poutine.mask(mask=cast(Any, t < lengths)):
                    z = pyro.sample(f"z_{t}", normal(self.prior(state)))
                    frame = pyro.sample(f"x_{t}", self.likelihood(self.emit(state, z)), obs=x[:, t])
                state = self.advance(state, z, frame)

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        lengths, state = lengths_of(x, lengths), self.begin(len(x))
        features = self.read(x)
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                with poutine.mask(mask=cast(Any, t < lengths)):
                    z = pyro.sample(f"z_{t}", normal(self.encode(state, features[:, t])))
                state = self.advance(state, z, x[:, t])

    # The same, as functions of tensors ------------------------------------------------------------------------------

    def particles(self, x: Tensor, lengths: Tensor, num_particles: int, proposal: str = "guide") -> Walk:
        return Walk(self, x, lengths_of(x, lengths), num_particles, proposal == "prior")

    def _walked(self, x: Tensor, lengths: Tensor | None, num_particles: int) -> tuple[Frames, Tensor, Packing]:
        """All M frames that there are at S draws, ln p(x_t | z, x_<t) of each (S, M), and how they are packed."""
        walk = Walk(self, x, lengths_of(x, lengths), num_particles)
        steps = [walk.advance(t) for t in range(len(walk.packing.sizes))]
        frames = Frames(*(torch.cat(values, 1) for values in zip(*steps, strict=True)))
        return frames, self.likelihood.log_prob(self.decoder(frames.hidden), walk.frames), walk.packing

    def elbo_parts(
        self, x: Tensor, lengths: Tensor | None = None, num_particles: int = 1
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The bound that ``svi`` climbs, and its parts, each (N,) nats; differentiable.

        The KL of each step is in closed form, given the draws before it (Chung et al., equation 11).
        """
        frames, each, packing = self._walked(x, lengths, num_particles)
        p_loc, p_scale, q_loc, q_scale, *_ = frames
        ratio = q_scale / p_scale
        kl = 0.5 * (ratio.square() + ((q_loc - p_loc) / p_scale).square() - 1).sum(-1) - ratio.log().sum(-1)
        parts = {"reconstruction": packing.sums(each.mean(0)), "kl": packing.sums(kl.mean(0))}
        return parts["reconstruction"] - self.kl_weight * parts["kl"], parts

    def log_weights(self, x: Tensor, lengths: Tensor | None = None, num_particles: int = 1) -> Tensor:
        """ln p(x, z_k) - ln q(z_k | x) of K draws a sequence, (K, N) nats; differentiable."""
        frames, each, packing = self._walked(x, lengths, num_particles)
        return packing.sums((each - frames.excess()).mT).mT

    @torch.no_grad()
    def reconstruct(self, x: Data, num_samples: int = 10) -> Tensor:
        """E[x_t | z_t, x_<t] under the guide, (N, T, D), the mean of so many draws; zero beyond a length."""
        data: Any = self.prepare(x)
        frames, _, packing = self._walked(**data, num_particles=num_samples)
        means = self.likelihood.mean(self.decoder(frames.hidden)).mean(0)
        return packing.unpack(means, data["x"].shape[1])

    # Training -------------------------------------------------------------------------------------------------------

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Networks as drawn; the decoder's bias is what suits the frames without z."""
        if init != "current":
            self.start_from(self.frames(x), self.standardize)


class Frames(NamedTuple):
    """What a step says, each (S, n, ...): of p(z_t | h_{t-1}) and q the moments, z_t, the decoder's hidden layer."""

    p_loc: Tensor
    p_scale: Tensor
    q_loc: Tensor
    q_scale: Tensor
    z: Tensor
    hidden: Tensor

    def excess(self) -> Tensor:
        """ln q(z_t) - ln p(z_t), (S, n), nats."""
        ours, theirs = (self.z - self.q_loc) / self.q_scale, (self.z - self.p_loc) / self.p_scale
        return (0.5 * (theirs.square() - ours.square()) + (self.p_scale / self.q_scale).log()).sum(-1)


class Walk:
    """Particles of a VRNN: what does not depend on z is computed for all frames at once, the rest in few products.

    The longest sequences stand first, whatever their order in ``x``.
    """

    def __init__(self, model: VRNN, x: Tensor, lengths: Tensor, num_particles: int, from_prior: bool = False) -> None:
        self.model, self.from_prior, self.packing = model, from_prior, Packing(lengths)
        order = self.packing.order
        self.lengths, self.frames = lengths[order], self.packing.pack(x)  # (M, D)
        features = model.read(self.frames)
        self.for_gates = model.from_features(features).split(self.packing.sizes)
        self.for_encoder = (model.encoder_features(features) + model.encoder_state.bias).split(self.packing.sizes)
        self.noise_shape = (num_particles, len(x), model.latent_dim)
        self.in_order = bool((order == torch.arange(len(x), device=order.device)).all())
        self.state = model.begin(len(x)).expand(num_particles, -1, -1)
        self.latents = self.state.new_zeros(self.noise_shape)
        self._ended: list[Tensor] = []

    @property
    def states(self) -> Tensor:
        return torch.cat([self.state, *self._ended[::-1]], 1)

    def _noise(self, n: int) -> Tensor:
        """Of the first n sequences; drawn for all, in the order in which they came, as the programs do."""
        noise = torch.randn(self.noise_shape, dtype=self.state.dtype, device=self.state.device)
        return noise[:, :n] if self.in_order else noise[:, self.packing.order[:n]]

    def advance(self, t: int) -> Frames:
        """Draw z_t, and go on to h_t."""
        model, h, n = self.model, self.model.hidden_dim, self.packing.sizes[t]
        if n < self.state.shape[1]:
            self._ended.append(self.state[:, n:])
            self.state = self.state[:, :n]
        state = self.state
        for_prior, for_decoder, gates = model.from_state(state).split([h, h, 3 * h], -1)
        p_loc, p_scale = moments(model.prior_heads(for_prior.relu()))
        if self.from_prior:
            q_loc, q_scale = p_loc, p_scale
        else:
            hidden = (linear(state, model.encoder_state.weight) + self.for_encoder[t]).relu()
            correction, q_scale = moments(model.encoder_heads(hidden))
            q_loc = p_loc + correction
        self.latents = z = q_loc + q_scale * self._noise(n)
        of_z, to_gates = model.from_latent(model.of_latent(z).relu()).split([h, 3 * h], -1)
        self.state = _gated(state, gates, self.for_gates[t] + to_gates)
        return Frames(p_loc, p_scale, q_loc, q_scale, z, (for_decoder + of_z).relu())

    def step(self, t: int) -> Tensor:
        made = self.advance(t)
        x = self.frames[self.packing.edges[t] : self.packing.edges[t + 1]]
        weight = self.model.likelihood.log_prob(self.model.decoder(made.hidden), x)
        return weight if self.from_prior else weight - made.excess()

    def resample(self, ancestors: Tensor) -> None:
        self.state = self.state.gather(0, ancestors.unsqueeze(-1).expand_as(self.state))


def _gated(state: Tensor, own: Tensor, inputs: Tensor) -> Tensor:
    """One step of a GRU, from what state and inputs, each with its bias, say to its three gates (..., 3 H)."""
    h = state.shape[-1]
    reset, update = (own[..., : 2 * h] + inputs[..., : 2 * h]).sigmoid().chunk(2, -1)
    candidate = (inputs[..., 2 * h :] + reset * own[..., 2 * h :]).tanh()
    return candidate + update * (state - candidate)


def tiny() -> tuple[VRNN, dict[str, Tensor]]:
    """The smallest honest instance, ragged."""
    model = VRNN(num_features=3, latent_dim=2, hidden_dim=4)
    x = torch.bernoulli(torch.full((3, 4, 3), 0.4), generator=torch.Generator().manual_seed(0))
    return model, model.validate({"x": x, "lengths": torch.tensor([3, 4, 2])})
