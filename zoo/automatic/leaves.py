"""Sites taken apart into known distributions: what the M step works on.

A site's distribution may wrap others (``to_event``, ``mask``, a component selected by z, a mixture whose label is
summed out inside). A leaf is one known family with its arguments as written, its value, and how its weight follows from
the site's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.automatic.lookup import ARGUMENTS, Lookup, ParameterSpace
from zoo.core.sites import SiteMessage
from zoo.densities.distributions import Selected

__all__ = ["Inner", "Leaf", "leaves"]


@dataclass
class Leaf:
    """A known distribution with its value.

    Attributes:
        site: the sample site it belongs to.
        family: a key of ``ARGUMENTS``.
        cls: the class that scores it, a subclass of the family's perhaps.
        args: arguments as written in the last run; their batch dimensions align right with the weight's.
        value: what is scored, or None for the label of an inner mixture.
        events: batch dimensions of the leaf right of the site's own (from ``to_event``).
        mask: of ``dist.mask``, or None.
        inner: the mixture summed out inside the site that this leaf is part of, or None.
        lookups: by argument, where its entries come from; None for what is no lookup.
        value_lookup: the same for the value: not fixed for a prior on parameters.
    """

    site: str
    family: str
    cls: Any
    args: dict[str, Tensor]
    value: Tensor | None
    events: int
    mask: Tensor | None = None
    inner: Inner | None = None
    lookups: dict[str, Lookup | None] = field(default_factory=dict)
    value_lookup: Lookup | None = None

    @property
    def is_prior(self) -> bool:
        """Whether it scores parameters, not data."""
        return self.value is not None and (self.value_lookup is None or not self.value_lookup.fixed)

    def alike(self, other: Leaf) -> bool:
        """Whether both are the same distribution of the same entries of parameters, whatever their data."""
        if (self.family, self.cls, self.events, set(self.args)) != (
            other.family,
            other.cls,
            other.events,
            set(other.args),
        ):
            return False
        for key in self.args:
            a, b = self.lookups.get(key), other.lookups.get(key)
            if a is None or b is None or a.view != b.view or not torch.equal(a.ids, b.ids):
                return False
            known = a.ids < 0
            if not torch.equal(a.constant[known], b.constant[known]):
                return False
        return True

    def arguments(self, space: ParameterSpace, vector: Tensor) -> dict[str, Tensor]:
        """The arguments at the parameter entries ``vector``; what is no lookup, as in the last run."""
        found = {}
        for name, value in self.args.items():
            lookup = self.lookups.get(name)
            number = value.detach() if lookup is None else space.evaluate(lookup, vector)
            found[name] = number.to(vector.dtype) if number.is_floating_point() else number
        return found

    def distribution(self, args: dict[str, Tensor]) -> Any:
        """The distribution with other arguments."""
        if self.family == "Multinomial":  # torch takes one whole number; the density reads it off the value
            args = {**args, "total_count": int(args["total_count"].max())}  # type: ignore[dict-item]
        return self.cls(**args, validate_args=False)

    def plain_value(self, args: dict[str, Tensor]) -> Tensor:
        """The value as the family itself takes it: a subclass of Categorical may have rows of one symbol."""
        assert self.value is not None
        if self.family == "Categorical" and self.distribution(args).event_shape:
            return self.value.squeeze(-1)
        return self.value

    def log_prob(self, args: dict[str, Tensor]) -> Tensor:
        """ln p(value) over the leaf's batch, without mask."""
        log_prob: Tensor = self.distribution(args).log_prob(self.value)
        return log_prob

    def weight(self, of_site: Tensor, space: ParameterSpace, vector: Tensor) -> Tensor:
        """The leaf's weight over its batch, from the site's."""
        weight = of_site
        if self.inner is not None:
            weight = weight.unsqueeze(-1) * self.inner.responsibilities(space, vector)
        weight = weight[(..., *[None] * self.events)]
        return weight if self.mask is None else weight * self.mask.to(weight.dtype)


