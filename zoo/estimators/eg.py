"""Expected gradient: exact E step, gradient M step. ∇ ln p(x) = E_{p(z|x)} ∇ ln p(x, z) (Fisher's identity)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn

from zoo import program
from zoo.batch import Data, call, split
from zoo.estimators.base import Objective, Outcome, Run
from zoo.estimators.gradient import GradientEstimator, mean_bound, pyro_objective
from zoo.model import Half, LatentVariableModel, can

__all__ = ["EG"]


@dataclass(frozen=True)
class EG(GradientEstimator):
    """Gradient ascent on the exact ln p(x): the model's own ``log_marginal``, else Pyro's enumeration."""

    name: ClassVar[str] = "eg"
    e_step: ClassVar[str] = "exact posterior"
    m_step: ClassVar[str] = "gradient"
    sees_evidence: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True
    column: ClassVar[str] = "log_likelihood"

    def refuses(self, model: LatentVariableModel, x: Data) -> str | None:
        if can(model, "log_marginal"):
            return None
        continuous = [site.name for site in program.latent_sites(model, x) if not site.discrete]
        if continuous:
            return f"site {continuous[0]!r} is continuous, so there is no exact sum over it"
        return None

    def objective(self, model: LatentVariableModel, x: Data) -> Objective:
        if can(model, "log_marginal"):
            return lambda batch: mean_bound(-call(model.log_marginal, batch).sum(), batch)
        return pyro_objective(enumerated_evidence(model, x))

    def run(self, model: LatentVariableModel, x: Data, run: Run) -> Outcome:
        outcome = super().run(model, x, run)
        outcome.exact_q = True
        return outcome


class _NoGuide(nn.Module):
    def forward(self, *args: object, **kwargs: object) -> None:
        return None


def enumerated_evidence(model: LatentVariableModel, x: Data) -> nn.Module:
    """A module from data to -ln p(x), summed over data, by Pyro's enumeration of every discrete latent."""
    nesting = program.plate_nesting(model, x)
    module: nn.Module = TraceEnum_ELBO(max_plate_nesting=nesting)(Half(model, "model", config_enumerate), _NoGuide())
    return module


def exact_log_likelihood(model: LatentVariableModel, x: Data) -> Tensor | None:
    """ln p(x) of each datum, (N,), or summed (); None where no exact sum is to be had. No gradient is kept."""
    if can(model, "log_marginal"):
        with torch.no_grad():
            return torch.cat([call(model.log_marginal, piece) for piece in split(x, 16_384)])
    if all(site.discrete for site in program.latent_sites(model, x)):
        return -call(enumerated_evidence(model, x), x).detach()
    return None


def total_log_likelihood(model: LatentVariableModel, x: Data) -> float | None:
    """ln p(x) summed over the data; read off the E step where there is one, which is the fastest way to it."""
    if can(model, "e_step"):
        return float(call(model.e_step, x)["log_likelihood"])
    exact = exact_log_likelihood(model, x)
    return None if exact is None else float(exact.sum())
