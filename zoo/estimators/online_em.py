"""Online EM: statistics from minibatches, averaged with a decaying step (Cappé & Moulines 2009, section 2.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from zoo.core.data import call, num_data, take
from zoo.core.problem import Problem
from zoo.core.state import restore, snapshot
from zoo.core.statistics import Statistics
from zoo.errors import ZooError
from zoo.estimators.base import Estimator, Outcome, Run, at_least, from_zero, given, needs_statistics

__all__ = ["OnlineEM"]


@dataclass(frozen=True)
class OnlineEM(Estimator):
    """EM on minibatches: one pass over the data makes many M steps.

    Attributes:
        max_epochs: passes over the data.
        batch_size: rows a step; None takes a twentieth of the data, between 100 and 4096 rows.
        step_power: the t-th step has weight (t + 1) ** -step_power, between 0.5 and 1.
        burn_in: steps before the first M step, while statistics of few data would be singular.
        tol: stop when two epochs in a row change the objective by less than this per datum (per time step for
            sequences), nats; 0 runs all epochs. The objective of an epoch is the sum over its minibatches, each at the
            parameters that it met, and the log-prior of the last ones: it need not rise in every epoch.
    """

    name: ClassVar[str] = "online_em"
    about_e: ClassVar[str] = "exact posterior of a minibatch"
    about_m: ClassVar[str] = "closed form, on averaged statistics"

    max_epochs: int = 50
    batch_size: int | None = None
    step_power: float = 0.6
    burn_in: int = 1
    tol: float = 1e-9

    def __post_init__(self) -> None:
        at_least(self.name, 1, max_epochs=self.max_epochs, **given(self, "batch_size"))
        at_least(self.name, 0, burn_in=self.burn_in)
        from_zero(self.name, tol=self.tol)

    def refuses(self, problem: Problem) -> str | None:
        if not 0.5 < self.step_power <= 1:
            raise ZooError(f"online_em: step_power expected a number in (0.5, 1], got {self.step_power}.")
        return needs_statistics(problem)

    def run(self, problem: Problem, run: Run) -> Outcome:
        model, x = problem.model, problem.data
        rows, units = num_data(x), model.num_units(x)
        size = min(rows, int(self.batch_size or min(4096, max(100, rows // 20))))
        average: Statistics | None = None
        step, status, last, notes = 0, "max_iter", -math.inf, []
        still = 0  # epochs in a row that changed next to nothing
        before = snapshot(model)
        with torch.no_grad():
            try:
                for epoch in range(int(self.max_epochs)):
                    seen = 0.0
                    for index in torch.randperm(rows).split(size):
                        statistics = call(model.e_step, take(x, index))
                        seen += float(statistics["objective"])
                        scaled = statistics * (rows / len(index))
                        weight = (step + 1) ** -self.step_power
                        average = scaled if average is None else average * (1 - weight) + scaled * weight
                        step += 1
                        if step > self.burn_in:
                            notes = list(model.m_step(average) or ())
                    objective = seen + float(model.log_prior())
                    if not math.isfinite(objective):
                        restore(model, before)
                        return Outcome("diverged", last, [f"the objective became {objective} in epoch {epoch + 1}"])
                    moving = step > self.burn_in + 2 * -(-rows // size)  # both epochs began after an M step
                    still = still + 1 if moving and abs(objective - last) < self.tol * units else 0
                    before, last = snapshot(model), objective
                    run.record(objective, fraction=(epoch + 1) / self.max_epochs)
                    if still == 2:
                        status = "converged"
                        break
                    if run.out_of_time:
                        break
            except KeyboardInterrupt:
                status = "interrupted"
                restore(model, before)
        return Outcome(status, last, notes, bool(notes), exact_q=True)
