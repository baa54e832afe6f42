"""The guide's bound on ln p(x), and its parts."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from torch import nn

from zoo.core import traces, weighing
from zoo.core.as_module import AsModule
from zoo.core.contract import LatentVariableModel, lacks, prepared
from zoo.core.data import call, num_data, once, split, total, weights_of
from zoo.core.hooks import HookedBound, settled
from zoo.core.isolation import isolated
from zoo.core.memory import LAYER
from zoo.core.problem import Problem
from zoo.core.statistics import weighted
from zoo.errors import ZooError
from zoo.scores.weights import pieces

__all__ = ["bound", "bound_parts", "elbo_module", "summed_exactly"]


#: Draws for a bound of a program that takes them one by one only.
ONE_BY_ONE = 100


def summed_exactly(problem: Problem) -> bool:
    """Whether every latent is discrete, so that the bound needs no draws."""
    if weighing.tabled(problem):  # no loop over the sites of a long chain
        weighing.spend_tables(problem, "model")
        return True
    problem.program.spend("model")
    return problem.program.summed


def bound(problem: Problem) -> tuple[float, float]:
    """The guide's ELBO and its standard error, totals; summed exactly when every latent is discrete."""
    model, x = problem.model, problem.data
    if problem.lacks("elbo") is None:
        with torch.no_grad():
            return sum(float(total(call(model.elbo, piece), piece)) for piece in pieces(model, x, 256)), 0.0
    if summed_exactly(problem):
        loss = elbo_module(problem)
        return -sum(float(call(loss, piece).detach()) for piece in pieces(model, x, 256)), 0.0
    # As many draws as a second allows: a network of a thousand weights counts as one number.
    weights = sum(p.numel() for p in model.parameters())
    samples = min(1000, max(10, 5_000_000 // (model.num_rows(x) * max(1, weights // 1000))))
    if samples > ONE_BY_ONE:
        problem.program.spend("model", "guide")
    value, variance = 0.0, 0.0
    for piece in pieces(model, x, samples):
        known = problem.program if num_data(piece) == num_data(x) else None
        log_weight = weighing.log_weights(model, piece, samples, known=known, one_by_one=ONE_BY_ONE)
        alone = num_data(piece) == log_weight.shape[1]  # else a global latent has the weights inside
        counted = piece if alone else once(piece)
        value += float(total(log_weight.mean(0), counted))
        variance += float(total(weighted(log_weight.var(0), weights_of(counted)), counted)) / len(log_weight)
    return value, math.sqrt(variance)


def elbo_module(problem: Problem, num_particles: int = 1) -> nn.Module:
    """Pyro's loss for this model and guide, minus the ELBO summed over data, as a module of data.

    Discrete sites are enumerated, those that the guide leaves out in the model; without any, the KL is taken in closed
    form where every pair of distributions has one.
    """
    model, known = problem.model, problem.program
    known.spend("model")
    kind: Any = Trace_ELBO
    handler: Any = None
    model_handler = None
    if any(site.discrete for site in known.latents):
        kind, handler = TraceEnum_ELBO, config_enumerate
        if known.noise:
            summed = {site.name for site in known.latents if site.discrete}
            handler = functools.partial(traces.enumerating, names=summed)
        left = known.left_out
        model_handler = functools.partial(traces.enumerating, names=left) if left else None
    else:
        known.spend("guide")
        kind = TraceMeanField_ELBO if known.closed_form_kl else Trace_ELBO
    known.spend("model", "guide")
    elbo = kind(num_particles=num_particles, vectorize_particles=num_particles > 1, max_plate_nesting=known.nesting)
    module: nn.Module = elbo(AsModule(model, "model", model_handler), AsModule(model, "guide", handler))
    return _InItsDtype(module, model)


class _InItsDtype(nn.Module):
    """A loss that takes its log-probabilities in the dtype of its data."""

    def __init__(self, loss: nn.Module, owner: LatentVariableModel) -> None:
        super().__init__()
        self.loss, self.owner = loss, owner

    def forward(self, *args: Any, **named: Any) -> Any:
        with self.owner.in_its_dtype(named or args):
            return self.loss(*args, **named)


def bound_parts(model: LatentVariableModel, x: Any, num_particles: int = 1, *, seed: int = 0) -> dict[str, float]:
    """The guide's bound and its parts ("bound", "reconstruction", "kl"), means over the data, nats per datum.

    Raises:
        ZooError: the model has no ``elbo_parts``.
    """
    if lacks(model, "elbo_parts") is not None:
        raise ZooError(f"bound_parts: {type(model).__name__} offers no parts of its bound. Use zoo.evaluate.")
    x = settled(model, prepared(model, x), seed)
    found: dict[str, float] = {}
    with isolated(seed), torch.no_grad():
        objective = HookedBound(model, num_particles, draw_anew=False)
        for piece in split(x, max(1, LAYER // (model.datum_size(x) * num_particles))):
            share = num_data(piece) / num_data(x)
            step = objective(piece)
            for name, value in {"bound": -step.surrogate, **step.parts}.items():
                found[name] = found.get(name, 0.0) + share * float(value)
    return found
