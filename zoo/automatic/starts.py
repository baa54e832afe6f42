"""Starting points of parameters with a prior: a few draws, of the prior and of the data, the likeliest of which stays.

A draw of the prior alone may put all data into one component, from where EM does not come back. So some candidates are
drawn from the data: latents are assigned at random, the data weighted at random (a Bayesian bootstrap, Rubin 1981, of
few effective rows), and one M step made of that. All go a few EM steps (of a large program, those under which the data
are likeliest); where the likeliest of these came to is the start.
"""

from __future__ import annotations

import math

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from zoo.automatic.enumerated import enumerated
from zoo.automatic.enumeration import evidence, why_not_exact
from zoo.automatic.lookup import recorded
from zoo.automatic.newton import NEWTON_SIZE
from zoo.automatic.plan import Plan, make_plan
from zoo.core import program
from zoo.core.beside import restrict
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data
from zoo.core.edges import margin_of
from zoo.core.isolation import kept_generators
from zoo.core.sites import SiteMessage
from zoo.errors import ZooError

__all__ = ["choose_start"]

#: Candidates from the prior and from the data, and how many of them go on where the program is large.
DRAWS, BOOTSTRAPS, FINALISTS = 6, 6, 3
#: Numbers that enumeration may make for so many candidates; for more, there are fewer candidates.
ELEMENTS = 2_000_000
#: Steps of EM that candidates go, and how far numeric parameters go in each.
STEPS, CLIMBS = 4, 2
#: How far from a typical value of its prior a candidate may end, as a fraction of the way to an edge of its support.
REACH = 0.97


@torch.no_grad()
def choose_start(model: LatentVariableModel, x: Data, first: bool = True) -> None:
    """Set the parameters that have a prior, where they have been drawn and not fitted yet, to the best of some draws.

    Draws come from torch's generator; the other parameters stay as their program begins.

    Args:
        first: whether it is the first start; later ones, which are tried beside it anyway, are one draw from the data.
    """
    if not model.points or not model.drawn:
        return
    with kept_generators():  # the same draws follow, whatever an estimator has looked at before
        if why_not_exact(model, x) is not None:
            return
        model.drawn = False
        try:
            with torch.enable_grad():
                plan = make_plan(model, x, recognised=False, checked=True)
        except ZooError:  # said by the estimator that needs it
            plan = None
    size = 1 if plan is None else plan.elements * len(plan.sites)
    scale = min(1.0, ELEMENTS / size)
    draws, bootstraps = (max(3, round(DRAWS * scale)), max(2, round(BOOTSTRAPS * scale))) if first else (1, 1)
    moves = plan is not None and sum(plan.space.raw[name].numel() for name in plan.numeric) <= NEWTON_SIZE
    candidates = [_state(model)]
    for _ in range(draws - 1):
        model.draw_points(x)
        candidates.append(_state(model))
    if plan is not None and moves:
        others = {name: p.detach().clone() for name, p in model.named_parameters()}
        for _ in range(bootstraps):
            _restore(model, others)
            model.draw_points(x)
            if _assign(plan, model, x):
                candidates.append(_state(model))
        _restore(model, others)
    if not first:
        _restore(model, candidates[-1])
        return
    if scale < 1 or plan is None or not moves:
        candidates = _highest(candidates, [_height(model, x, c) for c in candidates])[:FINALISTS]
    if plan is not None and moves:
        others = {name: p.detach().clone() for name, p in model.named_parameters()}
        heights, ends = [], []
        for candidate in candidates:
            _restore(model, {**others, **candidate})
            heights.append(_climbed(plan, x))
            ends.append(_state(model))
        _restore(model, others)
        candidates = _highest(ends, heights)
    _restore(model, candidates[0])


def _highest(candidates: list[dict[str, Tensor]], heights: list[float]) -> list[dict[str, Tensor]]:
    """The candidates from the highest down; of equal ones, the first drawn first."""
    order = sorted(range(len(candidates)), key=lambda i: (-heights[i], i))
    return [candidates[i] for i in order]


