"""Factor analysis.

    z ~ N(0, I_q)
    x | z ~ N(mean + loadings z, diag(noise_variance))

Rubin & Thayer (1982), "EM algorithms for ML factor analysis", Psychometrika 47; Bishop (2006), Pattern Recognition and
Machine Learning, section 12.2.4. The M step here is that of Zhao, Yu & Jiang (2008), "ML estimation for factor
analysis: EM or non-EM?", Statistics and Computing 18: two conditional maximisations of the likelihood itself (an
ECME algorithm in the sense of Liu & Rubin 1994), monotone like EM's and far faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import constraints

from zoo.bayes import priors
from zoo.core.contract import Axes, parameter
from zoo.core.copies import Copies
from zoo.core.offers import follows
from zoo.core.pieces import added
from zoo.core.statistics import Moments, Statistics, varying, weighted, weighted_mean, weighted_sum, wide
from zoo.models.shared.axes import principal_axes
from zoo.models.shared.factor_copies import LOG_2PI, Array, FactorCopies, FactorState
from zoo.models.shared.linear_gaussian import LinearGaussian

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
    copies_of_one = True
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
        device = self.loadings.device
        read = (wide(values.detach()).cpu().numpy() for values in (self.loadings, self.mean, self.noise_variance))
        present = FactorState(*(values[np.newaxis] for values in read))
        m: Moments = statistics["moments"]
        new, acting, _ = self.maximised(Ground.of(self, m.mean[0], m.scatter[0] / m.count[0]), present)
        self.mean = torch.as_tensor(new.mean[0], device=device)
        if not self.stays("noise_variance"):
            self.noise_variance = torch.as_tensor(new.noise_variance[0], device=device)
        if not self.stays("loadings"):
            self.loadings = torch.as_tensor(new.loadings[0], device=device)
        return self.noise_notes(torch.from_numpy(acting[0]))

    def least_noise(self, variance: Tensor, mean: Tensor) -> Tensor:
        return self.noise_floor * varying(variance, mean)

    def noise_notes(self, acts: Tensor) -> list[str]:
        acting = acts.nonzero().flatten().tolist()
        if not acting:
            return []
        return [
            f"noise floor acts on feature{'s' if len(acting) > 1 else ''} {', '.join(map(str, acting))} (Heywood case)"
        ]

    def maximised(self, ground: Ground, present: FactorState) -> tuple[FactorState, NDArray[np.bool_], Array | None]:
        """The M step on the data's ``ground`` from the S parameters that are ``present``; what is to stay stays.

        By numpy, whose calls take a fraction of torch's time: there are a dozen for each feature.

        Returns:
            The parameters, on which features of each the floor acts, (S, D), and the spectrum of
            :func:`best_loadings`, (S, D), where the loadings are those.
        """
        loadings, mean, noise = present.loadings, present.mean, present.noise_variance
        covariance = ground.covariance
        if self.stays("mean"):
            away = ground.mean - mean
            covariance = covariance + away[..., np.newaxis] * away[..., np.newaxis, :]
        else:
            mean = ground.mean[np.newaxis].repeat(len(mean), 0)
        acting = np.zeros(noise.shape, bool)
        if not self.stays("noise_variance"):
            # A start below the floor is let be: lifting it would lower the likelihood.
            floor = np.minimum(ground.floor, noise)
            noise = best_noise(covariance, loadings, noise, floor)
            acting = noise <= floor
        spectrum = None
        if not self.stays("loadings"):
            loadings, spectrum = best_loadings(covariance, noise, self.num_factors)
        return FactorState(loadings, mean, noise), acting, spectrum

    @follows(
        "model", "e_step", "_statistics", "m_step", "maximised", "least_noise", "log_marginal", "_factors", "noise"
    )
    def copies(self, x: Tensor, models: Sequence[FactorAnalysis]) -> Copies | None:
        """The E and M steps of several copies, of which each is a few small matrices; None but in float64."""
        return AnalysisCopies(models, x) if FactorCopies.serves(self, x) else None

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


@dataclass(frozen=True)
class Ground:
    """What the M step takes from the data. covariance: dividing by N, (D, D). mean, floor (of the noise): (D,)."""

    covariance: Array
    mean: Array
    floor: Array

    @classmethod
    def of(cls, model: FactorAnalysis, mean: Tensor, covariance: Tensor) -> Ground:
        floor = model.least_noise(covariance.diagonal(), mean)
        return cls(*(values.cpu().numpy() for values in (covariance, mean, floor)))


class AnalysisCopies(FactorCopies):
    """Copies of a :class:`FactorAnalysis`."""

    def __init__(self, models: Sequence[FactorAnalysis], x: Tensor) -> None:
        super().__init__(models, x)
        self.ground = Ground.of(models[0], self.mean, self.scatter / self.count)

    def m_step(self, statistics: Statistics) -> Sequence[str]:
        new, acting, spectrum = self.first.maximised(self.ground, self.present)
        if spectrum is not None and spectrum.max() < PRECISE:
            reached = best_log_likelihood(spectrum, new.noise_variance, self.count, self.first.num_factors)
            new = new._replace(log_likelihood=reached)
        self.present = new
        return ["noise floor acts"] if acting.any() else []


def best_loadings(covariance: Array, noise: Array, num_factors: int) -> tuple[Array, Array]:
    """The loadings of highest likelihood at given noise variances (Lawley 1940; Zhao, Yu & Jiang 2008, section 3).

    With eigenvalues l_j and unit vectors u_j of noise^-1/2 covariance noise^-1/2, the j-th column is
    noise^1/2 u_j (l_j - 1)^1/2 for the q largest eigenvalues, zero where l_j < 1.

    Args:
        covariance: of the data, dividing by N, (..., D, D).
        noise: (..., D), positive.

    Returns:
        The loadings, (..., D, num_factors), and all l_j, ascending, (..., D).
    """
    scale = np.sqrt(noise)[..., np.newaxis]
    values, vectors = torch.linalg.eigh(torch.from_numpy(covariance / (scale * scale.swapaxes(-1, -2))))
    spectrum, largest = values.numpy(), slice(None, -num_factors - 1, -1)
    size = np.sqrt(np.maximum(spectrum[..., largest] - 1, 0))
    return scale * vectors.numpy()[..., largest] * size[..., np.newaxis, :], spectrum


#: Eigenvalues up to here give ln p(x) within a hundredth of the fall that EM takes for rounding.
PRECISE = 1000.0


def best_log_likelihood(spectrum: Array, noise: Array, count: int, num_factors: int) -> Array:
    """ln p(x) of ``count`` data in all, nats, (...), at the mean and the loadings of :func:`best_loadings`.

    -count / 2 {D ln 2π + Σ_d ln noise_d + Σ_j (ln l_j + 1 for the q largest l_j that are above 1, else l_j)}. A sum in
    which large l_j hide digits of small ones.
    """
    q = num_factors
    kept = np.maximum(spectrum[..., -q:], 1)
    left = spectrum[..., :-q].sum(-1) + (spectrum[..., -q:] / kept + np.log(kept)).sum(-1) + np.log(noise).sum(-1)
    found: Array = -0.5 * count * (left + noise.shape[-1] * LOG_2PI)
    return found


def best_noise(covariance: Array, loadings: Array, noise: Array, floor: Array) -> Array:
    """Maximise the likelihood over one noise variance after the other, each at least its floor.

    ln p(x) = ln p(x_others) + ln N(x_d | c^T x_others, noise_d + a^T loadings_d) with a and c free of noise_d, so the
    best noise_d is the mean square of x_d - c^T x_others less a^T loadings_d; below the best value the likelihood
    rises with noise_d and above it falls, so the floor, where it is higher, is the exact constrained maximum. Equal
    to the step of Zhao, Yu & Jiang (2008), section 3, and without its division by noise_d^2, which loses all digits
    in a Heywood case.

    Args:
        covariance: of the data about their mean, dividing by N, (D, D) or (S, D, D).
        loadings: of S copies, (S, D, q). noise, floor: (S, D).

    Returns:
        The new noise variances, (S, D).
    """
    if len(loadings) <= FEW_COPIES:
        of_each = covariance if covariance.ndim == 3 else [covariance] * len(loadings)
        return np.array([_best_noise(*each) for each in zip(of_each, loadings, noise, floor, strict=True)])
    new = noise.copy()
    weighted = loadings / new[..., np.newaxis]
    identity = np.eye(loadings.shape[-1], dtype=loadings.dtype)
    for d in range(loadings.shape[-2]):
        own = loadings[..., d, :, np.newaxis]
        weighted[..., d, :] = 0  # leaves feature d out
        gain = np.linalg.solve(identity + weighted.swapaxes(-1, -2) @ loadings, own)  # a, (..., q, 1)
        contrast = -(weighted @ gain)
        contrast[..., d, 0] = 1  # x_d - c^T x_others = contrast^T x
        left = contrast.swapaxes(-1, -2) @ (covariance @ contrast) - own.swapaxes(-1, -2) @ gain
        new[..., d] = np.maximum(left[..., 0, 0], floor[..., d])
        weighted[..., d, :] = own[..., 0] / new[..., d, np.newaxis]
    return new


#: Copies that are sooner taken one by one than at once.
FEW_COPIES = 4


def _best_noise(covariance: Array, loadings: Array, noise: Array, floor: Array) -> list[float]:
    """The same of one copy, by as few calls as there can be: each takes longer than its arithmetic."""
    if loadings.shape[1] <= 2:
        return _best_noise_of_two(covariance, loadings, noise, floor)
    weighted = loadings / noise[:, np.newaxis]
    turned, identity, new = weighted.T, np.eye(loadings.shape[1]), list[float]()
    for d, least in enumerate(floor.tolist()):
        weighted[d] = 0
        gain = np.linalg.solve(turned.dot(loadings) + identity, loadings[d])
        contrast = weighted.dot(gain)
        contrast[d] = -1
        new.append(max(float(contrast.dot(covariance.dot(contrast)) - loadings[d].dot(gain)), least))
        weighted[d] = loadings[d] / new[d]
    return new


def _best_noise_of_two(covariance: Array, loadings: Array, noise: Array, floor: Array) -> list[float]:
    """The same for at most two factors, whose equations are written out: a second one that is not there has loadings of
    zero."""
    weighted = np.zeros((len(loadings), 2))
    weighted[:, : loadings.shape[1]] = loadings
    pairs = weighted.tolist()
    weighted /= noise[:, np.newaxis]
    after = list[tuple[float, float, float]]()  # what the features after each one add to the system, from the last on
    aa = ab = bb = 0.0
    for (first, second), present in zip(reversed(pairs), reversed(noise.tolist()), strict=True):
        after.append((aa, ab, bb))
        aa, ab, bb = aa + first * first / present, ab + first * second / present, bb + second * second / present
    gain, new, combined, spread = np.empty(2), list[float](), weighted.dot, covariance.dot
    a, b, c = 1.0, 0.0, 1.0  # the system of those before, with their new noise: [[a, b], [b, c]]
    features = zip(weighted, pairs, reversed(after), floor.tolist(), strict=True)
    for d, (row, (first, second), (aa, ab, bb), least) in enumerate(features):
        ab += b
        share = ab / (a + aa)
        gain[1] = y = (second - share * first) / (c + bb - share * ab)
        gain[0] = x = (first - ab * y) / (a + aa)
        contrast = combined(gain)
        contrast[d] = -1  # whatever feature d's own row has given
        value = float(contrast.dot(spread(contrast))) - first * x - second * y
        if value < least:
            value = least
        new.append(value)
        row[0], row[1] = u, v = first / value, second / value
        a, b, c = a + u * first, b + u * second, c + v * second
    return new


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
