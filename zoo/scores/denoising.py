"""What a program with noise beside its latents says of data: the criterion that `svi` climbs."""

from __future__ import annotations

from typing import Any

from zoo.core.problem import Problem
from zoo.scores.bounds import bound
from zoo.scores.scoring import Scorer, Scoring

__all__ = ["SCORER"]


def score(task: Scoring) -> dict[str, Any] | str:
    """Total E ln p(x | spoilt x), less any KL of latents, and its Monte-Carlo standard error."""
    problem = Problem(task.model, task.x)
    if not problem.denoises:
        return "it has no noise beside its latents"
    value, error = bound(problem)
    return {"denoising": value, "denoising_se": error}


SCORER = Scorer(30, score)
