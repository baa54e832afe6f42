"""Gaussian mixture model.

    z ~ Categorical(weights)
    x | z ~ MultivariateNormal(means[z], covariances[z])

Covariances: "full" (one each), "tied" (one for all), "diag", "spherical". McLachlan & Peel (2000), Finite Mixture
Models, chapter 3; Bishop (2006), Pattern Recognition and Machine Learning, section 9.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.errors import unknown_name
from zoo.model import parameter
from zoo.models.mixture import Mixture
from zoo.statistics import Moments, Statistics, varying
from zoo.structures import gaussian

__all__ = ["GaussianMixture"]

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


class GaussianMixture(Mixture):
    """Mixture of K Gaussians over D features.

    Args:
        num_components: K, at least 1.
        num_features: D, at least 1.
        covariance_type: "full", "tied", "diag" or "spherical".
        covariance_floor: smallest eigenvalue of a component's covariance, as a fraction of the data's
            variance (feature by feature); keeps a component from collapsing onto a point. EM's M step is then the
            exact maximum under that constraint, and says when the constraint acted.
        hidden_dims: widths of the encoder's hidden layers.

    Shapes:
        x: (N, D), finite.
        weights: (K,). means: (K, D). covariances: (K, D, D), also for the simpler types (tied: K times the same).
        scale_tril: (K, D, D) lower Cholesky factors; tied (D, D); diag (K, D) and spherical (K,) standard deviations.
        log_marginal(x): (N,), nats. posterior(x): Categorical, batch (N,), K outcomes.

    Raises:
        ZooError: x of another shape, or not finite.

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(x).shape
        torch.Size([12])
    """

    default_data = "iris"
    reference = "McLachlan & Peel (2000), Finite Mixture Models, ch. 3"
    per_component: tuple[str, ...] = ("weights", "means", "scale_tril")
    means: Tensor
    scale_tril: Tensor

    def __init__(
        self,
        num_components: int,
        num_features: int,
        covariance_type: str = "full",
        covariance_floor: float = 1e-6,
        hidden_dims: Sequence[int] = (32,),
    ) -> None:
        super().__init__(num_components, num_features, hidden_dims)
        if covariance_type not in COVARIANCE_TYPES:
            raise unknown_name("GaussianMixture: covariance_type", covariance_type, COVARIANCE_TYPES)
        self.covariance_type, self.covariance_floor = covariance_type, covariance_floor
        k, d = num_components, num_features
        # Distinct means: equal components would stay equal under EM and EG alike.
        self.means = parameter(torch.randn(k, d, dtype=self.dtype))
        shape = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}[covariance_type]
        if covariance_type in ("full", "tied"):
            self.scale_tril = parameter(
                torch.eye(d, dtype=self.dtype).expand(shape).clone(), constraints.lower_cholesky
            )
        else:
            self.scale_tril = parameter(torch.ones(shape, dtype=self.dtype), constraints.positive)
        if covariance_type == "tied":
            self.per_component = ("weights", "means")

    @property
    def covariances(self) -> Tensor:
        """(K, D, D), whatever the covariance type."""
        factor = self._factors()
        return factor @ factor.mT

    @covariances.setter
    def covariances(self, value: Tensor) -> None:
        value = torch.as_tensor(value, dtype=self.dtype)
        if self.covariance_type == "tied":
            self.scale_tril = torch.linalg.cholesky(value[0] if value.dim() == 3 else value)
        elif self.covariance_type == "full":
            self.scale_tril = torch.linalg.cholesky(value)
        else:
            variances = value.diagonal(dim1=-2, dim2=-1)
            self.scale_tril = (variances if self.covariance_type == "diag" else variances.mean(-1)).sqrt()

    def _factors(self) -> Tensor:
        """Lower Cholesky factors of all components, (K, D, D)."""
        k, d, factor = self.num_components, self.num_features, self.scale_tril
        if self.covariance_type in ("full", "tied"):
            return factor.expand(k, d, d)
        return (factor if self.covariance_type == "diag" else factor.unsqueeze(-1).expand(k, d)).diag_embed()

    def components(self) -> dist.TorchDistribution:
        if self.covariance_type in ("full", "tied"):
            return dist.MultivariateNormal(self.means, scale_tril=self._factors())
        scale = self.scale_tril if self.covariance_type == "diag" else self.scale_tril.unsqueeze(-1)
        return dist.Normal(self.means, scale.expand_as(self.means)).to_event(1)

    def component_log_prob(self, x: Tensor) -> Tensor:
        return gaussian.log_densities(x, self.means, self.scale_tril, self.covariance_type)

    @torch.no_grad()
    def e_step(self, x: Tensor, hard: bool = False) -> Statistics:
        """``moments`` (K): count, mean and scatter of the data under each component's responsibility."""
        log_likelihood, objective, moments = gaussian.e_step(
            x, self.log_weights, self.means, self.scale_tril, self.covariance_type, hard=hard
        )
        return Statistics(x.shape[0], log_likelihood, objective, moments=moments)

    def _statistics(self, x: Tensor, weight: Tensor, log_likelihood: Tensor, objective: Tensor) -> Statistics:
        count = weight.sum(0)
        mean = (weight.T @ x) / count.clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(-1)
        delta = x.unsqueeze(0) - mean.unsqueeze(1)  # (K, N, D): only ever used for a start
        weighted = weight.T.unsqueeze(-1) * delta
        diagonal = self.covariance_type in ("diag", "spherical")
        scatter = (weighted * delta).sum(1) if diagonal else weighted.mT @ delta
        return Statistics(x.shape[0], log_likelihood, objective, moments=Moments(count, mean, scatter))

    def counts_of(self, statistics: Statistics) -> Tensor:
        return statistics["moments"].count

    def update_components(self, statistics: Statistics) -> list[str]:
        moments: Moments = statistics["moments"]
        alive = moments.count > 0
        count = moments.count.where(alive, torch.ones_like(moments.count))
        self.means = moments.mean.where(alive.unsqueeze(-1), self.means.detach())
        floor = self.covariance_floor * self._data_variance(moments)  # (D,)
        if self.covariance_type in ("full", "tied"):
            if self.covariance_type == "tied":
                target = moments.scatter.sum(0) / count.where(alive, torch.zeros_like(count)).sum()
            else:
                target = moments.scatter / count.reshape(-1, 1, 1)
            clipped, acted = clip_covariance(target, floor)
            factor = torch.linalg.cholesky(clipped)
        else:
            variance = moments.scatter / count.unsqueeze(-1)
            if self.covariance_type == "spherical":
                variance, floor = variance.mean(-1), floor.mean()
            acted = (variance < floor).reshape(self.num_components, -1).any(-1)
            factor = variance.clamp_min(floor).sqrt()
        if self.covariance_type != "tied":
            shape = (-1, *[1] * (factor.dim() - 1))
            factor = factor.where(alive.reshape(shape), self.scale_tril.detach())
            acted = acted & alive
        self.scale_tril = factor
        if not acted.any():
            return []
        which = (
            "the tied covariance"
            if self.covariance_type == "tied"
            else ("component " + ", ".join(str(k) for k in acted.nonzero().flatten().tolist()))
        )
        return [f"covariance floor acts on {which}"]

    @staticmethod
    def _data_variance(moments: Moments) -> Tensor:
        """The data's variance by feature, (D,), read off the statistics; never zero."""
        whole = moments.merged()
        scatter = whole.scatter[0] if whole.scatter.dim() == 2 else whole.scatter[0].diagonal()
        return varying(scatter / whole.count, whole.mean[0])

    def parameter_scales(self, x: Tensor) -> dict[str, Tensor]:
        scale = varying(x.var(0, correction=0), x.mean(0)).sqrt()
        scales = {"means_unconstrained": scale}
        if self.covariance_type in ("full", "tied"):
            # Row i of a Cholesky factor is in the units of feature i; its diagonal is stored as a logarithm.
            d = self.num_features
            rows = scale.unsqueeze(-1).expand(d, d)
            scales["scale_tril_unconstrained"] = rows.where(~torch.eye(d, dtype=torch.bool), torch.ones_like(rows))
        return scales

    def align_features(self) -> Tensor:
        """What to match components by, (K, D)."""
        return self.means.detach()


