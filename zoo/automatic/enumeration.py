"""Exact sums over every discrete latent of a Pyro program, and each site's posterior weight as a gradient.

A zero is added to every site's log-probability; the derivative of ln p(x) with respect to that zero is the posterior
probability of the site's latent values, times the site's mask and scale: the weight that the site has in the expected
complete-data log-likelihood. Pyro's own contraction does the sum, so that whatever Pyro can enumerate is served.
"""

from __future__ import annotations

import copy
import functools
import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import config_enumerate
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from zoo import program
from zoo.automatic.checks import (
    NOTHING_OBSERVED,
    check_enumerable,
    check_plates,
    is_observed,
    plain_trace,
    program_name,
)
from zoo.automatic.evidence import log_evidence
from zoo.batch import Data, arguments, call, tensors
from zoo.errors import ZooError
from zoo.isolation import forked_rng
from zoo.model import FunctionModel, LatentVariableModel
from zoo.program import SiteMessage, sample_sites

__all__ = [
    "MAX_ELEMENTS",
    "Enumerated",
    "enumerated",
    "evidence",
    "first_enumeration",
    "predicted_elements",
    "remembered",
    "why_not_exact",
]

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
        return log_evidence(self.trace)

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
    """Latents (all but one) offer one value of their support: dimensions as in full enumeration, at size one."""

    def __init__(self, but: str | None = None) -> None:
        super().__init__()
        self.but = but

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["name"] == self.but or not getattr(msg["fn"], "has_enumerate_support", False):
            return
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


def evidence(model: LatentVariableModel, x: Data, nesting: int, rows: int | None = None) -> Tensor:
    """ln p(x), summed over the data, nats, (); differentiable with respect to the parameters.

    Args:
        rows: the number of data, for ln p(x) of each of them, (N,).
    """
    with _explained(model), model.in_its_dtype(x):
        trace = enumerated_trace(config_enumerate(model.model, default="parallel"), x, nesting)
    with _explained(model, trace), model.in_its_dtype(x):
        return log_evidence(trace, rows)


def enumerated(model: LatentVariableModel, x: Data, nesting: int, only: set[str] | None = None) -> Enumerated:
    """Run the program enumerated, with probes; differentiable with respect to probes and parameters.

    Args:
        nesting: batch dimensions that plates take.
        only: sites whose log-probabilities are wanted; the evidence needs them all (None).
    """
    with _explained(model), model.in_its_dtype(x):
        trace = enumerated_trace(config_enumerate(model.model, default="parallel"), x, nesting, only)
    probes = {}
    for name, site in sample_sites(trace).items():
        if "unscaled_log_prob" in site:
            probes[name] = torch.zeros_like(site["unscaled_log_prob"], requires_grad=True)
            site["unscaled_log_prob"] = site["unscaled_log_prob"] + probes[name]
            site["log_prob"] = scale_and_mask(site["unscaled_log_prob"], site["scale"], site["mask"])
    return Enumerated(trace, probes)


@contextmanager
def _explained(model: LatentVariableModel, done: Trace | None = None) -> Iterator[None]:
    """What enumeration breaks in a program, in one line that names the place; ``done`` is what it had done by then."""
    try:
        yield
    except ZooError:
        raise
    except _Failed as failed:
        error = failed.__cause__
        assert error is not None
        raise _in_one_line(model, error, failed.done) from error
    except (AssertionError, ValueError, RuntimeError) as error:
        if done is None:
            raise
        raise _in_one_line(model, error, done) from error


def _in_one_line(model: LatentVariableModel, error: BaseException, done: Trace) -> ZooError:
    last = list(sample_sites(done))
    place = f"after site {last[-1]!r}" if last else "before its first site"
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    who = program_name(model)
    if "ambiguous" in first or "converted to Scalar" in first or "scalars can be converted" in first:
        return ZooError(
            f"{who}: {place}, the program expected one value of a latent to branch on, got all of "
            "them at once (control flow that depends on a latent). Write it with torch.where or indexing."
        )
    chained = any(site["infer"].get("_markov_scope") is not None for site in sample_sites(done).values())
    if chained and isinstance(error, (AssertionError, ValueError)) and _in_pyro(error):
        return ZooError(
            f"{who}: {place}, a site expected no latent from further back than pyro.markov keeps, got one. "
            "Say how many steps back they reach: pyro.markov(..., history=2)."
        )
    fix = "Index from the right (x[..., d]), so that latents may carry dimensions on the left."
    if isinstance(error, NotImplementedError):
        fix = "Take a family that has what is missing."
    elif not isinstance(error, (RuntimeError, ValueError, IndexError)):
        fix = "Run the program by itself under pyro.infer.TraceEnum_ELBO first."
    return ZooError(f"{who}: enumeration failed {place} ({type(error).__name__}: {first}). {fix}")


