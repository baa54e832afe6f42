"""Contrastive divergence: chains that start from the data at every step.

Hinton (2002), "Training products of experts by minimizing contrastive divergence".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zoo.core.annealing import AnnealingPath
from zoo.core.data import Data, call
from zoo.core.objective import Objective
from zoo.core.problem import Problem
from zoo.estimators.pcd import Contrast, ContrastiveEstimator

__all__ = ["CD"]


@dataclass(frozen=True)
class CD(ContrastiveEstimator):
    """A few sweeps from each datum stand for the model: cheap, biased towards what lies near the data.

    Hinton (2002), "Training products of experts by minimizing contrastive divergence".
    """

    name: ClassVar[str] = "cd"
    about_e: ClassVar[str] = "k Gibbs sweeps from the data (of the model, beside the data)"

    def objective(self, problem: Problem) -> Objective:
        return _FromData(problem, self.k)


class _FromData(Contrast):
    def chains(self, batch: Data) -> Tensor:
        path: AnnealingPath = self.problem.model.annealing_path()
        state: Tensor = call(path.at_data, batch)
        for _ in range(self.k):
            state = path.move(state)
        return state
