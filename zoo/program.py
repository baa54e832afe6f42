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

from zoo.batch import Data, call, num_data
from zoo.errors import ZooError
from zoo.model import FunctionModel, LatentVariableModel, can

#: A node of a Pyro trace.
SiteMessage: TypeAlias = Any
#: Which of its log-probabilities a site counts with.
SiteValue: TypeAlias = Callable[[SiteMessage], Tensor]

__all__ = ["Site", "draw", "family_of", "has_guide", "latent_sites", "log_weights", "parameter_roles", "per_datum"]


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


def probe(model: LatentVariableModel, x: Data) -> Data:
    """A little of the data, to look at a program with."""
    return model.probe(x)


def has_guide(model: LatentVariableModel) -> bool:
    """Whether the model comes with a guide."""
    if isinstance(model, FunctionModel):
        return model.has_guide
    return type(model).guide is not LatentVariableModel.guide


def sites(model: LatentVariableModel, x: Data) -> list[Site]:
    """The sample sites of ``model(x)`` in program order."""
    x = probe(model, x)
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
        if _is_sample(site)
    ]


def latent_sites(model: LatentVariableModel, x: Data) -> list[Site]:
    """The latent sites of ``model(x)`` in program order."""
    return [site for site in sites(model, x) if not site.observed]


def family_of(fn: Any) -> str:
    """A distribution's class name, without wrappers."""
    while hasattr(fn, "base_dist") and type(fn).__name__ in _WRAPPERS:
        fn = fn.base_dist
    return type(fn).__name__


#: Distributions that change another's shape or mask, or have no name of their own for what they are.
_WRAPPERS = ("Independent", "MaskedDistribution", "ExpandedDistribution", "TransformedDistribution")


def _is_sample(site: SiteMessage) -> bool:
    return site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"


def data_dim(site: SiteMessage, rows: int) -> int | None:
    """The (negative) batch dimension of a site that runs over the data, None for a global site.

    The plate named "data"; without one, the outermost plate with as many rows as the data, subsampled or not.
    """
    frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != _PARTICLES]
    named = [f for f in frames if f.name == "data"]
    sized = sorted((f for f in frames if rows in (f.size, f.full_size)), key=lambda f: f.dim)
    chosen = (named or sized)[:1]
    return chosen[0].dim if chosen else None


_PARTICLES = "zoo_particles"


def plate_nesting(model: LatentVariableModel, x: Data, *, alone: bool = False) -> int:
    """How many batch dimensions the plates of ``model(x)`` and ``guide(x)`` take; of ``model(x)`` if ``alone``."""
    x = probe(model, x)
    with torch.no_grad():
        programs = [model.model, model.guide] if has_guide(model) and not alone else [model.model]
        traces = [poutine.trace(lambda p=p: call(p, x)).get_trace() for p in programs]
    dims = [f.dim for t in traces for s in t.nodes.values() if _is_sample(s) for f in s["cond_indep_stack"]]
    return max((-dim for dim in dims if dim is not None), default=0)


def traces(model: LatentVariableModel, x: Data) -> tuple[Trace, Trace]:
    """One run of the guide and of the model on its draws, as they are; no gradient, the caller's draws untouched."""
    x = probe(model, x)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        guide_trace = poutine.trace(lambda: call(model.guide, x)).get_trace()
        model_trace = poutine.trace(poutine.replay(lambda: call(model.model, x), trace=guide_trace)).get_trace()
    return guide_trace, model_trace


def repeated(program: Callable[..., Any], num_particles: int, nesting: int) -> Callable[..., Any]:
    """The program run for several joint draws at once, in a plate left of its own."""
    if num_particles == 1:
        return program
    wrapped: Callable[..., Any] = pyro.plate(_PARTICLES, num_particles, dim=-1 - nesting)(program)
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
    if not isinstance(model, FunctionModel):
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


def sample_sites(trace: Trace) -> dict[str, SiteMessage]:
    """Name and site of every sample statement in a trace, plates' own left out."""
    return {name: site for name, site in trace.nodes.items() if _is_sample(site)}


def with_density(trace: Trace) -> dict[str, SiteMessage]:
    """The sample sites whose density counts: a ``pyro.deterministic`` or a site masked out as a whole, wherever it
    stands, belongs to no datum."""
    sites = sample_sites(trace).items()
    return {n: s for n, s in sites if s["mask"] is not False and not (s["infer"] or {}).get("_deterministic")}


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


