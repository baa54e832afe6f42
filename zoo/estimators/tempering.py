"""Parallel tempering: chains along the way from independent units to the model, which change places.

Desjardins, Courville, Bengio, Vincent & Delalleau (2010), "Parallel tempering for training of restricted Boltzmann
machines"; Cho, Raiko & Ilin (2010).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo.core.annealing import AnnealingPath
from zoo.core.data import Data, num_data
from zoo.core.objective import Objective
from zoo.core.problem import Problem
from zoo.estimators.base import at_least
from zoo.estimators.pcd import WARMING, Contrast, ContrastiveEstimator

__all__ = ["Tempering"]


@dataclass(frozen=True)
class Tempering(ContrastiveEstimator):
    """Chains at several temperatures, neighbours swapped as Metropolis allows; those at the end stand for the model.

    Desjardins, Courville, Bengio, Vincent & Delalleau (2010), "Parallel tempering for training of restricted Boltzmann
    machines"; Cho, Raiko & Ilin (2010).

    Attributes:
        num_temperatures: steps between independent units and the model, both of them chains too.
        num_chains: chains at each; None takes as many as a batch has data.
    """

    name: ClassVar[str] = "tempering"
    about_e: ClassVar[str] = "Gibbs chains at several temperatures that change places (of the model, beside the data)"

    num_temperatures: int = 9
    num_chains: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.name, 1, num_temperatures=self.num_temperatures)
        if self.num_chains is not None:
            at_least(self.name, 1, num_chains=self.num_chains)

    def objective(self, problem: Problem) -> Objective:
        return _Tempered(problem, self.k, self.num_temperatures, self.num_chains)


class _Tempered(Contrast):
    def __init__(self, problem: Problem, k: int, num_temperatures: int, num_chains: int | None) -> None:
        super().__init__(problem, k)
        self.ladder = [k / num_temperatures for k in range(num_temperatures + 1)]
        self.num_chains, self.rungs = num_chains, list[Tensor]()

    def chains(self, batch: Data) -> Tensor:
        path: AnnealingPath = self.problem.model.annealing_path()
        if not self.rungs:
            state = path.start(self.num_chains or num_data(batch))
            self.rungs = [state]
            for t in self.ladder[1:]:
                for _ in range(max(1, WARMING // len(self.ladder))):
                    state = path.move(state, t)
                self.rungs.append(state)
        for _ in range(self.k):
            fresh = path.start(len(self.rungs[0]))
            moved = [path.move(state, t) for state, t in zip(self.rungs[1:], self.ladder[1:], strict=True)]
            self.rungs = [fresh, *moved]
            self._swap(path, 0)
            self._swap(path, 1)
        return self.rungs[-1]

    def _swap(self, path: AnnealingPath, first: int) -> None:
        """Neighbours from ``first`` on, two by two, change places with the probability min(1, ratio)."""
        for i in range(first, len(self.ladder) - 1, 2):
            cold, hot = self.rungs[i + 1], self.rungs[i]
            t, s = self.ladder[i + 1], self.ladder[i]
            log_ratio = path.log_ratio(hot, t, s) - path.log_ratio(cold, t, s)
            take = (torch.rand_like(log_ratio).log() < log_ratio).reshape(-1, *[1] * (cold.dim() - 1))
            self.rungs[i + 1], self.rungs[i] = torch.where(take, hot, cold), torch.where(take, cold, hot)

    def state(self) -> dict[str, Tensor]:
        return {f"chains/{i}": state for i, state in enumerate(self.rungs)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.rungs = [state[f"chains/{i}"] for i in range(len(state))]
