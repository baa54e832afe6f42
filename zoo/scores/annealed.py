"""The likelihood of an energy whose ln Z is no affordable sum, from both sides by annealed importance sampling."""

from __future__ import annotations

from typing import Any

import torch

from zoo.core.contract import lacks
from zoo.core.data import call, count, total
from zoo.scores.scoring import Scorer, Scoring

__all__ = ["SCORER"]


def score(task: Scoring) -> dict[str, Any] | str:
    """Totals by ln Z estimated from below and from above: the first is too high on average, the second too low."""
    model, x = task.model, task.x
    if (reason := lacks(model, "annealed_log_partition", "free_energy")) is not None:
        return reason
    if task.found.get("log_likelihood") is not None:
        return "its ln Z is known"
    with torch.no_grad():
        energies = float(total(call(model.free_energy, x).double(), x))
    seed = int(torch.randint(2**31, ()))
    below, above = (model.annealed_log_partition(seed=seed, reverse=reverse) for reverse in (False, True))
    rows = count(x)
    return {
        "annealed": -energies - rows * below.value,
        "annealed_se": rows * below.standard_error,
        "reverse_annealed": -energies - rows * above.value,
        "reverse_annealed_se": rows * above.standard_error,
        "notes": (
            "ln Z is estimated by annealing, too low on average; by chains the other way, too high if they start from "
            "the model: here they start from long Gibbs chains",
        ),
    }


SCORER = Scorer(15, score)
