"""q(z) for the discrete latents of any enumerable program: a table of logits a site, given the latents it hangs on."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _ENUM_ALLOCATOR
from torch import Tensor

from guides.finite import FiniteSupport

__all__ = ["DiscreteTables", "OtherData"]


class OtherData(ValueError):
    """A table guide was run on data of other sizes than those that its tables were made for."""


@dataclass(frozen=True)
class _Place:
    """Where a latent stands in a program's run: what its counterpart in the guide shares with it.

    Attributes:
        fn: its distribution, without wrappers.
        frames: its plates: name, size, dimension.
        mask: as in the program, also one that its distribution carries.
        scale: as in the program.
        scope: by site in its ``pyro.markov`` contexts, how many of them they share; None outside of any.
        depth: the number of its ``pyro.markov`` contexts.
    """

    fn: Any
    frames: tuple[tuple[str, int, int], ...]
    mask: Any
    scale: Any
    scope: Counter[str] | None
    depth: int


class DiscreteTables:
    """A guide for a program without one: q(z) = prod_s q(z_s | parents of s), free logits for every plate index.

    The parents of a site are the latents before it that it is coupled with once all latents after it are summed out
    (variable elimination, Koller & Friedman 2009, "Probabilistic Graphical Models", section 9.3). The exact posterior
    factorises in this way, so that q contains it: a chain gets q(z_t | z_{t-1}), two causes of one observation
    q(a) q(b | a), latents that share nothing a table each. Parents are given up, the farthest first, where a table
    would exceed ``max_entries``; all of them, down to mean field, where the program cannot be enumerated.

    Not amortized: it knows the data it was made for, and others of the same sizes. A site stands in the plates, mask,
    scale and ``pyro.markov`` contexts that it has in the program.

    Args:
        model: the program; its latents all have finite support.
        args, kwargs: data it runs on.
        max_entries: the largest table of a site.

    Attributes:
        parents: by site, in the program's order, the sites that its table is indexed by.

    Raises:
        ValueError: a latent without finite support, or a plate that takes a part of the data.
        OtherData: when called, on data of other sizes than those it was made for.

    Example:
        >>> program = lambda x: pyro.sample("z", pyro.distributions.Bernoulli(torch.tensor(0.5)))
        >>> DiscreteTables(program, torch.zeros(3)).parents
        {'z': []}
    """

    def __init__(self, model: Callable[..., Any], *args: Any, max_entries: int = 2**24, **kwargs: Any) -> None:
        self.model, self.max_entries = model, max_entries
        self.parents: dict[str, list[str]] = {}
        self._seen: list[Any] | None = None
        self._look(args, kwargs)
        self.parents = self._find_parents(args, kwargs)

    @classmethod
    def restored(cls, model: Callable[..., Any], parents: dict[str, list[str]]) -> DiscreteTables:
        """The guide that had these ``parents``, for the same program; its tables are Pyro's parameters."""
        guide = cls.__new__(cls)
        guide.model, guide.parents, guide._seen = model, parents, None
        return guide

    @property
    def parameter_names(self) -> list[str]:
        """The names of the tables among Pyro's parameters."""
        return [f"{name}.q_logits" for name in self.parents]

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._look(args, kwargs)
        plates: dict[str, Any] = {}
        values: dict[str, Tensor] = {}
        for name, place in self._places.items():
            with ExitStack() as stack:
                for plate, size, dim in place.frames:
                    if plate not in plates:
                        plates[plate] = pyro.plate(plate, size, dim=dim)
                    stack.enter_context(plates[plate])
                if place.mask is not None:
                    stack.enter_context(poutine.mask(mask=place.mask))
                if isinstance(place.scale, Tensor) or place.scale != 1:
                    stack.enter_context(poutine.scale(scale=place.scale))
                values[name] = pyro.sample(name, self._given_parents(name, place, values), infer=self._scope(place))

    # --- the program ---

    def _look(self, args: Any, kwargs: Any) -> None:
        """See where the latents stand, by a run of the program; nothing new where the data are those seen last."""
        data = [*args, *(kwargs[key] for key in sorted(kwargs))]
        last = self._seen
        if last is not None and len(last) == len(data) and all(a is b for a, b in zip(data, last, strict=True)):
            return
        with torch.no_grad(), poutine.block():
            nodes = poutine.trace(self.model).get_trace(*args, **kwargs).nodes
        places = {name: _place(name, site) for name, site in nodes.items() if _is_latent(site)}
        if self.parents and set(places) != set(self.parents):
            raise OtherData(f"expected data with {len(self.parents)} latent sites, got {len(places)}")
        self._places = places
        self.supports = {name: place.fn.enumerate_support(expand=False) for name, place in places.items()}
        self._seen = data

    def _find_parents(self, args: Any, kwargs: Any) -> dict[str, list[str]]:
        order = list(self._places)
        try:
            factors = _factors(self.model, args, kwargs, self._places)
        except Exception:  # whatever enumeration makes of a program that it does not suit
            factors = []
        parents: dict[str, list[str]] = {}
        for name in reversed(order):
            joined = set().union(*(f for f in factors if name in f)) - {name}
            factors = [f for f in factors if name not in f] + [joined]
            near = [p for p in order[: order.index(name)] if p in joined and self._in_reach(p, name)]
            while near and self._entries(name, near) > self.max_entries:
                near.pop(0)
            parents[name] = near
        return {name: parents[name] for name in order}

    def _in_reach(self, parent: str, child: str) -> bool:
        """Whether a site may depend on another: its plates are around it too, and no Markov context hides it."""
        above, below = self._places[parent], self._places[child]
        if not set(above.frames) <= set(below.frames):
            return False
        return above.scope is None or (below.scope is not None and below.scope[parent] == above.depth)

    def _entries(self, name: str, parents: list[str]) -> int:
        sizes = [size for _, size, _ in self._places[name].frames]
        return int(torch.Size([*sizes, *(len(self.supports[n]) for n in (name, *parents))]).numel())

    def _scope(self, place: _Place) -> Any:
        """The site's Markov contexts, so that enumeration recycles dimensions exactly as in the program."""
        if place.scope is None:
            return {}
        scope = Counter({name: count for name, count in place.scope.items() if name in self._places})
        return {"_markov_scope": scope, "_markov_depth": place.depth}

    # --- the guide ---

    def _given_parents(self, name: str, place: _Place, values: dict[str, Tensor]) -> Any:
        """q(z_s | parents): a distribution over the site's support."""
        support, fn, parents = self.supports[name], place.fn, self.parents[name]
        binary = isinstance(fn, torch.distributions.Bernoulli)
        shape = [1] * max((-dim for _, _, dim in place.frames), default=0)
        for _, size, dim in place.frames:
            shape[dim] = size
        whole = (*(len(self.supports[p]) for p in parents), *shape, 1 if binary else len(support))
        table = pyro.param(f"{name}.q_logits", torch.zeros(whole, device=support.device))
        if tuple(table.shape) != whole:
            raise OtherData(f"site {name!r} expected a table of shape {tuple(table.shape)}, got data for {whole}")
        logits = self._rows(table, parents, values, shape) if parents else table
        if binary:
            return dist.Bernoulli(logits=logits.squeeze(-1))
        if isinstance(fn, torch.distributions.OneHotCategorical):
            return dist.OneHotCategorical(logits=logits)
        if isinstance(fn, torch.distributions.Categorical):
            return dist.Categorical(logits=logits)
        return FiniteSupport(support.reshape(-1, *fn.event_shape), logits)

    def _rows(self, table: Tensor, parents: list[str], values: dict[str, Tensor], shape: list[int]) -> Tensor:
        """The table's rows at the parents' values; the mean row of a relaxed parent, a point of the simplex."""
        relaxed = {p: weights for p in parents if (weights := self._weights(p, values[p])) is not None}
        ones = [1] * len(relaxed)  # dimensions between those of the batch and the row's, one a relaxed parent
        indices = []
        for p in parents:
            if p in relaxed:
                place = list(relaxed).index(p)
                index = torch.arange(len(self.supports[p])).reshape((-1, *ones[place + 1 :]))
            else:
                index = self._position(p, values[p])
                index = index.reshape((*index.shape, *ones))
            indices.append(index.to(table.device))
        for i, size in enumerate(shape):
            indices.append(torch.arange(size, device=table.device).reshape((-1, *[1] * (len(shape) - i - 1), *ones)))
        rows = table[tuple(indices)]
        for place, weights in enumerate(reversed(relaxed.values())):  # the innermost dimension first
            outer = ones[: len(relaxed) - place - 1]
            rows = (weights.reshape(*weights.shape[:-1], *outer, weights.shape[-1], 1) * rows).sum(-2)
        return rows

    def _position(self, name: str, value: Tensor) -> Tensor:
        """Which value of its support a site has, of the batch shape."""
        fn = self._places[name].fn
        if isinstance(fn, (torch.distributions.Bernoulli, torch.distributions.Categorical)):
            return value.long()
        if isinstance(fn, torch.distributions.OneHotCategorical):
            return value.argmax(-1)
        event = len(fn.event_shape)
        same = value.unsqueeze(-1 - event) == self.supports[name].reshape(-1, *fn.event_shape)
        return (same.flatten(-event).all(-1) if event else same).long().argmax(-1)

    def _weights(self, name: str, value: Tensor) -> Tensor | None:
        """The weight of every value of a relaxed site, (*batch, K); None for a draw that is one of the values."""
        fn = self._places[name].fn
        if isinstance(fn, torch.distributions.Categorical):
            return value if value.is_floating_point() else None
        if not value.requires_grad:
            return None
        return value if isinstance(fn, torch.distributions.OneHotCategorical) else torch.stack([1 - value, value], -1)


