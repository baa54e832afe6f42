"""Stochastic variational inference with the model's amortized guide (Hoffman et al. 2013; Kingma & Welling 2014)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from zoo.core.data import call, num_data, total
from zoo.core.hooks import Computed, HookedBound, choose
from zoo.core.objective import Objective
from zoo.core.problem import Problem
from zoo.errors import ZooError, unknown_name
from zoo.estimators.base import at_least, given
from zoo.estimators.gradient import GuidedEstimator, failure, mean_bound, pyro_step, repeats
from zoo.scores.bounds import elbo_module

__all__ = ["SVI"]


@dataclass(frozen=True)
class SVI(GuidedEstimator):
    """Climbs the ELBO in model and guide: discrete sites summed exactly under q, continuous ones reparametrised.

    Hoffman, Blei, Wang & Paisley (2013), "Stochastic variational inference"; Kingma & Welling (2014).

    Attributes:
        schedule: "joint" moves all parameters at once; "alternating" takes phases of guide-only steps (an
            approximate E step) and model-only steps (an approximate M step).
        phase_steps: length of an alternating phase.
        annealing: share of the climb, from its start, over which the KL's weight rises to its full value, for models
            that offer ``elbo_parts``; None takes what the model names, most of them none. The history has the bound at
            full weight all the while.
        annealing_start: the share of its full weight that the KL begins with; None takes what the model names, 0 as a
            rule.
        anneal_epochs: the same as ``annealing``, in epochs.

    Raises:
        ZooError: an option outside its range; both ``annealing`` and ``anneal_epochs``.
    """

    name: ClassVar[str] = "svi"
    about_e: ClassVar[str] = "guide, discrete sites summed exactly"
    about_m: ClassVar[str] = "gradient"
    spreads: ClassVar[bool] = True

    schedule: str = "joint"
    phase_steps: int = 100
    anneal_epochs: int = 0
    annealing: float | None = None
    annealing_start: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.name, 1, phase_steps=self.phase_steps)
        at_least(self.name, 0, anneal_epochs=self.anneal_epochs)
        for option, value in given(self, "annealing", "annealing_start").items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ZooError(f"svi: {option} expected a share from 0 to 1, got {value!r}.")
        if self.anneal_epochs and self.annealing is not None:
            raise ZooError("svi: expected annealing or anneal_epochs, got both. Leave one out.")

    def refuses(self, problem: Problem) -> str | None:
        if self.schedule not in ("joint", "alternating"):
            raise unknown_name("svi: schedule", self.schedule, ("joint", "alternating"))
        asked = next((name for name in ("anneal_epochs", "annealing") if getattr(self, name)), None)
        if asked is not None and problem.lacks("elbo_parts") is not None:
            raise ZooError(f"svi: {type(problem.model).__name__} has no KL weight to anneal. Leave {asked} out.")
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

    def exact(self, problem: Problem) -> bool:
        if problem.lacks("elbo") is not None:
            drawn = problem.lacks("denoising") is None or problem.lacks("elbo_parts") is None
            if drawn or not problem.program.drawn_surely:
                return False
        return repeats(self, problem)

    def objective(self, problem: Problem) -> Objective:
        model, column = problem.model, self.column_for(problem)
        if problem.lacks("elbo") is None:
            return Computed(lambda batch: mean_bound(-total(call(model.elbo, batch), batch), batch), column)
        if problem.lacks("denoising") is None:
            criterion = functools.partial(model.denoising, num_particles=int(self.num_particles))
            return Computed(lambda batch: mean_bound(-total(call(criterion, batch), batch), batch), column)
        if problem.lacks("elbo_parts") is None:
            return HookedBound(model, int(self.num_particles), self._share(problem), column=column)
        if problem.lacks("choices") is None:
            problem.program.spend("model", "model", "guide")  # as elbo_module does: batches are drawn in the same order
            chosen = functools.partial(choose, model)
            return Computed(
                lambda batch: mean_bound(-total(chosen(batch).bound(), batch), batch), column, chosen=chosen
            )
        loss = elbo_module(problem, int(self.num_particles))
        return Computed(pyro_step(functools.partial(call, loss)), column, model)

    def _share(self, problem: Problem) -> Callable[[float], float] | None:
        """The KL's weight, as a share of its full one, by the fraction of the climb done; None where it stays."""
        model = problem.model
        rising = model.annealing if self.annealing is None else self.annealing
        if self.anneal_epochs:
            epochs, _ = self.plan(problem).resolve(num_data(problem.data))
            rising = max(1, min(int(self.anneal_epochs), epochs)) / epochs
        start = model.annealing_start if self.annealing_start is None else self.annealing_start
        return (lambda fraction: start + (1 - start) * fraction / rising) if rising else None

    def moving(self, problem: Problem) -> Callable[[int], Iterable[str]] | None:
        if self.schedule == "joint":
            return None
        theta, psi = problem.program.theta, problem.program.psi
        return lambda step: (psi, theta)[step // int(self.phase_steps) % 2]
