"""What papers on deep latent-variable models report: many-sample likelihood, parts of the bound, active units."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core import weighing
from zoo.core.contract import LatentVariableModel, lacks, prepared
from zoo.core.data import Data, num_data, split
from zoo.core.hooks import settled, weigh
from zoo.core.isolation import isolated
from zoo.errors import ZooError

__all__ = ["ImportanceNLL", "importance_nll", "pareto_k"]

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
    if not model.has_guide:
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
        if lacks(model, "log_weights") is None:
            log_weight = weigh(model, piece, size)
        else:
            log_weight = weighing.log_weights(model, piece, size)
        log_weight = log_weight.double()
        parts = log_weight.logsumexp(0), (2 * log_weight).logsumexp(0), log_weight.sum(0)
        if start == 0:
            total, square, plain = parts
        else:
            total, square = torch.logaddexp(total, parts[0]), torch.logaddexp(square, parts[1])
            plain = plain + parts[2]
    return total, square, plain


def pareto_k(log_weight: Tensor) -> Tensor | None:
    """ArviZ's PSIS k̂ of each column of (S, N) log-weights; None below 25 draws.

    Where a column holds fewer than five different weights (a discrete z with few values) there is no tail to fit:
    the weights are bounded, and k̂ is -inf.
    """
    if log_weight.shape[0] < 25:
        return None
    import arviz

    columns = log_weight.T.double().cpu().numpy()
    khat = np.full(len(columns), -np.inf)
    steps = np.diff(np.sort(columns, axis=-1), axis=-1) > 1e-9
    varied = steps.sum(-1) >= 4
    if varied.any():
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            khat[varied] = arviz.psislw(columns[varied])[1]
    return torch.as_tensor(khat)
