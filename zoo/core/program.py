"""What a Pyro program is made of: its sites, plates and parameters, read off one run of it and of its guide."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from pyro.util import check_site_shape
from torch import Tensor
from torch.distributions.kl import kl_divergence

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call, num_data
from zoo.core.isolation import differentiable, kept_generators
from zoo.core.sites import SiteMessage, data_dim, family_of, is_masked_out, noise, observes, sample_sites
from zoo.core.traces import left_out

__all__ = ["Program", "Site", "latent_sites", "look", "plate_nesting", "sites", "traced"]


@dataclass(frozen=True)
class Site:
    """One ``pyro.sample`` statement of a program.

    Attributes:
        name: the site's name.
        family: the distribution's class name, without wrappers.
        role: "latent"; "observed", given data; "noise", drawn beside the latents and counted nowhere; "prior", a
            parameter with a prior.
        discrete: whether its support can be enumerated.
        local: whether it lies inside the data plate; a global site belongs to no single datum.
    """

    name: str
    family: str
    role: str
    discrete: bool
    local: bool


@dataclass(frozen=True, eq=False)
class Program:
    """A program and its guide, as one run of both on a little of the data shows them; :func:`look` makes it.

    Its facts are those of every copy of the model, whatever its parameters.

    Attributes:
        guide: the run of the guide, without a statement where there is none. model: that of the model on its draws.
        rows: the number of data that they ran on.
        theta: names of the parameters that p(x, z) depends on, found by differentiating.
        psi: names of those that q(z | x) depends on; shared ones are in both, unused ones in neither.
        points: names of the sites that are parameters with a prior, which are no data.
    """

    guide: Trace = field(repr=False)
    model: Trace = field(repr=False)
    rows: int
    theta: tuple[str, ...]
    psi: tuple[str, ...]
    points: frozenset[str]

    @cached_property
    def sites(self) -> list[Site]:
        """The sample statements of the model, in order."""
        return _sites(self.model, self.rows, self.noise, self.points)

    @property
    def latents(self) -> list[Site]:
        """The latent sites, in order."""
        return [site for site in self.sites if site.role == "latent"]

    @cached_property
    def noise(self) -> frozenset[str]:
        """The guide's sites that add nothing to any weight."""
        return noise(self.guide, self.model)

    @property
    def summed(self) -> bool:
        """Whether all that is drawn can be summed instead, so that a bound needs no draws."""
        return all(site.discrete for site in self.latents) and not self.noise

    @property
    def drawn_surely(self) -> bool:
        """Whether no draw of the guide changes its bound: its sites are summed, or stand at a point."""
        drawn = [site["fn"] for site in sample_sites(self.guide).values()]
        return not self.noise and all(fn.has_enumerate_support or family_of(fn) == "Delta" for fn in drawn)

    @property
    def observes(self) -> bool:
        """Whether any site is given data."""
        return observes(self.model, self.points)

    @property
    def nesting(self) -> int:
        """How many batch dimensions the plates of model and guide take."""
        return max(_nesting(self.model), _nesting(self.guide))

    @property
    def scored(self) -> list[tuple[str, bool]]:
        """The guide's sites whose draws carry no gradient, each with whether its values can be summed instead."""
        drawn = [(n, s["fn"]) for n, s in sample_sites(self.guide).items() if n not in self.noise]
        return [(name, bool(fn.has_enumerate_support)) for name, fn in drawn if not fn.has_rsample]

    @property
    def left_out(self) -> set[str]:
        """The model's discrete latents that the guide does not draw."""
        return left_out(self.guide, self.model)

    @property
    def kl_is_whole(self) -> bool:
        """Whether latents count as often as the data, so that the scaled sum of all sites is the ELBO (β is 1)."""
        both = [*sample_sites(self.guide).values(), *sample_sites(self.model).values()]
        scales = [torch.as_tensor(s["scale"]) for s in both if s["mask"] is not False and data_dim(s, self.rows)]
        return all(torch.equal(scale, scales[0]) for scale in scales)

    @cached_property
    def closed_form_kl(self) -> bool:
        """Whether there is one latent, whose KL(q || p) is known in closed form."""
        drawn, sites = sample_sites(self.guide), sample_sites(self.model)
        latents = [name for name in drawn if name not in self.noise]
        if len(latents) != 1 or not all(name in sites and drawn[name]["fn"].has_rsample for name in self.noise):
            return False
        try:
            for name in latents:
                kl_divergence(drawn[name]["fn"], sites[name]["fn"])
        except (NotImplementedError, KeyError):
            return False
        return True

    def check_shapes(self) -> None:
        """Raise Pyro's ValueError where log-probabilities are not of the shape of their plates."""
        for site in (*sample_sites(self.guide).values(), *sample_sites(self.model).values()):
            check_site_shape(site, self.nesting)

    def spend(self, *programs: str) -> None:
        """Take from torch's generator what a run of these programs ("model", "guide") takes.

        What looked at a program used to run it there: the same seed goes on giving the same numbers.
        """
        with torch.no_grad():
            for name in programs:
                for site in getattr(self, name).nodes.values():
                    if site["type"] == "sample" and not site["is_observed"]:
                        site["fn"](*site["args"], **site["kwargs"])


