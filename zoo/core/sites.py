"""Statements of a Pyro program, as a trace holds them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeAlias

from pyro.poutine.trace_struct import Trace

__all__ = [
    "SiteMessage",
    "data_dim",
    "factors",
    "family_of",
    "is_auxiliary",
    "is_masked_out",
    "is_sample",
    "noise",
    "observes",
    "sample_sites",
    "unwrapped",
    "with_density",
]  # fmt: skip

#: A node of a Pyro trace.
SiteMessage: TypeAlias = Any


def unwrapped(fn: Any, *wrappers: str) -> Any:
    """The distribution inside others (``Independent``, masked, expanded), through those of the names given if any."""
    while hasattr(fn, "base_dist") and (not wrappers or type(fn).__name__ in wrappers):
        fn = fn.base_dist
    return fn


def is_sample(site: SiteMessage) -> bool:
    """Whether a node is a sample statement; a plate's own is none."""
    return site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"


def sample_sites(trace: Trace) -> dict[str, SiteMessage]:
    """Name and site of every sample statement in a trace, plates' own left out."""
    return {name: site for name, site in trace.nodes.items() if is_sample(site)}


def is_masked_out(site: SiteMessage) -> bool:
    """Whether a latent site stands under ``poutine.mask(mask=False)``: its draws count nowhere."""
    return not site["is_observed"] and site["mask"] is False


def noise(guide_trace: Trace, model_trace: Trace) -> frozenset[str]:
    """The guide's sites that add nothing to any weight: masked out in guide and model alike, or the guide's own.

    What a program draws beside its latents (a corruption of the data, a dropout) stands so; no list of latents has it.
    """
    drawn, sites = sample_sites(guide_trace), sample_sites(model_trace)
    alike = {n for n, s in drawn.items() if (is_masked_out(sites[n]) if n in sites else is_auxiliary(s))}
    return frozenset(n for n in alike if is_masked_out(drawn[n]))


def is_auxiliary(site: SiteMessage) -> bool:
    """Whether a guide's site is one of its own, from which it makes its draws of the latents, as AutoGuides do."""
    return bool((site["infer"] or {}).get("is_auxiliary"))


def factors(trace: Trace) -> tuple[str, ...]:
    """The observed sites of a trace that are plain numbers (``pyro.factor``, ``dist.Unit``)."""
    sites = sample_sites(trace).items()
    return tuple(name for name, s in sites if s["is_observed"] and type(unwrapped(s["fn"])).__name__ == "Unit")


#: Distributions that change another's shape or mask, or have no name of their own for what they are.
WRAPPERS = ("Independent", "MaskedDistribution", "ExpandedDistribution", "TransformedDistribution")
#: The plate of joint draws.
PARTICLES = "zoo_particles"


def family_of(fn: Any) -> str:
    """A distribution's class name, without wrappers."""
    return type(unwrapped(fn, *WRAPPERS)).__name__


def observes(trace: Trace, points: Collection[str]) -> bool:
    """Whether any site is given data; ``points`` are parameters with a prior, which are none."""
    stated = ((name, s) for name, s in sample_sites(trace).items() if not (s["infer"] or {}).get("_deterministic"))
    return any(site["is_observed"] and name not in points for name, site in stated)


def with_density(trace: Trace) -> dict[str, SiteMessage]:
    """The sample sites whose density counts: a ``pyro.deterministic`` or a site masked out as a whole, wherever it
    stands, belongs to no datum."""
    sites = sample_sites(trace).items()
    return {n: s for n, s in sites if s["mask"] is not False and not (s["infer"] or {}).get("_deterministic")}


def data_dim(site: SiteMessage, rows: int) -> int | None:
    """The (negative) batch dimension of a site that runs over the data, None for a global site.

    The plate named "data"; without one, the outermost plate with as many rows as the data, subsampled or not.
    """
    frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES]
    named = [f for f in frames if f.name == "data"]
    sized = sorted((f for f in frames if rows in (f.size, f.full_size)), key=lambda f: f.dim)
    chosen = (named or sized)[:1]
    return chosen[0].dim if chosen else None
