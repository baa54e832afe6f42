"""Persistent contrastive divergence: chains of Gibbs sampling that go on from step to step.

Younes (1999), "On the convergence of Markovian stochastic algorithms with rapidly decreasing ergodicity rates";
Tieleman (2008), "Training restricted Boltzmann machines using approximations to the likelihood gradient".
"""

from __future__ import annotations

import abc
import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo.core.annealing import AnnealingPath
from zoo.core.data import Data, call, mass, num_data, total
from zoo.core.hooks import fresh
from zoo.core.objective import Objective, Step
from zoo.core.problem import Problem
from zoo.estimators.base import at_least
from zoo.estimators.gradient import GradientEstimator

__all__ = ["PCD", "Contrast"]

#: Sweeps from independent units before chains are first used, as the path is gone along.
WARMING = 50


class Contrast(Objective):
    """What data say of the energy's gradient less what chains say of it: minus an estimate of that of ln p(x).

    Nobody knows the value that goes with it; ``contrast`` is the mean energy of the chains less that of the data, zero
    on average where the model is fitted.
    """

    #: Whether chains go on from step to step.
    persistent = False

    def __init__(self, problem: Problem, k: int) -> None:
        self.problem, self.k, self.at_work = problem, k, None  # type: Problem, int, Tensor | None
        self.summed = problem.lacks("free_energy") is None
        self.quick = problem.lacks("contrast") is None

    @abc.abstractmethod
    def chains(self, batch: Data) -> Tensor:
        """States (S, ...) that stand for the model, moved on; no graph is kept."""

    def __call__(self, batch: Data) -> Step:
        model = self.problem.model
        batch = fresh(model, batch)
        with torch.no_grad():
            state = self.chains(batch)
        if self.quick:
            both = functools.partial(model.contrast, chains=state, sweep=self.persistent)
            energies, of_chains, moved = call(both, batch)
            self.at_work = moved if self.persistent else None
            of_model = of_chains.mean()
        else:
            path: AnnealingPath = model.annealing_path()
            if self.summed:
                energies = call(model.free_energy, batch)
            else:  # hidden units drawn given the data stand for the sum over them
                with torch.no_grad():
                    clamped = call(path.at_data, batch)
                energies = -path.log_density(clamped)
            of_model = -path.log_density(state).mean()
        of_data = total(energies, batch) / mass(batch)
        return Step(of_data - of_model, None, {"contrast": (of_model - of_data).detach()})


@dataclass(frozen=True)
class ContrastiveEstimator(GradientEstimator):
    """What the estimators of energies share.

    Attributes:
        k: sweeps of Gibbs sampling a step.
    """

    about_m: ClassVar[str] = "gradient"
    k: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.name, 1, k=self.k)

    def refuses(self, problem: Problem) -> str | None:
        return problem.lacks("annealing_path")


@dataclass(frozen=True)
class PCD(ContrastiveEstimator):
    """Chains that go on from where they were, as many as a batch has data.

    Younes (1999); Tieleman (2008), "Training restricted Boltzmann machines using approximations to the likelihood
    gradient".

    Attributes:
        num_chains: None takes as many as a batch has data.
    """

    name: ClassVar[str] = "pcd"
    about_e: ClassVar[str] = "Gibbs chains that go on from step to step (of the model, beside the data)"

    num_chains: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_chains is not None:
            at_least(self.name, 1, num_chains=self.num_chains)

    def objective(self, problem: Problem) -> Objective:
        return _Persistent(problem, self.k, self.num_chains)


class _Persistent(Contrast):
    persistent = True

    def __init__(self, problem: Problem, k: int, num_chains: int | None) -> None:
        super().__init__(problem, k)
        self.num_chains = num_chains

    def chains(self, batch: Data) -> Tensor:
        # What gives energies cheaply has taken the first sweep of this step at the end of the one before.
        sweeps = self.k - self.quick if self.at_work is not None else self.k
        if sweeps or self.at_work is None:
            path: AnnealingPath = self.problem.model.annealing_path()
            if self.at_work is None:
                self.at_work = path.start(self.num_chains or num_data(batch))
                for step in range(WARMING):
                    self.at_work = path.move(self.at_work, (step + 1) / WARMING)
            for _ in range(sweeps):
                self.at_work = path.move(self.at_work)
        return self.at_work

    def state(self) -> dict[str, Tensor]:
        return {} if self.at_work is None else {"chains": self.at_work}

    def load(self, state: dict[str, Tensor]) -> None:
        self.at_work = state["chains"]
