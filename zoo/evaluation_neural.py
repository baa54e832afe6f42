"""What papers on deep latent-variable models report: many-sample likelihood, parts of the bound, active units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo import program
from zoo.batch import Data, num_data, split
from zoo.errors import ZooError
from zoo.estimators.hooks import HookedBound, settled, weigh
from zoo.isolation import isolated
from zoo.model import LatentVariableModel, can, prepared

__all__ = ["ActiveUnits", "ImportanceNLL", "active_units", "bound_parts", "importance_nll"]

#: Numbers of the widest layer that may be in memory at a time.
MAX_ELEMENTS = 20_000_000


@dataclass(frozen=True)
class ImportanceNLL:
    """The S-sample importance-weighted estimate of -ln p(x); nats per datum unless said otherwise.

    Attributes:
        nll: mean over the data. In expectation it lies above the true value, and comes down to it as S grows.
        se: Monte-Carlo standard error of that mean, over the draws z (delta method).
        data_se: standard error of the mean over the data: what another test set of this size would change. NaN for one.
        elbo: minus the bound that the same draws give, mean over the data.
        num_data: N. num_samples: S.
        per_datum: (N,) the estimates.
    """

    nll: float
    se: float
    data_se: float
    elbo: float
    num_data: int
    num_samples: int
    per_datum: Tensor

    def __str__(self) -> str:
        return (
            f"-ln p(x) {self.nll:.3f} ± {self.se:.3f} ({self.num_samples} draws; data ± {self.data_se:.3f}), "
            f"bound {self.elbo:.3f}"
        )


def importance_nll(
    model: LatentVariableModel, x: Any, num_samples: int = 5000, *, seed: int = 0, max_elements: int = MAX_ELEMENTS
) -> ImportanceNLL:
    """-ln p(x) ≈ -ln (1/S) Σ_s p(x, z_s) / q(z_s | x) (Burda et al. 2016, section 5, with S = 5000).

    Data and draws are taken in pieces, and sums carried along, so that memory stays bounded.

    Args:
        model: one with a guide; a fit's ``.model``. ``log_weights`` is used where it is offered.
        x: data as the model takes them. Grey pixels of a model that draws them anew are drawn once, by ``seed``.
        num_samples: S, at least 1.
        max_elements: of a layer as wide as the model's widest, at a time.

    Raises:
        ZooError: the model has no guide.
    """
    if not program.has_guide(model):
        raise ZooError(f"importance_nll: expected a model with a guide, got {type(model).__name__}. Use zoo.evaluate.")
    x = settled(model, prepared(model, x), seed)
    width = model.datum_size(x)
    evidence, relative, bounds = [], [], []
    with isolated(seed), torch.no_grad():
        rows = max(1, min(num_data(x), max_elements // (width * min(num_samples, 100))))
        for piece in split(x, rows):
            group = max(1, min(num_samples, max_elements // (width * num_data(piece))))
            total, square, plain = _accumulate(model, piece, num_samples, group)
            each = total - math.log(num_samples)
            evidence.append(each)
            # Var of the mean weight over its square: (mean of squares / square of mean - 1) / S.
            relative.append(((square - math.log(num_samples) - 2 * each).exp() - 1).clamp_min(0) / num_samples)
            bounds.append(plain / num_samples)
    per_datum = -torch.cat(evidence)
    count = len(per_datum)
    return ImportanceNLL(
        float(per_datum.mean()),
        float(torch.cat(relative).sum().sqrt()) / count,
        float(per_datum.std()) / math.sqrt(count) if count > 1 else math.nan,
        -float(torch.cat(bounds).mean()),
        count,
        num_samples,
        per_datum,
    )


def _accumulate(model: LatentVariableModel, piece: Data, num_samples: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """ln Σ w, ln Σ w^2 and Σ ln w over the draws, (N,) each in double precision."""
    total = square = plain = torch.zeros(())
    for start in range(0, num_samples, group):
        size = min(group, num_samples - start)
        if can(model, "log_weights"):
            log_weight = weigh(model, piece, size)
        else:
            log_weight = program.log_weights(model, piece, size)
        log_weight = log_weight.double()
        parts = log_weight.logsumexp(0), (2 * log_weight).logsumexp(0), log_weight.sum(0)
        if start == 0:
            total, square, plain = parts
        else:
            total, square = torch.logaddexp(total, parts[0]), torch.logaddexp(square, parts[1])
            plain = plain + parts[2]
    return total, square, plain


def bound_parts(model: LatentVariableModel, x: Any, num_particles: int = 1, *, seed: int = 0) -> dict[str, float]:
    """The guide's bound and its parts ("bound", "reconstruction", "kl"), means over the data, nats per datum.

    Raises:
        ZooError: the model has no ``elbo_parts``.
    """
    if not can(model, "elbo_parts"):
        raise ZooError(f"bound_parts: {type(model).__name__} offers no parts of its bound. Use zoo.evaluate.")
    x = settled(model, prepared(model, x), seed)
    found: dict[str, float] = {}
    with isolated(seed), torch.no_grad():
        objective = HookedBound(model, num_particles, draw_anew=False)
        for piece in split(x, max(1, MAX_ELEMENTS // (model.datum_size(x) * num_particles))):
            share = num_data(piece) / num_data(x)
            _, bound = objective(piece)
            for name, value in {"bound": bound, **objective.parts}.items():
                found[name] = found.get(name, 0.0) + share * float(value)
    return found


@dataclass(frozen=True)
class ActiveUnits:
    """Which latent dimensions a model uses.

    Attributes:
        variance: (L,) variance over the data of each dimension's posterior mean; the prior's is 1.
        active: (L,) whether that exceeds the threshold.
        num_active: how many do.
    """

    variance: Tensor
    active: Tensor

    @property
    def num_active(self) -> int:
        return int(self.active.sum())


def active_units(
    model: LatentVariableModel, x: Any, threshold: float = 0.01, *, num_samples: int = 50, seed: int = 0
) -> ActiveUnits:
    """Latent dimensions u with Var_x(E_q[u | x]) above a threshold (Burda et al. 2016, section 5.2: 0.01).

    Args:
        model: one that offers ``posterior_means(x, num_samples)``.
        num_samples: draws for means that have no formula. Half of them make one mean and half another, and the
            variance is these two's covariance over the data: that of the mean of S draws has their noise on top, which
            makes a unit that is the prior look active.

    Raises:
        ZooError: the model offers no posterior means; fewer than two data.
    """
    if not can(model, "posterior_means"):
        raise ZooError(f"active_units: {type(model).__name__} has no continuous code to measure. Take a VAE.")
    x = settled(model, prepared(model, x), seed)
    if num_data(x) < 2:
        raise ZooError("active_units: expected at least two data to see a variance over, got 1.")
    hook: Any = model.posterior_means
    with isolated(seed), torch.no_grad():
        half = max(1, num_samples // 2)
        first, second = (torch.cat([_means(hook, piece, half) for piece in split(x, 2048)]).double() for _ in range(2))
    variance = ((first - first.mean(0)) * (second - second.mean(0))).sum(0) / (len(first) - 1)
    return ActiveUnits(variance, variance > threshold)


def _means(hook: Any, piece: Data, num_samples: int) -> Tensor:
    args = piece if isinstance(piece, tuple) else (piece,)
    means: Tensor = hook(**piece, num_samples=num_samples) if isinstance(piece, dict) else hook(*args, num_samples)
    return means
