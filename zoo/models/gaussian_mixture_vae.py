"""Gaussian mixture variational autoencoder: a cluster, a point in it, an image of the point.

    c ~ Categorical(uniform over K)
    z | c ~ N(means[c], diag(scales[c])^2)
    x | z ~ likelihood(decoder(z))
    q(c, z | x) = q(c | x) q(z | x, c)

The label c can be summed over exactly (``svi``), relaxed (``gumbel``), or drawn and scored (``reinforce``): one model,
three gradients. Kingma, Mohamed, Rezende & Welling (2014), "Semi-supervised learning with deep generative models", sum
over the label; Jiang et al. (2017), "Variational deep embedding", and Dilokthanakul et al. (2016) put it behind z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from guides import MLP, AmortizedNormal
from zoo.core.checks import positive
from zoo.core.contract import Axes
from zoo.core.offers import follows
from zoo.models.shared.neural import NeuralModel, network

__all__ = ["GaussianMixtureVAE"]


class GaussianMixtureVAE(NeuralModel):
    """Variational autoencoder whose prior is a mixture of K Gaussians; their labels cluster the data.

    Args:
        num_components: K, at least 1. num_features: D, at least 1.
        latent_dim: L of z.
        hidden_dims: widths of the encoders' hidden layers, from x on; the decoder has them in reverse.
        likelihood, binarization, white, num_values: see :class:`~zoo.models.shared.neural.NeuralModel`.
        activation: "relu" or "tanh".

    Shapes:
        x: (N, D), in the likelihood's support. c: (N,) integers in [0, K). z: (N, L). means: (K, L).
        elbo_parts(x, S): bound (N,), with "reconstruction" and "kl" (N,), nats. log_weights(x, S): (S, N), nats.

    Raises:
        ZooError: a name that is not known; x of another size, or outside the likelihood's support.

    Example:
        >>> model, x = tiny()
        >>> model.predict(x).shape
        torch.Size([8])
    """

    reference = "Jiang et al. (2017), Variational deep embedding; Kingma et al. (2014), Semi-supervised learning"

    reads_as: ClassVar[dict[str, str]] = {"scales": "raw_scales"}
    axes: ClassVar[Axes] = {"means": ("component", "code"), "scales": ("component", "code")}

    def __init__(
        self,
        num_components: int,
        num_features: int,
        latent_dim: int = 10,
        hidden_dims: Sequence[int] = (200,),
        likelihood: str = "bernoulli",
        activation: str = "relu",
        binarization: str | None = None,
        white: float = 1.0,
        num_values: int = 2,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self._set_up(num_features, likelihood, num_values, binarization, white)
        self.num_components = positive(num_components, "num_components", who)
        self.latent_dim = positive(latent_dim, "latent_dim", who)
        widths = self._widths(hidden_dims, activation)
        self.classifier = MLP((num_features, *widths, num_components), activation)
        self.encoder = AmortizedNormal(num_features + num_components, latent_dim, widths, activation)
        self.decoder = network(latent_dim, widths[::-1], self.likelihood, activation)
        self.means = torch.nn.Parameter(torch.randn(num_components, latent_dim) / math.sqrt(latent_dim))
        self.raw_scales = torch.nn.Parameter(torch.full((num_components, latent_dim), math.log(math.e - 1)))

    @property
    def scales(self) -> Tensor:
        """Standard deviations of the components, (K, L)."""
        return softplus(self.raw_scales) + 1e-3

    def _corner(self, c: Tensor) -> Tensor:
        """A label as a corner of the simplex, (..., K); a point of the simplex as it is."""
        if c.is_floating_point():
            return c
        return torch.nn.functional.one_hot(c, self.num_components).to(self.means)

    def _component(self, corner: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of p(z | c), (..., L)."""
        return corner @ self.means, corner @ self.scales

    def _q(self, x: Tensor, corner: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x, c), (..., L)."""
        return self.encoder.moments(x, corner)

    def model(self, x: Tensor) -> None:
        x = self.pixels(x)
        with pyro.plate("data", x.shape[0]):
            c = pyro.sample("c", dist.Categorical(logits=x.new_zeros(self.num_components)))
            z = pyro.sample("z", dist.Normal(*self._component(self._corner(c))).to_event(1))
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        x = self.pixels(x)
        with pyro.plate("data", x.shape[0]):
            c = pyro.sample("c", dist.Categorical(logits=self.classifier(x)))
            pyro.sample("z", dist.Normal(*self._q(x, self._corner(c))).to_event(1))

    def elbo_parts(self, x: Tensor, num_particles: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
        """The bound and its parts, each (N,) nats; the label summed over exactly, z drawn once for every label.

        bound = Σ_c q(c | x) {E_q ln p(x | z) - KL(q(z | x, c) || p(z | c))} - KL(q(c | x) || p(c)), both KL in closed
        form.
        """
        x = self.pixels(x)
        log_share = self.classifier(x).log_softmax(-1)  # (N, K)
        corners = torch.eye(self.num_components, dtype=x.dtype, device=x.device).unsqueeze(1)  # (K, 1, K)
        loc, scale = self._q(x, corners)  # (K, N, L)
        draws = torch.randn(self.num_components, num_particles, *loc.shape[1:], dtype=x.dtype, device=x.device)
        z = loc.unsqueeze(1) + scale.unsqueeze(1) * draws
        each = self.likelihood.log_prob(self.decoder(z), x).mean(1)  # (K, N)
        centre, width = self._component(corners)  # (K, 1, L)
        ratio = (scale / width).square()
        inner = 0.5 * (ratio + ((loc - centre) / width).square() - 1 - ratio.log()).sum(-1)  # (K, N)
        share = log_share.exp()
        reconstruction = torch.linalg.vecdot(share, each.mT)
        label = torch.linalg.vecdot(share, log_share) + math.log(self.num_components)
        kl = torch.linalg.vecdot(share, inner.mT) + label
        return reconstruction - kl, {"reconstruction": reconstruction, "kl": kl}

    def bound_given(self, x: Tensor, c: Tensor) -> Tensor:
        """The bound on ln p(x | c) at known labels (N,), with one draw of z a datum, (N,) nats; differentiable."""
        x, corner = self.pixels(x), self._corner(c)
        loc, scale = self._q(x, corner)
        centre, width = self._component(corner)
        ratio = (scale / width).square()
        kl = 0.5 * (ratio + ((loc - centre) / width).square() - 1 - ratio.log()).sum(-1)
        return self.likelihood.log_prob(self.decoder(loc + scale * torch.randn_like(loc)), x) - kl

    def log_weights(self, x: Tensor, num_particles: int) -> Tensor:
        """ln p(x, c_k, z_k) - ln q(c_k, z_k | x) of K draws a datum, (K, N) nats; the labels carry no gradient."""
        x = self.pixels(x)
        label = dist.Categorical(logits=self.classifier(x))
        c = label.sample((num_particles,))
        corner = self._corner(c)
        q = dist.Normal(*self._q(x, corner)).to_event(1)
        z = q.rsample()
        prior = dist.Normal(*self._component(corner)).to_event(1).log_prob(z) - math.log(self.num_components)
        return self.likelihood.log_prob(self.decoder(z), x) + prior - label.log_prob(c) - q.log_prob(z)

    def label_probs(self, x: Tensor) -> Tensor:
        """q(c | x), (N, K)."""
        probs: Tensor = self.classifier(self.pixels(x)).softmax(-1)
        return probs

    @follows("guide")
    def predict(self, x: Tensor) -> Tensor:
        """The most probable label of each datum under q(c | x), (N,) integers."""
        return self.label_probs(x).argmax(-1)

    @torch.no_grad()
    def posterior_means(self, x: Tensor, num_samples: int = 1) -> Tensor:
        """E_q[z | x], (N, L), the label summed over."""
        x = self.pixels(x)
        corners = torch.eye(self.num_components, dtype=x.dtype, device=x.device).unsqueeze(1)
        loc, _ = self._q(x, corners)  # (K, N, L)
        return (self.classifier(x).softmax(-1).mT.unsqueeze(-1) * loc).sum(0)

    def reset_guide(self) -> None:
        """New networks, and new centres, about sqrt(2) apart in any number of dimensions.

        Centres of unit spread in each of many dimensions differ in their distance from the origin, where all codes
        begin, by many nats: the nearest would take all data before the others have learned anything.
        """
        super().reset_guide()
        with torch.no_grad():
            self.means.normal_(0.0, 1 / math.sqrt(self.latent_dim))
            self.raw_scales.fill_(math.log(math.e - 1))

    def initialize(self, x: Tensor, init: str, restart: int = 0) -> None:
        """Networks as drawn; the decoder's last bias is what suits the data without z."""
        if init != "current":
            self.start_from(x, self.classifier, self.encoder)


def tiny() -> tuple[GaussianMixtureVAE, Tensor]:
    """The smallest honest instance, and data from its prior."""
    model = GaussianMixtureVAE(num_components=2, num_features=6, latent_dim=2, hidden_dims=(5,))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        c = torch.randint(2, (8,), generator=generator)
        z = 3 * model.means[c] + torch.randn(8, 2, generator=generator)
        probs = model.likelihood.mean(3 * model.decoder(z))
    return model, torch.bernoulli(probs, generator=generator)