def look(model: LatentVariableModel, x: Data) -> Program:
    """Run the guide, and the model on its draws, once on a little of the data; torch's generator stays as it is."""
    x = model.probe(x)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with torch.enable_grad(), differentiable(), kept_generators():
        guide = poutine.trace(lambda: call(model.guide, x)).get_trace() if model.has_guide else Trace()
        with model.in_its_dtype(x):
            guide.compute_log_prob()
        drawn = sample_sites(guide).values()
        reparametrised = [s["value"].sum() for s in drawn if s["value"].requires_grad]
        psi = _reached(sum((*reparametrised, *(s["log_prob_sum"] for s in drawn)), torch.zeros(())), named)
        for site in drawn:
            site["value"] = site["value"].detach()
        run = poutine.trace(poutine.replay(lambda: call(model.model, x), trace=guide)).get_trace()
        theta: tuple[str, ...] = ()
        with model.in_its_dtype(x), suppress(NotImplementedError):  # a site without a density is named by what sums it
            run.compute_log_prob()
            theta = _reached(torch.as_tensor(run.log_prob_sum()), named)
    if any(p.device.type != "cpu" for _, p in named):  # no graph is kept: a GPU records no step beside one
        guide, run = traced(model, x)
        with torch.no_grad(), model.in_its_dtype(x):
            for trace in (guide, run):
                with suppress(NotImplementedError):
                    trace.compute_log_prob()
    return Program(guide, run, num_data(x), theta, psi, frozenset(model.points))


def _reached(output: Tensor, named: Sequence[tuple[str, Tensor]]) -> tuple[str, ...]:
    """The names of the parameters that a number depends on."""
    if not output.requires_grad or not named:
        return ()
    grads = torch.autograd.grad(output, [p for _, p in named], allow_unused=True)
    return tuple(name for (name, _), grad in zip(named, grads, strict=True) if grad is not None)


def reached_by_marginal(model: LatentVariableModel, x: Data) -> tuple[str, ...]:
    """Names of the parameters that an exact ln p(x) depends on, which the model offers; no program is run."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with torch.enable_grad(), differentiable(), kept_generators():
        output = call(model.log_marginal, model.probe(x)).sum()
        leaves = _leaves(output)
        return _reached(output, named) if leaves is None else tuple(n for n, p in named if p in leaves)


def _leaves(output: Tensor) -> set[Tensor] | None:
    """What a number was computed from, read off its graph, in a tenth of the time that derivatives take; None where a
    part of the graph has derivatives of its own making, which may leave some out."""
    waiting, seen, leaves = [output.grad_fn], {output.grad_fn}, set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return None
        if (variable := getattr(node, "variable", None)) is not None:
            leaves.add(variable)
        new = {other for other, _ in (node.next_functions if node is not None else ())} - seen
        seen |= new
        waiting += new
    return leaves


def reached_by_model(model: LatentVariableModel, x: Data) -> tuple[str, ...]:
    """Names of the parameters that p(x, z) depends on, at a draw of z from the model: no guide is run."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    trace = poutine.trace(lambda: call(model.model, x)).get_trace()
    return _reached(torch.as_tensor(trace.log_prob_sum()), named)


def _nesting(trace: Trace) -> int:
    """How many batch dimensions the plates of a trace take."""
    dims = [frame.dim for site in sample_sites(trace).values() for frame in site["cond_indep_stack"]]
    return max((-dim for dim in dims if dim is not None), default=0)


def _sites(trace: Trace, rows: int, beside: frozenset[str], points: frozenset[str]) -> list[Site]:
    def role(name: str, site: SiteMessage) -> str:
        if name in points:
            return "prior"
        return "observed" if site["is_observed"] else "noise" if name in beside else "latent"

    return [
        Site(
            name,
            family_of(site["fn"]),
            role(name, site),
            bool(getattr(site["fn"], "has_enumerate_support", False)),
            data_dim(site, rows) is not None,
        )
        for name, site in sample_sites(trace).items()
    ]


def sites(model: LatentVariableModel, x: Data) -> list[Site]:
    """The sample sites of ``model(x)`` in program order; unlike :func:`look`, no guide is run without need."""
    x = model.probe(x)
    with torch.no_grad():
        trace, beside = poutine.trace(lambda: call(model.model, x)).get_trace(), frozenset[str]()
        if model.has_guide and any(is_masked_out(site) for site in sample_sites(trace).values()):
            with kept_generators():
                beside = noise(poutine.trace(lambda: call(model.guide, x)).get_trace(), trace)
        return _sites(trace, num_data(x), beside, model.points)


def latent_sites(model: LatentVariableModel, x: Data) -> list[Site]:
    """The latent sites of ``model(x)`` in program order."""
    return [site for site in sites(model, x) if site.role == "latent"]


def plate_nesting(model: LatentVariableModel, x: Data, *, alone: bool = False) -> int:
    """How many batch dimensions the plates of ``model(x)`` and ``guide(x)`` take; of ``model(x)`` if ``alone``."""
    x = model.probe(x)
    with torch.no_grad():
        programs = [model.model, model.guide] if model.has_guide and not alone else [model.model]
        return max(_nesting(poutine.trace(lambda p=p: call(p, x)).get_trace()) for p in programs)


def traced(model: LatentVariableModel, x: Data) -> tuple[Trace, Trace]:
    """One run of the guide, if there is one, and of the model on its draws, as they are; no gradient, the caller's
    draws untouched."""
    x = model.probe(x)
    with torch.no_grad(), kept_generators():
        guide_trace = poutine.trace(lambda: call(model.guide, x)).get_trace() if model.has_guide else Trace()
        model_trace = poutine.trace(poutine.replay(lambda: call(model.model, x), trace=guide_trace)).get_trace()
    return guide_trace, model_trace
