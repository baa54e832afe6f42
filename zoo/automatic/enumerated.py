"""Exact sums over every discrete latent of a Pyro program, and each site's posterior weight as a gradient.

A zero is added to every site's log-probability; the derivative of ln p(x) with respect to that zero is the posterior
probability of the site's latent values, times the site's mask and scale: the weight that the site has in the expected
complete-data log-likelihood. Pyro's own contraction does the sum, so that whatever Pyro can enumerate is served.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import config_enumerate
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from zoo.automatic.evidence import log_evidence
from zoo.core.beside import restrict
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call
from zoo.core.sites import SiteMessage, sample_sites
from zoo.errors import ZooError

__all__ = ["Enumerated", "enumerated", "enumerated_trace"]


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


def enumerated_trace(run: Callable[..., Any], x: Data, nesting: int, only: set[str] | None = None) -> Trace:
    """The trace of a program with sites configured for enumeration, with log-probabilities (of some sites only)."""
    tracer = poutine.trace(run)
    with poutine.block(), EnumMessenger(first_available_dim=-1 - nesting):
        try:
            call(tracer, x)
            trace = prune_subsample_sites(tracer.trace)
            trace.compute_log_prob(lambda name, site: only is None or name in only)
            restrict(trace, x)
        except Exception as error:
            raise _Failed(tracer.trace) from error
    return trace


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
    who = model.name
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
    if "scalar type" in first or "same dtype" in first:
        fix = "Make its tensors in the data's dtype: torch.ones(2, dtype=x.dtype)."
    elif isinstance(error, NotImplementedError):
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
