"""Which dimensions of a continuous code a model uses (Burda et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel, lacks, prepared
from zoo.core.data import Data, num_data, split
from zoo.core.hooks import settled
from zoo.core.isolation import isolated
from zoo.errors import ZooError
from zoo.scores.scoring import Scorer, Scoring

__all__ = ["SCORER", "ActiveUnits", "active_units"]


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
    if lacks(model, "posterior_means") is not None:
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


def score(task: Scoring) -> dict[str, Any] | str:
    """How many units of a code vary over the data, and of how many; where the guide was asked at all."""
    if (reason := lacks(task.model, "posterior_means")) is not None:
        return reason
    if "importance_bound" not in task.found or num_data(task.x) < 2:
        return "its guide was not asked"
    units = active_units(task.model, task.x)
    return {"active_units": units.num_active, "num_units": len(units.active)} if len(units.active) else "it has none"


SCORER = Scorer(30, score)
