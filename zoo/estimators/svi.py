"""Stochastic variational inference with the model's amortized guide (Hoffman et al. 2013; Kingma & Welling 2014)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from zoo.core.data import call, num_data, total
from zoo.core.hooks import Computed, HookedBound
from zoo.core.objective import Objective
from zoo.core.problem import Problem
from zoo.errors import ZooError, unknown_name
from zoo.estimators.base import at_least
from zoo.estimators.gradient import GuidedEstimator, failure, mean_bound, pyro_step
from zoo.scores.bounds import elbo_module

__all__ = ["SVI"]


@dataclass(frozen=True)
class SVI(GuidedEstimator):
    """Climbs the ELBO in model and guide: discrete sites summed exactly under q, continuous ones reparametrised.

    Attributes:
        schedule: "joint" moves all parameters at once; "alternating" takes phases of guide-only steps (an
            approximate E step) and model-only steps (an approximate M step).
        phase_steps: length of an alternating phase.
        anneal_epochs: epochs over which the KL's weight rises from 0 to its full value, for models that offer
            ``elbo_parts``.
    """

    name: ClassVar[str] = "svi"
    about_e: ClassVar[str] = "guide, discrete sites summed exactly"
    about_m: ClassVar[str] = "gradient"

    schedule: str = "joint"
    phase_steps: int = 100
    anneal_epochs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.name, 1, phase_steps=self.phase_steps)
        at_least(self.name, 0, anneal_epochs=self.anneal_epochs)

    def refuses(self, problem: Problem) -> str | None:
        if self.schedule not in ("joint", "alternating"):
            raise unknown_name("svi: schedule", self.schedule, ("joint", "alternating"))
        if self.anneal_epochs and problem.lacks("elbo_parts") is not None:
            raise ZooError(f"svi: {type(problem.model).__name__} has no KL weight to anneal. Leave anneal_epochs out.")
        reason = super().refuses(problem)
        if reason is None and problem.lacks("elbo") is not None and problem.lacks("elbo_parts") is not None:
            stuck = [name for name, summable in problem.program.scored if not summable]
            if stuck:
                return f"site {stuck[0]!r} has neither differentiable draws nor few enough values to sum over"
        return reason or self.fails(problem)

    def fails(self, problem: Problem) -> str | None:
        known = problem.program
        if problem.model.trusted or self.num_particles > 1 or any(site.discrete for site in known.latents):
            return super().fails(problem)
        try:  # a step is one run of both programs, and that is how they were looked up
            known.check_shapes()
        except ValueError as error:
            return failure(error)
        return None

    def column_for(self, problem: Problem) -> str:
        return "bound" if self.anneal_epochs else super().column_for(problem)

    def objective(self, problem: Problem) -> Objective:
        model, column = problem.model, self.column_for(problem)
        if problem.lacks("elbo") is None:
            return Computed(lambda batch: mean_bound(-total(call(model.elbo, batch), batch), batch), column)
        if problem.lacks("elbo_parts") is None:
            return HookedBound(model, int(self.num_particles), self._share(problem), column=column)
        loss = elbo_module(problem, int(self.num_particles))
        return Computed(pyro_step(functools.partial(call, loss)), column, model)

    def _share(self, problem: Problem) -> Callable[[float], float] | None:
        if not self.anneal_epochs:
            return None
        epochs, _ = self.plan(problem).resolve(num_data(problem.data))
        rising = max(1, min(int(self.anneal_epochs), epochs)) / epochs
        return lambda fraction: fraction / rising

    def moving(self, problem: Problem) -> Callable[[int], Iterable[str]] | None:
        if self.schedule == "joint":
            return None
        theta, psi = problem.program.theta, problem.program.psi
        return lambda step: (psi, theta)[step // int(self.phase_steps) % 2]
