"""Gaussian components with full, tied, diagonal or spherical covariances."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.components.base import Components
from zoo.core.assigning import put
from zoo.core.checks import assigned
from zoo.core.contract import Axes, parameter
from zoo.core.data import Data, plain
from zoo.core.isolation import threads
from zoo.core.statistics import (
    Moments,
    Statistics,
    varying,
    weighted,
    weighted_mean,
    weighted_sum,
    weighted_variance,
    wide,
)
from zoo.densities import gaussian
from zoo.densities.covariance import cholesky, floored_factor
from zoo.errors import ZooError, unknown_name

__all__ = ["COVARIANCE_TYPES", "GaussianComponents"]

COVARIANCE_TYPES = gaussian.COVARIANCE_TYPES


class GaussianComponents(Components):
    """K Gaussians over D features.

    Shapes:
        means: (K, D). covariances: (K, D, D), also for the simpler types (tied: K times the same).
        scale_tril: (K, D, D) lower Cholesky factors; tied (D, D); diag (K, D) and spherical (K,) standard deviations.
    """

    reads_as: ClassVar[dict[str, str]] = {"covariances": "scale_tril"}
    axes: ClassVar[Axes] = {
        "means": ("component", "feature"),
        "covariances": ("component", "feature", "other feature"),
    }
    per_component: tuple[str, ...] = ("means", "scale_tril")
    independent = True
    keeps: tuple[str, ...] = ("means", "scale_tril")
    collapses = True
    means: Tensor
    scale_tril: Tensor
    #: The variance (D,) of the entries that are there, where some are missing: the statistics then hold what the
    #: parameters say of these, and a floor read off them would move with every M step.
    seen_variance: Tensor | None = None

    def add_components(self, k: int, d: int, covariance_type: str, covariance_floor: float) -> None:
        """Create the parameters; called by a model's constructor.

        Args:
            k, d: how many components, over how many features.
            covariance_type, covariance_floor: as of :class:`zoo.GaussianMixture`.

        Raises:
            ZooError: a type that is not known, a floor that is no fraction.
        """
        who = type(self).__name__
        if covariance_type not in COVARIANCE_TYPES:
            raise unknown_name(f"{who}: covariance_type", covariance_type, COVARIANCE_TYPES)
        if not 0 < covariance_floor < 1:
            raise ZooError(f"{who}: covariance_floor expected a fraction in (0, 1), got {covariance_floor}. Try 1e-6.")
        self.covariance_type, self.covariance_floor = covariance_type, covariance_floor
        # Distinct means: equal components would stay equal under EM and EG alike.
        self.means = parameter(torch.randn(k, d, dtype=self.dtype))
        shape = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}[covariance_type]
        if covariance_type in ("full", "tied"):
            unit = torch.eye(d, dtype=self.dtype).expand(shape).clone()
            self.scale_tril = parameter(unit, constraints.lower_cholesky)
        else:
            self.scale_tril = parameter(torch.ones(shape, dtype=self.dtype), constraints.positive)
        if covariance_type == "tied":
            self.per_component = tuple(name for name in self.per_component if name != "scale_tril")

    @property
    def covariances(self) -> Tensor:
        """(K, D, D), whatever the covariance type."""
        factor = self._factors()
        return factor @ factor.mT

    @covariances.setter
    def covariances(self, value: Tensor) -> None:
        who, shape = f"{type(self).__name__}.covariances", self.covariances.shape
        alone = self.covariance_type == "tied" and getattr(value, "ndim", 3) == 2
        value = assigned(value, self.means, who, shape[-2:] if alone else shape)
        if self.covariance_type in ("full", "tied"):
            self.scale_tril = cholesky(value[0] if self.covariance_type == "tied" and not alone else value, who)
            return
        variances = value.diagonal(dim1=-2, dim2=-1)
        variances = variances if self.covariance_type == "diag" else variances.mean(-1)
        self.scale_tril = self._checked("scale_tril", variances.sqrt(), "covariances")

    def _factors(self) -> Tensor:
        """Lower Cholesky factors of all components, (K, D, D)."""
        factor = self.scale_tril
        k, d = self.means.shape
        if self.covariance_type in ("full", "tied"):
            return factor.expand(k, d, d)
        return (factor if self.covariance_type == "diag" else factor.unsqueeze(-1).expand(k, d)).diag_embed()

    def components(self) -> dist.TorchDistribution:
        if self.covariance_type in ("full", "tied"):
            return dist.MultivariateNormal(self.means, scale_tril=self._factors())
        scale = self.scale_tril if self.covariance_type == "diag" else self.scale_tril.unsqueeze(-1)
        return dist.Normal(self.means, scale.expand_as(self.means)).to_event(1)

    def component_log_prob(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            return missing_log_prob(x, self.means, self._factors())
        return gaussian.log_densities(x, self.means, self.scale_tril, self.covariance_type)

    def overall_statistic(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean (D,) above covariance (D, D): a normal-inverse-Wishart prior's pseudo-rows have these."""
        rows = wide(x)
        mean, count = weighted_mean(rows, weights), len(rows) if weights is None else weights.sum()
        centred = rows - mean
        return torch.cat([mean.unsqueeze(0), weighted(centred, weights).mT @ centred / count]).to(x.dtype)

    def _pseudo_rows(self, strength: float, like: Moments) -> Moments:
        scatter = self.overall[1:].expand(len(like.count), -1, -1)
        scatter = scatter.diagonal(dim1=-2, dim2=-1) if like.scatter.dim() == 2 else scatter
        count = torch.full_like(like.count, strength)
        return Moments(count, self.overall[0].expand_as(like.mean), strength * scatter)

    def component_log_prior(self) -> Tensor:
        factor, overall = wide(self._factors()), wide(self.overall)
        shift = torch.linalg.solve_triangular(factor, (overall[0] - self.means).unsqueeze(-1), upper=False)
        white = torch.linalg.solve_triangular(factor, overall[1:].expand_as(factor), upper=False)
        trace = torch.linalg.solve_triangular(factor, white.mT, upper=False).diagonal(dim1=-2, dim2=-1).sum(-1)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (log_det + trace + shift.square().sum((-1, -2))).sum()

    def component_statistics(self, x: Tensor, weight: Tensor) -> dict[str, Any]:
        """``moments`` (K): count, mean and scatter of the rows under each component's weight."""
        diagonal = self.covariance_type in ("diag", "spherical")
        x, weight, means = wide(x), wide(weight), wide(self.means.detach())
        if x.isnan().any():
            return {"moments": missing_moments(x, weight, means, wide(self._factors()), diagonal)}
        return {"moments": gaussian.weighted_moments(x, weight, diagonal, means)}

    def diagonal(self) -> tuple[Tensor, Tensor] | None:
        if self.covariance_type not in ("diag", "spherical"):
            return None
        means, scale = self.means.detach(), self.scale_tril.detach()
        return means, scale if self.covariance_type == "diag" else scale.unsqueeze(-1).expand_as(means)

    @threads(0)  # a few small matrices
    def update_components(self, statistics: Statistics) -> list[str]:
        given: Moments = statistics["moments"]
        moments = Moments(wide(given.count), wide(given.mean), wide(given.scatter))
        strength = self.pseudo_counts()
        if strength:
            moments = moments + self._pseudo_rows(strength, moments)
        alive = moments.count > 0
        all_alive = bool(alive.all())
        count = moments.count if all_alive else moments.count.where(alive, torch.ones_like(moments.count))
        floor = self.floor_under(moments)
        if not self.stays("means"):
            mean = moments.mean
            put(self, "means", mean if all_alive else mean.where(alive.unsqueeze(-1), self.means.detach()))
        else:
            moments = moments.about(wide(self.means.detach()))
        if self.stays("scale_tril"):
            return []
        if self.covariance_type in ("full", "tied"):
            if self.covariance_type == "tied":
                target = moments.scatter.sum(0) / count.where(alive, torch.zeros_like(count)).sum()
            else:
                target = moments.scatter / count.reshape(-1, 1, 1)
            factor, acted = floored_factor(target, floor)
        else:
            variance = moments.scatter / count.unsqueeze(-1)
            if self.covariance_type == "spherical":
                variance, floor = variance.mean(-1), floor.mean()
            low = variance < floor
            if all_alive and not low.any():
                self.scale_tril = variance.sqrt()
                return []
            acted = low.reshape(len(moments.count), -1).any(-1)
            factor = variance.clamp_min(floor).sqrt()
        if self.covariance_type != "tied" and not all_alive:
            shape = (-1, *[1] * (factor.dim() - 1))
            factor = factor.where(alive.reshape(shape), self.scale_tril.detach())
            acted = acted & alive
        self.scale_tril = factor
        return self._acts_on(acted)

    def _acts_on(self, acted: Tensor) -> list[str]:
        named = self.part_names([k for k, acts in enumerate(acted.reshape(-1).tolist()) if acts])
        which = "the tied covariance" if self.covariance_type == "tied" else ", ".join(named)
        return [f"covariance floor acts on {which}"] if named else []

    @torch.no_grad()
    def lift(self, x: Data, held: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Lift each covariance that lies below the floor, as the M step would from its moments.

        Args:
            held: by the parameter's name, which entries were lifted before: they stay as they are.

        Returns:
            Which entries were lifted now, in the same way, and notes on all of them; both empty where none was.
        """
        name, scale = "scale_tril_unconstrained", wide(self.scale_tril)
        before = held.get(name, torch.zeros_like(scale, dtype=torch.bool))
        rows, weights = wide(self.rows(plain(x))), self.row_weights(x)
        known = self._known_variance()
        variance = varying(weighted_variance(rows, weights), weighted_mean(rows, weights)) if known is None else known
        floor = self.covariance_floor * wide(variance)
        if self.covariance_type in ("full", "tied"):
            lifted, acted = floored_factor(scale @ scale.mT, floor)
            which = acted[..., None, None].expand(scale.shape) & ~before
        else:
            least = (floor if self.covariance_type == "diag" else floor.mean()).sqrt().expand(scale.shape)
            lifted, which = torch.maximum(scale, least), (scale < least) & ~before
        if self.stays("scale_tril") or not which.any():
            return {}, []
        self.scale_tril = torch.where(which, lifted, scale)
        all_of_them = which | before
        parts = 1 if self.covariance_type == "tied" else len(scale)
        return {name: which}, self._acts_on(all_of_them.reshape(parts, -1).any(-1))

    def floor_under(self, moments: Moments) -> Tensor:
        """The least variance by feature, (D,), of data with these moments (K) under weights that sum to one a datum."""
        known = self._known_variance()
        if known is not None:
            return self.covariance_floor * wide(known)
        whole = moments.merged()
        scatter = whole.scatter[0] if whole.scatter.dim() == 2 else whole.scatter[0].diagonal()
        return self.covariance_floor * wide(varying(scatter / whole.count, whole.mean[0]))

    def take_scale(self, rows: Tensor, weights: Tensor | None = None) -> None:
        there = ~rows.isnan()
        if there.all():
            self.seen_variance = None
            return
        count = there.sum(0).clamp_min(1) if weights is None else weighted_sum(there.to(rows.dtype), weights)
        mean = weighted_sum(rows.nan_to_num(0.0), weights) / count
        self.seen_variance = varying(weighted_sum((rows - mean).nan_to_num(0.0).square(), weights) / count, mean)

    def part_names(self, which: list[int]) -> list[str]:
        """What messages call these Gaussians."""
        return [f"{self.part if i == 0 else ''} {k}".strip() for i, k in enumerate(which)]

    def _known_variance(self) -> Tensor | None:
        """The data's variance by feature, (D,), never zero: of the entries that are there, or as the prior's pseudo-row
        keeps it. Where there is neither it is read off the statistics or the rows.

        The least variance is a fraction of it, the same in every iteration, else the climb were not monotone.
        """
        if self.seen_variance is not None:
            return self.seen_variance
        overall = getattr(self, "overall", None)
        return varying(overall[1:].diagonal(), overall[0]) if overall is not None and overall[1:].any() else None

    def enter_support(self, x: Tensor) -> None:
        floor = self.covariance_floor * varying(wide(x).var(0, correction=0), wide(x).mean(0))
        scale = wide(self.scale_tril.detach())
        if self.covariance_type in ("full", "tied"):
            lifted, acted = floored_factor(scale @ scale.mT, floor)
            if acted.any():
                self.scale_tril = torch.where(acted[..., None, None], lifted, scale)
            return
        floor = floor if self.covariance_type == "diag" else floor.mean()
        if (scale.square() < floor).any():
            self.scale_tril = torch.maximum(scale, floor.sqrt())

    def component_scales(self, x: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
        scale = varying(weighted_variance(x, weights), weighted_mean(x, weights)).sqrt()
        scales = {"means_unconstrained": scale}
        if self.covariance_type in ("full", "tied"):
            # Row i of a Cholesky factor is in the units of feature i; its diagonal is stored as a logarithm.
            d = self.num_features
            rows, diagonal = scale.unsqueeze(-1).expand(d, d), torch.eye(d, dtype=torch.bool, device=scale.device)
            scales["scale_tril_unconstrained"] = rows.masked_fill(diagonal, 1.0)
        return scales

    def align_features(self) -> Tensor:
        """What to match components by, (K, D)."""
        return self.means.detach()


def patterns(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each pattern of missing entries in rows (N, D): which features are there, and which rows have it."""
    kinds, which = torch.unique(~x.isnan(), dim=0, return_inverse=True)
    return [(kinds[i], (which == i).nonzero().flatten()) for i in range(len(kinds))]


def missing_log_prob(x: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """ln N of the entries that are there, (N, K), nats, the others summed out; 0 for a row without any."""
    covariances = factors @ factors.mT
    pieces, order = [], []
    for there, index in patterns(x):
        order.append(index)
        if not there.any():
            pieces.append(means.new_zeros(len(index), len(means)) + 0 * means.sum())
            continue
        root = torch.linalg.cholesky(covariances[:, there][:, :, there])
        pieces.append(gaussian.log_densities(x[index][:, there], means[:, there], root, "full"))
    back = torch.cat(order).argsort()
    return torch.cat(pieces)[back]


def missing_moments(x: Tensor, weight: Tensor, means: Tensor, factors: Tensor, diagonal: bool) -> Moments:
    """Expected moments of the complete rows given what is there of them (Little & Rubin 2002, section 11.2).

    Missing entries count with their conditional mean, and add their conditional covariance to the scatter.
    """
    covariances = factors @ factors.mT
    count = weight.sum(0)
    safe = count.clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(-1)
    mean, scatter = [], []
    kinds = patterns(x)
    for k in range(weight.shape[1]):
        filled = x.clone()
        extra = torch.zeros_like(covariances[k])
        for there, index in kinds:
            if there.all():
                continue
            gone = ~there
            inner = covariances[k][gone][:, gone]
            guess = means[k, gone].expand(len(index), -1)
            if there.any():
                cross = covariances[k][gone][:, there]
                gain = torch.linalg.solve(covariances[k][there][:, there], cross.mT).mT
                guess = guess + (x[index][:, there] - means[k, there]) @ gain.mT
                inner = inner - gain @ cross.mT
            filled[index] = torch.where(
                gone, torch.zeros_like(x[index]).masked_scatter(gone.expand_as(x[index]), guess), x[index]
            )
            block = torch.zeros_like(extra)
            block[gone.unsqueeze(-1) & gone] = inner.flatten()
            extra += weight[index, k].sum() * block
        own = weight[:, k : k + 1]
        centre = (own * filled).sum(0) / safe[k]
        delta = filled - centre
        mean.append(centre)
        scatter.append((own * delta).mT @ delta + extra)
    stacked = torch.stack(scatter)
    return Moments(count, torch.stack(mean), stacked.diagonal(dim1=-2, dim2=-1) if diagonal else stacked)
