"""EM of a hidden Markov model: expected statistics, marginals of steps, and the M step; ``model`` is a HiddenMarkov."""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import torch
from torch import Tensor

from zoo.core.assigning import put
from zoo.core.pieces import added
from zoo.core.rows import Known
from zoo.core.sequences import inside
from zoo.core.statistics import Statistics, wide
from zoo.densities import gaussian
from zoo.models.shared.markov import path_counts, stationary_m_step
from zoo.structures import Chain, chain

__all__ = ["expected", "log_prior", "marginals", "maximise"]

#: Of so few different weights each is worth an E step of its own.
FEW_WEIGHTS = 8


def expected(
    model: Any, x: Tensor, lengths: Tensor, hard: bool, weights: Tensor | None, known: Known | None
) -> Statistics:
    """``starts`` (K,), ``steps`` (K, K), ``counts`` (K,), and the components' statistics.

    Args:
        weights: how often each sequence counts, (N,). known: ``known["z"]`` (N, T), -1 where z_t is not known.
    """
    if weights is not None and known is None and not hard and len(distinct := weights.unique()) <= FEW_WEIGHTS:
        alike = [(float(w), weights == w) for w in distinct]  # the one pass over the data serves these
        parts = (expected(model, x[of], lengths[of], False, None, None) * w for w, of in alike)
        return functools.reduce(operator.add, parts)
    plainly = hard or weights is not None or known is not None
    family: tuple[Tensor, Tensor] | None = None if plainly else model.diagonal()
    if family is None:
        return _by_pieces(model, x, lengths, weights, known, hard)
    totals = chain.gaussian_totals(model.log_initial, model.log_transition, x, *family, lengths)
    moments = totals and gaussian.moments_from(totals.counts, totals.first, totals.second, family[0])
    if totals is None or moments is None:
        return _by_pieces(model, x, lengths)
    left = totals.left
    statistics = Statistics(
        x.shape[0] - len(left),
        totals.log_likelihood,
        starts=totals.initial,
        steps=totals.transition,
        counts=totals.counts,
        moments=moments,
    )
    return statistics + _by_pieces(model, x[left], lengths[left]) if len(left) else statistics


def _by_pieces(
    model: Any,
    x: Tensor,
    lengths: Tensor,
    weights: Tensor | None = None,
    known: Known | None = None,
    hard: bool = False,
) -> Statistics:
    plain = functools.partial(_plainly, model, hard)
    size = model.datum_size(x) + (0 if weights is None else model.num_states**2)
    return added(plain, (x, lengths, weights, known), size)


def _plainly(
    model: Any, hard: bool, x: Tensor, lengths: Tensor, weights: Tensor | None, known: Known | None
) -> Statistics:
    """Densities, then the chain, then the components: for every family, and for missing entries."""
    x = x[:, : int(lengths.max())]  # a piece of short sequences is no wider than they are
    known = known if known is None else {name: value[:, : x.shape[1]] for name, value in known.items()}
    emission = wide(model.emission(x, lengths, known))
    e = chain.expectations(model.log_initial, model.log_transition, emission, lengths, weights=weights)
    starts, steps, marginals = e.initial, e.transition, e.marginals
    log_likelihood = objective = e.log_likelihood
    if hard:
        paths, objective = Chain(model.log_initial, model.log_transition, emission, lengths).argmax()
        starts, steps, marginals = path_counts(paths, model.num_states, emission.dtype, weights)
    if weights is not None:
        log_likelihood, objective = (wide(weights) * v for v in (log_likelihood, objective))
    there = inside(x, lengths)
    packed = bool(there.all())
    seen = x.reshape(-1, x.shape[-1]) if packed else x[there]
    weight = marginals.reshape(-1, model.num_states) if packed else marginals[there]
    return Statistics(
        x.shape[0] if weights is None else float(weights.sum()),
        log_likelihood.sum(),
        objective.sum(),
        starts=starts,
        steps=steps,
        counts=weight.sum(0),
        **model.component_statistics(seen, weight),
    )


def marginals(model: Any, x: Tensor, lengths: Tensor) -> Tensor:
    """p(z_t | x) of each step, (N, T, K); uniform where there is none."""
    family: tuple[Tensor, Tensor] | None = model.diagonal()
    fast = family and chain.gaussian_marginals(model.log_initial, model.log_transition, x, *family, lengths)
    if fast:
        marginals, left = fast
        if len(left):
            marginals[left] = model._structure(x[left], lengths[left]).marginals().emission
    else:
        marginals = model._structure(x, lengths).marginals().emission
    total = marginals.sum(-1, keepdim=True)
    empty = total == 0
    if empty.any():
        marginals.masked_fill_(empty, 1.0)
        total = total.masked_fill(empty, float(model.num_states))
    return marginals.div_(total)


def maximise(model: Any, statistics: Statistics) -> list[str]:
    """Closed form for each block; with a stationary start, transitions climb numerically and never fall."""
    extra, steps = model.concentration - 1, statistics["steps"]
    if extra:
        steps = steps + extra * (model.transition_probs_unconstrained > -math.inf)
    total = steps.sum(-1, keepdim=True)
    left = total > 0
    if left.all():
        closed = steps / total
    else:
        closed = (steps / total.where(left, torch.ones_like(total))).where(left, model.transition_probs)
    if model.initial == "free":
        starts = statistics["starts"]
        if extra:
            starts = starts + extra * (model.start_probs_unconstrained > -math.inf)
        in_all = starts.sum()
        if in_all > 0 and not model.stays("start_probs"):
            put(model, "start_probs", starts / in_all)
    if model.stays("transition_probs"):
        return model.update_components(statistics)
    if model.initial == "stationary":
        closed = stationary_m_step(model.transition_probs, closed, steps, statistics["starts"])
    put(model, "transition_probs", closed)
    return model.update_components(statistics)


def log_prior(model: Any) -> Tensor:
    """ln p(θ), up to a constant: Dirichlet on rows and start, the conjugate prior of the emissions."""
    total = torch.zeros((), dtype=model.dtype)
    if model.concentration > 1:
        logs = [model.log_transition] + ([model.log_initial] if model.initial == "free" else [])
        total = total + (model.concentration - 1) * sum(v[v > -math.inf].sum() for v in logs)
    if model.prior_strength > 0:
        total = total + model.prior_strength * model.component_log_prior()
    return total
