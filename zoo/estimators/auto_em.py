"""EM for any enumerable Pyro program: E step by enumeration, M step read off the program (Dempster et al. 1977)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from zoo.automatic.enumeration import why_not_exact
from zoo.automatic.plans import Plans, divided, make_plans, parts, why_not_passed
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data
from zoo.core.problem import Problem
from zoo.core.ranks import present
from zoo.core.statistics import Statistics
from zoo.estimators.em import EM
from zoo.estimators.steps import Steps, doubled

__all__ = ["AutoEM"]


@dataclass(frozen=True)
class AutoEM(EM):
    """EM derived from the program: nothing but ``model(x)`` is needed.

    The exact posterior comes from enumeration; each parameter gets the closed-form update of its family where it enters
    as an entry of a table, a few numeric steps up its expected complete-data log-likelihood otherwise (generalised EM,
    Dempster, Laird & Rubin 1977, section 3). ``zoo.explain(model, x)`` shows which. The objective never falls.
    """

    name: ClassVar[str] = "auto_em"
    about_e: ClassVar[str] = "exact posterior, by enumeration of the program"
    about_m: ClassVar[str] = "closed form, site by site"
    takes_no_guide: ClassVar[bool] = True
    cause: ClassVar[str] = (
        "An update that was derived from the program is wrong, or the program changes from run to run"
    )

    def refuses(self, problem: Problem) -> str | None:
        model = problem.model
        if not model.points and model.log_prior().requires_grad:
            return "its prior is not in its program, which is all that auto_em sees"
        if problem.lacks("pretraining") is None:
            return "it starts with stages of gradient steps"
        return why_not_exact(model, next(parts(model, problem.data))) or why_not_passed(model, problem.data)

    def rehearse(self, problem: Problem) -> None:
        """Nothing: the plan belongs to a run."""

    def takes_copies(self, problem: Problem) -> bool:
        return False  # a plan belongs to a run

    def steps(self, problem: Problem) -> Steps:
        model, x = problem.model, problem.data
        return PlanSteps(model, x, make_plans(model, x, checked=True))

    def shared(self, problem: Problem) -> Steps:
        ranks = present()
        if ranks.size == 1:
            return self.steps(problem)
        model, own = problem.model, ranks.own(problem.data)
        return PlanSteps(model, own, divided(model, own, ranks, checked=True))


@dataclass(frozen=True)
class PlanSteps:
    """E and M step read off a program."""

    model: LatentVariableModel
    x: Data
    plans: Plans

    def e_step(self) -> Statistics:
        return self.plans.e_step()

    def m_step(self, statistics: Statistics) -> Sequence[str]:
        return self.plans.ranks.as_first(lambda: self.plans.m_step(statistics), self.model)

    def reordered(self, generator: torch.Generator) -> PlanSteps:
        """As they are: in a program the order of the data may mean something."""
        return self

    def doubled(self) -> PlanSteps:
        model, x, ranks = copy.deepcopy(self.model).double(), doubled(self.x), self.plans.ranks
        return PlanSteps(model, x, make_plans(model, x) if ranks.size == 1 else divided(model, x, ranks))
