"""Stochastic variational inference with the model's amortized guide (Hoffman et al. 2013; Kingma & Welling 2014)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from torch import nn
from torch.distributions.kl import kl_divergence

from zoo import program
from zoo.batch import Data, call, num_data
from zoo.errors import ZooError, unknown_name
from zoo.estimators.base import Objective, Outcome, Run, at_least
from zoo.estimators.gradient import GuidedEstimator, mean_bound, pyro_objective
from zoo.estimators.hooks import FreshBatches, HookedBound, scored_sites
from zoo.model import Half, LatentVariableModel, can

__all__ = ["SVI"]


@dataclass(frozen=True)
class SVI(GuidedEstimator):
    """Climbs the ELBO in model and guide: discrete sites summed exactly under q, continuous ones reparametrised.

    Attributes:
        schedule: "joint" moves all parameters at once; "alternating" takes phases of guide-only steps (an
            approximate E step) and model-only steps (an approximate M step).
        phase_steps: length of an alternating phase.
        anneal_epochs: epochs over which the KL's weight rises from 0 to its full value, for models that offer
            ``anneal`` and ``elbo_parts`` (see ``zoo.estimators.hooks``).
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
        if self.anneal_epochs and not can(model, "anneal", "elbo_parts"):
            raise ZooError(f"svi: {type(model).__name__} has no KL weight to anneal. Leave anneal_epochs out.")
        reason = super().refuses(model, x)
        if reason is None and not can(model, "elbo") and not can(model, "elbo_parts"):
            stuck = [name for name, summable in scored_sites(model, x) if not summable]
            if stuck:
                return f"site {stuck[0]!r} has neither differentiable draws nor few enough values to sum over"
        return reason or self.fails(model, x)

    def column_for(self, model: LatentVariableModel, x: Data) -> str:
        return "bound" if self.anneal_epochs else super().column_for(model, x)

    def objective(self, model: LatentVariableModel, x: Data) -> Objective:
        if can(model, "elbo"):
            return lambda batch: mean_bound(-call(model.elbo, batch).sum(), batch)
        if can(model, "elbo_parts"):
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
            if can(model, "anneal"):
                model.anneal(1.0)

    def moving(self, model: LatentVariableModel, x: Data) -> Callable[[int], Iterable[str]] | None:
        if self.schedule == "joint":
            return None
        theta, psi = program.parameter_roles(model, x)
        return lambda step: (psi, theta)[step // int(self.phase_steps) % 2]


def elbo_module(model: LatentVariableModel, x: Data, num_particles: int = 1) -> nn.Module:
    """Pyro's loss for this model and guide, minus the ELBO summed over data, as a module of data.

    Discrete sites are enumerated, those that the guide leaves out in the model; without any, the KL is taken in closed
    form where every pair of distributions has one.
    """
    kind: Any = Trace_ELBO
    handler = model_handler = None
    if any(site.discrete for site in program.latent_sites(model, x)):
        kind, handler = TraceEnum_ELBO, config_enumerate
        left = program.left_out(*program.traces(model, x))
        model_handler = functools.partial(program.enumerating, names=left) if left else None
    elif closed_form_kl(model, x):
        kind = TraceMeanField_ELBO
    elbo = kind(
        num_particles=num_particles,
        vectorize_particles=num_particles > 1,
        max_plate_nesting=program.plate_nesting(model, x),
    )
    module: nn.Module = elbo(Half(model, "model", model_handler), Half(model, "guide", handler))
    return _InItsDtype(module, model)


class _InItsDtype(nn.Module):
    """A loss that takes its log-probabilities in the dtype of its data."""

    def __init__(self, loss: nn.Module, owner: LatentVariableModel) -> None:
        super().__init__()
        self.loss, self.owner = loss, owner

    def forward(self, *args: Any, **named: Any) -> Any:
        with self.owner.in_its_dtype(named or args):
            return self.loss(*args, **named)


def closed_form_kl(model: LatentVariableModel, x: Data) -> bool:
    """Whether KL(q || p) of each latent site is known in closed form and the sites do not depend on each other."""
    guide_trace, model_trace = program.draw(model, program.probe(model, x), 1, 0)
    latents = program.sample_sites(guide_trace)
    if len(latents) != 1:
        return False
    try:
        for name, site in latents.items():
            kl_divergence(site["fn"], program.sample_sites(model_trace)[name]["fn"])
    except (NotImplementedError, KeyError):
        return False
    return True
