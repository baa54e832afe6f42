"""Stochastic variational inference with the model's amortized guide (Hoffman et al. 2013; Kingma & Welling 2014)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from torch import nn
from torch.distributions.kl import kl_divergence

from zoo import program
from zoo.batch import Data, call
from zoo.errors import unknown_name
from zoo.estimators.base import Objective
from zoo.estimators.gradient import GuidedEstimator, mean_bound
from zoo.model import Half, LatentVariableModel, can

__all__ = ["SVI"]


@dataclass(frozen=True)
class SVI(GuidedEstimator):
    """Climbs the ELBO in model and guide: discrete sites summed exactly under q, continuous ones reparametrised.

    Attributes:
        schedule: "joint" moves all parameters at once; "alternating" takes phases of guide-only steps (an
            approximate E step) and model-only steps (an approximate M step).
        phase_steps: length of an alternating phase.
    """

    name: ClassVar[str] = "svi"
    e_step: ClassVar[str] = "amortized guide; discrete sites summed exactly"
    m_step: ClassVar[str] = "gradient"

    schedule: str = "joint"
    phase_steps: int = 100

    def refuses(self, model: LatentVariableModel, x: Data) -> str | None:
        if self.schedule not in ("joint", "alternating"):
            raise unknown_name("svi: schedule", self.schedule, ("joint", "alternating"))
        return super().refuses(model, x)

    def objective(self, model: LatentVariableModel, x: Data) -> Objective:
        if can(model, "elbo"):
            return lambda batch: mean_bound(-call(model.elbo, batch).sum(), batch)
        loss = elbo_module(model, x, int(self.num_particles))
        return lambda batch: mean_bound(call(loss, batch), batch)

    def moving(self, model: LatentVariableModel, x: Data) -> Callable[[int], Iterable[str]] | None:
        if self.schedule == "joint":
            return None
        theta, psi = program.parameter_roles(model, x)
        return lambda step: (psi, theta)[step // int(self.phase_steps) % 2]


def elbo_module(model: LatentVariableModel, x: Data, num_particles: int = 1) -> nn.Module:
    """Pyro's loss for this model and guide, minus the ELBO summed over data, as a module of data.

    Guide-side discrete sites are enumerated; without any, the KL is taken in closed form where every pair of
    distributions has one.
    """
    kind: Any = Trace_ELBO
    handler = None
    if any(site.discrete for site in program.latent_sites(model, x)):
        kind, handler = TraceEnum_ELBO, config_enumerate
    elif closed_form_kl(model, x):
        kind = TraceMeanField_ELBO
    elbo = kind(
        num_particles=num_particles,
        vectorize_particles=num_particles > 1,
        max_plate_nesting=program.plate_nesting(model, x),
    )
    module: nn.Module = elbo(Half(model, "model"), Half(model, "guide", handler))
    return module


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
