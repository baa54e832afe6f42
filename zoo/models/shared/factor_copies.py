"""Copies of a model of Gaussian factors, whose E and M steps see the data through their moments alone.

Rows count by their mean and their scatter only, and D rows have the same: the triangle R with R^T R = scatter. An
iteration costs no more the more rows there are, and no parameter is read from a model or set in it on the way. By
numpy, whose calls on a few numbers take a fraction of torch's time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.statistics import Moments, Statistics

__all__ = ["Array", "FactorCopies", "FactorState"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FactorState:
    """Parameters of S copies. loadings: (S, D, q). mean: (S, D). noise_variance: (S, D)."""

    loadings: Array
    mean: Array
    noise_variance: Array

    def chosen(self, which: Sequence[int]) -> FactorState:
        """Those of some copies."""
        return FactorState(*(values[list(which)] for values in (self.loadings, self.mean, self.noise_variance)))


class FactorCopies:
    """S copies on complete rows that count once each; a subclass has the M step.

    Args:
        models: copies of one model in float64 on the processor; they are read, and left as they are.
        x: (N, D).
    """

    def __init__(self, models: Sequence[Any], x: Tensor) -> None:
        self.first = models[0]
        mean = x.mean(0)
        centred = x - mean
        self.moments = Moments(x.new_tensor([len(x)]), mean.unsqueeze(0), (centred.mT @ centred).unsqueeze(0))
        self.count = len(x)
        self.identity = np.eye(self.first.num_factors)
        self.triangle = torch.linalg.qr(centred, mode="r").R.numpy()  # (at most D, D)
        self.present = FactorState(
            *(
                np.stack([values.detach().numpy() for values in of_all])
                for of_all in zip(*((m.loadings, m.mean, m.noise()) for m in models), strict=True)
            )
        )

    @staticmethod
    def serves(model: Any, x: Tensor) -> bool:
        """Whether model and data are such as these steps are written for."""
        flat = type(model).log_prior is LatentVariableModel.log_prior
        return flat and all(t.dtype == torch.float64 and t.device.type == "cpu" for t in (x, model.loadings))

    def e_step(self) -> tuple[Tensor, Statistics]:
        """ln p(x) as :class:`~zoo.models.shared.linear_gaussian.LinearGaussian` has it, a sum of squares."""
        loadings, noise = self.present.loadings, self.present.noise_variance
        s, d, q = loadings.shape
        scale = np.sqrt(noise)
        stacked = np.empty((s, d + q, q))
        stacked[:, :d], stacked[:, d:] = loadings / scale[..., np.newaxis], self.identity
        basis, root = (part.numpy() for part in torch.linalg.qr(torch.from_numpy(stacked)))
        rows = self.rows() / scale[:, np.newaxis]
        # What no factors explain: the distance of (row, 0) from the space that the basis spans.
        left = -(rows @ basis[:, :d]) @ basis.swapaxes(-1, -2)
        left[:, :, :d] += rows
        distance = (left * left).sum((-2, -1))
        log_det = np.log(noise).sum(-1) + 2 * np.log(np.abs(root.diagonal(0, -2, -1))).sum(-1)
        total = torch.from_numpy(-0.5 * (distance + self.count * (log_det + d * math.log(2 * math.pi))))
        return total, Statistics(self.count, total, present=self.present)

    def rows(self) -> Array:
        """Rows with the data's scatter about the means of the copies, (S, at most D + 1, D)."""
        mean = self.present.mean
        rows = np.empty((len(mean), len(self.triangle) + 1, mean.shape[1]))
        rows[:, :-1], rows[:, -1] = self.triangle, math.sqrt(self.count) * (self.moments.mean.numpy() - mean)
        return rows

    def m_step(self, statistics: Statistics) -> Sequence[str]:
        raise NotImplementedError

    def of_one(self, statistics: Statistics, index: int) -> Statistics:
        return Statistics(self.count, statistics["log_likelihood"][index], moments=self.moments)

    def state(self) -> FactorState:
        return self.present

    def tensors(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(values) for name, values in vars(self.present).items()}

    def load(self, values: dict[str, Tensor]) -> None:
        self.present = FactorState(**{name: value.numpy() for name, value in values.items()})

    def state_of(self, state: FactorState, index: int) -> dict[str, Tensor]:
        values = state.loadings[index], state.mean[index], state.noise_variance[index]
        loadings, mean, noise = map(torch.from_numpy, values)
        own = self.first.noise_variance.shape  # one for all features, or each its own
        return {
            "loadings_unconstrained": loadings,
            "mean_unconstrained": mean,
            "noise_variance_unconstrained": noise[: own.numel()].reshape(own).log(),
        }

    def keep(self, which: Sequence[int]) -> None:
        self.present = self.present.chosen(which)

    def kept(self, statistics: Statistics, which: Sequence[int]) -> Statistics:
        total, present = statistics["log_likelihood"][list(which)], statistics["present"].chosen(which)
        return Statistics(self.count, total, present=present)
