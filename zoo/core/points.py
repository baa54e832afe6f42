"""Sample sites that are parameters with a prior: found, set to a parameter's value, and counted as Pyro counts them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import config_enumerate
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints, transform_to

from zoo.core.edges import inset, is_simplex, margin_of, without_bound
from zoo.core.isolation import forked_rng
from zoo.core.sites import unwrapped
from zoo.errors import ZooError

__all__ = ["Drawn", "Improper", "Points", "Prior", "joint_with_latents", "priors", "sampled_parameters", "supports"]

#: Draws whose median is a typical value of a prior.
DRAWS = 101


@dataclass
class Prior:
    """A prior as the program states it, with the scale and the mask of the handlers it stands under."""

    fn: Any
    scale: Any
    mask: Any

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(value) as Pyro counts it, before it is summed."""
        counted: Tensor = scale_and_mask(self.fn.log_prob(value), self.scale, self.mask)
        return counted

    def weight(self, log_prob: Tensor) -> Tensor:
        """How much each of its log-probabilities counts; of their shape."""
        counted: Tensor = scale_and_mask(torch.ones_like(log_prob), self.scale, self.mask)
        return counted.detach()


class _Enough(Exception):
    """Every prior has been met: the rest of the program is not wanted."""


class Points(Messenger):
    """Sites that are parameters with a prior take a parameter's value; their density is left to ``log_prior``.

    Args:
        names: the sites.
        supports: by site, the constraint of its parameter.
        joint: sites whose prior depends on latents that are summed over: their density stays in the sum.
        until: end the program once every site has been met.
    """

    def __init__(
        self,
        names: frozenset[str],
        supports: Mapping[str, Any],
        joint: frozenset[str] = frozenset(),
        until: bool = False,
    ) -> None:
        super().__init__()
        self.names, self.supports, self.joint, self.until = names, supports, joint, until
        self.met: dict[str, Prior] = {}
        self.values: dict[str, Tensor] = {}

    def value(self, name: str, fn: Any) -> Tensor:
        """The parameter of a site."""
        start = functools.partial(_start, fn)
        value: Tensor = pyro.param(name + ".mode", start, constraint=self.supports[name], event_dim=fn.event_dim)
        return value

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.names or msg["is_observed"]:
            return
        value = self.value(name, msg["fn"])
        self.met[name], self.values[name] = Prior(msg["fn"], msg["scale"], msg["mask"]), value
        msg["value"], msg["is_observed"] = value, True
        if name not in self.joint:
            msg["infer"] = {**(msg["infer"] or {}), "zoo_point": self.met[name]}
            msg["mask"] = False

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.until and len(self.met) == len(self.names):
            raise _Enough


class _Typical(Points):
    """The sites take typical values of their priors, the same in every run, or values that are given."""

    def __init__(self, names: frozenset[str], chosen: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(names, {}, until=True)
        self.chosen = chosen or {}

    def value(self, name: str, fn: Any) -> Tensor:
        if name in self.chosen:
            return self.chosen[name]
        with forked_rng(0):
            return typical(fn)


class Drawn(Points):
    """The sites take the middle of a few draws: of one, they are as far apart as the prior says."""

    def __init__(self, names: frozenset[str], draws: int) -> None:
        super().__init__(names, {}, until=True)
        self.draws = draws

    def value(self, name: str, fn: Any) -> Tensor:
        return _middle(fn, self.draws)


def _start(fn: Any) -> Tensor:
    """A random value inside a prior: the middle of a few draws."""
    return _middle(fn, 15)


def typical(fn: Any) -> Tensor:
    """A value in the middle of a prior, of its shape."""
    return _middle(fn, DRAWS, random=False)


def _middle(fn: Any, draws: int, random: bool = True) -> Tensor:
    """The middle of some draws, entry by entry: their mean inside a simplex or an interval, else their median."""
    try:
        values = fn.sample(torch.Size([draws]))
    except NotImplementedError:  # an improper prior has no draws
        value = _inside(fn)
        if random:
            transform = transform_to(fn.support)
            free = transform.inv(value)
            value = transform(free + torch.randn(free.shape).to(free))
        return value
    base = fn.support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    if is_simplex(base) or None not in (getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)):
        value = values.mean(0)  # a median is close to an edge where a prior has two peaks
    elif base.event_dim == 0:
        value = values.median(0).values
    else:  # of a matrix no entry is on its own
        value = values[0]
    return value if value.isfinite().all() else torch.where(value.isfinite(), value, _inside(fn))


