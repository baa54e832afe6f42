"""Traces of Pyro programs: how they are made, and their log-probabilities datum by datum.

Everything here works by running a program under Pyro's handlers; nothing knows any particular model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call
from zoo.core.sites import PARTICLES, SiteMessage, data_dim, sample_sites, with_density
from zoo.errors import ZooError

#: Which of its log-probabilities a site counts with.
SiteValue: TypeAlias = Callable[[SiteMessage], Tensor]

__all__ = ["draw", "per_datum", "totals"]


def repeated(program: Callable[..., Any], num_particles: int, nesting: int) -> Callable[..., Any]:
    """The program run for several joint draws at once, in a plate left of its own."""
    if num_particles == 1:
        return program
    wrapped: Callable[..., Any] = pyro.plate(PARTICLES, num_particles, dim=-1 - nesting)(program)
    return wrapped


def draw(
    model: LatentVariableModel,
    x: Data,
    num_particles: int,
    nesting: int,
    *,
    detach: bool = False,
    handler: Callable[..., Any] | None = None,
) -> tuple[Trace, Trace]:
    """Run guide and model on ``num_particles`` joint draws at once: (guide trace, model trace).

    Args:
        nesting: :func:`plate_nesting`; particles take the batch dimension left of it.
        detach: whether draws carry no gradient, also where they could be reparametrised.
        handler: wraps the guide.

    Discrete latents that the guide leaves out are summed out of the model's trace, see :func:`summed_out`.

    Raises:
        ZooError: the program does not broadcast over a leading batch dimension.
    """
    guide, program = (repeated(p, num_particles, nesting) for p in (model.guide, model.model))
    if handler is not None:
        guide = handler(guide)
    try:
        guide_trace = poutine.trace(lambda: call(guide, x)).get_trace()
        if detach:
            for site in guide_trace.nodes.values():
                if site["type"] == "sample" and site["value"] is not None:
                    site["value"] = site["value"].detach()
            guide_trace = poutine.trace(poutine.replay(lambda: call(guide, x), trace=guide_trace)).get_trace()
        model_trace = poutine.trace(poutine.replay(lambda: call(program, x), trace=guide_trace)).get_trace()
    except RuntimeError as error:
        if num_particles == 1:
            raise
        raise ZooError(
            f"the program expected to broadcast over {num_particles} particles on its left, got: "
            f"{str(error).splitlines()[0]}. Index from the right (x[..., d]) in model and guide."
        ) from error
    left = left_out(guide_trace, model_trace)
    with model.in_its_dtype(x):
        if left:
            model_trace = summed_out(lambda: call(program, x), left, guide_trace, model_trace)
        guide_trace.compute_log_prob()
        model_trace.compute_log_prob()
    return guide_trace, model_trace


def left_out(guide_trace: Trace, model_trace: Trace) -> set[str]:
    """The discrete latents of a program that its guide does not draw."""
    return {
        name
        for name, site in sample_sites(model_trace).items()
        if not site["is_observed"] and name not in guide_trace and getattr(site["fn"], "has_enumerate_support", False)
    }


def enumerating(program: Callable[..., Any], names: set[str]) -> Callable[..., Any]:
    """The program with these latents configured for enumeration."""

    def only(site: SiteMessage) -> Any:
        return {"enumerate": "parallel"} if site["name"] in names and not site["is_observed"] else {}

    configured: Callable[..., Any] = poutine.infer_config(program, only)
    return configured


def summed_out(run: Callable[[], Any], names: set[str], guide_trace: Trace, model_trace: Trace) -> Trace:
    """The trace of a program on a guide's draws with the latents ``names`` summed out.

    The sites that these are entangled with give way to sites of the same plates, "sum 0" and so on, whose
    log-probabilities are those of the observed among them, given the draws.
    """
    frames = [f for trace in (guide_trace, model_trace) for s in trace.nodes.values() for f in _frames(s)]
    first_dim = -1 - max((-f.dim for f in frames), default=0)
    tracer = poutine.trace(poutine.replay(EnumMessenger(first_dim)(enumerating(run, names)), trace=guide_trace))
    trace = prune_subsample_sites(tracer.get_trace())
    guide = prune_subsample_sites(guide_trace)
    for one in (guide, trace):
        one.compute_log_prob()
    guide.pack_tensors()
    trace.pack_tensors(guide.plate_to_symbol)
    kept, factors, _, sum_dims, scale = _compute_model_factors(trace, guide)
    alone = {id(term) for terms in kept.values() for term in terms}
    for name, site in sample_sites(trace).items():
        if id(site["packed"]["log_prob"]) not in alone:
            trace.remove_node(name)
    by_symbol = {guide.plate_to_symbol[f.name]: f for f in frames}
    number = 0
    for ordinal, terms in contract_tensor_tree(factors, sum_dims).items():
        for term in terms:
            value = packed.unpack(term, trace.symbol_to_dim)
            stack = tuple(by_symbol[symbol] for symbol in ordinal)
            trace.add_node(
                f"sum {number}", name=f"sum {number}", type="sample", fn=dist.Unit(value), value=None, is_observed=True,
                infer={}, mask=None, scale=scale, cond_indep_stack=stack,
                unscaled_log_prob=value, log_prob=scale * value, log_prob_sum=(scale * value).sum(),
            )  # fmt: skip
            number += 1
    return trace


def _frames(site: SiteMessage) -> list[Any]:
    return [f for f in site["cond_indep_stack"] if f.vectorized] if site["type"] == "sample" else []


def scaled_log_prob(site: SiteMessage) -> Tensor:
    """A site's log-probability as a bound counts it: times its scale (``poutine.scale``, a subsampled plate)."""
    log_prob: Tensor = site["log_prob"]
    return log_prob


