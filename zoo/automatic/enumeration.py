"""Exact sums over every discrete latent of a Pyro program, and each site's posterior weight as a gradient.

A zero is added to every site's log-probability; the derivative of ln p(x) with respect to that zero is the posterior
probability of the site's latent values, times the site's mask and scale: the weight that the site has in the expected
complete-data log-likelihood. Pyro's own contraction does the sum, so that whatever Pyro can enumerate is served.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import config_enumerate
from pyro.infer.traceenum_elbo import _compute_dice_elbo
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from zoo import program
from zoo.batch import Data, call
from zoo.errors import ZooError
from zoo.model import LatentVariableModel
from zoo.program import SiteMessage, sample_sites

__all__ = ["MAX_ELEMENTS", "Enumerated", "check_enumerable", "enumerated", "predicted_elements"]

#: The largest table of log-probabilities that enumeration may make for one site: 2 GiB in float64.
MAX_ELEMENTS = 2**28


@dataclass
class Enumerated:
    """A program run with every discrete latent enumerated.

    Attributes:
        trace: Pyro's trace; log-probabilities carry enumeration dimensions left of the plates.
        probes: by site, the zeros added to its log-probability.
    """

    trace: Trace
    probes: dict[str, Tensor]

    @functools.cached_property
    def log_evidence(self) -> Tensor:
        """ln p(x), summed over the data, nats; contracted when first asked for."""
        guide = Trace()
        guide.pack_tensors()
        self.trace.pack_tensors(guide.plate_to_symbol)
        latents = [s for s in self.sites.values() if s["infer"].get("_enumerate_dim") is not None]
        symbols = {s["infer"]["_enumerate_symbol"] for s in latents}
        scales = {
            n: float(s["scale"])
            for n, s in self.sites.items()
            if not isinstance(s["scale"], Tensor) and symbols & set(s["packed"]["unscaled_log_prob"]._pyro_dims)
        }
        common = next(iter(scales.values()), 1.0)
        odd = [n for n in scales if scales[n] != common]
        if odd:
            raise ZooError(
                f"site {odd[0]!r} expected the poutine.scale of the sites it shares latents with, {common:g}, got "
                f"{scales[odd[0]]:g}: a sum over latents needs one scale. Scale all of them, or none."
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TraceEnum_ELBO found no sample sites")
            return torch.as_tensor(_compute_dice_elbo(self.trace, guide))

    @property
    def sites(self) -> dict[str, SiteMessage]:
        return sample_sites(self.trace)

    def weights(self) -> dict[str, Tensor]:
        """Each site's posterior weight, of the shape of its log-probability."""
        names = list(self.probes)
        grads = torch.autograd.grad(self.log_evidence, [self.probes[n] for n in names], allow_unused=True)
        return {
            n: self._counted(n, torch.zeros_like(self.probes[n]) if g is None else g)
            for n, g in zip(names, grads, strict=True)
        }

    def _counted(self, name: str, weight: Tensor) -> Tensor:
        """A masked latent is summed out of the evidence, where it adds up to one: it does not count."""
        site = self.trace.nodes[name]
        if site["is_observed"] or site["mask"] is None:
            return weight
        return weight * torch.as_tensor(site["mask"], device=weight.device).to(weight.dtype)


class _Failed(Exception):
    """A program broke; carries the trace of what it had done until then."""

    def __init__(self, done: Trace) -> None:
        self.done = done


class _OneValue(Messenger):
    """Latents offer one value of their support each: dimensions as in full enumeration, at size one."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and getattr(msg["fn"], "has_enumerate_support", False):
            thin = copy.copy(msg["fn"])
            values = msg["fn"].enumerate_support(expand=False)[:1]
            thin.enumerate_support = lambda expand=False: values
            msg["fn"] = thin


def enumerated_trace(run: Callable[..., Any], x: Data, nesting: int, only: set[str] | None = None) -> Trace:
    """The trace of a program with sites configured for enumeration, with log-probabilities (of some sites only)."""
    tracer = poutine.trace(run)
    with poutine.block(), EnumMessenger(first_available_dim=-1 - nesting):
        try:
            call(tracer, x)
            trace = prune_subsample_sites(tracer.trace)
            trace.compute_log_prob(lambda name, site: only is None or name in only)
        except Exception as error:
            raise _Failed(tracer.trace) from error
    return trace


def enumerated(model: LatentVariableModel, x: Data, nesting: int, only: set[str] | None = None) -> Enumerated:
    """Run the program enumerated, with probes; differentiable with respect to probes and parameters.

    Args:
        nesting: batch dimensions that plates take.
        only: sites whose log-probabilities are wanted; the evidence needs them all (None).
    """
    with _explained(model):
        trace = enumerated_trace(config_enumerate(model.model, default="parallel"), x, nesting, only)
    probes = {}
    for name, site in sample_sites(trace).items():
        if "unscaled_log_prob" in site:
            probes[name] = torch.zeros_like(site["unscaled_log_prob"], requires_grad=True)
            site["unscaled_log_prob"] = site["unscaled_log_prob"] + probes[name]
            site["log_prob"] = scale_and_mask(site["unscaled_log_prob"], site["scale"], site["mask"])
    return Enumerated(trace, probes)


@contextmanager
def _explained(model: LatentVariableModel) -> Iterator[None]:
    """What enumeration breaks in a program, in one line that names the place."""
    try:
        yield
    except _Failed as failed:
        error, last = failed.__cause__, list(sample_sites(failed.done))
        place = f"after site {last[-1]!r}" if last else "before its first site"
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "ambiguous" in first or "converted to Scalar" in first or "scalars can be converted" in first:
            raise ZooError(
                f"{program_name(model)}: {place}, the program expected one value of a latent to branch on, got all of "
                "them at once (control flow that depends on a latent). Write it with torch.where or indexing."
            ) from error
        raise ZooError(
            f"{program_name(model)}: enumeration failed {place} ({type(error).__name__}: {first}). "
            "Index from the right (x[..., d]), so that latents may carry dimensions on the left."
        ) from error


def shown(parameter: str) -> str:
    """A parameter's name as its author wrote it."""
    return parameter.removeprefix("param/").removesuffix("/mode").removesuffix("_unconstrained").replace("/", ".")


