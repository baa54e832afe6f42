"""Online EM: statistics from minibatches, averaged with a decaying step (Cappé & Moulines 2009, section 2.4)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.core.data import batches, call, num_data, passed, take
from zoo.core.nested import tensors_in, with_tensors
from zoo.core.problem import Problem
from zoo.core.ranks import present
from zoo.core.state import restore, snapshot
from zoo.core.statistics import Statistics
from zoo.errors import ZooError
from zoo.estimators.base import Estimator, Outcome, Run, at_least, from_zero, given, needs_statistics, taken
from zoo.storage.checkpoint import set_random_state

__all__ = ["OnlineEM"]

#: What checkpoints call it.
STAGE = "online_em"


@dataclass(frozen=True)
class OnlineEM(Estimator):
    """EM on minibatches: one pass over the data makes many M steps.

    Cappé & Moulines (2009), "On-line expectation-maximization algorithm for latent data models", section 2.4.

    Attributes:
        max_epochs: passes over the data.
        batch_size: rows a step; None takes a twentieth of the data, between 100 and 4096 rows.
        step_power: the t-th step has weight (t + 1) ** -step_power, between 0.5 and 1.
        burn_in: steps before the first M step, while statistics of few data would be singular.
        tol: stop when two epochs in a row change the objective by less than this per datum (per time step for
            sequences), nats; 0 runs all epochs. The objective of an epoch is the sum over its minibatches, each at the
            parameters that it met, and the log-prior of the last ones: it need not rise in every epoch.

    Raises:
        ZooError: an option outside its range.
    """

    name: ClassVar[str] = "online_em"
    about_e: ClassVar[str] = "exact posterior of a minibatch"
    about_m: ClassVar[str] = "closed form, on averaged statistics"
    spreads: ClassVar[bool] = True
    streams: ClassVar[bool] = True

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
        way = _Way(self, problem, run)
        with torch.no_grad():
            try:
                return way.go()
            except KeyboardInterrupt:
                restore(problem.model, way.before)
                return way.outcome("interrupted")


class _Way:
    """A run as it goes.

    Attributes:
        at: where it is: epoch and minibatch in it, steps so far, the epoch's sum so far, the last epoch's objective,
            epochs in a row that changed next to nothing, the last M step's notes.
        average: of the statistics so far. before: the model's tensors after the last whole epoch.
    """

    def __init__(self, options: OnlineEM, problem: Problem, run: Run) -> None:
        self.options, self.model, self.x, self.run = options, problem.model, problem.data, run
        self.rows, self.units = num_data(self.x), self.model.num_units(self.x)
        self.size = min(self.rows, int(options.batch_size or min(4096, max(100, self.rows // 20))))
        self.at: dict[str, Any] = {
            "epoch": 0, "batch": 0, "step": 0, "seen": 0.0, "last": -math.inf, "still": 0, "notes": []
        }  # fmt: skip
        self.ranks = present()
        self.average: Statistics | None = None
        self.before = snapshot(self.model)
        self.drawn = torch.get_rng_state()  # the epoch's order can be drawn again from it

    def go(self) -> Outcome:
        at, run, order = self.at, self.run, self._resumed()
        while at["epoch"] < self.options.max_epochs:
            order = self._order() if order is None else order
            for index in passed(order[at["batch"] :], self.x, at["batch"] * self.size):
                self._step(index)
                if run.due():
                    self._save()
            order = None
            objective = at["seen"] + float(self.model.log_prior())
            at.update(epoch=at["epoch"] + 1, batch=0, seen=0.0)
            if not math.isfinite(objective):
                restore(self.model, self.before)
                return Outcome("diverged", at["last"], [f"the objective became {objective} in epoch {at['epoch']}"])
            moving = at["step"] > self.options.burn_in + 2 * len(range(0, self.rows, self.size))  # both since an M step
            near = abs(objective - at["last"]) < self.options.tol * self.units
            at["still"] = at["still"] + 1 if moving and near else 0
            self.before, at["last"] = snapshot(self.model), objective
            run.record(objective, fraction=at["epoch"] / self.options.max_epochs)
            if at["still"] == 2:
                return self.outcome("converged")
            if run.out_of_time and at["epoch"] < self.options.max_epochs:
                if run.checkpoints is not None and self._save():
                    run.checkpoints.unfinished = True
                break
        return self.outcome("max_iter")

    def outcome(self, status: str) -> Outcome:
        notes = self.at["notes"]
        return Outcome(status, self.at["last"], notes, bool(notes), exact_q=True)

    def _order(self) -> Sequence[Tensor]:
        self.drawn = torch.get_rng_state()
        return batches(self.x, self.size)

    def _step(self, index: Tensor) -> None:
        at, options = self.at, self.options
        own = self.ranks.share(index)
        statistics = self.ranks.total(lambda: call(self.model.e_step, take(self.x, own)) if len(own) else None)
        at["seen"] += float(statistics["objective"])
        scaled = statistics * (self.rows / len(index))
        weight = (at["step"] + 1) ** -options.step_power
        self.average = scaled if self.average is None else self.average * (1 - weight) + scaled * weight
        at["step"] += 1
        at["batch"] += 1
        if at["step"] > options.burn_in:
            m_step = functools.partial(self.model.m_step, self.average)
            at["notes"] = list(self.ranks.as_first(m_step, self.model) or ())

    def _save(self) -> bool:
        """Write a checkpoint; False where a model's statistics hold what none can."""
        numbers = tensors_in(self.average)
        if numbers is None:
            assert self.run.checkpoints is not None
            self.run.checkpoints.notes = ["no checkpoint was written: the model's statistics are not made of tensors"]
            return False
        groups = {
            "random": {"epoch": self.drawn},
            "model": self.model.state_dict(),
            "before": self.before,
            "average": {f"{i:04d}": value for i, value in enumerate(numbers)},
        }
        self.run.save(STAGE, {"at": self.at}, groups)
        return True

    def _resumed(self) -> Sequence[Tensor] | None:
        """Take over the run's checkpoint, if there is one; the order of the epoch that it was written in."""
        found, order = self.run.resume(STAGE), None
        if found is None:
            return None
        like = call(self.model.e_step, take(self.x, torch.arange(min(self.rows, self.size))))
        restore(self.model, taken(found, "model", self.model))
        self.before = taken(found, "before", self.model)
        average = found.part("average")
        self.average = with_tensors(like, [average[name] for name in sorted(average)]) if average else None
        self.at.update(found.record["at"])
        if self.at["batch"]:
            torch.set_rng_state(found.tensors["random/epoch"])
            order = self._order()
        set_random_state(found.record["random"], found.tensors)
        return order
