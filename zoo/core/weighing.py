"""Log-probabilities and importance weights of a program, datum by datum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call, num_data, once, weights_of
from zoo.core.problem import Problem
from zoo.core.program import Program, broadcasts, look
from zoo.core.sites import SiteMessage, data_dim, with_density
from zoo.core.traces import SiteValue, draw, own_log_prob, scaled_log_prob, totals

__all__ = ["Drawn", "densities", "drawn", "joint_and_guide", "log_weights"]


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
    log_guide = totals(guide_trace, rows, num_particles, nesting, value=value)
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
        guide_trace: the guide's run.
        log_joint, log_guide: ln p(x, z) and ln q(z | x), as :func:`densities` gives them.
        count: how often every datum counts.
        weights: (N,), how often each counts besides; None once, or where a global latent has them inside.
    """

    guide_trace: Trace
    log_joint: Tensor
    log_guide: Tensor
    count: float
    weights: Tensor | None

    def total(self, values: Tensor) -> Tensor:
        """The sum of numbers (..., N) over data, each as often as it counts."""
        return self.count * (values if self.weights is None else values * self.weights).sum()


def drawn(model: LatentVariableModel, batch: Data, num_particles: int, nesting: int, detach: bool = False) -> Drawn:
    """``num_particles`` joint draws from the guide at once, weighed."""
    rows, weights = max(1, num_data(batch)), weights_of(batch)
    guide, program = draw(model, once(batch), num_particles, nesting, detach=detach)
    found = densities(guide, program, rows, num_particles, nesting)
    if weights is not None and found[0].shape[1] != rows:  # no datum stands alone: its weight belongs inside
        guide, program = draw(model, batch, num_particles, nesting, detach=detach)
        log_joint, log_guide = joint_and_guide(guide, program, rows, num_particles, nesting)
        return Drawn(guide, log_joint, log_guide, 1.0, None)
    return Drawn(guide, *found, weights)


def _number(scale: Any) -> float | None:
    """A scale as one number; None where it is several."""
    return float(scale) if not isinstance(scale, Tensor) or scale.numel() == 1 else None


def log_weights(
    model: LatentVariableModel,
    x: Data,
    num_samples: int,
    *,
    max_elements: int = 2_000_000,
    known: Program | None = None,
) -> Tensor:
    """ln p(x, z) - ln q(z | x) for draws z from the guide, (num_samples, N), nats; no gradient.

    Draws are made in groups, so that memory stays bounded. A model's own ``log_weights(x, num_particles)`` is taken
    where it offers one: the same numbers without Pyro's handlers, and without the β of a β-VAE, which is no part of p.

    Args:
        known: what the program is made of, where that has been looked up.
    """
    rows, own, nesting = max(1, num_data(x)), Problem(model, x).lacks("log_weights") is None, 0
    if not own:
        known = look(model, x) if known is None else known
        known.spend("model", "guide")
        nesting = known.nesting
    widest = max([1, *(p.shape[0] for p in model.parameters() if p.dim() > 1)])  # numbers of a network's widest layer
    group = max(1, min(num_samples, max_elements // rows, 16 * max_elements // (rows * widest)))
    if group > 1 and not own and not broadcasts(model, x, nesting):
        group = 1
    pieces = []
    hook: Any = model.log_weights if own else None
    with torch.no_grad():
        for start in range(0, num_samples, group):
            size = min(group, num_samples - start)
            if own:
                pieces.append(call(lambda *a, k=size, **named: hook(*a, num_particles=k, **named), x))
                continue
            group_of = drawn(model, x, size, nesting)
            pieces.append(group_of.count * (group_of.log_joint - group_of.log_guide))
    return torch.cat(pieces)
