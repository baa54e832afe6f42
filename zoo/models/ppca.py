"""Probabilistic principal component analysis.

    z ~ N(0, I_q)
    x | z ~ N(mean + loadings z, noise_variance I)

Tipping & Bishop (1999), "Probabilistic principal component analysis", Journal of the Royal Statistical Society B 61.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import constraints

from zoo.core.contract import parameter
from zoo.core.copies import Copies
from zoo.core.offers import follows
from zoo.core.pieces import added
from zoo.core.statistics import Statistics, weighted, weighted_mean, weighted_sum, wide
from zoo.models.shared.axes import Triangle
from zoo.models.shared.factor_copies import Array, FactorCopies, FactorState
from zoo.models.shared.linear_gaussian import LinearGaussian

__all__ = ["PPCA"]


@dataclass(frozen=True)
class ScoreMoments:
    """Moments of the data and of their scores on q axes, about their means; O(D q) numbers, however many the data.

    Merged like :class:`~zoo.core.statistics.Moments`.

    Shapes:
        count: (), number of data. mean: (D,), of x. score_mean: (q,).
        total: (), sum of |x - mean|^2. cross: (D, q), sum of (x - mean) (score - score_mean)^T.
        scatter: (q, q), sum of (score - score_mean) (score - score_mean)^T.
    """

    count: Tensor
    mean: Tensor
    score_mean: Tensor
    total: Tensor
    cross: Tensor
    scatter: Tensor

    def __add__(self, other: ScoreMoments) -> ScoreMoments:
        count = self.count + other.count
        share = other.count / count.where(count > 0, torch.ones_like(count))
        dx, dz = other.mean - self.mean, other.score_mean - self.score_mean
        weight = self.count * share
        return ScoreMoments(
            count,
            self.mean + share * dx,
            self.score_mean + share * dz,
            self.total + other.total + weight * dx.square().sum(),
            self.cross + other.cross + weight * torch.outer(dx, dz),
            self.scatter + other.scatter + weight * torch.outer(dz, dz),
        )

    def about(self, centre: Tensor) -> ScoreMoments:
        """The moments about another point (D,) than the mean, whose score is zero."""
        delta = self.mean - centre
        return ScoreMoments(
            self.count,
            centre,
            torch.zeros_like(self.score_mean),
            self.total + self.count * delta.square().sum(),
            self.cross + self.count * torch.outer(delta, self.score_mean),
            self.scatter + self.count * torch.outer(self.score_mean, self.score_mean),
        )

    def __mul__(self, factor: float) -> ScoreMoments:
        return ScoreMoments(
            self.count * factor,
            self.mean,
            self.score_mean,
            self.total * factor,
            self.cross * factor,
            self.scatter * factor,
        )


class PPCA(LinearGaussian):
    """Probabilistic PCA with q factors behind D features, one noise variance for all of them.

    The likelihood does not change when the factors are rotated. No D x D array is ever formed: data with many more
    features than rows are welcome.

    Args:
        num_factors: q, from 1 to D. With q = D the noise is not determined; it is set to its floor, and a note says so.
        num_features: D, at least 1.
        noise_floor: smallest noise variance, as a fraction of the data's mean variance. It acts where the data lie in
            q dimensions (N <= q + 1, say): the likelihood has no maximum there.

    Shapes:
        x: (N, D), finite.
        loadings: (D, q). mean: (D,). noise_variance: (), positive.
        log_marginal(x): (N,), nats. posterior(x): MultivariateNormal, batch (N,), event (q,).
        e_step(x): ``moments``, a :class:`ScoreMoments`.

    Raises:
        ZooError: more factors than features; x of another shape, or not finite.

    Example:
        >>> model, x = tiny()
        >>> model.closed_form(x)
        []
    """

    # Not "pca": that is the maximum itself, and would leave an estimator nothing to do.
    inits = ("random", "pca", "current")
    copies_of_one = True
    reference = "Tipping & Bishop (1999), Probabilistic principal component analysis"

    def __init__(self, num_factors: int, num_features: int, noise_floor: float = 1e-6) -> None:
        super().__init__(num_factors, num_features, noise_floor)
        self.noise_variance = parameter(torch.ones((), dtype=self.dtype), constraints.positive)

    @torch.no_grad()
    def closed_form(self, x: Tensor, weights: Tensor | None = None) -> list[str]:
        """Set the parameters to the maximum of the likelihood (Tipping & Bishop 1999, equations 7 and 8).

        With the eigenvalues l_1 >= ... >= l_D of the covariance (dividing by N) and their vectors u_j: noise variance
        the mean of the D - q smallest eigenvalues, loadings u_j (l_j - noise variance)^1/2. The total log-likelihood
        is then -(N/2) {D ln 2π + Σ_{j<=q} ln l_j + (D - q) ln noise_variance + D}. Factors are in order of variance.

        Args:
            weights: how often each row counts, (N,).

        Returns:
            Notes, as ``m_step``: whether the floor acts; then it is the constrained maximum.
        """
        return self.closed_form_of(self.closed_form_statistics(x, weights))

    def closed_form_statistics(self, x: Tensor, weights: Tensor | None = None) -> Triangle:
        """What the maximum depends on of the data; it adds.

        Args:
            weights: how often each row counts, (N,).
        """
        return Triangle.of(self.validate(x), weights)

    @torch.no_grad()
    def closed_form_of(self, statistics: Triangle) -> list[str]:
        """The :meth:`closed_form` of all data whose statistics were added up."""
        values, vectors, discarded = statistics.axes(self.num_factors)
        floor = self.least_noise(statistics.variance, statistics.mean)
        noise = torch.maximum(discarded, floor)
        self.mean, self.noise_variance = statistics.mean, noise
        self.loadings = vectors * (values - noise).clamp_min(0).sqrt()
        return self.noise_notes(noise <= floor)

    @torch.no_grad()
    def e_step(self, x: Tensor, weights: Tensor | None = None) -> Statistics:
        """``moments`` of the data and of their scores on the loadings' axes, of which E[z | x] is a linear map.

        Args:
            weights: how often each row counts, (N,).
        """
        return added(self._statistics, (x, weights), self.datum_size(x))

    def _statistics(self, x: Tensor, weights: Tensor | None) -> Statistics:
        rows = wide(x)
        mean = weighted_mean(rows, weights)
        centred = rows - mean
        scores = (rows - self.mean) @ axes_of(wide(self.loadings.detach()))  # (N, q)
        score_mean = weighted_mean(scores, weights)
        about = scores - score_mean
        count = float(weighted_sum(torch.ones_like(rows[:, 0]), weights))
        moments = ScoreMoments(
            rows.new_tensor(count),
            mean,
            score_mean,
            weighted(centred.square(), weights).sum(),
            centred.mT @ weighted(about, weights),
            about.mT @ weighted(about, weights),
        )
        return Statistics(count, weighted_sum(wide(self.log_marginal(x)), weights), moments=moments)

    @torch.no_grad()
    def m_step(self, statistics: Statistics) -> list[str]:
        """Two steps, neither of which lowers the likelihood (an ECME algorithm, Liu & Rubin 1994, Biometrika 81).

        First mean, noise variance and loadings that maximise the likelihood itself among loadings on the present
        axes: Tipping & Bishop's closed form in the q dimensions of the scores. From there the M step of EM (Tipping &
        Bishop 1999, appendix B), which turns the axes. Plain EM lets a factor of little variance die while the noise
        is still large, and then stops at the saddle without it.
        """
        m: ScoreMoments = statistics["moments"]
        floor = self.least_noise((m.total / m.count / self.num_features).reshape(1), m.mean)
        if self.stays("mean"):  # scores are taken about it
            m = m.about(wide(self.mean.detach()))
        noise = wide(self.noise_variance.detach())
        total, cross, scatter = ((v / m.count).cpu().numpy()[np.newaxis] for v in (m.total, m.cross, m.scatter))
        new = self.maximised(total, cross, scatter, noise.cpu().numpy()[np.newaxis], float(floor))
        device = self.loadings.device
        loadings, noise, acting = (torch.from_numpy(values)[0].to(device) for values in new)
        self.mean, self.loadings, self.noise_variance = m.mean, loadings, noise
        return self.noise_notes(acting)

    def maximised(
        self, total: Array, cross: Array, scatter: Array, noise: Array, floor: float
    ) -> tuple[Array, Array, NDArray[np.bool_]]:
        """The M step from several parameters at once, of which ``noise`` (S,) is one, by numpy.

        Args:
            total, cross, scatter: as in :class:`ScoreMoments` by their names, for each of S, dividing by N.
            floor: the smallest noise variance that is allowed.

        Returns:
            loadings (S, D, q), noise variances (S,), and whether the floor acts, (S,).
        """
        d, q = self.num_features, self.num_factors
        values, vectors = (part.numpy()[..., ::-1] for part in torch.linalg.eigh(torch.from_numpy(scatter)))
        values = np.maximum(values, 0)
        vectors = vectors * np.where(vectors.diagonal(0, -2, -1) < 0, -1.0, 1.0)[:, np.newaxis]
        # A start below the floor is let be: lifting it would lower the likelihood.
        least = np.minimum(floor, noise)
        # A direction in which the data vary less than the noise is no factor: k of the q are.
        left = total[:, np.newaxis] - np.concatenate([np.zeros((len(total), 1)), values.cumsum(-1)], -1)
        noises = np.maximum(left, 0) / np.maximum(np.arange(d, d - q - 1, -1), 1)
        factors = np.cumprod(values > noises[:, 1:], -1).sum(-1)
        noise = np.maximum(np.where(factors < d, noises[np.arange(len(total)), factors], least), least)
        # Those that are not keep a trace, too small for the likelihood to notice, so that their axes go on turning.
        over = noise[:, np.newaxis]
        variances = np.maximum(values - over, 1e-14 * over)
        # E and M step from there; in these coordinates p(z | x) has independent factors.
        gain = np.sqrt(variances) / (variances + over)  # E[z | x] = gain * score
        cross = cross @ vectors * gain[:, np.newaxis]  # (S, D, q), of x with E[z | x]
        latent = over / (variances + over) + gain**2 * values  # E[z^2], (S, q)
        loadings = cross / latent[:, np.newaxis]
        new = (total - (loadings * cross).sum((-2, -1))) / d
        return loadings, np.maximum(new, least), (new <= least) | (noise <= least)

    @follows("model", "e_step", "_statistics", "m_step", "maximised", "least_noise", "log_marginal", "_factors")
    def copies(self, x: Tensor, models: Sequence[PPCA]) -> Copies | None:
        """The E and M steps of several copies, of which each is a few small matrices; None but in float64."""
        return ScoreCopies(models, x) if FactorCopies.serves(self, x) else None

    def random_start(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Random axes, turned by the covariance until each holds more variance than those left over do on average.

        A factor that holds less adds nothing to the likelihood at first, and EM would stop before it does.
        """
        centred = x - x.mean(0)
        n, d, q = x.shape[0], self.num_features, self.num_factors
        axes, _ = torch.linalg.qr(torch.randn_like(self.loadings))
        for _ in range(100):
            held = torch.linalg.eigvalsh((centred @ axes).mT @ (centred @ axes) / n)
            if held[0] * (d - q) > centred.square().sum() / n - held.sum():
                break
            axes, _ = torch.linalg.qr(centred.mT @ (centred @ axes) / n)
        return axes * (variance.mean() / 2).sqrt(), variance.mean() / 2

    def principal_start(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The maximum itself."""
        self.closed_form(x)
        return self.loadings.detach(), self.noise_variance.detach()


class ScoreCopies(FactorCopies):
    """Copies of a :class:`PPCA`."""

    def __init__(self, models: Sequence[PPCA], x: Tensor) -> None:
        super().__init__(models, x)
        self.floor = float(models[0].least_noise(self.scatter.diagonal() / self.count, self.mean))

    def m_step(self, statistics: Statistics) -> Sequence[str]:
        rows = self.triangle
        mean = np.tile(self.mean.numpy(), (len(self.present.mean), 1))
        if self.first.stays("mean"):
            mean, rows = self.present.mean, self.rows()
        axes = axes_of(torch.from_numpy(self.present.loadings)).numpy()
        scores = rows @ axes
        moments = ((rows**2).sum((-2, -1)), rows.swapaxes(-1, -2) @ scores, scores.swapaxes(-1, -2) @ scores)
        total, cross, scatter = (values / self.count for values in moments)
        total = np.broadcast_to(total, len(mean))
        noise = self.present.noise_variance[:, 0]
        loadings, noise, acting = self.first.maximised(total, cross, scatter, noise, self.floor)
        self.present = FactorState(loadings, mean, np.tile(noise[:, np.newaxis], mean.shape[1]))
        return self.first.noise_notes(torch.from_numpy(acting))

    def of_one(self, statistics: Statistics, index: int) -> Statistics:
        state: FactorState = statistics["present"]
        mean, scatter = self.mean, self.scatter
        axes = axes_of(torch.from_numpy(state.loadings[index]))
        moments = ScoreMoments(
            mean.new_tensor(self.count),
            mean,
            (mean - torch.from_numpy(state.mean[index])) @ axes,
            scatter.trace(),
            scatter @ axes,
            axes.mT @ scatter @ axes,
        )
        return Statistics(self.count, statistics["log_likelihood"][index], moments=moments)


def axes_of(loadings: Tensor) -> Tensor:
    """Orthonormal axes that span loadings, (..., D, q)."""
    size = loadings.norm(dim=-2, keepdim=True).clamp_min(torch.finfo(loadings.dtype).tiny)
    axes, triangle = torch.linalg.qr(loadings / size)
    # Successive axes point alike, and scores on them average.
    return axes * torch.where(triangle.diagonal(0, -2, -1) < 0, -1.0, 1.0).unsqueeze(-2)


def tiny() -> tuple[PPCA, Tensor]:
    """The smallest honest instance, and data from it."""
    model = PPCA(num_factors=1, num_features=3)
    model.loadings = torch.tensor([[1.0], [-0.5], [2.0]])
    model.mean = torch.tensor([1.0, 0.0, -1.0])
    model.noise_variance = torch.tensor(0.5)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(12, 1, dtype=torch.float64, generator=generator)
    noise = torch.randn(12, 3, dtype=torch.float64, generator=generator) * model.noise_variance.detach().sqrt()
    return model, model.mean.detach() + z @ model.loadings.detach().mT + noise
