"""Linear variational autoencoder: probabilistic PCA with an encoder instead of its exact posterior.

    z ~ N(0, I)
    x | z ~ N(mean + loadings z, noise_variance I)
    q(z | x) = N(V x + b, diag(scale)^2)

The model is that of probabilistic PCA, so the evidence is exact; and where the bound is highest the loadings' columns
are orthogonal, the exact posterior's covariance is diagonal, and bound and evidence both stand at PPCA's closed form.

Lucas, Tucker, Grosse & Norouzi (2019), "Don't blame the ELBO! A linear VAE perspective on posterior collapse".
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from guides.networks import Standardize
from zoo.core.contract import parameter
from zoo.core.data import Data, plain, weights_of
from zoo.core.offers import follows
from zoo.core.statistics import varying, weighted_mean, weighted_variance
from zoo.models.ppca import PPCA
from zoo.models.shared.axes import Triangle
from zoo.models.shared.linear_gaussian import LinearGaussian

__all__ = ["LinearEncoder", "LinearVAE"]


class LinearEncoder(nn.Module):
    """q(z | x) = N(V x + b, diag(scale)^2), the scale shared by all data.

    Shapes:
        x: (..., num_features) to a MultivariateNormal of batch shape (...) and event shape (latent_dim,).
    """

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.standardize = Standardize(num_features)
        self.linear = nn.Linear(num_features, latent_dim)
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    def reset_parameters(self) -> None:
        """Unit scale; the linear layer resets itself."""
        nn.init.zeros_(self.log_scale)

    def set_from(self, x: Tensor) -> None:
        """Centre inputs and bring them to unit size, all by the same factor: PCA's directions stay what they are."""
        self.set_to(x.mean(0), x.var(0, correction=0))

    def set_to(self, mean: Tensor, variance: Tensor) -> None:
        """As :meth:`set_from`, of data of this mean and variance, (D,)."""
        self.standardize.loc.copy_(mean)
        tiny = torch.finfo(self.standardize.scale.dtype).tiny
        self.standardize.scale.fill_(variance.mean().sqrt().clamp_min(tiny))

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., L) and standard deviation (L,)."""
        return self.linear(self.standardize(x)), self.log_scale.exp()

    def forward(self, x: Tensor) -> dist.MultivariateNormal:
        loc, scale = self.moments(x)
        return dist.MultivariateNormal(loc, scale_tril=scale.diag_embed())


class LinearVAE(LinearGaussian):
    """Variational autoencoder with a linear decoder, a linear encoder and Gaussian noise.

    Args:
        num_features: D, at least 1. latent_dim: L, from 1 to D.
        noise_floor: smallest noise variance, as a fraction of the data's mean variance, at the start of a fit.

    Shapes:
        x: (N, D), finite. loadings: (D, L). mean: (D,). noise_variance: (), positive.
        log_marginal(x): (N,), nats, exact. elbo(x): (N,), nats, the encoder's bound without sampling.
        posterior(x): MultivariateNormal, batch (N,), event (L,).

    Raises:
        ZooError: more latent dimensions than features; x of another shape, or not finite.

    Example:
        >>> model, x = tiny()
        >>> bool((model.elbo(x) <= model.log_marginal(x)).all())
        True
    """

    inits = ("random", "pca", "current")
    default_data = "digits"
    reference = "Lucas et al. (2019), Don't blame the ELBO! A linear VAE perspective on posterior collapse"

    def __init__(self, num_features: int, latent_dim: int = 2, noise_floor: float = 1e-6) -> None:
        super().__init__(latent_dim, num_features, noise_floor)
        self.latent_dim = latent_dim
        self.noise_variance = parameter(torch.ones((), dtype=self.dtype), constraints.positive)
        del self.encoder
        self.encoder: LinearEncoder = LinearEncoder(num_features, latent_dim).to(self.dtype)  # type: ignore[assignment]

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", self.encoder(x))

    def elbo(self, x: Tensor) -> Tensor:
        """E_q ln p(x | z) - KL(q || p), (N,) nats; every expectation is Gaussian, so none is sampled.

        E_q |x - m - W z|^2 = |x - m - W μ|^2 + Σ_j scale_j^2 |w_j|^2 (Lucas et al. 2019, appendix C.2).
        """
        loc, scale = self.encoder.moments(x)
        distance = (x - self.mean - loc @ self.loadings.mT).square().sum(-1)
        spread = (scale.square() * self.loadings.square().sum(0)).sum()
        noise = self.noise_variance
        energy = (distance + spread) / noise + self.num_features * (noise.log() + math.log(2 * math.pi))
        kl = 0.5 * (loc.square().sum(-1) + (scale.square() - 1).sum()) - scale.log().sum()
        return -0.5 * energy - kl

    @follows("model", "guide")
    def closed_form(self, x: Tensor, weights: Tensor | None = None) -> list[str]:
        """Set the decoder to the maximum of the likelihood, that of PPCA, and the encoder to the exact posterior there.

        The loadings' columns are orthogonal, so that M = loadings^T loadings + noise_variance I is diagonal, and the
        posterior N(M^-1 loadings^T (x - mean), noise_variance M^-1) is one of the encoder's: bound and evidence are
        equal (Lucas et al. 2019, section 4).

        Args:
            weights: how often each row counts, (N,).

        Returns:
            Notes, as :meth:`PPCA.closed_form`.
        """
        return self.closed_form_of(self.closed_form_statistics(x, weights))

    def closed_form_statistics(self, x: Tensor, weights: Tensor | None = None) -> Triangle:
        """As :meth:`PPCA.closed_form_statistics`.

        Args:
            weights: how often each row counts, (N,).
        """
        return Triangle.of(self.validate(x), weights)

    @torch.no_grad()
    def closed_form_of(self, statistics: Triangle) -> list[str]:
        """The :meth:`closed_form` of all data whose statistics were added up."""
        exact = PPCA(self.num_factors, self.num_features, self.noise_floor).to(self.loadings)
        notes = exact.closed_form_of(statistics)
        self.mean, self.loadings, self.noise_variance = exact.mean, exact.loadings, exact.noise_variance
        encoder, noise = self.encoder, exact.noise_variance
        encoder.set_to(statistics.mean, statistics.variance)
        size = exact.loadings.square().sum(0) + noise  # the diagonal of M
        gain = (exact.loadings / size).mT
        encoder.linear.weight.copy_(gain * encoder.standardize.scale)
        encoder.linear.bias.copy_(gain @ (encoder.standardize.loc - exact.mean))
        encoder.log_scale.copy_(0.5 * (noise / size).log())
        return notes

    @torch.no_grad()
    def posterior_means(self, x: Tensor, num_samples: int = 1) -> Tensor:
        """E_q[z | x], (N, L)."""
        return self.encoder.moments(x)[0]

    def random_start(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Half the variance to the noise, the other half spread over loadings of random directions."""
        noise = variance.mean() / 2
        drawn = torch.randn(self.num_features, self.num_factors, dtype=x.dtype, device=x.device)
        return drawn * (noise / self.num_factors).sqrt(), noise

    def principal_start(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The maximum of the likelihood itself, in closed form: only the encoder has still to be learned."""
        exact = PPCA(self.num_factors, self.num_features, self.noise_floor).to(x.device)
        exact.closed_form(x)
        return exact.loadings.detach(), exact.noise_variance.detach()

    def parameter_scales(self, x: Data) -> dict[str, Tensor]:
        """One unit for all features, as the noise has: a feature's own would stretch the directions PCA looks for."""
        unit = varying(weighted_variance(plain(x), weights_of(x)), weighted_mean(plain(x), weights_of(x))).mean().sqrt()
        return {
            "mean_unconstrained": unit.expand_as(self.mean),
            "loadings_unconstrained": unit.expand_as(self.loadings),
        }


def tiny() -> tuple[LinearVAE, Tensor]:
    """The smallest honest instance, and data from it."""
    model = LinearVAE(num_features=3, latent_dim=1)
    model.loadings = torch.tensor([[1.0], [-0.5], [2.0]])
    model.mean = torch.tensor([1.0, 0.0, -1.0])
    model.noise_variance = torch.tensor(0.5)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(12, 1, dtype=torch.float64, generator=generator)
    noise = torch.randn(12, 3, dtype=torch.float64, generator=generator) * model.noise_variance.detach().sqrt()
    return model, model.mean.detach() + z @ model.loadings.detach().mT + noise