def clip_covariance(covariance: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance of highest Gaussian likelihood among those with Sigma - diag(floor) positive semi-definite.

    In units where the floor is the identity, the maximiser keeps the eigenvectors and lifts eigenvalues below 1 to 1.

    Args:
        covariance: (..., D, D), symmetric.
        floor: (D,), positive.

    Returns:
        The clipped covariance, and whether the floor acted, (...).
    """
    scale = floor.sqrt()
    units = scale.unsqueeze(-1) * scale
    values, vectors = torch.linalg.eigh(covariance / units)
    acted = values[..., 0] < 1
    if not acted.any():
        return covariance, acted
    lifted = (vectors * values.clamp_min(1.0).unsqueeze(-2)) @ vectors.mT * units
    return torch.where(acted[..., None, None], (lifted + lifted.mT) / 2, covariance), acted


def tiny() -> tuple[GaussianMixture, Tensor]:
    """The smallest honest instance, and data from it."""
    model = GaussianMixture(num_components=2, num_features=2)
    model.weights = torch.tensor([0.4, 0.6])
    model.means = torch.tensor([[-1.0, 0.5], [1.5, -0.5]])
    generator = torch.Generator().manual_seed(0)
    z = torch.bernoulli(torch.full((12,), 0.6, dtype=torch.float64), generator=generator).long()
    return model, model.means.detach()[z] + torch.randn(12, 2, dtype=torch.float64, generator=generator)
