"""The mean field of a model without parameters of its own: many relaxations at once, the best kept as its guide."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from zoo.core.data import call, total
from zoo.core.problem import Problem
from zoo.estimators.base import Estimator, Outcome, Run, at_least, moves_all

__all__ = ["MeanField"]


@dataclass(frozen=True)
class MeanField(Estimator):
    """The model's own ``relax``, from many starts; a row of history after every tenth sweep.

    Peterson & Söderberg (1989), "A new method for mapping optimization problems onto neural networks"; Hopfield & Tank
    (1985).

    Attributes:
        starts: relaxations, side by side.
        dynamics: how they move, a word that the model knows.
    """

    name: ClassVar[str] = "mean_field"
    about_e: ClassVar[str] = "factorised q, the best of many relaxations while a temperature falls"
    about_m: ClassVar[str] = "–: nothing but q is fitted"
    uses_guide: ClassVar[bool] = True
    writes_checkpoints: ClassVar[bool] = False

    starts: int = 100
    dynamics: str = "potts"

    def refuses(self, problem: Problem) -> str | None:
        at_least(self.name, 1, starts=self.starts)
        return problem.lacks("relax", "elbo") or moves_all(problem.model, self.name)

    def run(self, problem: Problem, run: Run) -> Outcome:
        model, x, whole = problem.model, problem.data, False

        def seen(bound: float, fraction: float) -> bool:
            nonlocal whole
            whole = fraction == 1
            run.record(bound, elbo=bound, fraction=fraction)
            return not run.out_of_time

        with torch.no_grad():
            notes = call(partial(model.relax, starts=int(self.starts), dynamics=self.dynamics, seen=seen), x)
            value = float(total(call(model.elbo, x), x))
        return Outcome("converged" if whole else "max_iter", value, notes, elbo=value)
