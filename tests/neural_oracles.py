"""What the tests of neural models share: exact evidence on a grid, Pyro's own losses, numerical gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from zoo.core import traces, weighing
from zoo.core.as_module import AsModule
from zoo.core.sites import sample_sites

__all__ = [
    "enumerated",
    "finite_differences",
    "flat",
    "grid_evidence",
    "mean_gradient",
    "pyro_bound",
    "traced_weights",
]


def grid_evidence(log_likelihood: Callable[[Tensor], Tensor], dims: int, half: float = 8.0, num: int = 401) -> Tensor:
    """ln of the integral of N(z; 0, I) p(x | z) over a grid, (N,) nats, by the rectangle rule (exact to rounding here).

    Args:
        log_likelihood: z (M, dims) to (M, N).
    """
    line = torch.linspace(-half, half, num, dtype=torch.float64)
    z = torch.cartesian_prod(*[line] * dims).reshape(-1, dims)
    log_prior = -0.5 * z.square().sum(-1) - 0.5 * dims * math.log(2 * math.pi)
    cell = dims * math.log(float(line[1] - line[0]))
    return (log_likelihood(z) + log_prior.unsqueeze(-1)).logsumexp(0) + cell


def pyro_bound(model: Any, x: Any, mean_field: bool, num_particles: int = 1) -> Tensor:
    """Minus Pyro's loss, summed over the data; differentiable."""
    kind = TraceMeanField_ELBO if mean_field else Trace_ELBO
    loss = kind(num_particles=num_particles, vectorize_particles=num_particles > 1, max_plate_nesting=1)
    args = x if isinstance(x, tuple) else (x,)
    value: Tensor = -loss(AsModule(model, "model"), AsModule(model, "guide"))(*args)
    return value


def traced_weights(model: Any, x: Any, num_particles: int) -> Tensor:
    """ln p(x, z) - ln q(z | x) read off Pyro's traces, (K, N); differentiable."""
    rows = (x[0] if isinstance(x, tuple) else x).shape[0]
    drawn = traces.draw(model, x, num_particles, 1)
    log_joint, log_guide = weighing.joint_and_guide(*drawn, rows, num_particles, 1)
    return log_joint - log_guide


def finite_differences(value: Callable[[], Tensor], parameter: Tensor, entries: int = 4, step: float = 1e-6) -> Any:
    """Pairs (index, central difference) of a scalar in a few entries of a parameter, random numbers held fixed."""
    flat = parameter.detach().view(-1)
    chosen = torch.linspace(0, len(flat) - 1, min(entries, len(flat))).long().tolist()
    found = []
    for index in chosen:
        kept = float(flat[index])
        ends = []
        for sign in (1, -1):
            flat[index] = kept + sign * step
            pyro.set_rng_seed(0)
            ends.append(float(value().detach()))
        flat[index] = kept
        found.append((index, (ends[0] - ends[1]) / (2 * step)))
    return found


def enumerated(model: Any, x: Any, codes: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """ln p(x, z) and ln q(z | x) at every code, (C, N) each, by conditioning the Pyro programs; differentiable.

    Args:
        codes: by site the value of one datum; every datum gets the same.
    """
    args = x if isinstance(x, tuple) else (x,)
    rows, sums = args[0].shape[0], []
    for half in (model.model, model.guide):
        each = []
        for code in codes:
            values = {name: value.expand(rows, *value.shape) for name, value in code.items()}
            trace = poutine.trace(poutine.condition(half, data=values)).get_trace(*args)
            trace.compute_log_prob()
            scored = [s["log_prob"].expand(rows) for s in sample_sites(trace).values()]
            each.append(torch.stack(scored).sum(0))
        sums.append(torch.stack(each))
    return sums[0], sums[1]


def mean_gradient(objective: Any, x: Any, parameters: list[Tensor], draws: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of an objective's ascent direction over draws, flattened, its standard error, and the mean bound."""
    found, bounds = [], []
    for _ in range(draws):
        surrogate, bound, _ = objective(x)
        grads = torch.autograd.grad(-surrogate, parameters, allow_unused=True)
        found.append(flat(grads, parameters))
        bounds.append(bound)
    stacked = torch.stack(found)
    return stacked.mean(0), stacked.std(0) / draws**0.5, torch.stack(bounds)


def flat(grads: Any, parameters: list[Tensor]) -> Tensor:
    """Gradients as one vector, zeros where there is none."""
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, parameters, strict=True)]
    )
