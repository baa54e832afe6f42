"""What a Pyro program is made of: its sites, plates and parameters, read off one run of it and of its guide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions.kl import kl_divergence

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call, num_data
from zoo.core.sites import SiteMessage, data_dim, family_of, sample_sites
from zoo.core.traces import draw, left_out, summed_out, totals

__all__ = ["Program", "Site", "latent_sites", "look", "plate_nesting", "sites", "traced"]


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


@dataclass(frozen=True, eq=False)
class Program:
    """A program and its guide, as one run of both on a little of the data shows them; :func:`look` makes it.

    Its facts are those of every copy of the model, whatever its parameters.

    Attributes:
        sites: the sample statements of the model, in order.
        nesting: how many batch dimensions the plates of model and guide take.
        nesting_alone: how many those of the model take.
        scored: the guide's sites whose draws carry no gradient, each with whether its values can be summed instead.
        left_out: the model's discrete latents that the guide does not draw.
        observes: whether any site is given data.
        theta: names of the parameters that p(x, z) depends on, found by differentiating.
        psi: names of those that q(z | x) depends on; shared ones are in both, unused ones in neither.
        kl_is_whole: whether latents count as often as the data, so that the scaled sum of all sites is the ELBO (β is
            1).
        closed_form_kl: whether there is one latent, whose KL(q || p) is known in closed form.
    """

    sites: tuple[Site, ...]
    nesting: int
    nesting_alone: int
    scored: tuple[tuple[str, bool], ...]
    left_out: frozenset[str]
    observes: bool
    theta: tuple[str, ...]
    psi: tuple[str, ...]
    kl_is_whole: bool
    closed_form_kl: bool
    _draws: dict[str, list[Callable[[], Any]]] = field(default_factory=dict, repr=False)

    @property
    def latents(self) -> list[Site]:
        """The latent sites in program order."""
        return [site for site in self.sites if not site.observed]

    def spend(self, *programs: str) -> None:
        """Take from torch's generator what a run of these programs ("model", "guide") takes.

        What looked at a program used to run it there: the same seed goes on giving the same numbers.
        """
        with torch.no_grad():
            for name in programs:
                for draw_site in self._draws[name]:
                    draw_site()


def look(model: LatentVariableModel, x: Data) -> Program:
    """Run the guide, and the model on its draws, once on a little of the data; torch's generator stays as it is."""
    x = model.probe(x)
    rows = num_data(x)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        guide_trace = poutine.trace(lambda: call(model.guide, x)).get_trace() if model.has_guide else Trace()
        with model.in_its_dtype(x):
            guide_trace.compute_log_prob()
        drawn = sample_sites(guide_trace)
        reparametrised = [s["value"].sum() for s in drawn.values() if s["value"].requires_grad]
        psi = _reached(sum((*reparametrised, *(s["log_prob_sum"] for s in drawn.values())), torch.zeros(())), named)
        for site in drawn.values():
            site["value"] = site["value"].detach()
        model_trace = poutine.trace(poutine.replay(lambda: call(model.model, x), trace=guide_trace)).get_trace()
        with model.in_its_dtype(x):
            theta = _reached(torch.as_tensor(model_trace.log_prob_sum()), named)
    stated = {n: s for n, s in sample_sites(model_trace).items() if not (s["infer"] or {}).get("_deterministic")}
    both = [*drawn.values(), *sample_sites(model_trace).values()]
    scales = [torch.as_tensor(s["scale"]) for s in both if s["mask"] is not False and data_dim(s, rows)]
    alone = _nesting(model_trace)
    return Program(
        sites=tuple(_sites(model_trace, rows)),
        nesting=max(alone, _nesting(guide_trace)),
        nesting_alone=alone,
        scored=tuple((n, bool(s["fn"].has_enumerate_support)) for n, s in drawn.items() if not s["fn"].has_rsample),
        left_out=frozenset(left_out(guide_trace, model_trace)),
        observes=any(site["is_observed"] and name not in model.points for name, site in stated.items()),
        theta=theta,
        psi=psi,
        kl_is_whole=all(torch.equal(scale, scales[0]) for scale in scales),
        closed_form_kl=_closed_form_kl(drawn, sample_sites(model_trace)),
        _draws={"guide": _draws(guide_trace), "model": _draws(model_trace)},
    )


