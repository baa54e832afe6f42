"""Parameters in one step, where a model knows a formula: of the exact maximum of the likelihood, or a memory's rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from zoo.core.data import call
from zoo.core.problem import Problem
from zoo.estimators.base import Estimator, Outcome, Run, moves_all
from zoo.scores.evidence import log_density, summed, total_log_likelihood

__all__ = ["ClosedForm"]


@dataclass(frozen=True)
class ClosedForm(Estimator):
    """The model's own ``closed_form``, wherever it starts: one row of history, at the maximum.

    Of PPCA and the linear VAE it is that of Tipping & Bishop (1999), equations 7 and 8; a memory's is its rule.

    Of a model without a likelihood (a memory at temperature zero) the row has the log-density, which has no maximum.
    """

    name: ClassVar[str] = "closed_form"
    about_e: ClassVar[str] = "–"
    about_m: ClassVar[str] = "closed form, of all at once"
    sees_evidence: ClassVar[bool] = True
    writes_checkpoints: ClassVar[bool] = False

    def refuses(self, problem: Problem) -> str | None:
        return problem.lacks("closed_form") or moves_all(problem.model, "closed_form")

    def run(self, problem: Problem, run: Run) -> Outcome:
        with torch.no_grad():
            notes = call(problem.model.closed_form, problem.data)
            value = total_log_likelihood(problem.model, problem.data)
            reached = summed(log_density(problem.model, problem.data), problem.data) if value is None else value
        run.record(reached, log_likelihood=value)
        # What keeps a likelihood from its maximum is a constraint; a rule's note is none.
        return Outcome("converged", reached, list(notes), bool(notes) and value is not None, exact_q=True)
