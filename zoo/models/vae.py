"""Variational autoencoder, and what grew from it: β-VAE, two stochastic layers, flows in the guide.

    z ~ N(0, I)
    x | z ~ likelihood(decoder(z))
    q(z | x) = N(loc(x), diag(scale(x))^2), loc and scale read off an encoder network

With two layers z1 ~ N(loc(z2), scale(z2)^2) lies between z2 ~ N(0, I) and x, and q(z1, z2 | x) = q(z1 | x) q(z2 | z1).

Kingma & Welling (2014), "Auto-encoding variational Bayes"; Rezende, Mohamed & Wierstra (2014); Burda, Grosse &
Salakhutdinov (2016), "Importance weighted autoencoders", for two layers; Higgins et al. (2017) for β.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from guides import AmortizedFlow, AmortizedNormal
from guides.flows import FLOWS
from guides.normal import standard_normal
from zoo.core.checks import positive
from zoo.core.isolation import isolated
from zoo.errors import ZooError
from zoo.models.shared.layers import start_code
from zoo.models.shared.neural import NeuralModel, network

__all__ = ["VAE"]

#: How much more noise than the linear analysis says a code is read with, when networks start from layers; and draws.
DOUBTS, DOUBTED_DRAWS = (1.0, 3.0, 10.0, 30.0, 100.0), 5


class VAE(NeuralModel):
    """Variational autoencoder over D features.

    Args:
        num_features: D, at least 1.
        latent_dim: L of the (top) latent z.
        hidden_dims: widths of the encoder's hidden layers, from x on; the decoder has them in reverse.
        likelihood: "bernoulli", "continuous_bernoulli", "gaussian" (learned variances) or "categorical".
        beta: weight of the KL in the bound that ``svi`` climbs: it scales z in model and guide. The evidence, and with
            it ``iwae``, ``rws`` and importance-weighted scores, knows no β.
        activation: "relu" or "tanh".
        architecture: "mlp", or "conv" for square images of one channel whose side is a multiple of 4.
        num_layers: 1 or 2 stochastic layers; with 2 the lower z1 has 2 L dimensions, and the networks between z1 and z2
            half the widths of those between x and z1 (with latent_dim=50, hidden_dims=(200, 200): Burda et al.'s).
        flow: None, "planar" or "iaf": what bends q(z | x) of the single layer. num_flows: how many, one after another.
        binarization, white: how grey pixels are read, see :class:`~zoo.models.shared.neural.NeuralModel`.
        num_values: V of the categorical likelihood.

    Shapes:
        x: (N, D), in the likelihood's support. z: (N, L); with two layers z1 (N, 2 L) and z2 (N, L).
        elbo_parts(x, S): bound (N,), with "reconstruction" and "kl" (N,), nats. log_weights(x, K): (K, N), nats.

    Raises:
        ZooError: a name that is not known; x of another size, or outside the likelihood's support.

    Example:
        >>> model, x = tiny()
        >>> model.log_weights(x, 5).shape
        torch.Size([5, 8])
    """

    reference = "Kingma & Welling (2014), Auto-encoding variational Bayes"

    def __init__(
        self,
        num_features: int,
        latent_dim: int = 20,
        hidden_dims: Sequence[int] = (400,),
        likelihood: str = "bernoulli",
        beta: float = 1.0,
        activation: str = "relu",
        architecture: str = "mlp",
        num_layers: int = 1,
        flow: str | None = None,
        num_flows: int = 2,
        binarization: str | None = None,
        white: float = 1.0,
        num_values: int = 2,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self._set_up(num_features, likelihood, num_values, binarization, white)
        self.latent_dim = positive(latent_dim, "latent_dim", who)
        widths = self._widths(hidden_dims, activation)
        self._choice("architecture", architecture, ("mlp", "conv"))
        self._choice("num_layers", num_layers, (1, 2))
        self._choice("flow", flow, (None, *FLOWS))
        if not beta > 0:
            raise ZooError(f"{who}: beta expected a positive number, got {beta}. 1 is the plain bound.")
        if flow is not None and (num_layers == 2 or not widths):
            raise ZooError(f"{who}: flow={flow!r} expected one layer and an encoder with a hidden one. Leave it out.")
        if architecture == "conv" and not widths:
            raise ZooError(f"{who}: architecture='conv' expected a width in hidden_dims, got none. Pass (256,).")
        self.beta, self.num_layers, self.flow = float(beta), num_layers, flow
        self.sigmoid_like = activation == "tanh" and architecture == "mlp" and bool(widths)
        size = latent_dim if num_layers == 1 else 2 * latent_dim
        try:
            self.decoder = network(size, widths[::-1], self.likelihood, activation, architecture)
            base = AmortizedNormal(num_features, size, widths, activation, architecture)
        except ValueError as error:
            raise ZooError(f"{who}: architecture='conv': {error} Use architecture='mlp'.") from None
        self.encoder: AmortizedNormal | AmortizedFlow = base
        if flow is not None:
            self.encoder = AmortizedFlow(base, widths[-1], latent_dim, flow, positive(num_flows, "num_flows", who))
        if num_layers == 2:
            inner = tuple(max(1, width // 2) for width in widths)
            self.upper_encoder = AmortizedNormal(size, latent_dim, inner, activation)
            self.upper_decoder = AmortizedNormal(latent_dim, size, inner[::-1], activation)

    @property
    def kl_weight(self) -> float:  # type: ignore[override]
        """β."""
        return self.beta

    # --- the programs ---------------------------------------------------------------------------------------------

    def model(self, x: Tensor) -> None:
        x = self.pixels(x)
        with pyro.plate("data", x.shape[0]):
            with poutine.scale(scale=self.kl_weight):
                if self.num_layers == 1:
                    z = pyro.sample("z", standard_normal(x, self.latent_dim))
                else:
                    top = pyro.sample("z2", standard_normal(x, self.latent_dim))
                    z = pyro.sample("z1", self.upper_decoder(top))
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        x = self.pixels(x)
        with pyro.plate("data", x.shape[0]), poutine.scale(scale=self.kl_weight):
            if self.num_layers == 1:
                pyro.sample("z", self.encoder(x))
            else:
                z = pyro.sample("z1", self.encoder(x))
                pyro.sample("z2", self.upper_encoder(z))

    # --- the same, as functions of tensors ------------------------------------------------------------------------

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x), of z1 with two layers: batch shape (N,)."""
        q: dist.TorchDistribution = self.encoder(self.pixels(x))
        return q

    def decode(self, z: Tensor) -> Tensor:
        """E[x | z], (..., D), of z1 with two layers."""
        mean: Tensor = self.likelihood.mean(self.decoder(z))
        return mean

    def _draw(self, x: Tensor, num_particles: int) -> tuple[Tensor, Tensor, Tensor]:
        """ln p(x | z) and ln q(z | x) - ln p(z), each (S, N), at S draws; and the mean of q, for its statistics."""
        q = self.encoder(x)
        z = q.rsample((num_particles,))
        excess = q.log_prob(z)
        if self.num_layers == 1:
            excess = excess - standard_normal(x, self.latent_dim).log_prob(z)
        else:
            up = self.upper_encoder(z)
            top = up.rsample()
            excess = excess + up.log_prob(top)
            excess = excess - standard_normal(x, self.latent_dim).log_prob(top) - self.upper_decoder(top).log_prob(z)
        return self.likelihood.log_prob(self.decoder(z), x), excess, z

    def elbo_parts(self, x: Tensor, num_particles: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
        """The bound that ``svi`` climbs, and its parts, each (N,) nats; differentiable.

        bound = reconstruction - β kl. The KL of a single Gaussian layer is in closed form (Kingma & Welling 2014,
        appendix B); with two layers, or a flow, the draws that serve the reconstruction serve it too.
        """
        x = self.pixels(x)
        if self.num_layers == 1 and isinstance(self.encoder, AmortizedNormal):
            loc, scale = self.encoder.moments(x)
            noise = torch.randn(num_particles, *loc.shape, dtype=loc.dtype, device=loc.device)
            reconstruction = self.likelihood.log_prob(self.decoder(loc + scale * noise), x).mean(0)
            kl = 0.5 * (loc.square() + scale.square() - 1).sum(-1) - scale.log().sum(-1)
        else:
            each, excess, _ = self._draw(x, num_particles)
            reconstruction, kl = each.mean(0), excess.mean(0)
        return reconstruction - self.kl_weight * kl, {"reconstruction": reconstruction, "kl": kl}

    def log_weights(self, x: Tensor, num_particles: int) -> Tensor:
        """ln p(x, z_k) - ln q(z_k | x) of K draws a datum, (K, N) nats; differentiable. Of the evidence: without β."""
        reconstruction, excess, _ = self._draw(self.pixels(x), num_particles)
        return reconstruction - excess

    @torch.no_grad()
    def posterior_means(self, x: Tensor, num_samples: int = 1) -> Tensor:
        """E_q[z | x], (N, L), by draws where there is no formula; with two layers z1 and z2 side by side, (N, 3 L)."""
        x = self.pixels(x)
        if self.num_layers == 2:
            lower = self.encoder(x)
            upper = self.upper_encoder.moments(lower.sample((num_samples,)))[0].mean(0)
            return torch.cat([lower.mean, upper], -1)
        if isinstance(self.encoder, AmortizedNormal):
            return self.encoder.moments(x)[0]
        drawn: Tensor = self.encoder(x).sample((num_samples,)).mean(0)
        return drawn

    def take_layers(self, layers: Sequence[tuple[Tensor, Tensor, Tensor]], x: Tensor) -> None:
        """Start from layers of sigmoid units that were learned from below, see :func:`start_code`; at the best doubt.

        Raises:
            ZooError: layers of other widths.
        """
        encoder: Any = self.encoder
        pixels = self.pixels(x)

        def bound(doubt: float) -> float:
            start_code(layers, pixels, encoder.body, (encoder.loc, encoder.raw_scale), self.decoder, doubt)
            with isolated(0):
                return float(self.elbo_parts(x, DOUBTED_DRAWS)[0].detach().mean())

        with torch.no_grad():
            bound(max(DOUBTS, key=bound))

    def withholds(self) -> dict[str, str]:
        plain = self.sigmoid_like and self.num_layers == 1 and self.flow is None and self.likelihood.kind == "bernoulli"
        why = "it expects one stochastic layer, a Bernoulli likelihood and networks with activation='tanh'"
        return {**super().withholds(), **({} if plain else {"take_layers": why})}

    def initialize(self, x: Tensor, init: str, restart: int = 0) -> None:
        """Networks as drawn; the decoder's last bias is what suits the data without z."""
        if init != "current":
            self.start_from(x, self.encoder)


def tiny() -> tuple[VAE, Tensor]:
    """The smallest honest instance, and data from its prior."""
    model = VAE(num_features=6, latent_dim=2, hidden_dims=(5,))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        probs = model.decode(3 * torch.randn(8, 2, generator=generator))
    return model, torch.bernoulli(probs, generator=generator)
