"""Copies of a model of Gaussian factors, whose E and M steps see the data through their moments alone.

Rows count by their mean and their scatter only, and D rows have the same: the triangle R with R^T R = scatter. An
iteration costs no more the more rows there are, and no parameter is read from a model or set in it on the way. By
numpy, whose calls on a few numbers take a fraction of torch's time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.statistics import Moments, Statistics

__all__ = ["LOG_2PI", "Array", "FactorCopies", "FactorState"]

Array = NDArray[np.float64]
LOG_2PI = math.log(2 * math.pi)
#: What a model stores: loadings, mean, and the logarithms of noise variances.
NAMES = "loadings_unconstrained", "mean_unconstrained", "noise_variance_unconstrained"


class FactorState(NamedTuple):
    """Parameters of S copies. loadings: (S, D, q). mean: (S, D). noise_variance: (S, D).

    Attributes:
        log_likelihood: ln p(x) in all, (S,), nats, where the step that found the parameters has found it too.
    """

    loadings: Array
    mean: Array
    noise_variance: Array
    log_likelihood: Array | None = None

    def named(self) -> dict[str, Array]:
        """What is there, by name."""
        return {name: values for name, values in self._asdict().items() if values is not None}

    def chosen(self, which: Sequence[int]) -> FactorState:
        """Those of some copies."""
        return FactorState(**{name: values[list(which)] for name, values in self.named().items()})


class FactorCopies:
    """S copies on complete rows that count once each; a subclass has the M step.

    Args:
        models: copies of one model in float64 on the processor; they are read, and left as they are.
        x: (N, D).
    """

    def __init__(self, models: Sequence[Any], x: Tensor) -> None:
        self.first, self.count, self.mean = models[0], len(x), x.mean(0)
        centred = x - self.mean
        self.scatter = centred.mT @ centred
        self.triangle = torch.linalg.qr(centred, mode="r").R.numpy()  # (at most D, D)
        self.present = FactorState(*map(np.stack, zip(*map(_stored, models), strict=True)))

    @staticmethod
    def serves(model: Any, x: Tensor) -> bool:
        """Whether model and data are such as these steps are written for."""
        flat = type(model).log_prior is LatentVariableModel.log_prior
        both = x, model._parameters[NAMES[0]]
        return flat and all(t.dtype == torch.float64 and t.device.type == "cpu" for t in both)

    def e_step(self) -> tuple[Tensor, Statistics]:
        """ln p(x) as :class:`~zoo.models.shared.linear_gaussian.LinearGaussian` has it, a sum of squares."""
        present = self.present
        found = self._log_likelihood() if present.log_likelihood is None else present.log_likelihood
        total = torch.from_numpy(found)
        return total, Statistics(self.count, total, present=present)

    def _log_likelihood(self) -> Array:
        loadings, noise = self.present.loadings, self.present.noise_variance
        s, d, q = loadings.shape
        scale = np.sqrt(noise)
        stacked = np.empty((s, d + q, q))
        stacked[:, :d], stacked[:, d:] = loadings / scale[..., np.newaxis], np.eye(q)
        basis, root = (part.numpy() for part in torch.linalg.qr(torch.from_numpy(stacked)))
        rows = self.rows() / scale[:, np.newaxis]
        # What no factors explain: the distance of (row, 0) from the space that the basis spans.
        left = rows @ basis[:, :d] @ basis.swapaxes(-1, -2)
        left[:, :, :d] -= rows
        distance = (left * left).sum((-2, -1))
        log_det = np.log(noise).sum(-1) + 2 * np.log(np.abs(root.diagonal(0, -2, -1))).sum(-1)
        total: Array = -0.5 * (distance + self.count * (log_det + d * LOG_2PI))
        return total

    def rows(self) -> Array:
        """Rows with the data's scatter about the means of the copies, (S, at most D + 1, D)."""
        mean = self.present.mean
        rows = np.empty((len(mean), len(self.triangle) + 1, mean.shape[1]))
        rows[:, :-1], rows[:, -1] = self.triangle, math.sqrt(self.count) * (self.mean.numpy() - mean)
        return rows

    def m_step(self, statistics: Statistics) -> Sequence[str]:
        raise NotImplementedError

    def of_one(self, statistics: Statistics, index: int) -> Statistics:
        moments = Moments(self.mean.new_tensor([self.count]), self.mean.unsqueeze(0), self.scatter.unsqueeze(0))
        return Statistics(self.count, statistics["log_likelihood"][index], moments=moments)

    def state(self) -> FactorState:
        return self.present

    def tensors(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(values) for name, values in self.present.named().items()}

    def load(self, values: dict[str, Tensor]) -> None:
        self.present = FactorState(**{name: value.numpy() for name, value in values.items()})

    def state_of(self, state: FactorState, index: int) -> dict[str, Tensor]:
        values = state.loadings[index], state.mean[index], state.noise_variance[index]
        loadings, mean, noise = map(torch.from_numpy, values)
        own = self.first._parameters[NAMES[2]].shape  # one for all features, or each its own
        return dict(zip(NAMES, (loadings, mean, noise[: own.numel()].reshape(own).log()), strict=True))

    def keep(self, which: Sequence[int]) -> None:
        self.present = self.present.chosen(which)

    def kept(self, statistics: Statistics, which: Sequence[int]) -> Statistics:
        total, present = statistics["log_likelihood"][list(which)], statistics["present"].chosen(which)
        return Statistics(self.count, total, present=present)


def _stored(model: Any) -> tuple[Array, ...]:
    """Loadings, mean and noise variances (D,), where they are stored: as attributes they take many times as long."""
    loadings, mean, noise = (model._parameters[name].detach() for name in NAMES)
    return loadings.numpy(), mean.numpy(), noise.exp().expand(model.num_features).numpy()
