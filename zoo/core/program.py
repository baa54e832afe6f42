"""What a Pyro program is made of, and its log-probabilities datum by datum.

Everything here works by running the program under Pyro's handlers; nothing knows any particular model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from zoo.core.data import Data, call, num_data
from zoo.core.sites import PARTICLES, SiteMessage, data_dim, family_of, is_sample, sample_sites, with_density
from zoo.errors import ZooError

#: Which of its log-probabilities a site counts with.
SiteValue: TypeAlias = Callable[[SiteMessage], Tensor]

__all__ = ["Site", "draw", "family_of", "latent_sites", "per_datum", "scored_sites"]


@dataclass(frozen=True)
class Site:
    """One ``pyro.sample`` statement of a program.

    Attributes:
        name: the site's name.
        family: the distribution's class name, without wrappers.
        observed: whether it is given data.
        discrete: whether its support can be enumerated.
        local: whether it lies inside the data plate; a global site belongs to no single datum.
    """

    name: str
    family: str
    observed: bool
    discrete: bool
    local: bool


def sites(model: LatentVariableModel, x: Data) -> list[Site]:
    """The sample sites of ``model(x)`` in program order."""
    x = model.probe(x)
    with torch.no_grad():
        trace = poutine.trace(lambda: call(model.model, x)).get_trace()
    return [
        Site(
            name,
            family_of(site["fn"]),
            site["is_observed"],
            bool(getattr(site["fn"], "has_enumerate_support", False)),
            data_dim(site, num_data(x)) is not None,
        )
        for name, site in trace.nodes.items()
        if is_sample(site)
    ]


def latent_sites(model: LatentVariableModel, x: Data) -> list[Site]:
    """The latent sites of ``model(x)`` in program order."""
    return [site for site in sites(model, x) if not site.observed]


def plate_nesting(model: LatentVariableModel, x: Data, *, alone: bool = False) -> int:
    """How many batch dimensions the plates of ``model(x)`` and ``guide(x)`` take; of ``model(x)`` if ``alone``."""
    x = model.probe(x)
    with torch.no_grad():
        programs = [model.model, model.guide] if model.has_guide and not alone else [model.model]
        traces = [poutine.trace(lambda p=p: call(p, x)).get_trace() for p in programs]
    dims = [f.dim for t in traces for s in t.nodes.values() if is_sample(s) for f in s["cond_indep_stack"]]
    return max((-dim for dim in dims if dim is not None), default=0)


def traces(model: LatentVariableModel, x: Data) -> tuple[Trace, Trace]:
    """One run of the guide and of the model on its draws, as they are; no gradient, the caller's draws untouched."""
    x = model.probe(x)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        guide_trace = poutine.trace(lambda: call(model.guide, x)).get_trace()
        model_trace = poutine.trace(poutine.replay(lambda: call(model.model, x), trace=guide_trace)).get_trace()
    return guide_trace, model_trace


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


def broadcasts(model: LatentVariableModel, x: Data, nesting: int) -> bool:
    """Whether a program of the user's own gives several joint draws at once the densities that it gives each alone.

    One that indexes a drawn table from the left (``loc[z]``) may take a draw for an entry of it, and not fail.
    """
    if model.trusted:
        return True
    rows = num_data(x)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        single, _ = draw(model, x, 1, nesting)
        try:
            together, run = draw(model, x, 2, nesting)
            both = totals(run, rows, 2, nesting)
        except (ValueError, RuntimeError, IndexError):
            return False
        for i in (0, 1):
            for name, site in sample_sites(single).items():
                value: Any = together.nodes[name]["value"]
                if value.numel() == 2 * site["value"].numel():  # else a site that no draw changes
                    value = value[i]
                site["value"] = value.reshape(site["value"].shape)
            again = poutine.trace(poutine.replay(lambda: call(model.model, x), trace=single)).get_trace()
            left = left_out(single, again)
            with model.in_its_dtype(x):
                if left:
                    again = summed_out(lambda: call(model.model, x), left, single, again)
                again.compute_log_prob()
            alone = totals(again, rows, 1, nesting)[0]
            if not torch.allclose(both[i], alone, rtol=1e-3, atol=1e-3, equal_nan=True):
                return False
    return True


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
) -> Tensor:
    """Sum of the sites' log-probabilities, (num_particles, rows).

    With a global latent no datum stands alone: then the sum over all, (num_particles, 1).
    """
    parts = [
        per_datum(site, rows, num_particles, nesting, value)
        for name, site in with_density(trace).items()
        if only is None or only(name, site)
    ]
    if not parts:
        return torch.zeros(num_particles, 1)
    if any(part.shape[1] == 1 for part in parts) and rows > 1:
        parts = [part.sum(-1, keepdim=True) for part in parts]
    return torch.stack(torch.broadcast_tensors(*parts)).sum(0)


def scored_sites(model: LatentVariableModel, x: Data) -> list[tuple[str, bool]]:
    """The guide's sites whose draws carry no gradient, and whether their values can be summed instead."""
    x = model.probe(x)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        trace = poutine.trace(lambda: call(model.guide, x)).get_trace()
    return [
        (name, bool(site["fn"].has_enumerate_support))
        for name, site in sample_sites(trace).items()
        if not site["fn"].has_rsample
    ]