def own_log_prob(site: SiteMessage) -> Tensor:
    """A site's log-probability itself, masked but without its scale: what its draws follow."""
    log_prob: Tensor = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    return log_prob


def per_datum(
    site: SiteMessage, rows: int, num_particles: int, nesting: int, value: SiteValue = scaled_log_prob
) -> Tensor:
    """A site's log-probability as (num_particles, rows), or (num_particles, 1) for a global site.

    A program that subsamples its data has the rows it took.
    """
    log_prob = value(site)
    dim = data_dim(site, rows)
    width = nesting + 1
    shape = (1,) * (width - log_prob.dim()) + tuple(log_prob.shape)
    log_prob = log_prob.reshape(shape)
    if num_particles > 1 and log_prob.shape[0] == 1:  # a site that no draw reaches
        log_prob = log_prob.expand(num_particles, *log_prob.shape[1:])
    if dim is None:
        return log_prob.reshape(num_particles, -1).sum(-1, keepdim=True)
    return log_prob.movedim(dim, 1).reshape(num_particles, log_prob.shape[dim], -1).sum(-1)


def totals(
    trace: Trace,
    rows: int,
    num_particles: int,
    nesting: int,
    *,
    only: Any = None,
    value: SiteValue = scaled_log_prob,
    device: torch.device | None = None,
) -> Tensor:
    """Sum of the sites' log-probabilities, (num_particles, rows).

    With a global latent no datum stands alone: then the sum over all, (num_particles, 1). So is that of no site, zero,
    which stands on ``device``.
    """
    parts = [
        per_datum(site, rows, num_particles, nesting, value)
        for name, site in with_density(trace).items()
        if only is None or only(name, site)
    ]
    if not parts:
        return torch.zeros(num_particles, 1, device=device)
    if any(part.shape[1] == 1 for part in parts) and rows > 1:
        parts = [part.sum(-1, keepdim=True) for part in parts]
    return torch.stack(torch.broadcast_tensors(*parts)).sum(0)