def _in_pyro(error: BaseException) -> bool:
    """Whether Pyro's own bookkeeping raised it, not the program."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "pyro" in frames[-1].filename.replace("\\", "/").split("/")


def shown(parameter: str) -> str:
    """A parameter's name as its author wrote it."""
    return parameter.removeprefix("param/").removesuffix("/mode").removesuffix("_unconstrained").replace("/", ".")


def predicted_elements(model: LatentVariableModel, x: Data, nesting: int) -> tuple[int, str]:
    """Size of the largest table of log-probabilities that enumeration would make, and its site, without making it.

    First a bound: every latent in scope at a site may matter there. Only where that is too large, one latent at a time
    has all of its values (the others one) to see on which of them each site depends.
    """
    with _explained(model), torch.no_grad(), torch.random.fork_rng(devices=[]), model.in_its_dtype(x):
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
            return max(
                ((rows[n] * math.prod(sizes[z] for z in depends[n] | ({n} & set(sizes))), n) for n in rows),
                default=(0, ""),
            )

        worst = largest(scope)
        if worst[0] <= MAX_ELEMENTS:
            return worst
        depends: dict[str, set[str]] = {name: set() for name in rows}
        for latent, size in sizes.items():
            for name, number in _sizes(model, x, nesting, latent).items() if size > 1 else ():
                if number > rows[name]:
                    depends[name].add(latent)
        return largest(depends)


def first_enumeration(
    model: LatentVariableModel, x: Data, nesting: int, checked: bool = False
) -> tuple[Enumerated, int, str]:
    """Enumerate for the first time: whatever does not suit the program is told in one line, before any work is done.

    Args:
        checked: whether ``why_not_exact`` has had nothing to say.

    Returns:
        The run, the size of its largest table of log-probabilities, and the site that has it.

    Raises:
        ZooError: latents that cannot be enumerated, too large a table, plates that contradict each other, latents from
            further back than ``pyro.markov`` keeps, log-probabilities that change from run to run.
    """
    if checked:
        run = enumerated(model, x, nesting)
        run.log_evidence.detach()  # packs the dimensions by name
        return run, *predicted_elements(model, x, nesting)
    first = _first_look(model, x, nesting)
    if isinstance(first, str):
        raise ZooError(f"{program_name(model)}: {first}.")
    return first


def why_not_exact(model: LatentVariableModel, x: Data, in_parts: bool = False) -> str | None:
    """Why ln p(x) of a program is not to be had by enumeration, in a phrase; None where it is.

    Args:
        in_parts: whether a plate may take a part of the data, so that what is had is an estimate.
    """
    known = _KNOWN.get()
    which = [(t.data_ptr(), t.shape, t.stride(), t.dtype, t._version) for t in tensors(x)]
    key = (_identity(model), tuple(which), tuple(id(a) for a in arguments(x) if not isinstance(a, Tensor)))
    for looked_in_parts in {in_parts, False}:  # what can be summed as a whole can be summed in parts
        reason = known.get((key, looked_in_parts), "") if known is not None else ""
        if reason is None or (looked_in_parts == in_parts and reason):
            return reason
    reason = _why_not_exact(model, x, in_parts)
    if known is not None:
        known[key, in_parts] = reason
    return reason


