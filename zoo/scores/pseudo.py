"""The pseudo-likelihood of an energy whose ln Z is no affordable sum: each unit given all others (Besag 1975)."""

from __future__ import annotations

from typing import Any

import torch

from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call, count, num_data, split, take, total
from zoo.scores.scoring import Scorer, Scoring

__all__ = ["SCORER", "pseudo_likelihood"]

#: Rows that are looked at, evenly spread, and at a time.
ROWS, PIECE = 5000, 1000


def pseudo_likelihood(model: LatentVariableModel, x: Data) -> float:
    """The sum over the data of ln p of each unit given all others, nats; of more than 5000 rows, what as many say."""
    some, rows = x, num_data(x)
    if rows > ROWS:
        some = take(x, torch.linspace(0, rows - 1, ROWS).round().long())
    found: Any = model.pseudo_log_likelihood
    with torch.no_grad():
        summed = sum(float(total(call(found, piece).double(), piece)) for piece in split(some, PIECE))
    return summed * count(x) / count(some)


def score(task: Scoring) -> dict[str, Any] | str:
    """The total, where nothing exact is to be had."""
    if (reason := lacks(task.model, "pseudo_log_likelihood")) is not None:
        return reason
    if task.found.get("log_likelihood") is not None:
        return "its ln Z is known"
    return {"pseudo_likelihood": pseudo_likelihood(task.model, task.x)}


SCORER = Scorer(16, score)
