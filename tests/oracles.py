"""Slow and plain answers to hold fast ones against. Imports nothing from ``zoo``.

The discrete oracles know any Pyro program: they condition it on one value of every latent at a time and add up
``trace.log_prob_sum()``. No enumeration code, no broadcasting over values, one datum at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

__all__ = ["assignments", "fisher_gradient", "log_evidence", "num_rows", "posterior", "quadratic_expectation", "row"]

Assignment = dict[str, Tensor]


def num_rows(x: Any) -> int:
    """How many data there are in a tensor, a tuple or a dict of tensors."""
    if isinstance(x, dict):
        return num_rows(next(iter(x.values())))
    return num_rows(x[0]) if isinstance(x, tuple) else int(x.shape[0])


def row(x: Any, n: int) -> Any:
    """The ``n``-th datum, as data of one row."""
    if isinstance(x, dict):
        return {name: row(value, n) for name, value in x.items()}
    return tuple(row(value, n) for value in x) if isinstance(x, tuple) else x[n : n + 1]


def run(program: Callable[..., Any], x: Any) -> Any:
    if isinstance(x, dict):
        return program(**x)
    return program(*x) if isinstance(x, tuple) else program(x)


def joint(program: Callable[..., Any], x: Any, values: Assignment) -> Tensor:
    """ln p(x, z) of one assignment, summed over the data given; nats."""
    trace = poutine.trace(lambda: run(poutine.condition(program, data=values), x)).get_trace()
    return torch.as_tensor(trace.log_prob_sum())


def assignments(program: Callable[..., Any], datum: Any, fixed: Assignment | None = None) -> list[Assignment]:
    """Every joint value of the program's discrete latents on one datum.

    Sites are met in program order, so a later site's support may depend on earlier values. A masked site scores
    nothing whatever its value, so one value stands for all: summing over it would count the rest several times.
    """
    fixed = fixed or {}
    with torch.no_grad():
        trace = poutine.trace(lambda: run(poutine.condition(program, data=fixed), datum)).get_trace()
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"] or name in fixed:
            continue
        fn: Any = site["fn"]
        if type(fn).__name__ == "_Subsample":
            continue
        assert fn.has_enumerate_support, f"site {name!r} is continuous: no sum over its values"
        shape = fn.batch_shape
        support = fn.enumerate_support(expand=False)
        values = support.reshape(support.shape[0], *support.shape[support.dim() - fn.event_dim :])
        mask = site["mask"]
        counted = torch.as_tensor(True if mask is None else mask).expand(shape).flatten().tolist()
        found = []
        for choice in itertools.product(*(range(len(values) if c else 1) for c in counted)):
            value = values[list(choice)].reshape((*shape, *values.shape[1:]))
            found += assignments(program, datum, {**fixed, name: value})
        return found
    return [fixed]


def log_evidence(program: Callable[..., Any], x: Any) -> Tensor:
    """ln p(x_n) of every datum by brute force, (N,) nats."""
    each = []
    for n in range(num_rows(x)):
        datum = row(x, n)
        each.append(torch.stack([joint(program, datum, z) for z in assignments(program, datum)]).logsumexp(0))
    return torch.stack(each)


def posterior(program: Callable[..., Any], x: Any) -> list[list[tuple[Assignment, float]]]:
    """For every datum, each assignment and its posterior probability."""
    result = []
    with torch.no_grad():
        for n in range(num_rows(x)):
            datum = row(x, n)
            values = assignments(program, datum)
            share = torch.stack([joint(program, datum, z) for z in values]).softmax(0)
            result.append(list(zip(values, share.tolist(), strict=True)))
    return result


def fisher_gradient(program: Callable[..., Any], x: Any, parameters: Iterable[Tensor]) -> list[Tensor]:
    """Σ_n E_{p(z | x_n)} ∇ ln p(x_n, z), the right-hand side of Fisher's identity; zeros for unused parameters."""
    parameters = list(parameters)
    total = [torch.zeros_like(p) for p in parameters]
    for n in range(num_rows(x)):
        datum = row(x, n)
        scores = [joint(program, datum, z) for z in assignments(program, datum)]
        shares = torch.stack(scores).detach().softmax(0)
        for score, share in zip(scores, shares, strict=True):
            for sum_, grad in zip(total, torch.autograd.grad(score, parameters, allow_unused=True), strict=True):
                if grad is not None:
                    sum_ += share * grad
    return total


def quadratic_expectation(function: Callable[[Tensor], Tensor], mean: Tensor, covariance: Tensor) -> Tensor:
    """E f(z) for z ~ N(mean, covariance) and f quadratic: the mean over 2 L symmetric points, exact up to rounding.

    Args:
        mean: (N, L). covariance: (N, L, L).
        function: (N, L) to (N,) or a total ().
    """
    size = mean.shape[-1]
    columns = torch.linalg.cholesky(covariance) * size**0.5
    points = [mean + sign * columns[..., i] for i in range(size) for sign in (1, -1)]
    return torch.stack([function(point) for point in points]).mean(0)
