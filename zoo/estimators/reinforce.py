"""Score-function gradient with a leave-one-out baseline (Williams 1992; Kool, van Hoof & Welling 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo.core import traces, weighing
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, mass, num_data, once, weights_of
from zoo.core.hooks import Computed, choose
from zoo.core.objective import Objective, Step
from zoo.core.problem import Problem
from zoo.errors import ZooError
from zoo.estimators.gradient import GuidedEstimator, nothing_to_weigh

__all__ = ["Reinforce"]


@dataclass(frozen=True)
class Reinforce(GuidedEstimator):
    """Draws z from the guide; discrete sites by the score function, continuous ones reparametrised.

    Williams (1992); the baseline is that of Kool, van Hoof & Welling (2019), "Buy 4 REINFORCE samples, get a baseline
    for free!".

    Attributes:
        num_particles: draws a datum, at least 2: each one's baseline is the mean of the others.
    """

    name: ClassVar[str] = "reinforce"
    about_e: ClassVar[str] = "draws from the guide, score function with baseline"
    about_m: ClassVar[str] = "gradient"
    spreads: ClassVar[bool] = True

    num_particles: int = 4

    def refuses(self, problem: Problem) -> str | None:
        if self.num_particles < 2:
            raise ZooError(
                f"reinforce: num_particles expected at least 2 (for the baseline), got {self.num_particles}."
            )
        return super().refuses(problem) or nothing_to_weigh(problem) or self.fails(problem)

    def objective(self, problem: Problem) -> Objective:
        model, nesting, k = problem.model, problem.program.nesting, int(self.num_particles)
        sums, column = bool(problem.program.left_out), self.column_for(problem)
        problem.program.spend("model", "guide")
        if problem.lacks("choices") is None:
            return Computed(lambda batch: scored(*choose(model, batch).draw(k), batch), column)
        return Computed(lambda batch: reinforce_surrogate(model, batch, k, nesting, sums), column, model)


def scored(log_joint: Tensor, log_guide: Tensor, batch: Data) -> Step:
    """(surrogate, bound) per datum from ln p(x, z_k) and ln q(z_k | x), (K, N), at draws without gradient."""
    weights = weights_of(batch)
    counted = log_joint if weights is None else log_joint * weights
    value = (log_joint - log_guide).detach()
    value = value if weights is None else value * weights
    surrogate = counted + without_its_own(value) * log_guide
    return Step(-surrogate.mean(0).sum() / mass(batch), value.mean(0).sum() / mass(batch))


def without_its_own(value: Tensor) -> Tensor:
    """The values of K draws (K, N), each less the mean of the others."""
    return value - (value.sum(0) - value) / (len(value) - 1)


def reinforce_surrogate(model: LatentVariableModel, batch: Data, k: int, nesting: int, sums: bool = False) -> Step:
    """(surrogate, bound) per datum. The score's baseline is the mean of the other draws: unbiased.

    Args:
        sums: whether latents that the guide leaves out are summed. Pyro sums no sites of which each row counts
            otherwise: weights of rows then come afterwards.
    """
    rows, weights = num_data(batch), weights_of(batch) if sums else None
    guide_trace, model_trace = traces.draw(model, batch if weights is None else once(batch), k, nesting)
    log_joint, log_guide = weighing.joint_and_guide(guide_trace, model_trace, rows, k, nesting)
    score = score_terms(guide_trace, log_guide, rows, k, nesting)
    counted = score_terms(guide_trace, log_guide, rows, k, nesting, traces.scaled_log_prob)
    if weights is not None:
        if log_joint.shape[1] != rows:
            raise ZooError(
                "reinforce: weights of rows expected latents of one datum each, got a guide that leaves out some and "
                "draws one of all data. Repeat the rows instead."
            )
        log_joint, log_guide, counted = (weights * part for part in (log_joint, log_guide, counted))
    value = (log_joint - log_guide).detach()
    # E[grad ln q] = 0, so the scored part of -ln q carries no gradient of its own.
    surrogate = log_joint - (log_guide - counted) + without_its_own(value) * score
    return Step(-surrogate.mean(0).sum() / mass(batch), value.mean(0).sum() / mass(batch))


def score_terms(
    guide_trace: traces.Trace,
    log_guide: Tensor,
    rows: int,
    k: int,
    nesting: int,
    value: traces.SiteValue = traces.own_log_prob,
) -> Tensor:
    """ln q of the sites whose draws carry no gradient, in the shape of ``log_guide``.

    The score of a draw knows no scale: a site that counts four times in the bound is still drawn once.
    """
    scored = traces.totals(
        guide_trace,
        rows,
        k,
        nesting,
        only=lambda _, site: not site["fn"].has_rsample,
        value=value,
        device=log_guide.device,
    )
    if scored.shape[1] != log_guide.shape[1]:
        scored = scored.sum(-1, keepdim=True)
    return torch.broadcast_to(scored.to(log_guide), log_guide.shape)
