"""Factor analysis.

    z ~ N(0, I_q)
    x | z ~ N(mean + loadings z, diag(noise_variance))

Rubin & Thayer (1982), "EM algorithms for ML factor analysis", Psychometrika 47; Bishop (2006), Pattern Recognition and
Machine Learning, section 12.2.4. The M step here is that of Zhao, Yu & Jiang (2008), "ML estimation for factor
analysis: EM or non-EM?", Statistics and Computing 18: two conditional maximisations of the likelihood itself (an
ECME algorithm in the sense of Liu & Rubin 1994), monotone like EM's and far faster.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.bayes import priors
from zoo.core.contract import Axes, parameter
from zoo.core.pieces import added
from zoo.core.statistics import Moments, Statistics, varying, weighted, weighted_mean, weighted_sum, wide
from zoo.models.shared.linear_gaussian import LinearGaussian, principal_axes

__all__ = ["FactorAnalysis"]


class FactorAnalysis(LinearGaussian):
    """Factor analysis with q factors behind D features, each feature with a noise of its own.

    The likelihood does not change when the factors are rotated; EM returns the rotation in which
    loadings^T diag(noise_variance)^-1 loadings is diagonal.

    Args:
        num_factors: q, from 1 to D.
        num_features: D, at least 1.
        noise_floor: smallest noise variance of a feature, as a fraction of its variance in the data. In a Heywood
            case the maximum lies at a noise variance of zero; EM then ends on the floor and says so. A feature whose
            noise is a millionth of its variance correlates 0.9999995 with its factors: no data tell that from one.

    Shapes:
        x: (N, D), finite.
        loadings: (D, q). mean: (D,). noise_variance: (D,), positive.
        log_marginal(x): (N,), nats. posterior(x): MultivariateNormal, batch (N,), event (q,).
        e_step(x): ``moments``, the data's own, K = 1, scatter (1, D, D): the only D x D array. An iteration of EM
            costs O(N D^2 + D^3); for D in the thousands take a gradient estimator, O(N D q) a step.

    Raises:
        ZooError: more factors than features; x of another shape, or not finite.

    Example:
        >>> model, x = tiny()
        >>> model.posterior(x).mean.shape
        torch.Size([12, 1])
    """

    axes: ClassVar[Axes] = {"noise_variance": ("feature",)}
    keeps: tuple[str, ...] = ("mean", "noise_variance", "loadings")
    inits = ("pca", "random", "current")
    reference = "Rubin & Thayer (1982), EM algorithms for ML factor analysis"

    def __init__(self, num_factors: int, num_features: int, noise_floor: float = 1e-6) -> None:
        super().__init__(num_factors, num_features, noise_floor)
        self.noise_variance = parameter(torch.ones(num_features, dtype=self.dtype), constraints.positive)

    @torch.no_grad()
    def e_step(self, x: Tensor, weights: Tensor | None = None) -> Statistics:
        """``moments`` of the data: E[z | x] is linear in x, so every expected statistic follows from them.

        Args:
            weights: how often each row counts, (N,).
        """
        return added(self._statistics, (x, weights), self.datum_size(x))

    def _statistics(self, x: Tensor, weights: Tensor | None) -> Statistics:
        rows = wide(x)
        mean = weighted_mean(rows, weights)
        centred = rows - mean
        count = float(weighted_sum(torch.ones_like(rows[:, 0]), weights))
        scatter = (weighted(centred, weights).mT @ centred).unsqueeze(0)
        moments = Moments(rows.new_tensor([count]), mean.unsqueeze(0), scatter)
        return Statistics(count, weighted_sum(wide(self.log_marginal(x)), weights), moments=moments)

    @torch.no_grad()
    def m_step(self, statistics: Statistics) -> list[str]:
        """Mean, then each noise variance, then the loadings: each the maximum of ln p(x) given the others."""
        moments: Moments = statistics["moments"]
        mean, covariance = moments.mean[0], moments.scatter[0] / moments.count[0]
        floor = self.least_noise(covariance.diagonal(), mean)
        if self.stays("mean"):
            mean = wide(self.mean.detach())
            covariance = moments.about(mean).scatter[0] / moments.count[0]
        # A start below the floor is let be: lifting it would lower the likelihood.
        present = wide(self.noise_variance.detach())
        floor = torch.minimum(floor, present)
        noise = present
        self.mean = mean
        if not self.stays("noise_variance"):
            noise = self.noise_variance = best_noise(covariance, wide(self.loadings.detach()), present, floor)
        if not self.stays("loadings"):
            self.loadings = best_loadings(covariance, noise, self.num_factors)
        return [] if self.stays("noise_variance") else self.noise_notes(noise <= floor)

    def least_noise(self, variance: Tensor, mean: Tensor) -> Tensor:
        return self.noise_floor * varying(variance, mean)

    def noise_notes(self, acts: Tensor) -> list[str]:
        acting = acts.nonzero().flatten().tolist()
        if not acting:
            return []
        return [
            f"noise floor acts on feature{'s' if len(acting) > 1 else ''} {', '.join(map(str, acting))} (Heywood case)"
        ]

    def random_start(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Random loadings, in the features' own units."""
        scale = (variance / (2 * self.num_factors)).sqrt()
        return torch.randn_like(self.loadings) * scale.unsqueeze(-1), variance / 2

    def principal_start(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilistic PCA of the standardised data: close, and never the maximum unless the noises are equal."""
        scale = variance.sqrt()
        values, vectors, discarded = principal_axes((x - x.mean(0)) / scale, self.num_factors)
        noise = discarded.clamp_min(0.05)  # off the floor, whatever the data
        # A column of zeros would be a saddle for gradients.
        loadings = vectors * (values - noise).clamp_min(0.01).sqrt() * scale.unsqueeze(-1)
        return loadings, noise * variance

    def prior(self, x: Tensor) -> priors.Prior:
        """As :func:`zoo.bayes.priors.factors`: no rotation of the factors changes it."""
        return priors.factors(x, self.num_factors)

    def numpyro_model(self, x: Any) -> None:
        """The NumPyro program of ``prior`` and likelihood; the factors are integrated out."""
        from zoo.bayes.numpyro.factor_analysis import factor_analysis

        factor_analysis(self, x)


def best_loadings(covariance: Tensor, noise: Tensor, num_factors: int) -> Tensor:
    """The loadings of highest likelihood at given noise variances (Lawley 1940; Zhao, Yu & Jiang 2008, section 3).

    With eigenvalues l_j and unit vectors u_j of noise^-1/2 covariance noise^-1/2, the j-th column is
    noise^1/2 u_j (l_j - 1)^1/2 for the q largest eigenvalues, zero where l_j < 1.

    Args:
        covariance: of the data, dividing by N, (D, D).
        noise: (D,), positive.

    Returns:
        (D, num_factors).
    """
    scale = noise.sqrt()
    values, vectors = torch.linalg.eigh(covariance / (scale.unsqueeze(-1) * scale))
    values, vectors = values[-num_factors:].flip(0), vectors[:, -num_factors:].flip(-1)
    return scale.unsqueeze(-1) * vectors * (values - 1).clamp_min(0).sqrt()


def best_noise(covariance: Tensor, loadings: Tensor, noise: Tensor, floor: Tensor) -> Tensor:
    """Maximise the likelihood over one noise variance after the other, each at least its floor.

    ln p(x) = ln p(x_others) + ln N(x_d | c^T x_others, noise_d + a^T loadings_d) with a and c free of noise_d, so the
    best noise_d is the mean square of x_d - c^T x_others less a^T loadings_d; below the best value the likelihood
    rises with noise_d and above it falls, so the floor, where it is higher, is the exact constrained maximum. Equal
    to the step of Zhao, Yu & Jiang (2008), section 3, and without its division by noise_d^2, which loses all digits
    in a Heywood case.

    Args:
        covariance: of the data about their mean, dividing by N, (D, D).
        loadings: (D, q). noise, floor: (D,).

    Returns:
        The new noise variances, (D,).
    """
    # By numpy, whose calls take a fraction of torch's time: there are a dozen for each feature.
    (sigma, rows, least), new = (t.detach().cpu().numpy() for t in (covariance, loadings, floor)), noise.cpu().numpy()
    new = new.copy()
    weighted = rows / new[:, np.newaxis]
    identity = np.eye(rows.shape[1], dtype=rows.dtype)
    for d, own in enumerate(rows):
        weighted[d] = 0  # leaves feature d out
        gain = np.linalg.solve(identity + weighted.T @ rows, own)  # a, (q,)
        contrast = -(weighted @ gain)
        contrast[d] = 1  # x_d - c^T x_others = contrast^T x
        new[d] = max(contrast @ (sigma @ contrast) - gain @ own, least[d])
        weighted[d] = own / new[d]
    return torch.as_tensor(new, device=noise.device)


def tiny() -> tuple[FactorAnalysis, Tensor]:
    """The smallest honest instance, and data from it."""
    model = FactorAnalysis(num_factors=1, num_features=3)
    model.loadings = torch.tensor([[1.0], [-0.5], [2.0]])
    model.mean = torch.tensor([1.0, 0.0, -1.0])
    model.noise_variance = torch.tensor([0.5, 0.2, 1.0])
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(12, 1, dtype=torch.float64, generator=generator)
    noise = torch.randn(12, 3, dtype=torch.float64, generator=generator) * model.noise_variance.detach().sqrt()
    return model, model.mean.detach() + z @ model.loadings.detach().mT + noise
