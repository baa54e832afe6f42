"""Gaussian mixture model.

    z ~ Categorical(weights)
    x | z ~ MultivariateNormal(means[z], covariances[z])

Covariances: "full" (one each), "tied" (one for all), "diag", "spherical". McLachlan & Peel (2000), Finite Mixture
Models, chapter 3; Bishop (2006), Pattern Recognition and Machine Learning, section 9.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.bayes import priors
from zoo.components import GaussianComponents
from zoo.core.copies import Copies
from zoo.core.isolation import threads
from zoo.core.memory import rows_at_once
from zoo.core.offers import follows
from zoo.core.rows import Known
from zoo.core.statistics import Statistics
from zoo.densities import gaussian
from zoo.models.shared.gaussian_copies import FreeGaussianCopies, GaussianCopies
from zoo.models.shared.mixture import Mixture

__all__ = ["GaussianMixture"]


class GaussianMixture(GaussianComponents, Mixture):
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

    def __init__(
        self,
        num_components: int,
        num_features: int,
        covariance_type: str = "full",
        covariance_floor: float = 1e-6,
        hidden_dims: Sequence[int] = (32,),
    ) -> None:
        Mixture.__init__(self, num_components, num_features, hidden_dims)
        self.add_components(num_components, num_features, covariance_type, covariance_floor)

    @torch.no_grad()
    def e_step(
        self, x: Tensor, hard: bool = False, weights: Tensor | None = None, known: Known | None = None
    ) -> Statistics:
        """``counts`` (K,) and ``moments`` (K) of the data under each component's responsibility, in one pass."""
        with threads(0):  # a few small matrices
            parameters = self.log_mixing, self.means, self.scale_tril, self.covariance_type
        log_likelihood, objective, moments = gaussian.e_step(
            x, *parameters, hard=hard, weights=weights, labels=(known or {}).get("z")
        )
        count = x.shape[0] if weights is None else float(weights.sum())
        return Statistics(count, log_likelihood, objective, counts=moments.count, moments=moments)

    @follows("model", "e_step", "m_step")
    def copies(self, x: Tensor, models: Sequence[Mixture]) -> Copies | None:
        """The E and M steps of several copies on few rows; None where they cannot be taken at once."""
        few = gaussian.by_differences(x, self.means, self.covariance_type)
        if not few or not GaussianCopies.serves(self):
            return None
        return FreeGaussianCopies(models, x) if FreeGaussianCopies.serves(self) else GaussianCopies(models, x)

    def joint_pieces(self, x: Tensor) -> Iterator[tuple[Tensor, float]]:
        """As for every mixture, by the arithmetic of the E step."""
        parameters = self.log_mixing, self.means, self.scale_tril, self.covariance_type
        for piece in x.split(rows_at_once(self.datum_size(x))):
            yield from gaussian.log_joints(piece, *parameters)

    def prior(self, x: Tensor) -> priors.Prior:
        """Weights: Dirichlet(2), off the edge where a component dies; the rest: :func:`zoo.bayes.priors.gaussians`."""
        components = priors.gaussians(x, self.num_components, self.covariance_type)
        return {**priors.dirichlet("weights", self.weights, 2.0), **components}

    def numpyro_model(self, x: Any) -> None:
        """The NumPyro program of ``prior`` and likelihood; z is summed out."""
        from zoo.bayes.numpyro.mixture import gaussian_mixture

        gaussian_mixture(self, x)


def tiny() -> tuple[GaussianMixture, Tensor]:
    """The smallest honest instance, and data from it."""
    model = GaussianMixture(num_components=2, num_features=2)
    model.weights = torch.tensor([0.4, 0.6])
    model.means = torch.tensor([[-1.0, 0.5], [1.5, -0.5]])
    generator = torch.Generator().manual_seed(0)
    z = torch.bernoulli(torch.full((12,), 0.6, dtype=torch.float64), generator=generator).long()
    return model, model.means.detach()[z] + torch.randn(12, 2, dtype=torch.float64, generator=generator)
