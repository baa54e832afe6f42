"""``--hold-out``: a share of the data that the fit does not see, to score and to draw afterwards."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.cli.task import Task
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.runs.result import Fit

__all__ = ["Apart", "held_out"]

#: Of the sentences of a grammar, whose trees are looked at; where there are fewer, all are fitted.
SHARE, FEWEST = 0.1, 20


@dataclass(frozen=True)
class Apart:
    """What was held out.

    Attributes:
        x: these data. num_data: how many. share: of all data.
    """

    x: Any
    num_data: int
    share: float

    @property
    def record(self) -> dict[str, Any]:
        """For the run's record."""
        return {"hold_out": self.share}

    def score(self, this: Fit) -> float | None:
        """ln p of what is held out, total, nats; None where it is not known."""
        from zoo.runs.prepare import possible_rows

        try:
            x, _ = possible_rows(this.model, this.model.prepare(self.x))
            return this.score(x)
        except ZooError:
            return None

    def told(self, score: float | None) -> str:
        """A line for the screen."""
        known = "" if score is None else f": log-likelihood {score:.4f}"
        return f"{self.num_data} data held out{known}"


def held_out(task: Task, share: float | None, seed: int) -> Apart | None:
    """Take what is to be held out from a task's data, by the seed; None where nothing is.

    Raises:
        ZooError: no share from 0 to below 1, or no data on one side.
    """
    from zoo.core.contract import lacks, prepared
    from zoo.core.data import at_hand, num_data, stream_of, take
    from zoo.core.functions import as_model
    from zoo.runs.prepare import drawn_apart, held_apart

    if share is not None and not 0 <= share < 1:
        raise ZooError(f"--hold-out expected a share from 0 to below 1, got {share}. Take 0.1.")
    if share == 0:
        return None
    model = copy.deepcopy(as_model(task.model, task.guide))
    if share is None and lacks(model, "parse") is not None:
        return None
    rows = num_data(task.x)
    if share is None and rows < FEWEST:
        return None
    share = SHARE if share is None else share
    few = at_hand(task.x)
    if rows < 2 or round(share * rows) >= rows or num_data(prepared(model, few, new=True)) != num_data(few):
        raise ZooError(f"--hold-out {share} expected several data to choose from, got one sequence, or too few rows.")
    if (stream := stream_of(task.x)) is not None:
        task.x, x = held_apart(task.x, stream, share, seed)
        return Apart(x, num_data(x), share)
    fitted, apart = drawn_apart(rows, share, seed)
    x = take(task.x, apart)
    task.x = take(task.x, fitted)
    if task.labels is not None:
        task.labels = task.labels[fitted]
    return Apart(x, len(apart), share)
