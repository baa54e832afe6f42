"""Parameters in one step, where a model knows a formula: of the exact maximum of the likelihood, or a memory's rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from zoo.core.data import call, stream_of
from zoo.core.pieces import total_of
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
    streams: ClassVar[bool] = True

    def refuses(self, problem: Problem) -> str | None:
        reason = problem.lacks("closed_form") or moves_all(problem.model, "closed_form")
        if reason is not None or (stream := stream_of(problem.data)) is None:
            return reason
        if problem.lacks("closed_form_statistics") is None:
            return None
        return f"its closed_form takes all data at once, and the {len(stream)} rows of {stream.name} are read in pieces"

    def run(self, problem: Problem, run: Run) -> Outcome:
        with torch.no_grad():
            if stream_of(problem.data) is None:
                notes = call(problem.model.closed_form, problem.data)
            else:
                statistics = total_of(problem.model, problem.data, "closed_form_statistics")
                notes = problem.model.closed_form_of(statistics)
            value = total_log_likelihood(problem.model, problem.data)
            reached = summed(log_density(problem.model, problem.data), problem.data) if value is None else value
        run.record(reached, log_likelihood=value)
        # What keeps a likelihood from its maximum is a constraint; a rule's note is none.
        return Outcome("converged", reached, list(notes), bool(notes) and value is not None, exact_q=True)
