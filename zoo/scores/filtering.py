"""The particle filter's bound on ln p(x) of sequences."""

from __future__ import annotations

import math
from typing import Any

import torch

from zoo.core.contract import lacks
from zoo.core.data import total
from zoo.core.particles import particle_bound
from zoo.scores.scoring import Scorer, Scoring
from zoo.scores.weights import pieces

__all__ = ["SCORER", "score"]

#: Particles a sequence of each of two runs, where as many draws are asked for.
PARTICLES = 100


def score(task: Scoring) -> dict[str, Any] | str:
    """The mean over two runs of ln p_hat (:mod:`zoo.core.particles`), total, and its Monte-Carlo standard error."""
    if (reason := lacks(task.model, "particles")) is not None:
        return reason
    if not task.trained:
        return "its guide was not trained on these data"
    size, value, variance = min(PARTICLES, task.num_samples), 0.0, 0.0
    for piece in pieces(task.model, task.x, size):
        with torch.no_grad():
            first, second = (particle_bound(task.model, piece, size).bound for _ in range(2))
        value += float(total((first + second) / 2, piece))
        variance += float(total((first - second).square() / 4, piece))
    return {"filtering_bound": value, "filtering_bound_se": math.sqrt(variance), "num_particles": size}


SCORER = Scorer(25, score)
