"""Stochastic variational inference with the model's amortized guide (Hoffman et al. 2013; Kingma & Welling 2014)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from zoo.core import roles
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call, num_data
from zoo.core.hooks import FreshBatches, HookedBound, Objective
from zoo.core.program import scored_sites
from zoo.errors import ZooError, unknown_name
from zoo.estimators.base import Outcome, Run, at_least
from zoo.estimators.gradient import GuidedEstimator, mean_bound, pyro_objective
from zoo.scores.bounds import elbo_module

__all__ = ["SVI"]


@dataclass(frozen=True)
class SVI(GuidedEstimator):
    """Climbs the ELBO in model and guide: discrete sites summed exactly under q, continuous ones reparametrised.

    Attributes:
        schedule: "joint" moves all parameters at once; "alternating" takes phases of guide-only steps (an
            approximate E step) and model-only steps (an approximate M step).
        phase_steps: length of an alternating phase.
        anneal_epochs: epochs over which the KL's weight rises from 0 to its full value, for models that offer
            ``anneal`` and ``elbo_parts`` (see ``zoo.core.hooks``).
    """

    name: ClassVar[str] = "svi"
    e_step: ClassVar[str] = "amortized guide; discrete sites summed exactly"
    m_step: ClassVar[str] = "gradient"

    schedule: str = "joint"
    phase_steps: int = 100
    anneal_epochs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.name, 1, phase_steps=self.phase_steps)
        at_least(self.name, 0, anneal_epochs=self.anneal_epochs)

    def refuses(self, model: LatentVariableModel, x: Data) -> str | None:
        if self.schedule not in ("joint", "alternating"):
            raise unknown_name("svi: schedule", self.schedule, ("joint", "alternating"))
        if self.anneal_epochs and lacks(model, "anneal", "elbo_parts") is not None:
            raise ZooError(f"svi: {type(model).__name__} has no KL weight to anneal. Leave anneal_epochs out.")
        reason = super().refuses(model, x)
        if reason is None and lacks(model, "elbo") is not None and lacks(model, "elbo_parts") is not None:
            stuck = [name for name, summable in scored_sites(model, x) if not summable]
            if stuck:
                return f"site {stuck[0]!r} has neither differentiable draws nor few enough values to sum over"
        return reason or self.fails(model, x)

    def column_for(self, model: LatentVariableModel, x: Data) -> str:
        return "bound" if self.anneal_epochs else super().column_for(model, x)

    def objective(self, model: LatentVariableModel, x: Data) -> Objective:
        if lacks(model, "elbo") is None:
            return lambda batch: mean_bound(-call(model.elbo, batch).sum(), batch)
        if lacks(model, "elbo_parts") is None:
            return HookedBound(model, int(self.num_particles), self._share(model, x))
        return FreshBatches(model, pyro_objective(elbo_module(model, x, int(self.num_particles))))

    def _share(self, model: LatentVariableModel, x: Data) -> Callable[[float], float] | None:
        if not self.anneal_epochs:
            return None
        epochs, _ = self.plan(model, x).resolve(num_data(x))
        rising = max(1, min(int(self.anneal_epochs), epochs)) / epochs
        return lambda fraction: fraction / rising

    def run(self, model: LatentVariableModel, x: Data, run: Run) -> Outcome:
        try:
            return super().run(model, x, run)
        finally:
            if lacks(model, "anneal") is None:
                model.anneal(1.0)

    def moving(self, model: LatentVariableModel, x: Data) -> Callable[[int], Iterable[str]] | None:
        if self.schedule == "joint":
            return None
        theta, psi = roles.parameter_roles(model, x)
        return lambda step: (psi, theta)[step // int(self.phase_steps) % 2]
