"""Reweighted wake-sleep (Bornschein & Bengio 2015): wake updates of model and guide, datum by datum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo.core import traces, weighing
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, mass, total
from zoo.core.hooks import Computed, choose
from zoo.core.isolation import kept_generators
from zoo.core.objective import Objective, Step
from zoo.core.problem import Problem
from zoo.errors import ZooError
from zoo.estimators.gradient import GuidedEstimator, nothing_to_weigh

__all__ = ["RWS"]


@dataclass(frozen=True)
class RWS(GuidedEstimator):
    """Self-normalised importance weights stand for the posterior in both steps; needs no differentiable draws.

    Bornschein & Bengio (2015), "Reweighted wake-sleep", section 2.

    A weight of the KL (the β of a β-VAE) plays no part: the weights are p(x, z) / q(z | x), as those of ``iwae``.

    Attributes:
        num_particles: K, at least 2.
    """

    name: ClassVar[str] = "rws"
    about_e: ClassVar[str] = "K self-normalised weighted draws"
    about_m: ClassVar[str] = "gradient (wake-θ), guide by wake-φ"
    spreads: ClassVar[bool] = True

    column: ClassVar[str] = "bound"
    weighs_kl: ClassVar[bool] = False

    num_particles: int = 8

    def refuses(self, problem: Problem) -> str | None:
        if self.num_particles < 2:
            raise ZooError(f"rws: num_particles expected at least 2, got {self.num_particles}.")
        reason = super().refuses(problem) or nothing_to_weigh(problem)
        if reason is None:
            try:
                few = problem.model.probe(problem.data)
                with torch.no_grad(), kept_generators():
                    traces.draw(problem.model, few, 1, problem.program.nesting, detach=True)
            except KeyError:  # what Pyro's transforms without an inverse raise
                return "its guide cannot score a draw again: a flow in it has no inverse"
        return reason or self.fails(problem)

    def objective(self, problem: Problem) -> Objective:
        model, nesting, k = problem.model, problem.program.nesting, int(self.num_particles)
        problem.program.spend("model", "guide")
        column = self.column_for(problem)
        if problem.lacks("choices") is None:
            return Computed(lambda batch: wake_surrogate(*choose(model, batch).draw(k), batch), column)
        return Computed(lambda batch: rws_surrogate(model, batch, k, nesting), column, model)


def wake_surrogate(log_joint: Tensor, log_guide: Tensor, batch: Data) -> Step:
    """(surrogate, K-sample bound) per datum, as :func:`wake` has them."""
    climbed, bound = wake(log_joint, log_guide)
    return Step(-total(climbed, batch) / mass(batch), total(bound, batch) / mass(batch))


def rws_surrogate(model: LatentVariableModel, batch: Data, k: int, nesting: int) -> Step:
    """(surrogate, K-sample bound) per datum, by the programs."""
    drawn = weighing.drawn(model, batch, k, nesting, detach=True)
    climbed, bound = wake(drawn.log_joint, drawn.log_guide)
    return Step(-drawn.total(climbed) / mass(batch), drawn.total(bound) / mass(batch))


def wake(log_joint: Tensor, log_guide: Tensor) -> tuple[Tensor, Tensor]:
    """What θ and ψ both climb, sum_k w_k (ln p + ln q) with weights held fixed, and the bound, each (N,), from
    ln p(x, z_k) and ln q(z_k | x), (K, N), at draws without gradient."""
    log_weight = (log_joint - log_guide).detach()
    weight = log_weight.softmax(0)
    bound = log_weight.logsumexp(0) - math.log(len(log_weight))
    both = log_joint + log_guide
    climbed = weight * torch.where(weight > 0, both, torch.zeros_like(both))  # an impossible draw: 0, not 0 * -inf
    return climbed.sum(0), bound
