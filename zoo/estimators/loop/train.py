"""Which loop goes through a stage."""

from __future__ import annotations

from zoo.core.problem import Problem
from zoo.core.stage import Stage
from zoo.estimators.base import Outcome, Run
from zoo.estimators.loop.adam_loop import AdamLoop
from zoo.estimators.loop.exact_loop import ExactLoop
from zoo.estimators.loop.loop import Watch

__all__ = ["train"]


def train(problem: Problem, stage: Stage, run: Run, watch: Watch | None = None) -> Outcome:
    """Go through a stage, in place; go on from the run's checkpoint if it was written in this stage.

    Returns:
        Outcome with the last value as objective.
    """
    loop = ExactLoop if stage.exact else AdamLoop
    return loop(problem, stage, run, watch or Watch()).climb()
