"""A first look at a program: whether it has an exact sum over its latents, and how large that would be."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from zoo.automatic.checks import (
    NOTHING_OBSERVED,
    check_enumerable,
    check_plates,
    plain_trace,
)
from zoo.automatic.enumerated import Enumerated, _explained, _Failed, enumerated, enumerated_trace
from zoo.automatic.evidence import log_evidence
from zoo.core import program
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, arguments, call, tensors
from zoo.core.isolation import forked_rng, kept_generators
from zoo.core.memory import TABLE
from zoo.core.sites import observes, sample_sites
from zoo.errors import ZooError

__all__ = ["evidence", "first_enumeration", "predicted_elements", "remembered", "why_not_exact"]


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


def evidence(model: LatentVariableModel, x: Data, nesting: int, rows: int | None = None) -> Tensor:
    """ln p(x), summed over the data, nats, (); differentiable with respect to the parameters.

    Args:
        rows: the number of data, for ln p(x) of each of them, (N,).
    """
    with _explained(model), model.in_its_dtype(x):
        trace = enumerated_trace(config_enumerate(model.model, default="parallel"), x, nesting)
    with _explained(model, trace), model.in_its_dtype(x):
        return log_evidence(trace, rows)


def predicted_elements(model: LatentVariableModel, x: Data, nesting: int) -> tuple[int, str]:
    """Size of the largest table of log-probabilities that enumeration would make, and its site, without making it.

    First a bound: every latent in scope at a site may matter there. Only where that is too large, one latent at a time
    has all of its values (the others one) to see on which of them each site depends.
    """
    with _explained(model), torch.no_grad(), kept_generators(), model.in_its_dtype(x):
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
        if worst[0] <= TABLE:
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
    first = _first_look(model, x, plain_trace(model, x), nesting)
    if isinstance(first, str):
        raise ZooError(f"{model.name}: {first}.")
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
    return id(model if model.trusted else model._kept.value[0])


def _why_not_exact(model: LatentVariableModel, x: Data, in_parts: bool) -> str | None:
    if (withheld := model.withholds().get("log_marginal")) is not None:
        return withheld
    try:
        plain = plain_trace(model, x)
        if not observes(plain, model.points):
            return NOTHING_OBSERVED
        with torch.no_grad():
            first = _first_look(model, x, plain, None, in_parts)
    except ZooError as error:
        return str(error).removesuffix(".")
    return first if isinstance(first, str) else None


def _first_look(
    model: LatentVariableModel, x: Data, plain: Trace, nesting: int | None = None, in_parts: bool = False
) -> tuple[Enumerated, int, str] | str:
    with torch.no_grad(), model.in_its_dtype(x):
        reason = check_enumerable(plain, in_parts)
    if reason is not None:
        return reason
    nesting = program.plate_nesting(model, x, alone=True) if nesting is None else nesting
    reason = _check_history(model, x, nesting, plain) or _check_fixed(model, x, plain)
    if reason is not None:
        return reason
    elements, site = predicted_elements(model, x, nesting)
    if elements > TABLE:
        return (
            f"site {site!r} expected at most {TABLE:,} enumerated log-probabilities, got {elements:,}. "
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
    with torch.no_grad(), kept_generators(), model.in_its_dtype(x):
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