def kl_is_whole(model: LatentVariableModel, x: Data) -> bool:
    """Whether latents count as often as the data, so that the scaled sum of all sites is the ELBO (β is 1)."""
    x = probe(model, x)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        traces = draw(model, x, 1, 0)
    rows = num_data(x)
    local = [s for t in traces for s in sample_sites(t).values() if s["mask"] is not False and data_dim(s, rows)]
    scales = [s["scale"] for s in local]
    return all(torch.equal(torch.as_tensor(s), torch.as_tensor(scales[0])) for s in scales)


def _number(scale: Any) -> float | None:
    """A scale as one number; None where it is several."""
    return float(scale) if not isinstance(scale, Tensor) or scale.numel() == 1 else None


def log_weights(model: LatentVariableModel, x: Data, num_samples: int, *, max_elements: int = 2_000_000) -> Tensor:
    """ln p(x, z) - ln q(z | x) for draws z from the guide, (num_samples, N), nats; no gradient.

    Draws are made in groups, so that memory stays bounded. A model's own ``log_weights(x, num_particles)`` is taken
    where it offers one: the same numbers without Pyro's handlers, and without the β of a β-VAE, which is no part of p.
    """
    rows, own = max(1, num_data(x)), can(model, "log_weights")
    nesting = 0 if own else plate_nesting(model, x)
    widest = max([1, *(p.shape[0] for p in model.parameters() if p.dim() > 1)])  # numbers of a network's widest layer
    group = max(1, min(num_samples, max_elements // rows, 16 * max_elements // (rows * widest)))
    if group > 1 and not own and not broadcasts(model, x, nesting):
        group = 1
    pieces = []
    hook: Any = getattr(model, "log_weights", None)
    with torch.no_grad():
        for start in range(0, num_samples, group):
            size = min(group, num_samples - start)
            if own:
                pieces.append(call(lambda *a, k=size, **named: hook(*a, num_particles=k, **named), x))
                continue
            log_joint, log_guide, count = densities(*draw(model, x, size, nesting), rows, size, nesting)
            pieces.append(count * (log_joint - log_guide))
    return torch.cat(pieces)


def reached_by_model(model: LatentVariableModel, x: Data) -> list[str]:
    """Names of the parameters that p(x, z) depends on, found by differentiating at a draw of z from the model."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    log_joint = torch.as_tensor(poutine.trace(lambda: call(model.model, x)).get_trace().log_prob_sum())
    if not log_joint.requires_grad:
        return []
    grads = torch.autograd.grad(log_joint, [p for _, p in named], allow_unused=True)
    return [name for (name, _), grad in zip(named, grads, strict=True) if grad is not None]


def parameter_roles(model: LatentVariableModel, x: Data) -> tuple[list[str], list[str]]:
    """Names of the parameters that p(x, z) depends on (θ), and of those that q(z | x) depends on (ψ).

    Found by differentiating, so shared parameters are in both and unused ones in neither.
    """
    x = probe(model, x)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    parameters = [p for _, p in named]

    def reached(output: Tensor) -> list[str]:
        if not output.requires_grad or not parameters:
            return []
        grads = torch.autograd.grad(output, parameters, allow_unused=True)
        return [name for (name, _), grad in zip(named, grads, strict=True) if grad is not None]

    with torch.random.fork_rng(devices=[]):
        if has_guide(model):
            guide_trace = poutine.trace(lambda: call(model.guide, x)).get_trace()
            guide_trace.compute_log_prob()
            latents = sample_sites(guide_trace)
            drawn = [s["value"].sum() for s in latents.values() if s["value"].requires_grad]
            psi = reached(sum((*drawn, *(s["log_prob_sum"] for s in latents.values())), torch.zeros(())))
            for site in latents.values():
                site["value"] = site["value"].detach()
            model_trace = poutine.trace(poutine.replay(lambda: call(model.model, x), trace=guide_trace)).get_trace()
        else:
            psi = []
            model_trace = poutine.trace(lambda: call(model.model, x)).get_trace()
        theta = reached(torch.as_tensor(model_trace.log_prob_sum()))
    return theta, psi