class Improper(Messenger):
    """Latents whose prior has no draws take a value inside its support."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["value"] is None and isinstance(unwrapped(msg["fn"]), dist.ImproperUniform):
            msg["value"], msg["done"] = _inside(msg["fn"]), True


def _inside(fn: Any) -> Tensor:
    """What zero is in a support's free coordinates."""
    support, shape = fn.support, fn.batch_shape + fn.event_shape
    free = transform_to(support).inverse_shape(shape)
    value: Tensor = transform_to(support)(torch.zeros(free))
    return value.expand(shape)


def sampled_parameters(trace: Any, rows: int) -> frozenset[str]:
    """Continuous latents that belong to no datum: parameters with a prior.

    A latent belongs to a datum where it stands in a plate of the data: one named "data", else those with as many rows
    as the data, else any plate that an observed site stands in.
    """
    sites = [s for s in trace.nodes.values() if s["type"] == "sample" and type(s["fn"]).__name__ != "_Subsample"]
    frames = {frame for site in sites if site["is_observed"] for frame in site["cond_indep_stack"]}
    named = {f.name for f in frames if f.name == "data"}
    sized = {f.name for f in frames if rows in (f.size, f.full_size)}
    data = named or sized or {f.name for f in frames}
    return frozenset(
        site["name"]
        for site in sites
        if not site["is_observed"]
        and not getattr(site["fn"], "has_enumerate_support", False)
        and not site["fn"].support.is_discrete
        and not data & {frame.name for frame in site["cond_indep_stack"]}
    )


def supports(run: Callable[[], Any], names: frozenset[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """By site, where its parameter may lie, and a typical value: a support without edges of infinite density.

    Raises:
        ZooError: a prior without a density, or with an infinite one at an edge of another kind.
    """
    survey = priors(run, _Typical(names))
    found = {}
    for name, prior in survey.met.items():
        fn, value = prior.fn, survey.values[name]
        family = type(fn).__name__
        try:
            fn.log_prob(value)
        except NotImplementedError:
            raise ZooError(
                f"site {name!r} expected a prior with a density, got {family}. Take a family that has log_prob."
            ) from None
        found[name] = inset(fn.support, value)
        if margin_of(found[name]) is None and without_bound(fn, fn.support, value):
            raise ZooError(
                f"site {name!r} expected a prior with a bounded density, got {family}, infinite at an edge of its "
                "support: it has no mode. Take a concentration of at least 1."
            )
    return found, survey.values


def joint_with_latents(run: Callable[[], Any], names: frozenset[str], nesting: int) -> frozenset[str]:
    """The sites whose prior depends on a discrete latent of the program."""
    plain = priors(run, _Typical(names))
    try:
        with poutine.block(), EnumMessenger(first_available_dim=-1 - nesting):
            summed = priors(config_enumerate(run, default="parallel"), _Typical(names, plain.values))
    except Exception:  # no program for sums; said where one is asked for
        return frozenset()
    return frozenset(
        name
        for name, prior in summed.met.items()
        if prior.fn.log_prob(plain.values[name]).dim() > plain.met[name].fn.log_prob(plain.values[name]).dim()
    )


def priors(run: Callable[..., Any], points: Points) -> Points:
    """The priors of a program at its present parameters; it runs no further than to the last of them."""
    try:
        with points:
            run()
    except _Enough:
        pass
    return points
