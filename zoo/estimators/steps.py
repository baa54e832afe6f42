"""The two steps of EM on one data set, and how far rounding moves what they climb."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, map_tensors, num_data, stream_of, take
from zoo.core.isolation import kept_generators, threads
from zoo.core.pieces import statistics_of
from zoo.core.state import restore, snapshot
from zoo.core.statistics import Statistics

__all__ = ["ModelSteps", "Steps", "allowance", "judged", "measured_rounding"]

#: Iterations repeated from moved numbers, and what their spread is multiplied with. A fall of pure rounding is within
#: a few spreads; a wrong M step's is orders of magnitude away from them.
REPEATS, SAFETY = 8, 8.0
#: The rounding of float64.
_EPS = torch.finfo(torch.float64).eps


class Steps(Protocol):
    """E and M step of one model on one data set; the M step sets the model's parameters."""

    @property
    def model(self) -> LatentVariableModel: ...

    def e_step(self) -> Statistics: ...

    def m_step(self, statistics: Any) -> Sequence[str]:
        """Returns notes on constraints that acted."""
        ...

    def reordered(self, generator: torch.Generator) -> Steps:
        """The same steps on the same data in a random order, where their order means nothing."""
        ...

    def doubled(self) -> Steps:
        """The same steps of a copy of the model, on the data, in float64."""
        ...


@dataclass(frozen=True)
class ModelSteps:
    """Steps by the model's own ``e_step`` and ``m_step``; ``hard``: at the most probable z."""

    model: LatentVariableModel
    x: Data
    hard: bool = False

    def e_step(self) -> Statistics:
        return statistics_of(self.model, self.x, **({"hard": True} if self.hard else {}))

    def m_step(self, statistics: Any) -> Sequence[str]:
        with threads(0):  # a few small matrices
            return self.model.m_step(statistics) or ()

    def reordered(self, generator: torch.Generator) -> ModelSteps:
        if stream_of(self.x) is not None:  # as it is: it is read in one order
            return self
        return replace(self, x=take(self.x, torch.randperm(num_data(self.x), generator=generator)))

    def doubled(self) -> ModelSteps:
        return replace(self, model=copy.deepcopy(self.model).double(), x=doubled(self.x))


def objective_of(steps: Steps, statistics: Statistics) -> float:
    """What EM climbs: the E step's objective and the parameters' log-prior, total, nats."""
    return float(statistics["objective"] + steps.model.log_prior())


def allowance(objective: float, rows: float) -> float:
    """A fall that needs no second look, nats: 4096 roundings in float64 of the total, or of one nat a datum."""
    return 4096 * _EPS * max(rows, abs(objective))


def doubled(x: Data) -> Data:
    """Data with their real numbers in float64."""
    return map_tensors(lambda t: t.double() if t.is_floating_point() else t, x)


@torch.no_grad()
def judged(steps: Steps, start: dict[str, Tensor], fall: float) -> tuple[float, float]:
    """A fall from the parameters ``start`` to the present ones looked at closely: (the fall, what rounding may do).

    Both in nats; a fall seen in float32 is computed again in float64, where the model can.
    """
    exact = _exact(steps)
    if exact is not steps:
        values = [_value(exact, state) for state in (start, snapshot(steps.model))]
        again = values[0] - values[1]
        if math.isfinite(again):
            if again <= 0:
                return again, fall
            fall = again
        else:
            exact = steps
    return fall, measured_rounding(steps, start, fall, exact)


def _exact(steps: Steps) -> Steps:
    """The steps in float64, where they are not and can be."""
    if all(v.dtype == torch.float64 for v in steps.model.state_dict().values() if v.is_floating_point()):
        return steps
    try:
        return steps.doubled()
    except (RuntimeError, ValueError, TypeError):
        return steps


def _value(steps: Steps, state: dict[str, Tensor]) -> float:
    """The objective at some parameters; NaN where it has no number."""
    restore(steps.model, state)
    try:
        return objective_of(steps, steps.e_step())
    except (RuntimeError, ValueError, TypeError):
        return math.nan


@torch.no_grad()
def measured_rounding(
    steps: Steps, start: dict[str, Tensor], fall: float = math.inf, exact: Steps | None = None
) -> float:
    """What rounding may take from the objective in an iteration that begins at ``start``, nats; measured.

    The iteration (E, M, E) is repeated with every stored number moved by at most one rounding, before it and between
    the M step and the last E step, and with the data in another order. Numbers a rounding apart are the same numbers to
    this arithmetic, whatever its dtype, the conditioning of the problem and the number of terms: how far the objectives
    lie apart is what it cannot tell (Parker 1997, "Monte Carlo arithmetic"; Higham 2002, Accuracy and Stability of
    Numerical Algorithms, section 1.5 on backward error). Steps that draw random numbers see the same in every repeat.

    Args:
        start: the parameters before the iteration; the present ones are left as they are.
        fall: stop repeating once the answer is at least this.
        exact: steps of another model that evaluate the objective; the same ones by default.

    Returns:
        ``SAFETY`` times the larger spread of the two objectives; infinite where not two repeats ran through.
    """
    end = snapshot(steps.model)
    before: list[float] = []
    after: list[float] = []
    rounding = 0.0
    try:
        for repeat in range(REPEATS):
            generator = torch.Generator().manual_seed(repeat)
            with kept_generators():
                torch.manual_seed(0)
                first, second = steps.reordered(generator), steps.reordered(generator)
                moved = _moved(start, generator)
                restore(steps.model, moved)
                try:
                    statistics = first.e_step()
                    reached = objective_of(first, statistics)
                    first.m_step(statistics)
                except (RuntimeError, ValueError):
                    continue  # no numbers for this arithmetic
                if exact is not None and exact is not steps:
                    reached = _value(exact, moved)
                again = _value(second if exact in (None, steps) else exact, _moved(snapshot(steps.model), generator))
            if math.isfinite(reached) and math.isfinite(again):
                before.append(reached)
                after.append(again)
                rounding = SAFETY * max(max(before) - min(before), max(after) - min(after))
                if rounding >= fall:
                    break
    finally:
        restore(steps.model, end)
    return rounding if len(before) > 1 else math.inf


def _moved(state: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Every number up or down by one rounding, or let be."""
    return {
        name: value * (1 + torch.finfo(value.dtype).eps * _signs(value, generator))
        if value.is_floating_point()
        else value
        for name, value in state.items()
    }


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(-1, 2, like.shape, generator=generator).to(like.device, like.dtype)
