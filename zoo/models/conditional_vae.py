"""Conditional variational autoencoder: y given x, where one x has many possible y.

    z | x ~ N(loc(x), diag(scale(x))^2)            a learned prior
    y | x, z ~ likelihood(decoder(x, z))
    q(z | x, y) = N(loc(x, y), diag(scale(x, y))^2)

Sohn, Lee & Yan (2015), "Learning structured output representation using deep conditional generative models", whose
experiment completes images from one, two or three quadrants (:func:`quadrants`). With ``latent_dim=0`` nothing is
latent, and the model is their deterministic baseline, trained and scored by the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from guides import AmortizedNormal
from guides.normal import standard_normal
from zoo.core.checks import positive
from zoo.errors import ZooError
from zoo.models.shared.neural import network
from zoo.models.shared.paired import PairedModel

__all__ = ["ConditionalVAE", "quadrants"]


def quadrants(images: Tensor, given: int = 1) -> tuple[Tensor, Tensor]:
    """What is given of square images, and what is to be completed.

    Args:
        images: (N, D), rows of a square image of even side one after another.
        given: 1, 2 or 3 quadrants: the bottom left, then the top left, then the top right (Sohn et al. 2015, figure 3).

    Returns:
        x (N, D given / 4) and y (N, D (4 - given) / 4), each in the images' order of pixels.

    Raises:
        ZooError: images that are not square with an even side, another number of quadrants.
    """
    side = round(images.shape[-1] ** 0.5) if images.dim() == 2 else 0
    if side * side != images.shape[-1] or side % 2 or side == 0:
        raise ZooError(f"quadrants: images expected (N, side * side), side even, got {tuple(images.shape)}. Crop them.")
    if given not in (1, 2, 3):
        raise ZooError(f"quadrants: given expected 1, 2 or 3, got {given!r}. The rest is what is to be completed.")
    seen = torch.zeros(side, side, dtype=torch.bool)
    half = side // 2
    seen[half:, :half] = True
    if given > 1:
        seen[:half, :half] = True
    if given > 2:
        seen[:half, half:] = True
    mask = seen.flatten().to(images.device)
    return images[:, mask], images[:, ~mask]


class ConditionalVAE(PairedModel):
    """Variational autoencoder of y given x.

    Without z the likelihood is known: such an instance offers ``log_marginal``, and ``eg`` fits it.

    Args:
        num_inputs: D_x of x. num_features: D of y.
        latent_dim: L; 0 leaves out z: the deterministic baseline.
        hidden_dims: widths of every network's hidden layers, from the data on; the decoder has them in reverse.
        likelihood, binarization, white, num_values: of y, see :class:`~zoo.models.shared.neural.NeuralModel`; under a
            Bernoulli x and y are pixels alike.
        activation: "relu" or "tanh".

    Shapes:
        data: a tuple (x, y), x (N, D_x) and y (N, D); one array (N, D_x + D) of square images is cut by quadrants.
        z: (N, L). elbo_parts(x, y, S): bound (N,) on ln p(y | x), with "reconstruction" and "kl" (N,), nats.
        log_weights(x, y, S): (S, N), nats.

    Raises:
        ZooError: data that are not two arrays of these sizes; y outside the likelihood's support.

    Example:
        >>> model, (x, y) = tiny()
        >>> model.log_weights(x, y, 5).shape
        torch.Size([5, 8])
    """

    reference = "Sohn, Lee & Yan (2015), Learning structured output representation"

    def __init__(
        self,
        num_inputs: int,
        num_features: int,
        latent_dim: int = 20,
        hidden_dims: Sequence[int] = (400,),
        likelihood: str = "bernoulli",
        activation: str = "relu",
        binarization: str | None = None,
        white: float = 1.0,
        num_values: int = 2,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self._set_up(num_features, likelihood, num_values, binarization, white)
        self.num_inputs = positive(num_inputs, "num_inputs", who)
        self.latent_dim = 0 if latent_dim == 0 else positive(latent_dim, "latent_dim", who)
        widths = self._widths(hidden_dims, activation)
        self.decoder = network(num_inputs + self.latent_dim, widths[::-1], self.likelihood, activation)
        if self.latent_dim:
            self.prior = AmortizedNormal(num_inputs, latent_dim, widths, activation)
            self.encoder = AmortizedNormal(num_inputs + num_features, latent_dim, widths, activation)

    def outputs(self, x: Tensor, z: Tensor | None) -> Tensor:
        """The decoder's outputs, (..., N, ·), for x (N, D_x) and z (..., N, L), or without z."""
        if z is None:
            out: Tensor = self.decoder(x)
            return out
        out = self.decoder(x, z)
        return out

    def model(self, x: Tensor, y: Tensor) -> None:
        x, y = self.pair(x, y)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior(x) if self.latent_dim else standard_normal(x, 0))
            pyro.sample("y", self.likelihood(self.outputs(x, z)), obs=y)

    def guide(self, x: Tensor, y: Tensor) -> None:
        x, y = self.pair(x, y)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", self.encoder(x, y) if self.latent_dim else standard_normal(x, 0))

    def withholds(self) -> dict[str, str]:
        if self.latent_dim:
            return {"log_marginal": f"there is no exact sum over its code of {self.latent_dim} dimensions"}
        if self.binarization == "dynamic":
            return {"log_marginal": "its grey pixels are drawn anew for every batch"}
        return {}

    def log_marginal(self, x: Tensor, y: Tensor) -> Tensor:
        """ln p(y | x) without a code, (N,) nats: with one it is withheld."""
        x, y = self.pair(x, y)
        exact: Tensor = self.likelihood.log_prob(self.outputs(x, None), y)
        return exact

    def elbo_parts(self, x: Tensor, y: Tensor, num_particles: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
        """The bound on ln p(y | x) and its parts, each (N,) nats; KL(q(z | x, y) || p(z | x)) in closed form."""
        if not self.latent_dim:
            exact = self.log_marginal(x, y)
            return exact, {"reconstruction": exact, "kl": torch.zeros_like(exact)}
        x, y = self.pair(x, y)
        loc, scale = self.encoder.moments(x, y)
        centre, width = self.prior.moments(x)
        noise = torch.randn(num_particles, *loc.shape, dtype=loc.dtype, device=loc.device)
        reconstruction = self.likelihood.log_prob(self.outputs(x, loc + scale * noise), y).mean(0)
        ratio = (scale / width).square()
        kl = 0.5 * (ratio + ((loc - centre) / width).square() - 1 - ratio.log()).sum(-1)
        return reconstruction - kl, {"reconstruction": reconstruction, "kl": kl}

    def log_weights(self, x: Tensor, y: Tensor, num_particles: int) -> Tensor:
        """ln p(y, z_k | x) - ln q(z_k | x, y) of K draws a datum, (K, N) nats; differentiable."""
        if not self.latent_dim:
            return self.log_marginal(x, y).expand(num_particles, -1)
        x, y = self.pair(x, y)
        q = self.encoder(x, y)
        z = q.rsample((num_particles,))
        return self.likelihood.log_prob(self.outputs(x, z), y) + self.prior(x).log_prob(z) - q.log_prob(z)

    @torch.no_grad()
    def complete(self, x: Tensor, num_samples: int = 1) -> Tensor:
        """E[y | x, z] at draws of z from the prior, (num_samples, N, D): as many completions of each x."""
        x = self.inputs(x)
        z = self.prior(x).sample((num_samples,)) if self.latent_dim else None
        mean: Tensor = self.likelihood.mean(self.outputs(x, z))
        return mean if self.latent_dim else mean.expand(num_samples, *mean.shape)

    @torch.no_grad()
    def posterior_means(self, x: Tensor, y: Tensor, num_samples: int = 1) -> Tensor:
        """E_q[z | x, y], (N, L); without z (N, 0)."""
        if not self.latent_dim:
            return x.new_zeros(len(x), 0)
        return self.encoder.moments(*self.pair(x, y))[0]

    # --- data -----------------------------------------------------------------------------------------------------

    def standardize(self, x: Tensor, y: Tensor) -> None:
        readers: list[Any] = [self.decoder, *([self.prior] if self.latent_dim else [])]
        for reader in readers:
            reader.set_from(x)
        if self.latent_dim:
            self.encoder.set_from(torch.cat([x, y], -1))

    @classmethod
    def cut(cls, images: Tensor, num_inputs: int | None) -> tuple[Tensor, Tensor]:
        given = 4 * (num_inputs or 0) / images.shape[-1]
        return quadrants(images, 1 if num_inputs is None else int(given) if given == int(given) else 0)


def tiny() -> tuple[ConditionalVAE, tuple[Tensor, Tensor]]:
    """The smallest honest instance, and data from it."""
    model = ConditionalVAE(num_inputs=3, num_features=4, latent_dim=2, hidden_dims=(5,))
    generator = torch.Generator().manual_seed(0)
    x = torch.bernoulli(torch.full((8, 3), 0.5), generator=generator)
    with torch.no_grad():
        loc, scale = model.prior.moments(x)
        z = loc + scale * torch.randn(8, 2, generator=generator)
        y = torch.bernoulli(model.likelihood.mean(3 * model.outputs(x, z)), generator=generator)
    return model, (x, y)
