"""What factor analysis and probabilistic PCA share: Gaussian factors seen through a linear map, with noise.

    z ~ N(0, I)
    x | z ~ N(mean + loadings z, diag(noise))

Everything exact costs O(N D q): the D x D covariance loadings loadings^T + diag(noise) is never formed. With
M = I + loadings^T diag(noise)^-1 loadings, q x q (Woodbury; Bishop 2006, Pattern Recognition and Machine Learning,
equations 12.66 to 12.68):

    p(z | x) = N(M^-1 loadings^T diag(noise)^-1 (x - mean), M^-1)
    ln det covariance = ln det M + sum_d ln noise_d

A subclass owns ``noise_variance`` and its statistics and M step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from guides import AmortizedGaussian
from zoo.core.assigning import put
from zoo.core.checks import matrix, positive
from zoo.core.contract import Axes, LatentVariableModel, parameter
from zoo.core.data import Data, plain, weights_of
from zoo.core.rows import Known
from zoo.core.statistics import varying, weighted_mean, weighted_variance, wide
from zoo.errors import ZooError

__all__ = ["LinearGaussian"]


class LinearGaussian(LatentVariableModel):
    """Base class of models with q Gaussian factors behind D features.

    Args of every subclass:
        num_factors: q, from 1 to D. num_features: D.
        noise_floor: smallest noise variance, as a fraction of the data's variance.

    Shapes:
        x: (N, D), finite.
        loadings: (D, q). mean: (D,). noise_variance: (D,) or (), positive.
        log_marginal(x): (N,), nats. posterior(x): MultivariateNormal, batch (N,), event (q,).

    Raises:
        ZooError: more factors than features, a floor that is not positive; x of another shape, or not finite.
    """

    default_data = "wine"
    axes: ClassVar[Axes] = {"loadings": ("feature", "factor"), "mean": ("feature",), "noise_variance": ()}
    keeps: tuple[str, ...] = ("mean",)
    loadings: Tensor
    mean: Tensor
    noise_variance: Tensor

    def __init__(self, num_factors: int, num_features: int, noise_floor: float) -> None:
        super().__init__()
        who = type(self).__name__
        self.num_factors = positive(num_factors, "num_factors", who)
        self.num_features = positive(num_features, "num_features", who)
        if num_factors > num_features:
            raise ZooError(
                f"{who}: num_factors expected at most num_features = {num_features}, got {num_factors}. "
                "Ask for fewer factors."
            )
        if not 0 < noise_floor < 1:
            raise ZooError(f"{who}: noise_floor expected a fraction between 0 and 1, got {noise_floor}. Try 1e-6.")
        self.noise_floor = noise_floor
        # Not zero: equal (or no) loadings are a saddle that gradients never leave.
        self.loadings = parameter(torch.randn(num_features, num_factors, dtype=self.dtype))
        self.mean = parameter(torch.zeros(num_features, dtype=self.dtype))
        self.encoder = AmortizedGaussian(num_features, num_factors).to(self.dtype)

    def noise(self) -> Tensor:
        """The noise variance of each feature, (D,)."""
        return self.noise_variance.expand(self.num_features)

    def model(self, x: Tensor) -> None:
        scale = self.noise().sqrt()
        prior = dist.MultivariateNormal(self.mean.new_zeros(self.num_factors), scale_tril=_eye(self.loadings))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(self.mean + z @ self.loadings.mT, scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", self.encoder(x))

    def log_marginal(self, x: Tensor, known: Known | None = None) -> Tensor:
        """ln p(x_n), (N,), nats, or ln p(x_n, z_n) where ``known["z"]`` (N, q) has a row, not NaN; exact,
        differentiable."""
        if known is not None:
            z, unknown = known["z"].nan_to_num(0.0), known["z"].isnan().any(-1)
            scale = self.noise().sqrt()
            away = torch.cat([(x - self.mean - z @ self.loadings.mT) / scale, z], -1)
            log_joint = -0.5 * (away.square() + math.log(2 * math.pi)).sum(-1) - scale.log().sum()
            return torch.where(unknown, self.log_marginal(x), log_joint)
        root, factor_mean = self._factors(x)
        noise = self.noise()
        # (x - mean)^T covariance^-1 (x - mean), written as a sum of squares: the textbook difference of two
        # quadratic forms loses as many digits as the noise is small.
        residual = x - self.mean - factor_mean @ self.loadings.mT
        distance = (residual.square() / noise).sum(-1) + factor_mean.square().sum(-1)
        log_det = noise.log().sum() + 2 * root.diagonal().abs().log().sum()
        return -0.5 * (distance + log_det + self.num_features * math.log(2 * math.pi))

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """p(z_n | x_n), exact; one covariance for all data."""
        root, factor_mean = self._factors(x)
        return dist.MultivariateNormal(factor_mean, precision_matrix=root.mT @ root)

    def _factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """An upper triangular R (q, q) with R^T R = M, the posterior's precision, and the posterior's means (N, q).

        By the QR decomposition of noise^-1/2 loadings on top of I: forming M would square its condition number, and
        noise on its floor then costs the likelihood more digits than EM's check of monotonicity can spare.
        """
        scale = self.noise().sqrt()
        stacked = torch.cat([self.loadings / scale.unsqueeze(-1), _eye(self.loadings)])  # (D + q, q)
        basis, root = torch.linalg.qr(stacked)
        projected = (x - self.mean) / scale @ basis[: self.num_features]  # (N, q)
        return root, torch.linalg.solve_triangular(root, projected.mT, upper=True).mT

    def datum_size(self, x: Data) -> int:
        return 2 * (self.num_features + self.num_factors)

    def validate(self, x: Data) -> Tensor:
        return matrix(x, self.num_features, type(self).__name__)

    def initialize(self, x: Tensor, init: str, restart: int = 0) -> None:
        """Set a start from the data; the encoder takes the data's scale.

        "random" draws loadings or their axes and gives half of the variance to the noise. "pca" starts from principal
        axes; its later restarts are random, since starts around the axes end in the optimum of the axes (wine,
        5 factors: -2630.66 from them, -2621.64 from random starts).
        """
        self.encoder.set_from(x)
        if init == "current":
            return
        mean = x.mean(0)
        variance = varying(x.var(0, correction=0), mean)
        put(self, "mean", mean)
        if init == "pca" and restart == 0:
            loadings, noise = self.principal_start(x, variance)
        else:
            loadings, noise = self.random_start(x, variance)
        put(self, "loadings", loadings)
        put(self, "noise_variance", noise)

    def random_start(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Loadings and noise variance of the "random" start.

        Args:
            variance: of each feature, (D,), positive.
        """
        raise NotImplementedError

    def principal_start(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Loadings and noise variance of the "pca" start.

        Args:
            variance: of each feature, (D,), positive.
        """
        raise NotImplementedError

    def least_noise(self, variance: Tensor, mean: Tensor) -> Tensor:
        """The floor of the noise variance, of its shape, from variance (D,) (here averaged) and mean (D,) of data."""
        return self.noise_floor * varying(variance.mean().reshape(1), mean.abs().amax().reshape(1))[0]

    @torch.no_grad()
    def lift(self, x: Data, held: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Lift noise variances that lie below their floor, as the M step does; see the same of Gaussian components."""
        name, noise = "noise_variance_unconstrained", wide(self.noise_variance)
        rows, weights = wide(plain(x)), weights_of(x)
        floor = self.least_noise(weighted_variance(rows, weights), weighted_mean(rows, weights))
        before = held.get(name, torch.zeros_like(noise, dtype=torch.bool))
        which = (noise < floor) & ~before
        if self.stays("noise_variance") or not which.any():
            return {}, []
        self.noise_variance = torch.where(which, floor, noise)
        return {name: which}, self.noise_notes(which | before)

    def noise_notes(self, acts: Tensor) -> list[str]:
        """Notes on the noise variances on which the floor acts, ``acts`` of their shape, (D,) or ()."""
        if self.num_factors == self.num_features:
            return ["num_factors = num_features leaves the noise undetermined: it is at its floor"]
        return ["noise floor acts: the data lie in num_factors dimensions"] if acts.any() else []

    def parameter_scales(self, x: Data) -> dict[str, Tensor]:
        scale = varying(weighted_variance(plain(x), weights_of(x)), weighted_mean(plain(x), weights_of(x))).sqrt()
        return {"mean_unconstrained": scale, "loadings_unconstrained": scale.unsqueeze(-1).expand_as(self.loadings)}

    def num_free_parameters(self, names: Iterable[str]) -> int:
        """As counted by parameter, less the q (q - 1) / 2 rotations of the factors that change nothing."""
        names = list(names)
        rotations = self.num_factors * (self.num_factors - 1) // 2
        return super().num_free_parameters(names) - (rotations if "loadings_unconstrained" in names else 0)


def _eye(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
