"""Why a program has no exact sum over its latents: phrases that name the site, before any work is done."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from pyro.util import check_site_shape

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call
from zoo.core.isolation import kept_generators
from zoo.core.sites import SiteMessage, family_of, sample_sites
from zoo.core.unchanged import Unchanged

__all__ = ["check_enumerable", "check_plates", "plain_trace", "takes_a_part"]


def plain_trace(model: LatentVariableModel, x: Data) -> Trace:
    """One run of the program as it stands, with log-probabilities; no gradient, the caller's random numbers untouched.

    Raises:
        ZooError: it changes in place what a site has been given.
    """
    unchanged = Unchanged(x)
    with torch.no_grad(), kept_generators(), model.in_its_dtype(x):
        with unchanged:
            trace = poutine.trace(lambda: call(model.model, x)).get_trace()
        unchanged.check(model.name)
    return trace


#: Why a program has no likelihood.
NOTHING_OBSERVED = "nothing is observed: no pyro.sample has obs=..., so the data have no part in it"


def takes_a_part(trace: Trace) -> str | None:
    """The first plate that takes a part of what it runs over (``subsample_size``, ``subsample``); None without one."""
    for name, site in trace.nodes.items():
        fn: Any = site.get("fn")
        if type(fn).__name__ == "_Subsample" and len(site["value"]) < fn.size:  # type: ignore[arg-type]
            return name
    return None


def check_enumerable(trace: Trace, in_parts: bool = False) -> str | None:
    """Why a program with this plain trace cannot be enumerated: a phrase that names the site; None where it can.

    Args:
        in_parts: whether a plate may take a part of the data.
    """
    part = takes_a_part(trace)
    if part is not None and not in_parts:
        return f"plate {part!r} takes a random part of the data; give it all of them"
    sites = sample_sites(trace)
    for name, site in sites.items():
        reason = None if site["is_observed"] else _not_summed(name, site, sites)
        if reason is not None:
            return reason
    odd = (_odd_shape(name, site) for name, site in sites.items())
    return next((reason for reason in odd if reason is not None), None)


def _not_summed(name: str, site: SiteMessage, sites: dict[str, SiteMessage]) -> str | None:
    """Why there is no exact sum over a latent."""
    family = family_of(site["fn"])
    asked = site["infer"].get("enumerate", "parallel")
    whole = name.removesuffix("_unobserved")
    if whole != name and f"{whole}_observed" in sites and not getattr(site["fn"], "has_enumerate_support", False):
        return (
            f"site {whole!r} has an obs_mask, which makes its missing values continuous latents; "
            "leave them out instead: with poutine.mask(mask=...) around the site"
        )
    if asked == "sequential":
        return f"site {name!r} asks for sequential enumeration; take that setting away"
    if not getattr(site["fn"], "has_enumerate_support", False):
        if site["fn"].support.is_discrete:
            return f"site {name!r} ({family}) is a latent without finite support, so there is no exact sum over it"
        return f"site {name!r} ({family}) is a continuous latent, so there is no exact sum over it"
    if asked != "parallel":
        return f"site {name!r} asks not to be enumerated (infer={{'enumerate': {asked!r}}}); take that setting away"
    if site["infer"].get("num_samples") is not None:
        return f"site {name!r} asks for draws instead of a sum (num_samples); take that setting away"
    return None


def _odd_shape(name: str, site: SiteMessage) -> str | None:
    """Why a site's log-probabilities are not of the shape of its plates."""
    try:
        site["log_prob"] = site["fn"].log_prob(site["value"])
    except (NotImplementedError, ValueError, RuntimeError):
        return None  # the enumerated run says what is wrong with it
    if not isinstance(site["log_prob"], torch.Tensor):
        return None
    frames = [f for f in site["cond_indep_stack"] if f.vectorized]
    nesting = max([site["log_prob"].dim(), *(-f.dim for f in frames)])
    try:
        check_site_shape(site, nesting)
    except ValueError as error:
        shape, plates = tuple(site["log_prob"].shape), ", ".join(repr(f.name) for f in frames) or "no plate"
        if "collision" in str(error):
            return f"site {name!r} is in two plates on the same dimension ({plates}); give one of them another dim"
        return (
            f"site {name!r} has log-probabilities of shape {shape}, which is not that of its plates ({plates}); "
            "put it into a pyro.plate of that size, or end its distribution with .to_event(1)"
        )
    return None


def check_plates(trace: Trace) -> str | None:
    """Why the plates would give a wrong sum, in a phrase; None where they are in order.

    A site that depends on a latent of another plate which lies on the same dimension is summed as if the two plates
    were one; Pyro says nothing.
    """
    latents = {
        site["infer"]["_enumerate_symbol"]: site
        for site in sample_sites(trace).values()
        if site["infer"].get("_enumerate_symbol") is not None
    }
    for name, site in sample_sites(trace).items():
        own = {f.dim: f.name for f in site["cond_indep_stack"] if f.vectorized}
        for symbol in site["packed"]["unscaled_log_prob"]._pyro_dims:
            latent = latents.get(symbol)
            for frame in latent["cond_indep_stack"] if latent is not None else ():
                if frame.vectorized and own.get(frame.dim, frame.name) != frame.name:
                    assert latent is not None
                    return (
                        f"site {name!r} in plate {own[frame.dim]!r} depends on {latent['name']!r} in plate "
                        f"{frame.name!r}, on the same dimension {frame.dim}; use one plate for both, or two dimensions"
                    )
    return None
