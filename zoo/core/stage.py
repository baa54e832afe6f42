"""A stage of a gradient estimator's run: what is climbed, by which parameters, for how long."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from zoo.core.objective import Objective
from zoo.core.schedule import Schedule

__all__ = ["Stage"]


@dataclass(frozen=True)
class Stage:
    """One climb; a run is one or several of them.

    Attributes:
        name: what checkpoints and progress call it.
        objective: what is climbed.
        schedule: how long, how many rows a step, how fast.
        moves: names of the parameters that move, as in ``named_parameters``, or a function of the step that gives
            them; None moves all that require a gradient.
        recorded: whether it writes the history. One that does not prepares the next: nothing is annealed in it, and
            held-out data have no say.
        exact: whether the objective has no noise and all data make one step, so that a quasi-Newton method may climb
            it: an iteration is an epoch then, and the schedule says only how many there may be.
    """

    name: str
    objective: Objective
    schedule: Schedule
    moves: Callable[[int], Iterable[str]] | Iterable[str] | None = None
    recorded: bool = True
    exact: bool = False