def program_name(model: LatentVariableModel) -> str:
    """What to call a model in a message."""
    return getattr(model, "name", None) or type(model).__name__


def check_enumerable(model: LatentVariableModel, x: Data) -> str | None:
    """Why ln p(x) of this program cannot be had by enumeration: a phrase that names the site; None where it can."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        trace = poutine.trace(lambda: call(model.model, x)).get_trace()
    sites: dict[str, SiteMessage] = dict(trace.nodes)
    for name, site in sites.items():
        if site["type"] != "sample":
            continue
        if type(site["fn"]).__name__ == "_Subsample":
            if len(site["value"]) < site["fn"].size:
                return f"plate {name!r} takes a random part of the data; give it all of them"
            continue
        if site["is_observed"]:
            continue
        family = program.family_of(site["fn"])
        if site["infer"].get("enumerate") == "sequential":
            return f"site {name!r} asks for sequential enumeration; take that setting away"
        if not getattr(site["fn"], "has_enumerate_support", False):
            if site["fn"].support.is_discrete:
                return f"site {name!r} ({family}) is a latent without finite support, so there is no exact sum over it"
            return f"site {name!r} ({family}) is a continuous latent, so there is no exact sum over it"
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


def predicted_elements(model: LatentVariableModel, x: Data, nesting: int) -> tuple[int, str]:
    """Size of the largest table of log-probabilities that enumeration would make, and its site, without making it.

    First a bound: every latent in scope at a site may matter there. Only where that is too large, the latents are
    enumerated one at a time (the others drawn once) to see on which of them each site depends.
    """
    with _explained(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        sizes: dict[str, int] = {}
        plain = poutine.trace(lambda: call(model.model, x)).get_trace()
        for name, site in sample_sites(plain).items():
            if not site["is_observed"]:
                sizes[name] = int(site["fn"].enumerate_support(expand=False).shape[0])
        thin = enumerated_trace(_OneValue()(config_enumerate(model.model, default="parallel")), x, nesting)
        rows, scope = {}, {}
        chained, free = set[str](), set[str]()  # latents inside and outside of pyro.markov
        for name, site in sample_sites(thin).items():
            rows[name] = site["unscaled_log_prob"].numel()
            inside = site["infer"].get("_markov_scope")
            scope[name] = free | (chained if inside is None else chained & set(inside))
            if name in sizes:
                (free if inside is None else chained).add(name)

        def largest(depends: dict[str, set[str]]) -> tuple[int, str]:
            return max((rows[n] * math.prod(sizes[z] for z in depends[n] | ({n} & set(sizes))), n) for n in rows)

        worst = largest(scope)
        if worst[0] <= MAX_ELEMENTS:
            return worst
        depends: dict[str, set[str]] = {name: set() for name in rows}
        for latent, size in sizes.items():

            def only(site: SiteMessage, latent: str = latent) -> Any:
                return {"enumerate": "parallel"} if site["name"] == latent and not site["is_observed"] else {}

            run = poutine.infer_config(poutine.replay(model.model, trace=_without(plain, latent)), only)
            trace = enumerated_trace(run, x, nesting)
            for name, site in sample_sites(trace).items():
                if size > 1 and site["unscaled_log_prob"].numel() > rows[name]:
                    depends[name].add(latent)
        return largest(depends)


def _without(trace: Trace, name: str) -> Trace:
    copy = trace.copy()
    copy.remove_node(name)
    return copy


def first_enumeration(model: LatentVariableModel, x: Data, nesting: int) -> tuple[Enumerated, int, str]:
    """Enumerate for the first time: whatever does not suit the program is told in one line, before any work is done.

    Returns:
        The run, the size of its largest table of log-probabilities, and the site that has it.

    Raises:
        ZooError: latents that cannot be enumerated, too large a table, plates that contradict each other.
    """
    reason = check_enumerable(model, x)
    if reason is None:
        elements, site = predicted_elements(model, x, nesting)
        if elements > MAX_ELEMENTS:
            raise ZooError(
                f"{program_name(model)}: site {site!r} expected at most {MAX_ELEMENTS:,} enumerated log-probabilities, "
                f"got {elements:,}. Use fewer values or data at a time, or pyro.markov along a sequence."
            )
        found = enumerated(model, x, nesting)
        found.log_evidence.detach()  # packs the dimensions by name
        reason = check_plates(found.trace)
        if reason is None:
            return found, elements, site
    raise ZooError(f"{program_name(model)}: {reason}.")
