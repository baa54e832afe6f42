"""The loop of a quasi-Newton method: an objective without noise is climbed on all data, an iteration an epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.core.data import mass
from zoo.core.objective import Step
from zoo.core.problem import Problem
from zoo.core.stage import Stage
from zoo.estimators.base import Outcome, Run
from zoo.estimators.loop.floors import Floors
from zoo.estimators.loop.loop import Loop, Watch
from zoo.estimators.loop.metric import measured
from zoo.estimators.loop.position import Diverged
from zoo.estimators.loop.quasi_newton import QuasiNewton
from zoo.estimators.loop.saturation import back_inside, saturated
from zoo.estimators.loop.units import Units

__all__ = ["ExactLoop"]

#: A climb is over where so many iterations in a row gain less than this, and the next one promises no more, nats per
#: datum. Before the climb, where the guide alone moves, more is left, after one.
LEAST, OFTEN, LEAST_BEFORE = 1e-9, 3, 1e-5
#: Iterations within rounding that a gradient may go on to promise more.
PATIENCE = 20
#: Iterations between looks at floors; the last one is looked at too.
LIFT_EVERY = 10
#: How often floors let go of what they hold, and logits come back, where the gradient asks for it in the end.
RELEASES = 10
#: Roundings of the objective within which a difference means nothing.
ROUNDINGS = 4


class ExactLoop(Loop):
    """A climb by L-BFGS, in units of the parameters' scales.

    It is over where the gradient is no longer than ``tol``, or where iterations gain next to nothing and the next one
    promises no more. What comes below a floor of the model's is lifted to it and stays there, until the gradient asks
    for it. The history's column ``gradient`` has the gradient's length per datum.
    """

    kept_as = "lbfgs"
    advice = "Start from elsewhere (init, seed)"

    def __init__(self, problem: Problem, stage: Stage, run: Run, watch: Watch) -> None:
        super().__init__(problem, stage, run, watch)
        self.waits, self.keeps_best = True, False
        self.problem = problem
        self.mass = mass(self.x)
        self.least, self.often = (LEAST, OFTEN) if stage.recorded else (LEAST_BEFORE, 1)
        self.eps = max((torch.finfo(p.dtype).eps for p in self.moving), default=0.0)
        self._from_here()

    def _from_here(self) -> None:
        self.units = Units(self.moving, self.scales)
        self.floors = Floors(self.problem, self.units)
        self._stands: Tensor | None = None  # the variables that the parameters are set to
        metric = measured(self.model, self.objective, self.x, self.units, set(self.scales))
        self.optimizer = QuasiNewton(self._look_at, torch.zeros(self.units.size, dtype=torch.float64), metric)

    def _carried(self) -> dict[str, Tensor]:
        return {**self.optimizer.state(), **self.floors.state(), "start": self.units.start}

    def _take_over(self, carried: dict[str, Tensor]) -> None:
        if not carried:  # a climb by Adam of an earlier version goes on by this one
            return self._from_here()
        self.units.start = carried.pop("start").clone()
        self.floors.held, self.floors.inward = carried.pop("held").clone(), carried.pop("inward").clone()
        self.floors.notes = list(self.at.floors)
        self.optimizer.load(carried)
        self.optimizer.begin()

    def _put(self, u: Tensor) -> None:
        """Set the parameters to what u stands for, where they are not there."""
        if self._stands is None or not torch.equal(u, self._stands):
            self._stands = None  # nowhere, if it is interrupted
            self.units.put(u)
            self._stands = u

    def _look_at(self, u: Tensor) -> tuple[float, Tensor, tuple[Step, float, Tensor] | None]:
        """The objective at u, to be lowered, per datum; its gradient, and what the history has of it."""
        self._put(u)
        nothing = math.inf, torch.zeros_like(u), None
        try:
            step, prior = self.objective(self.x), 0.0
            surrogate = step.surrogate
            if self.with_prior:
                log_prior = self.model.log_prior()
                surrogate, prior = surrogate - log_prior / self.count, float(log_prior.detach())
            value = float(surrogate.detach())
            gradient = self.units.gradient(surrogate) if math.isfinite(value) else None
        except (ValueError, RuntimeError):  # what distributions and factorisations make of places out of bounds
            if self.optimizer.beside is None:
                raise
            return nothing
        if gradient is None or not math.isfinite(float(gradient.sum())):
            return nothing
        return value, self.floors.free(gradient), (step, prior, gradient)

    def _step(self, index: Tensor | None) -> None:
        optimizer, at = self.optimizer, self.at
        if optimizer.beside is None:
            optimizer.begin()
        if optimizer.beside is None:
            raise Diverged
        before, moved = optimizer.value, False
        self._tell()
        at.gradient = float(optimizer.gradient.norm())
        if self.stage.recorded:
            self._add_parts(optimizer.beside[0].parts, self.mass)
        try:
            if at.gradient > self.watch.tol:
                moved = optimizer.iterate(self._rounding())
        finally:
            self._put(optimizer.variables)
        at.ended = self._verdict(before - optimizer.value, moved)
        last = at.ended is not None or at.step + 1 == self.total_steps
        if (last or at.step % LIFT_EVERY == 0) and self._lifted():
            at.ended, at.word = None, None
        if at.ended is not None and at.releases < RELEASES and self._released():
            at.ended, at.word, at.releases = None, None, at.releases + 1
            self._anew()
        at.bound = self._bound()
        at.step, at.batch = at.step + 1, 1
        if self.ticks and at.step % 16 == 0:
            self.run.tick(at.step / self.total_steps, None if self.stage.recorded else self.stage.name)
        if self.run.due():
            self._save()

    def _lifted(self) -> bool:
        """Whether the model lifted something to a floor, from where the climb goes on without it."""
        lifted = self.floors.lift(self.optimizer.variables) if self.stage.recorded else None
        if lifted is None:
            return False
        self.optimizer.variables, self.at.floors = lifted, list(self.floors.notes)
        self._anew()
        return True

    def _released(self) -> bool:
        """Whether the climb has farther to go than it seemed: from floors that let go, or logits that come back."""
        optimizer, units = self.optimizer, self.units
        if self.floors.releases(optimizer.beside[2]):
            return True
        if not self.stage.recorded:
            return False
        values, here = units.start + units.scale * optimizer.variables, optimizer.value
        which = saturated(values, lambda there: self._look_at((there - units.start) / units.scale)[1], units.scale == 1)
        for place in back_inside(values, which) if bool(which.any()) else ():
            u = (place - units.start) / units.scale
            if self._look_at(u)[0] < here - max(self.least, self._rounding()):
                optimizer.variables = u
                return True
        self._put(optimizer.variables)
        return False

    def _anew(self) -> None:
        self.optimizer.forget()
        self.optimizer.begin()
        self.at.idle = 0

    def climb(self) -> Outcome:
        outcome = super().climb()
        if bool(self.floors.held.any()):
            outcome.notes, outcome.degenerate = [*outcome.notes, *self.floors.notes], True
            if outcome.status == "converged" and not self.floors.binds(self.optimizer.beside[2], self.watch.tol):
                outcome.status = "stalled"
        return outcome

    def _tell(self) -> None:
        """What the row of an iteration says: the objective where it begins, as the rows of Adam and EM do."""
        self.at.known, self.at.prior = self.optimizer.beside[0].value is not None, self.optimizer.beside[1]
        self.at.seen = self._bound() * self.mass

    def _bound(self) -> float:
        """The objective at the present point without a prior, nats per datum."""
        step: Step = self.optimizer.beside[0]
        return float((-step.surrogate if step.value is None else step.value).detach())

    def _total(self) -> float:
        beside = self.optimizer.beside
        if beside is None or not self.at.known:
            return super()._total()
        total: float = self.at.bound * self.mass + beside[1]
        return total

    def _rounding(self) -> float:
        """What rounding may do to the objective, nats per datum."""
        return ROUNDINGS * self.eps * max(1.0, abs(self.optimizer.value))

    def _verdict(self, gain: float, moved: bool) -> str | None:
        """The status that the climb ends with after an iteration, None where it goes on."""
        optimizer, least = self.optimizer, max(self.least, self._rounding())
        length = float(optimizer.gradient.norm())
        if length <= self.watch.tol:
            return "converged"
        self.at.idle = self.at.idle + 1 if gain < least else 0
        if moved and (self.at.idle < self.often or (optimizer.promise >= self.least and self.at.idle < PATIENCE)):
            return None
        done = optimizer.promise < least
        why = f"iterations gain less than {least:.0e} nats a datum" if done else "rounding hides what a step gains"
        self.at.word = f"{why}; the gradient there is {length:.1e}, per unit of the parameters"
        return "converged" if done else "stalled"

    def _stationary(self, tol: float) -> bool:
        return bool(self.optimizer.gradient.norm() <= tol)

    def _columns(self) -> dict[str, float | None]:
        return {"gradient": self.at.gradient}

    def _fraction(self) -> float | None:
        return None
