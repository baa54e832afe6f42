"""The likelihood of an energy whose ln Z is no affordable sum, from both sides by annealed importance sampling."""

from __future__ import annotations

from typing import Any

import torch

from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call, count, total
from zoo.scores.scoring import Scorer, Scoring

__all__ = ["SCORER", "annealed_likelihood"]


def annealed_likelihood(
    model: LatentVariableModel, x: Data, seed: int = 0, reverse: bool = False
) -> tuple[float, float]:
    """ln p(x) with ln Z by annealed importance sampling, summed over the data, nats, and its standard error by that."""
    annealed: Any = model.annealed_log_partition
    found, rows = annealed(seed=seed, reverse=reverse), count(x)
    with torch.no_grad():
        energies = float(total(call(model.free_energy, x).double(), x))
    return -energies - rows * found.value, rows * found.standard_error


def score(task: Scoring) -> dict[str, Any] | str:
    """Totals by ln Z estimated from below and from above: the first is too high on average, the second too low."""
    model, x = task.model, task.x
    if (reason := lacks(model, "annealed_log_partition", "free_energy")) is not None:
        return reason
    if task.found.get("log_likelihood") is not None:
        return "its ln Z is known"
    seed = int(torch.randint(2**31, ()))
    (below, below_se), (above, above_se) = (annealed_likelihood(model, x, seed, reverse) for reverse in (False, True))
    return {
        "annealed": below,
        "annealed_se": below_se,
        "reverse_annealed": above,
        "reverse_annealed_se": above_se,
        "notes": (
            "ln Z is estimated by annealing, too low on average; by chains the other way, too high if they start from "
            "the model: here they start from long Gibbs chains",
        ),
    }


SCORER = Scorer(15, score)