#: Inside of :func:`remembered`, what was found, by program, data and ``in_parts``.
_KNOWN: ContextVar[dict[Any, str | None] | None] = ContextVar("known_reasons", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """Inside, :func:`why_not_exact` looks once at each program with the same data: its parameters decide nothing."""
    token = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def _identity(model: LatentVariableModel) -> int:
    """The same for all copies of one program of a user's."""
    return id(model._kept.value[0]) if isinstance(model, FunctionModel) else id(model)


def _why_not_exact(model: LatentVariableModel, x: Data, in_parts: bool) -> str | None:
    if not is_observed(model, x):
        return NOTHING_OBSERVED
    try:
        with torch.no_grad():
            first = _first_look(model, x, None, in_parts)
    except ZooError as error:
        return str(error).removesuffix(".")
    return first if isinstance(first, str) else None


def _first_look(
    model: LatentVariableModel, x: Data, nesting: int | None = None, in_parts: bool = False
) -> tuple[Enumerated, int, str] | str:
    plain = plain_trace(model, x)
    with torch.no_grad(), model.in_its_dtype(x):
        reason = check_enumerable(plain, in_parts)
    if reason is not None:
        return reason
    nesting = program.plate_nesting(model, x, alone=True) if nesting is None else nesting
    reason = _check_history(model, x, nesting, plain) or _check_fixed(model, x, plain)
    if reason is not None:
        return reason
    elements, site = predicted_elements(model, x, nesting)
    if elements > MAX_ELEMENTS:
        return (
            f"site {site!r} expected at most {MAX_ELEMENTS:,} enumerated log-probabilities, got {elements:,}. "
            "Use fewer values or data at a time, or pyro.markov along a sequence"
        )
    first = enumerated(model, x, nesting)
    with _explained(model, first.trace):
        first.log_evidence.detach()  # packs the dimensions by name
    reason = check_plates(first.trace)
    return (first, elements, site) if reason is None else reason


#: Latents of ``pyro.markov`` whose reach is looked at: a chain goes on as it begins.
_LOOKED_AT = 3


def _check_history(model: LatentVariableModel, x: Data, nesting: int, plain: Trace) -> str | None:
    """Why ``pyro.markov`` forgets a latent too early, in a phrase that names site and latent; None where it does not.

    Pyro gives the dimension of a forgotten latent to a new one. A site that still depends on the old one is then summed
    as if both were the same, and nothing says so. Here one latent at a time has all of its values, the others one.
    """
    sites = sample_sites(plain)
    chained = [n for n, s in sites.items() if not s["is_observed"] and s["infer"].get("_markov_scope") is not None]
    if len(chained) < 2:
        return None
    rows: dict[str, int] = {}
    for latent in chained[:_LOOKED_AT]:
        try:
            rows = rows or _sizes(model, x, nesting)
            reached = [name for name, size in _sizes(model, x, nesting, latent).items() if size > rows[name]]
        except _Failed:
            return None  # the whole enumeration says what is wrong
        depth = sites[latent]["infer"]["_markov_depth"]
        for name in reached:
            scope = sites[name]["infer"].get("_markov_scope")
            if name != latent and scope is not None and scope.get(latent) != depth:
                return (
                    f"site {name!r} depends on {latent!r}, which lies further back than pyro.markov keeps; "
                    "say how many steps back latents reach: pyro.markov(..., history=2)"
                )
    return None


def _sizes(model: LatentVariableModel, x: Data, nesting: int, latent: str | None = None) -> dict[str, int]:
    """By site, how many log-probabilities it has where one latent alone has more than one value."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), model.in_its_dtype(x):
        trace = enumerated_trace(_OneValue(latent)(config_enumerate(model.model, default="parallel")), x, nesting)
    return {name: site["unscaled_log_prob"].numel() for name, site in sample_sites(trace).items()}


#: Runs that are compared: one drawn bit outside of the latents shows in one of them, but for a chance of 1 in 16.
_RUNS = 4


def _check_fixed(model: LatentVariableModel, x: Data, plain: Trace) -> str | None:
    """Why the program is not the same in every run, in a phrase that names the first site that differs; None where it
    is. The latents are held as in the plain trace."""
    before = _log_probs(plain)
    for seed in range(_RUNS):
        with torch.no_grad(), forked_rng(seed), model.in_its_dtype(x):
            again = _log_probs(poutine.trace(poutine.replay(lambda: call(model.model, x), trace=plain)).get_trace())
        for name, a in before.items():
            if name not in again:
                return (
                    f"site {name!r} is not there in every run; control flow may depend on data, not on random numbers"
                )
            b = again[name]
            if a is None or b is None:
                continue
            if a.shape != b.shape or not bool(((a == b) | (a.isnan() & b.isnan())).all()):
                return (
                    f"site {name!r} has other log-probabilities in every run, at the same latents and parameters: "
                    "something random that is no latent enters it (torch.rand, dropout, a site under poutine.block)"
                )
    return None


def _log_probs(trace: Trace) -> dict[str, Tensor | None]:
    """By site, its log-probability; None where its family has none."""
    densities: dict[str, Tensor | None] = {}
    for name, site in sample_sites(trace).items():
        try:
            densities[name] = torch.as_tensor(site["fn"].log_prob(site["value"]))
        except (NotImplementedError, ValueError, RuntimeError):
            densities[name] = None  # the enumerated run says what is wrong with it
    return densities