def _is_latent(site: Any) -> bool:
    return site["type"] == "sample" and not site["is_observed"] and type(site["fn"]).__name__ != "_Subsample"


def _place(name: str, site: Any) -> _Place:
    fn, mask, scale = site["fn"], site["mask"], site["scale"]
    if not getattr(fn, "has_enumerate_support", False):
        raise ValueError(f"site {name!r} ({type(fn).__name__}) has no finite support")
    while hasattr(fn, "base_dist"):
        own = getattr(fn, "_mask", None)
        mask = own if mask is None else mask if own is None else torch.as_tensor(mask) & torch.as_tensor(own)
        fn = fn.base_dist
    frames = [f for f in site["cond_indep_stack"] if f.vectorized]
    part = [f.name for f in frames if f.full_size not in (None, f.size)]
    if part:
        raise ValueError(f"plate {part[0]!r} takes a part of the data; pass a guide that knows which")
    infer = site["infer"] or {}
    scope = infer.get("_markov_scope")
    where = tuple((f.name, int(f.size), int(f.dim)) for f in frames)
    return _Place(fn, where, mask, scale, None if scope is None else Counter(scope), infer.get("_markov_depth", 0))


class _TwoValues(Messenger):
    """Latents offer two values of their support: enough to see what depends on them."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and getattr(msg["fn"], "has_enumerate_support", False):
            thin = copy.copy(msg["fn"])
            values = msg["fn"].enumerate_support(expand=False)[:2]
            thin.enumerate_support = lambda expand=False: values
            msg["fn"] = thin


@contextmanager
def _enumerating(nesting: int) -> Iterator[None]:
    """Enumeration that leaves Pyro's count of dimensions as it was."""
    before = dict(vars(_ENUM_ALLOCATOR))
    try:
        with EnumMessenger(first_available_dim=-1 - nesting):
            yield
    finally:
        vars(_ENUM_ALLOCATOR).clear()
        vars(_ENUM_ALLOCATOR).update(before)


def _factors(model: Callable[..., Any], args: Any, kwargs: Any, places: dict[str, _Place]) -> list[set[str]]:
    """For every site of the program, the latents that its log-probability depends on."""
    tracer = poutine.trace(_TwoValues()(config_enumerate(model, default="parallel")))
    with torch.no_grad(), poutine.block():
        plain: Any = poutine.trace(model).get_trace(*args, **kwargs)
        frames = [f for site in plain.nodes.values() if site["type"] == "sample" for f in site["cond_indep_stack"]]
        with _enumerating(max((-f.dim for f in frames if f.vectorized), default=0)):
            trace: Any = tracer.get_trace(*args, **kwargs)
        trace.compute_log_prob()
        trace.pack_tensors()
    owners = {trace.nodes[name]["infer"].get("_enumerate_symbol"): name for name in places}
    owners.pop(None, None)
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and "packed" in site]
    return [{owners[s] for s in site["packed"]["unscaled_log_prob"]._pyro_dims if s in owners} for site in sites]
