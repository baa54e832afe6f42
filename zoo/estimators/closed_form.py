"""The exact maximum of the likelihood in one step, where a model knows a formula for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from zoo.core.data import call
from zoo.core.problem import Problem
from zoo.estimators.base import Estimator, Outcome, Run, moves_all
from zoo.scores.evidence import total_log_likelihood

__all__ = ["ClosedForm"]


@dataclass(frozen=True)
class ClosedForm(Estimator):
    """The model's own ``closed_form``, wherever it starts: one row of history, at the maximum."""

    name: ClassVar[str] = "closed_form"
    about_e: ClassVar[str] = "–"
    about_m: ClassVar[str] = "closed form, of all at once"
    sees_evidence: ClassVar[bool] = True

    def refuses(self, problem: Problem) -> str | None:
        return problem.lacks("closed_form", "log_marginal") or moves_all(problem.model, "closed_form")

    def run(self, problem: Problem, run: Run) -> Outcome:
        with torch.no_grad():
            notes = call(problem.model.closed_form, problem.data)
            value = total_log_likelihood(problem.model, problem.data)
        assert value is not None
        run.record(value, log_likelihood=value)
        return Outcome("converged", value, list(notes), bool(notes), exact_q=True)
