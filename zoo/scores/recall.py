"""What a memory keeps: which data are stable states of it, and how much of them comes back from states near them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.core.contract import lacks
from zoo.scores.scoring import Scorer, Scoring

__all__ = ["SCORER", "flipped", "recall_errors"]

#: The share of units that are turned where a memory is asked for what it stored, and how many states of each datum.
SHARE, STARTS = 0.1, 20


def flipped(x: Tensor, share: float) -> Tensor:
    """States (..., D) with the sign of a share of the units of each turned, drawn by torch's generator."""
    turned = torch.rand(x.shape, dtype=x.dtype, device=x.device).argsort(-1) < round(share * x.shape[-1])
    return torch.where(turned, -x, x)


def recall_errors(model: Any, x: Tensor, share: float, starts: int = STARTS) -> Tensor:
    """The share of units in which what comes back differs from each datum by more than half of it, (starts, N).

    Args:
        share: of the units of a datum, how many are turned before: drawn anew for each start.
    """
    begun = flipped(x.expand(starts, *x.shape), share)
    back = model.recall(begun.reshape(-1, x.shape[-1])).reshape(begun.shape)
    return ((back - x).abs() > 0.5 * x.abs()).double().mean(-1)


def score(task: Scoring) -> dict[str, Any] | str:
    """Of a memory: how many data come back as they are, and the share of units that are wrong in what does."""
    if (reason := lacks(task.model, "recall")) is not None:
        return reason
    x: Any = task.x
    kept, near = recall_errors(task.model, x, 0.0, 1), recall_errors(task.model, x, SHARE)
    return {
        "num_recalled": int((kept == 0).sum()),
        "recall_error": float(kept.mean()),
        "noisy_recall_error": float(near.mean()),
    }


SCORER = Scorer(40, score)
