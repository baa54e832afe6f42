"""Log-probabilities and importance weights of a program, datum by datum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call, num_data, once, weights_of
from zoo.core.isolation import kept_generators
from zoo.core.memory import TRACED
from zoo.core.problem import Problem
from zoo.core.program import Program, look
from zoo.core.sites import SiteMessage, data_dim, sample_sites, with_density
from zoo.core.traces import SiteValue, draw, left_out, own_log_prob, scaled_log_prob, summed_out, totals

__all__ = ["Drawn", "densities", "drawn", "joint_and_guide", "log_weights", "spend_tables", "tabled"]


def joint_and_guide(
    guide_trace: Trace,
    model_trace: Trace,
    rows: int,
    num_particles: int,
    nesting: int,
    value: SiteValue = scaled_log_prob,
) -> tuple[Tensor, Tensor]:
    """ln p(x, z) and ln q(z | x), each (num_particles, rows), or (num_particles, 1) with a global latent."""
    log_joint = totals(model_trace, rows, num_particles, nesting, value=value)
    log_guide = totals(guide_trace, rows, num_particles, nesting, value=value, device=log_joint.device)
    if log_joint.shape[1] != log_guide.shape[1]:
        log_joint, log_guide = log_joint.sum(-1, keepdim=True), log_guide.sum(-1, keepdim=True)
    return log_joint, log_guide


def densities(
    guide_trace: Trace, model_trace: Trace, rows: int, num_particles: int, nesting: int
) -> tuple[Tensor, Tensor, float]:
    """(ln p(x, z), ln q(z | x), c) for importance weights: the densities themselves, and how often a datum counts.

    A scale that a datum's latents have and its observed sites do not (the β of a β-VAE) belongs to no density and is
    left out. One that all of them share (a subsampled plate, repeated data) is c, to multiply what the weights of a
    datum give; with a global latent it stays inside, and c is 1. One of observed sites alone tempers p, and stays.
    """
    observed = [s for s in with_density(model_trace).values() if s["is_observed"] and s["mask"] is not False]
    latents = [s for t in (guide_trace, model_trace) for s in with_density(t).values() if not s["is_observed"]]
    scales = {_number(s["scale"]) for s in observed}
    shared = next(iter(scales)) if len(scales) == 1 else 1.0
    if shared is None or any(_number(s["scale"]) is None for s in latents):  # a scale for each datum
        return *joint_and_guide(guide_trace, model_trace, rows, num_particles, nesting), 1.0
    standing_alone = all(data_dim(s, rows) is not None for s in (*latents, *observed))
    if len(scales) < 2 and standing_alone and not any(_number(s["scale"]) == 1 for s in latents):
        return *joint_and_guide(guide_trace, model_trace, rows, num_particles, nesting, own_log_prob), shared

    def value(site: SiteMessage) -> Tensor:
        if site["is_observed"] or _number(site["scale"]) in (1.0, shared):
            return scaled_log_prob(site)
        return shared * own_log_prob(site)

    return *joint_and_guide(guide_trace, model_trace, rows, num_particles, nesting, value), 1.0


@dataclass(frozen=True)
class Drawn:
    """Joint draws from the guide, with what importance weights are made of.

    Attributes:
        guide_trace, model_trace: the runs of guide and model.
        log_joint, log_guide: ln p(x, z) and ln q(z | x), as :func:`densities` gives them.
        count: how often every datum counts.
        weights: (N,), how often each counts besides; None once, or where a global latent has them inside.
    """

    guide_trace: Trace
    model_trace: Trace
    log_joint: Tensor
    log_guide: Tensor
    count: float
    weights: Tensor | None

    @property
    def log_weights(self) -> Tensor:
        """How often a datum counts times ln p(x, z) - ln q(z | x), (num_particles, N), nats."""
        return self.count * (self.log_joint - self.log_guide)

    def total(self, values: Tensor) -> Tensor:
        """The sum of numbers (..., N) over data, each as often as it counts."""
        return self.count * (values if self.weights is None else values * self.weights).sum()


def drawn(model: LatentVariableModel, batch: Data, num_particles: int, nesting: int, detach: bool = False) -> Drawn:
    """``num_particles`` joint draws from the guide at once, weighed."""
    rows, weights = max(1, num_data(batch)), weights_of(batch)
    guide, program = draw(model, once(batch), num_particles, nesting, detach=detach)
    found = densities(guide, program, rows, num_particles, nesting)
    if weights is not None and found[0].shape[1] != rows:  # no datum stands alone: its weight belongs inside

        def counted(site: SiteMessage) -> Tensor:
            dim = data_dim(site, rows)
            return scaled_log_prob(site) * (1 if dim is None else weights.reshape(-1, *[1] * (-dim - 1)))

        return Drawn(guide, program, *joint_and_guide(guide, program, rows, num_particles, nesting, counted), 1.0, None)
    return Drawn(guide, program, *found, weights)


def _number(scale: Any) -> float | None:
    """A scale as one number; None where it is several."""
    return float(scale) if not isinstance(scale, Tensor) or scale.numel() == 1 else None


def tabled(problem: Problem) -> bool:
    """Whether all latents are discrete, and given as tables (:class:`zoo.core.choices.Choices`)."""
    return problem.model.trusted and problem.lacks("choices") is None


def spend_tables(problem: Problem, *programs: str) -> None:
    """``Program.spend`` of these programs, which need not be run for it: each draws all latents."""
    with torch.no_grad():
        for _ in programs:
            call(problem.model.choices, problem.model.probe(problem.data)).draw(1)


def log_weights(
    model: LatentVariableModel,
    x: Data,
    num_samples: int,
    *,
    max_elements: int = TRACED,
    known: Program | None = None,
    one_by_one: int | None = None,
) -> Tensor:
    """ln p(x, z) - ln q(z | x) for draws z from the guide, (num_samples, N), nats; no gradient.

    Draws are made in groups, so that memory stays bounded. A model's own ``log_weights(x, num_particles)`` is taken
    where it offers one: the same numbers without Pyro's handlers, and without the β of a β-VAE, which is no part of p.
    Or else its ``choices``, where its latents are discrete: the same draws, and no loop over the sites of a long chain.

    Args:
        known: what the program is made of, where that has been looked up.
        one_by_one: the most draws of a program of a user's own that cannot give several at once.
    """
    problem = Problem(model, x)
    own = problem.lacks("log_weights") is None
    rows = max(1, num_data(x))
    widest = max([1, *(p.shape[0] for p in model.parameters() if p.dim() > 1)])  # numbers of a network's widest layer
    group = max(1, min(num_samples, max_elements // rows, 16 * max_elements // (rows * widest)))
    weights = list[Tensor]()
    with torch.no_grad():
        if own:
            hook: Any = model.log_weights
            for start in range(0, num_samples, group):
                size = min(group, num_samples - start)
                weights.append(call(lambda *a, k=size, **named: hook(*a, num_particles=k, **named), x))
            return torch.cat(weights)
        if tabled(problem):
            spend_tables(problem, "model", "guide")
            tables = call(model.choices, x)
            for start in range(0, num_samples, group):
                log_joint, log_guide = tables.draw(min(group, num_samples - start))
                weights.append(log_joint - log_guide)
            return torch.cat(weights)
        known = look(model, x) if known is None else known
        known.spend("model", "guide")
        if group > 1 and not model.trusted:
            state = torch.get_rng_state()
            first = _together(model, x, group, known)
            if first is None:
                torch.set_rng_state(state)
                group, num_samples = 1, num_samples if one_by_one is None else min(num_samples, one_by_one)
            else:
                weights.append(first)
        for start in range(sum(map(len, weights)), num_samples, group):
            size = min(group, num_samples - start)
            weights.append(drawn(model, x, size, known.nesting).log_weights)
    return torch.cat(weights)


def _together(model: LatentVariableModel, x: Data, num_particles: int, known: Program) -> Tensor | None:
    """The weights of several joint draws of a user's program, made at once; None where it does not give several.

    A program that indexes a drawn table from the left (``loc[z]``) may take a draw for an entry of it, and not fail:
    the last of the draws must have the density that the program gives it alone.
    """
    rows, nesting = num_data(x), known.nesting
    try:
        several = drawn(model, x, num_particles, nesting)
        last = totals(several.model_trace, rows, num_particles, nesting)[-1]
    except (ValueError, RuntimeError, IndexError):
        return None
    batch, alone = x if several.weights is None else once(x), known.guide.copy()
    for name, site in sample_sites(alone).items():
        value: Any = several.guide_trace.nodes[name]["value"]
        if value.numel() == num_particles * site["value"].numel():  # else a site that no draw changes
            value = value[-1]
        site["value"] = value.reshape(site["value"].shape)
    with kept_generators():
        again = poutine.trace(poutine.replay(lambda: call(model.model, batch), trace=alone)).get_trace()
        left = left_out(alone, again)
        with model.in_its_dtype(x):
            if left:
                again = summed_out(lambda: call(model.model, batch), left, alone, again)
            again.compute_log_prob()
    if not torch.allclose(last, totals(again, rows, 1, nesting)[0], rtol=1e-3, atol=1e-3, equal_nan=True):
        return None
    return several.log_weights
