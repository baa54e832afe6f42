"""EM for any enumerable Pyro program: E step by enumeration, M step read off the program (Dempster et al. 1977)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from zoo.automatic.enumeration import check_enumerable
from zoo.automatic.plan import Plan, make_plan
from zoo.batch import Data, num_data
from zoo.estimators.base import Outcome, Run
from zoo.estimators.em import EM
from zoo.model import FunctionModel, LatentVariableModel
from zoo.statistics import Statistics

__all__ = ["AutoEM"]


@dataclass(frozen=True)
class AutoEM(EM):
    """EM derived from the program: nothing but ``model(x)`` is needed.

    The exact posterior comes from enumeration; each parameter gets the closed-form update of its family where it enters
    as an entry of a table, a few numeric steps up its expected complete-data log-likelihood otherwise (generalised EM,
    Dempster, Laird & Rubin 1977, section 3). ``zoo.explain(model, x)`` shows which. The objective never falls.
    """

    name: ClassVar[str] = "auto_em"
    e_step: ClassVar[str] = "exact posterior, by enumeration of the program"
    m_step: ClassVar[str] = "closed form, site by site"
    takes_no_guide: ClassVar[bool] = True

    #: The plans of the runs under way, by the identity of their model.
    _plans: ClassVar[dict[int, Plan]] = {}

    def refuses(self, model: LatentVariableModel, x: Data) -> str | None:
        reason = super().refuses(model, x)
        if reason is None and not isinstance(model, FunctionModel) and model.log_prior().requires_grad:
            return "its prior is not in its program, which is all that auto_em sees"
        return reason or check_enumerable(model, x)

    def _lacks(self, model: LatentVariableModel) -> str | None:
        return None

    def rehearse(self, model: LatentVariableModel, x: Data) -> None:
        """Nothing: the plan belongs to a run."""

    def run(self, model: LatentVariableModel, x: Data, run: Run) -> Outcome:
        self._plans[id(model)] = make_plan(model, x)
        try:
            return super().run(model, x, run)
        finally:
            del self._plans[id(model)]

    def _e_step(self, model: LatentVariableModel, x: Data) -> Statistics:
        evidence, weights = self._plans[id(model)].e_step(x)
        value = torch.tensor(evidence, dtype=torch.float64)
        return Statistics(num_data(x), value, value, weights=weights)

    def _m_step(self, model: LatentVariableModel, x: Data, statistics: Any) -> list[str]:
        if math.isfinite(float(statistics["objective"])):
            return self._plans[id(model)].m_step(x, statistics["weights"])
        return []
