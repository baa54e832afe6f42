"""The importance-weighted estimate of ln p(x), with what can be said of its errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel, prepared
from zoo.core.data import num_data
from zoo.core.hooks import settled
from zoo.core.isolation import isolated
from zoo.core.memory import LAYER
from zoo.core.problem import Problem
from zoo.errors import ZooError
from zoo.scores.bounds import bound, summed_exactly
from zoo.scores.scoring import Scorer, Scoring
from zoo.scores.weights import weighed

__all__ = ["SCORER", "ImportanceNLL", "importance_nll"]


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
    model: LatentVariableModel, x: Any, num_samples: int = 5000, *, seed: int = 0, max_elements: int = LAYER
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
    with isolated(seed), torch.no_grad():
        found = weighed(model, x, num_samples, max_elements=max_elements)
    per_datum = -found.log_mean
    count = len(per_datum)
    return ImportanceNLL(
        float(per_datum.mean()),
        float((found.relative_variance / num_samples).sum().sqrt()) / count,
        float(per_datum.std()) / math.sqrt(count) if count > 1 else math.nan,
        -float(found.mean.mean()),
        count,
        num_samples,
        per_datum,
    )


def score(task: Scoring) -> dict[str, Any] | str:
    """The importance-weighted bound and the guide's own, totals, their Monte-Carlo errors, and each datum's k-hat."""
    model, x, draws = task.model, task.x, task.num_samples
    if not model.has_guide:
        return "it has no guide"
    if Problem(model, x).denoises:
        return "its guide draws noise that counts nowhere: there is no bound on ln p(x)"
    if not task.trained and task.found.get("log_likelihood") is not None:
        return "its guide was not trained on these data"
    found = weighed(model, x, draws, keep=True, progress=task.progress)
    assert found.variance is not None
    se, elbo_se = (math.sqrt(float(v.sum()) / draws) for v in (found.relative_variance, found.variance))
    problem = Problem(model, x)
    elbo, elbo_se = bound(problem) if summed_exactly(problem) else (float(found.mean.sum()), elbo_se)
    each = found.log_mean  # one number where a latent is shared by all data
    return {
        "importance_bound": float(each.sum()),
        "importance_bound_se": se,
        "elbo": elbo,
        "elbo_se": elbo_se,
        "khat": found.khat,
        "num_samples": draws,
        "data_se": float(each.std()) / math.sqrt(num_data(x)) if len(each) > 1 else None,
    }


SCORER = Scorer(20, score)