def _reached(output: Tensor, named: Sequence[tuple[str, Tensor]]) -> tuple[str, ...]:
    """The names of the parameters that a number depends on."""
    if not output.requires_grad or not named:
        return ()
    grads = torch.autograd.grad(output, [p for _, p in named], allow_unused=True)
    return tuple(name for (name, _), grad in zip(named, grads, strict=True) if grad is not None)


def reached_by_model(model: LatentVariableModel, x: Data) -> list[str]:
    """Names of the parameters that p(x, z) depends on, at a draw of z from the model: no guide is run."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    trace = poutine.trace(lambda: call(model.model, x)).get_trace()
    return list(_reached(torch.as_tensor(trace.log_prob_sum()), named))


def _draws(trace: Trace) -> list[Callable[[], Any]]:
    """What draws the values of a run again, in its order."""
    sampled = [s for s in trace.nodes.values() if s["type"] == "sample" and not s["is_observed"]]
    return [lambda s=s: s["fn"](*s["args"], **s["kwargs"]) for s in sampled]  # type: ignore[misc]


def _closed_form_kl(drawn: dict[str, SiteMessage], sites: dict[str, SiteMessage]) -> bool:
    """Whether KL(q || p) of each latent site is known in closed form and the sites do not depend on each other."""
    if len(drawn) != 1:
        return False
    try:
        for name, site in drawn.items():
            kl_divergence(site["fn"], sites[name]["fn"])
    except (NotImplementedError, KeyError):
        return False
    return True


def _nesting(trace: Trace) -> int:
    """How many batch dimensions the plates of a trace take."""
    dims = [frame.dim for site in sample_sites(trace).values() for frame in site["cond_indep_stack"]]
    return max((-dim for dim in dims if dim is not None), default=0)


def _sites(trace: Trace, rows: int) -> list[Site]:
    return [
        Site(
            name,
            family_of(site["fn"]),
            site["is_observed"],
            bool(getattr(site["fn"], "has_enumerate_support", False)),
            data_dim(site, rows) is not None,
        )
        for name, site in sample_sites(trace).items()
    ]


def sites(model: LatentVariableModel, x: Data) -> list[Site]:
    """The sample sites of ``model(x)`` in program order; unlike :func:`look`, no guide is run."""
    x = model.probe(x)
    with torch.no_grad():
        return _sites(poutine.trace(lambda: call(model.model, x)).get_trace(), num_data(x))


def latent_sites(model: LatentVariableModel, x: Data) -> list[Site]:
    """The latent sites of ``model(x)`` in program order."""
    return [site for site in sites(model, x) if not site.observed]


def plate_nesting(model: LatentVariableModel, x: Data, *, alone: bool = False) -> int:
    """How many batch dimensions the plates of ``model(x)`` and ``guide(x)`` take; of ``model(x)`` if ``alone``."""
    x = model.probe(x)
    with torch.no_grad():
        programs = [model.model, model.guide] if model.has_guide and not alone else [model.model]
        return max(_nesting(poutine.trace(lambda p=p: call(p, x)).get_trace()) for p in programs)


def traced(model: LatentVariableModel, x: Data) -> tuple[Trace, Trace]:
    """One run of the guide and of the model on its draws, as they are; no gradient, the caller's draws untouched."""
    x = model.probe(x)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        guide_trace = poutine.trace(lambda: call(model.guide, x)).get_trace()
        model_trace = poutine.trace(poutine.replay(lambda: call(model.model, x), trace=guide_trace)).get_trace()
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
