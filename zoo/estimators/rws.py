"""Reweighted wake-sleep (Bornschein & Bengio 2015): wake updates of model and guide, datum by datum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from zoo.core import traces, weighing
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, mass
from zoo.core.hooks import Computed
from zoo.core.objective import Objective, Step
from zoo.core.problem import Problem
from zoo.errors import ZooError
from zoo.estimators.gradient import GuidedEstimator, nothing_to_weigh

__all__ = ["RWS"]


@dataclass(frozen=True)
class RWS(GuidedEstimator):
    """Self-normalised importance weights stand for the posterior in both steps; needs no differentiable draws.

    A weight of the KL (the β of a β-VAE) plays no part: the weights are p(x, z) / q(z | x), as those of ``iwae``.

    Attributes:
        num_particles: K, at least 2.
    """

    name: ClassVar[str] = "rws"
    about_e: ClassVar[str] = "K self-normalised weighted draws"
    about_m: ClassVar[str] = "gradient (wake-θ), guide by wake-φ"

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
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    traces.draw(problem.model, few, 1, problem.program.nesting, detach=True)
            except KeyError:  # what Pyro's transforms without an inverse raise
                return "its guide cannot score a draw again: a flow in it has no inverse"
        return reason or self.fails(problem)

    def objective(self, problem: Problem) -> Objective:
        model, nesting, k = problem.model, problem.program.nesting, int(self.num_particles)
        problem.program.spend("model", "guide")
        return Computed(lambda batch: rws_surrogate(model, batch, k, nesting), self.column_for(problem), model)


def rws_surrogate(model: LatentVariableModel, batch: Data, k: int, nesting: int) -> Step:
    """(surrogate, K-sample bound) per datum: θ and ψ both climb sum_k w_k (ln p + ln q) with weights held fixed."""
    drawn = weighing.drawn(model, batch, k, nesting, detach=True)
    log_joint, log_guide = drawn.log_joint, drawn.log_guide
    log_weight = (log_joint - log_guide).detach()
    weight = log_weight.softmax(0)
    bound = log_weight.logsumexp(0) - math.log(k)
    both = log_joint + log_guide
    climbed = weight * torch.where(weight > 0, both, torch.zeros_like(both))  # an impossible draw: 0, not 0 * -inf
    return Step(-drawn.total(climbed) / mass(batch), drawn.total(bound) / mass(batch))
