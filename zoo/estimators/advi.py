"""Variational inference over parameters: one Gaussian, in unconstrained space (Kucukelbir et al. 2017)."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal, init_to_value
from torch import Tensor

from zoo.bayes import joint as bayes
from zoo.bayes.draws import Draws
from zoo.core.as_module import AsModule
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call, num_data
from zoo.core.functions import as_model
from zoo.core.hooks import Computed
from zoo.core.problem import Problem
from zoo.core.schedule import Schedule
from zoo.core.stage import Stage
from zoo.errors import unknown_name
from zoo.estimators.base import (
    Estimator,
    Outcome,
    Run,
    above_zero,
    at_least,
    from_zero,
    given,
    moves_all,
    of_rows_alone,
)
from zoo.estimators.gradient import mean_bound
from zoo.estimators.loop.adam import optimizer_imported
from zoo.estimators.loop.loop import Watch
from zoo.estimators.loop.train import train
from zoo.scores.weights import pareto_k

__all__ = ["ADVI"]

FAMILIES: dict[str, Any] = {
    "multivariate_normal": AutoMultivariateNormal,
    "normal": AutoNormal,
    "low_rank": AutoLowRankMultivariateNormal,
}


@dataclass(frozen=True)
class ADVI(Estimator):
    """Climbs E_q [ln p(θ, x) - ln q(θ)], a bound on ln p(x) with the parameters integrated out.

    p(θ, x) is the model's ``prior(x)`` times its ``log_marginal(x)``, the posterior that ``nuts`` samples; q is a
    Gaussian over θ mapped to unconstrained space. The fitted model holds q's means, ``fit.draws`` draws from q,
    ``fit.elbo`` the bound over those draws; ``fit.diagnostics["khat"]`` tells whether they cover the posterior
    (PSIS, Vehtari et al. 2024: below 0.7).

    Attributes:
        family: q's covariance: "multivariate_normal" (full), "normal" (diagonal) or "low_rank" (plus diagonal).
        max_epochs: steps, each on all data; None takes 3000.
        learning_rate: Adam's, at the start, in units of each prior's scale; it falls to a hundredth along a cosine.
        num_particles: draws from q a step.
        num_samples: draws from q at the end.
        tol: status "converged" if the bound moved less than this per datum over the schedule's last part, nats.
    """

    name: ClassVar[str] = "advi"
    about_e: ClassVar[str] = "exact posterior; a Gaussian q over the parameters, under priors"
    about_m: ClassVar[str] = "–: parameters are integrated out"

    unit: ClassVar[str] = "epochs"

    family: str = "multivariate_normal"
    max_epochs: int | None = None
    learning_rate: float = 0.02
    num_particles: int = 1
    num_samples: int = 1000
    tol: float = 0.01

    def refuses(self, problem: Problem) -> str | None:
        if self.family not in FAMILIES:
            raise unknown_name("advi: family", self.family, FAMILIES)
        at_least("advi", 2, num_samples=self.num_samples)
        at_least("advi", 1, num_particles=self.num_particles, **given(self, "max_epochs"))
        above_zero("advi", learning_rate=self.learning_rate)
        from_zero("advi", tol=self.tol)
        return problem.lacks("prior", "log_marginal") or moves_all(problem.model, "posterior") or of_rows_alone(problem)

    def rehearse(self, problem: Problem) -> None:
        optimizer_imported()

    def run(self, problem: Problem, run: Run) -> Outcome:
        model, x = problem.model, problem.data
        posterior = self.posterior(model, x)
        elbo = Trace_ELBO(num_particles=int(self.num_particles))(
            AsModule(posterior, "model"), AsModule(posterior, "guide")
        )

        rows = num_data(x)
        epochs = 3000 if self.max_epochs is None else int(self.max_epochs)
        schedule = Schedule(epochs, rows, self.learning_rate)
        objective = Computed(lambda batch: mean_bound(call(elbo, batch), batch))
        outcome = train(Problem(posterior, x), Stage("climb", objective, schedule), run, Watch(tol=self.tol))
        if outcome.status == "diverged":
            return outcome
        draws = scored(posterior, model, x, int(self.num_samples))
        bayes.set_means(model, draws.flat())
        notes = [*outcome.notes, f"{draws}; the bound is on ln p(x) with the parameters integrated out"]
        khat = draws.diagnostics["khat"]
        if khat is not None and khat > 0.7:
            notes.append(f"PSIS k-hat {khat:.2f} is above 0.7: q does not cover the posterior; compare with nuts")
        return Outcome(outcome.status, outcome.objective, notes, elbo=draws.diagnostics["elbo"], draws=draws)

    def posterior(self, model: LatentVariableModel, x: Data) -> LatentVariableModel:
        """The joint program of parameters and data ``x``, with its guide, started at the model's present parameters."""
        # θ's program reads the model's tensors but moves none of them.
        still = _still(model)
        program = bayes.joint(still, x, _standardised)
        sites = call(still.prior, x)
        values = bayes.site_values(still, sites)
        guide = FAMILIES[self.family](program, init_loc_fn=init_to_value(values=values), init_scale=0.05)
        made = as_model(program, guide)
        made.initialize(x, "current")
        return made


def _still(model: LatentVariableModel) -> LatentVariableModel:
    twin = copy.deepcopy(model)
    twin.requires_grad_(False)
    return twin


def _normal(fn: Any) -> bool:
    return isinstance(getattr(fn, "base_dist", fn), dist.Normal)


def _standardised(prior: Callable[..., Any]) -> Callable[..., Any]:
    """Normal sites measured in units of their prior, so that one learning rate suits data in any unit."""
    from pyro.infer.reparam import LocScaleReparam

    def config(site: Any) -> Any:
        done = site["is_observed"] or site["name"].endswith("_decentered")
        return LocScaleReparam(0.0) if _normal(site["fn"]) and not done else None

    wrapped: Callable[..., Any] = poutine.reparam(prior, config=config)
    return wrapped


@torch.no_grad()
def scored(posterior: LatentVariableModel, model: LatentVariableModel, x: Data, num_samples: int) -> Draws:
    """Draws from the guide, with the bound over them, its standard error and the PSIS k-hat of their weights."""
    sites = call(model.prior, x)
    weights, values = [], {name: list[Tensor]() for name in sites}
    for _ in range(num_samples):
        guide = poutine.trace(functools.partial(call, posterior.guide, x)).get_trace()
        program = poutine.trace(poutine.replay(functools.partial(call, posterior.model, x), trace=guide)).get_trace()
        weights.append(torch.as_tensor(program.log_prob_sum() - guide.log_prob_sum()))
        for name in sites:
            values[name].append(torch.as_tensor(program.nodes[name]["value"]))
    weight = torch.stack(weights)
    khat = pareto_k(weight.unsqueeze(-1))
    told = {
        "elbo": float(weight.mean()),
        "elbo_se": float(weight.std()) / math.sqrt(num_samples),
        "khat": None if khat is None else float(khat),
    }
    drawn = {name: torch.stack(value) for name, value in values.items()}
    drawn = {**drawn, **{name: v for name, v in bayes.parameters(drawn).items() if name not in drawn}}
    return Draws({name: value.unsqueeze(0) for name, value in drawn.items()}, diagnostics=told)
