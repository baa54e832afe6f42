"""Where a run stands, and the rows of its next batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from zoo.core.data import Data, map_tensors, stream_of, take
from zoo.estimators.base import Run

__all__ = ["Diverged", "Position", "last_objective", "select"]


@dataclass
class Position:
    """Where a run is: what a checkpoint holds besides tensors."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seen: float = 0.0
    bound: float = math.nan
    prior: float = 0.0
    best: float = -math.inf
    good_step: int = 0
    known: bool = True
    #: Of a climb by a quasi-Newton method: the gradient's length, iterations since one gained anything, how often its
    #: floors let go, what these say, the status that ended it (None while it goes on), and a line on that.
    gradient: float = math.nan
    idle: int = 0
    releases: int = 0
    floors: list[str] = field(default_factory=list)
    ended: str | None = None
    word: str | None = None


def select(x: Data, index: Tensor, rows: int) -> Data:
    """The rows ``index`` of every tensor that has as many rows as the data, side by side in memory."""
    if stream_of(x) is not None:
        return take(x, index)
    return map_tensors(lambda t: t.index_select(0, index) if t.dim() and t.shape[0] == rows else t, x)


def last_objective(run: Run) -> float:
    """The objective of the last row; -inf before the first one, NaN where nobody knows it."""
    history: list[Any] = run.history["objective"]
    if not history:
        return -math.inf
    return math.nan if history[-1] is None else float(history[-1])


class Diverged(Exception):
    """A bound or a parameter is not finite."""


#: Steps between looks at the parameters; what a divergence can lose.
LOOK_EVERY = 100


#: Steps between waits for an accelerator, which runs ahead of us otherwise.
WAIT_EVERY = 50
