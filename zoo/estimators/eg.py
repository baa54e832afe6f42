"""Expected gradient: exact E step, gradient M step. ∇ ln p(x) = E_{p(z|x)} ∇ ln p(x, z) (Fisher's identity)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zoo.automatic.enumeration import why_not_exact
from zoo.core.data import at_hand, call, total
from zoo.core.hooks import Computed
from zoo.core.objective import Objective
from zoo.core.problem import Problem
from zoo.estimators.base import Outcome, Run
from zoo.estimators.gradient import GradientEstimator, mean_bound, pyro_step, repeats
from zoo.scores.evidence import enumerated_evidence

__all__ = ["EG"]


@dataclass(frozen=True)
class EG(GradientEstimator):
    """Gradient ascent on the exact ln p(x): the model's own ``log_marginal``, else Pyro's enumeration.

    Its gradient is the expected one, ∇ ln p(x) = E_{p(z | x)} ∇ ln p(x, z): Fisher's identity, as in Salakhutdinov,
    Roweis & Ghahramani (2003), "Optimization with EM and expectation-conjugate-gradient".
    """

    name: ClassVar[str] = "eg"
    about_e: ClassVar[str] = "exact posterior"
    about_m: ClassVar[str] = "gradient"
    spreads: ClassVar[bool] = True
    sees_evidence: ClassVar[bool] = True
    keeps_best: ClassVar[bool] = True
    column: ClassVar[str] = "log_likelihood"

    def refuses(self, problem: Problem) -> str | None:
        if problem.lacks("log_marginal") is None:
            return None
        return why_not_exact(problem.model, at_hand(problem.data), in_parts=True)

    def objective(self, problem: Problem) -> Objective:
        column = self.column_for(problem)
        if problem.lacks("log_marginal") is None:
            marginal = problem.model.log_marginal
            return Computed(lambda batch: mean_bound(-total(call(marginal, batch), batch), batch), column)
        return Computed(pyro_step(enumerated_evidence(problem.model, at_hand(problem.data))), column)

    def exact(self, problem: Problem) -> bool:
        return repeats(self, problem)

    def column_for(self, problem: Problem) -> str:
        return self.column if problem.model.normalized else "bound"

    def run(self, problem: Problem, run: Run) -> Outcome:
        outcome = super().run(problem, run)
        outcome.exact_q = True
        return outcome