@dataclass
class Inner:
    """A mixture whose label is summed out inside its site (``MixtureSameFamily``)."""

    label: Leaf | None = None
    parts: list[Leaf] = field(default_factory=list)

    def responsibilities(self, space: ParameterSpace, vector: Tensor) -> Tensor:
        """p(label | value), of the site's batch shape and the number of components."""
        assert self.label is not None
        args = self.label.arguments(space, vector)
        logits = args["logits"] if "logits" in args else args["probs"].log()
        for part in self.parts:
            each = part.log_prob(part.arguments(space, vector))
            logits = logits + each.sum(list(range(-part.events, 0))) if part.events else logits + each
        return logits.softmax(-1)


def leaves(name: str, site: SiteMessage) -> list[Leaf] | None:
    """The leaves of a site, or None where a part of it is not known."""
    try:
        return _unfold(name, site["fn"], site["value"], 0, None, None, lambda raw, _: raw)
    except _Unknown:
        return None


class _Unknown(Exception):
    pass


def _unfold(
    name: str,
    fn: Any,
    value: Tensor | None,
    events: int,
    mask: Tensor | None,
    inner: Inner | None,
    pick: Callable[[Tensor, int], Tensor],
) -> list[Leaf]:
    """Leaves of ``fn``; ``pick`` takes the selected component's row of an argument (its dimensions to keep)."""
    if isinstance(fn, dist.MaskedDistribution):
        mask = torch.as_tensor(fn._mask)
        return _unfold(name, fn.base_dist, value, events, mask, inner, pick)
    if isinstance(fn, torch.distributions.Independent):
        more = fn.reinterpreted_batch_ndims
        mask = None if mask is None else mask[(..., *[None] * more)]
        return _unfold(name, fn.base_dist, value, events + more, mask, inner, pick)
    if type(fn) is Selected:
        if fn.z.is_floating_point() or len(fn.components.batch_shape) != 1 or events:
            raise _Unknown
        size, z = fn.components.batch_shape[0], _thin(fn.z)

        def row(raw: Tensor, right: int) -> Tensor:
            if raw.dim() <= right:
                return raw
            if raw.dim() != right + 1 or raw.shape[0] not in (1, size):
                raise _Unknown
            return raw.expand(size, *raw.shape[1:])[z]

        return _unfold(name, fn.components, value, 0, mask, inner, row)
    if isinstance(fn, torch.distributions.MixtureSameFamily) and inner is None and value is not None:
        inside = Inner()
        parts, event_dim = fn.component_distribution, len(fn.event_shape)
        label = _unfold(name, fn.mixture_distribution, None, 0, None, inside, pick)
        spread = value.unsqueeze(-1 - event_dim)
        inside.label = label[0]
        inside.parts = _unfold(
            name, parts, spread, 0, None, inside, lambda raw, right: pick(_wide(raw, right, parts), right + 1)
        )
        if events or mask is not None:
            raise _Unknown
        return [*label, *inside.parts]
    family, written = getattr(fn, "_written", (None, {}))
    if family is None:
        raise _Unknown
    if isinstance(fn, dist.NanMaskedNormal) and value is not None:  # a Normal that leaves out what is missing
        there = ~value.isnan()
        mask = there if mask is None else mask & there
        value = value.nan_to_num()
    args = {key: pick(_tensor(raw, value, fn), events + ARGUMENTS[family][key]) for key, raw in written.items()}
    plain = getattr(dist, family)
    accepts = inspect.signature(type(fn).__init__).parameters
    cls = type(fn) if all(key in accepts for key in args) and not isinstance(fn, dist.NanMaskedNormal) else plain
    return [Leaf(name, family, cls, args, value, events, mask, inner)]


def _thin(raw: Tensor) -> Tensor:
    """A tensor without the repetition that ``expand`` gave it."""
    for dim in range(raw.dim()):
        if raw.stride(dim) == 0 and raw.shape[dim] > 1:
            raw = raw.narrow(dim, 0, 1)
    return raw


def _wide(raw: Tensor, right: int, parts: Any) -> Tensor:
    """An argument of mixture parts with the parts' dimension spelled out."""
    if raw.dim() > right:
        return raw
    return raw.expand(parts.batch_shape[-1], *raw.shape)


def _tensor(raw: Any, value: Tensor | None, fn: Any) -> Tensor:
    if isinstance(raw, Tensor):
        return raw
    like = next((v for v in vars(fn).values() if isinstance(v, Tensor) and v.is_floating_point()), value)
    return torch.as_tensor(raw, dtype=None if like is None or not like.is_floating_point() else like.dtype)
