"""The K-sample importance-weighted bound (Burda et al. 2016); VIMCO for discrete sites (Mnih & Rezende 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo.core import weighing
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, count, mass, num_data, total
from zoo.core.hooks import Computed, choose, weigh
from zoo.core.objective import Objective, Step
from zoo.core.problem import Problem
from zoo.core.sites import sample_sites
from zoo.errors import ZooError
from zoo.estimators.gradient import GuidedEstimator, nothing_to_weigh
from zoo.estimators.reinforce import score_terms

__all__ = ["IWAE"]


@dataclass(frozen=True)
class IWAE(GuidedEstimator):
    """Climbs E ln mean_k p(x, z_k) / q(z_k | x), datum by datum.

    Burda, Grosse & Salakhutdinov (2016), "Importance weighted autoencoders", section 3; discrete sites by VIMCO, Mnih &
    Rezende (2016).

    Attributes:
        num_particles: K, at least 1 (at least 2 with discrete sites, which need each other as baseline).
    """

    name: ClassVar[str] = "iwae"
    about_e: ClassVar[str] = "K weighted draws from the guide (VIMCO for discrete sites)"
    about_m: ClassVar[str] = "gradient"
    spreads: ClassVar[bool] = True
    weighs_kl: ClassVar[bool] = False

    num_particles: int = 8

    def refuses(self, problem: Problem) -> str | None:
        reason = super().refuses(problem) or nothing_to_weigh(problem)
        if reason is None and self.num_particles < 2 and problem.program.scored:
            raise ZooError(f"iwae: num_particles expected at least 2 with discrete sites, got {self.num_particles}.")
        return reason or self.fails(problem)

    def column_for(self, problem: Problem) -> str:
        return "elbo" if self.num_particles == 1 else "bound"  # its weights know no β

    def objective(self, problem: Problem) -> Objective:
        model, k, column = problem.model, int(self.num_particles), self.column_for(problem)
        if problem.lacks("log_weights") is None and not problem.program.scored:
            return Computed(
                lambda batch: weighted_bound(weigh(model, batch, k), batch), self.column_for(problem), model
            )
        problem.program.spend("model", "guide")
        if problem.lacks("choices") is None:
            return Computed(lambda batch: vimco_surrogate(*choose(model, batch).draw(k), batch), column)
        nesting = problem.program.nesting
        return Computed(lambda batch: iwae_surrogate(model, batch, k, nesting), column, model)


def weighted_bound(log_weight: Tensor, batch: Data) -> Step:
    """(surrogate, bound) per datum from differentiable log-weights (K, N) of a batch, nats."""
    mean = total(log_weight.logsumexp(0), batch) / mass(batch)
    bound = mean - math.log(len(log_weight)) * (count(batch) / mass(batch))
    return Step(-bound, bound.detach())


def vimco_surrogate(log_joint: Tensor, log_guide: Tensor, batch: Data) -> Step:
    """(surrogate, bound) per datum from ln p(x, z_k) and ln q(z_k | x), (K, N), at draws without gradient."""
    log_weight = log_joint - log_guide
    bound = log_weight.logsumexp(0) - math.log(len(log_weight))
    signal = bound.detach() - without_each(log_weight.detach())
    surrogate = total(bound + (signal * log_guide).sum(0), batch)
    return Step(-surrogate / mass(batch), total(bound.detach(), batch) / mass(batch))


def iwae_surrogate(model: LatentVariableModel, batch: Data, k: int, nesting: int) -> Step:
    """(surrogate, bound) per datum: the bound itself, plus VIMCO's score terms for discrete sites."""
    drawn = weighing.drawn(model, batch, k, nesting)
    log_weight = drawn.log_joint - drawn.log_guide  # (K, N)
    bound = log_weight.logsumexp(0) - math.log(k)
    surrogate = drawn.total(bound)
    if any(not site["fn"].has_rsample for site in sample_sites(drawn.guide_trace).values()):
        score = score_terms(drawn.guide_trace, drawn.log_guide, num_data(batch), k, nesting)
        signal = bound.detach() - without_each(log_weight.detach())
        surrogate = surrogate + drawn.total(signal * score)
    return Step(-surrogate / mass(batch), drawn.total(bound.detach()) / mass(batch))


def without_each(log_weight: Tensor) -> Tensor:
    """VIMCO's baselines, (K, N): the bound with each draw's weight replaced by the geometric mean of the others (eq. 10
    of the paper). Where all the others are impossible (-inf) it would be -inf, and 0 serves: also a function of the
    others alone.
    """
    k = len(log_weight)
    dead = log_weight == -torch.inf
    alive = log_weight.masked_fill(dead, 0.0)
    others = (alive.sum(0) - alive) / (k - 1)
    others = others.masked_fill(dead.sum(0) - dead.long() > 0, -torch.inf)
    own = torch.eye(k, dtype=torch.bool, device=log_weight.device).unsqueeze(-1)  # (left-out, K, 1)
    replaced = torch.where(own, others.unsqueeze(1), log_weight.unsqueeze(0)).logsumexp(1)
    return torch.where(replaced == -torch.inf, 0.0, replaced - math.log(k))