def _state(model: LatentVariableModel) -> dict[str, Tensor]:
    return {name: model.get_parameter(name).detach().clone() for name in model.point_parameters()}


def _restore(model: LatentVariableModel, state: dict[str, Tensor]) -> None:
    for name, value in state.items():
        model.get_parameter(name).copy_(value)


def _height(model: LatentVariableModel, x: Data, candidate: dict[str, Tensor]) -> float:
    """ln p(x) at a candidate; its prior is infinite at an edge, and would only say who stands there."""
    _restore(model, candidate)
    height = float(evidence(model, x, program.plate_nesting(model, x)))
    return height if math.isfinite(height) else -math.inf


def _climbed(plan: Plan, x: Data) -> float:
    """ln p(x) after a few steps of EM from where the parameters are."""
    height = -math.inf
    for step in range(STEPS + 1):
        height, weights = plan.e_step(x)
        if not math.isfinite(height):
            return -math.inf
        if step < STEPS:
            plan.m_step(x, weights, CLIMBS)
    return height


def _assign(plan: Plan, model: LatentVariableModel, x: Data) -> bool:
    """One M step from latents and weights of the data drawn at random; False where it leads nowhere."""
    with torch.enable_grad(), recorded():
        run = enumerated(model, x, plan.nesting)
        widest = 1
        for name, site in run.sites.items():
            if site["infer"].get("zoo_point"):
                continue
            scores = run.probes[name]
            if site["infer"].get("_enumerate_dim") is not None and not site["is_observed"]:
                widest = max(widest, scores.shape[site["infer"]["_enumerate_dim"]])
                scores = scores - 4 * torch.empty_like(scores).exponential_().log()  # Gumbel: nearly one value each
            site["unscaled_log_prob"] = scores
            site["log_prob"] = scale_and_mask(scores, site["scale"], site["mask"])
        restrict(run.trace, x)
        if not math.isfinite(float(run.log_evidence.detach())):
            return False
        weights: dict[str, Tensor] = run.weights()
    by_plate: dict[str, Tensor] = {}
    for name, site in run.sites.items():
        weights[name] = weights[name] * _bootstrap(site, by_plate, 3 * widest, weights[name])
    plan.m_step(x, {**weights, **plan.points}, CLIMBS)
    _off_edges(model)
    return all(bool(p.isfinite().all()) for p in model.parameters())


def _bootstrap(site: SiteMessage, by_plate: dict[str, Tensor], rows: int, like: Tensor) -> Tensor:
    """Random weights of mean 1 along every plate of a site, such that about so many rows count."""
    total = torch.ones_like(like)
    for frame in site["cond_indep_stack"]:
        if not frame.vectorized or like.dim() < -frame.dim or like.shape[frame.dim] != frame.size:
            continue
        if frame.name not in by_plate:
            shape = torch.full((frame.size,), min(1.0, rows / frame.size), dtype=like.dtype)
            drawn = torch._standard_gamma(shape).clamp_min(1e-12)
            by_plate[frame.name] = (drawn / drawn.mean()).to(like.device)
        total = total * by_plate[frame.name].reshape(-1, *[1] * (-frame.dim - 1))
    return total


def _off_edges(model: LatentVariableModel) -> None:
    """Bring parameters back from the edges of their support: few data may have sent them there."""
    for name in sorted(model.points):
        value, inset = model.point(name), margin_of(model.constraint_of_point(name))
        if inset is None:
            continue
        middle = model.typical_points[name].to(value)
        if inset.bounded:
            model.set_point(name, REACH * value + (1 - REACH) * middle)
        else:  # its unit is the prior's, which may be far from the data's: only what stands at the edge is moved
            at_edge = inset.distance(value) < 2 * inset.margin_like(value)
            model.set_point(name, torch.where(at_edge, value + (1 - REACH) ** 2 * (middle - value), value))
