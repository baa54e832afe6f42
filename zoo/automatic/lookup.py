"""Where the arguments of a program's distributions come from: which entry of which parameter each number is.

``rate[z]``, ``A[z]``, a scale shared by all, ``torch.where(z, a, b)``: such an argument is a table whose entries are
entries of parameters, perhaps through an elementwise function (``log``, ``exp``, ``1 - p``), or constants. That is
found by running the program at random parameters and finding each number again among the parameters' values; a second
random point confirms it. Once known, the argument at any parameters is an indexing, and sums over it go to the right
entries.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.distribution import DistributionMeta
from torch import Tensor
from torch.distributions import constraints, transform_to

from zoo.core.contract import LatentVariableModel

__all__ = ["ARGUMENTS", "Lookup", "ParameterSpace", "View", "recorded"]

#: The arguments of each family as a user writes them, with how many of their right dimensions belong to one event.
ARGUMENTS: dict[str, dict[str, int]] = {
    "Bernoulli": {"probs": 0, "logits": 0},
    "Beta": {"concentration1": 0, "concentration0": 0},
    "Binomial": {"total_count": 0, "probs": 0, "logits": 0},
    "Categorical": {"probs": 1, "logits": 1},
    "Dirichlet": {"concentration": 1},
    "DirichletMultinomial": {"concentration": 1, "total_count": 0},
    "Exponential": {"rate": 0},
    "Gamma": {"concentration": 0, "rate": 0},
    "Geometric": {"probs": 0, "logits": 0},
    "LogNormal": {"loc": 0, "scale": 0},
    "Multinomial": {"total_count": 0, "probs": 1, "logits": 1},
    "MultivariateNormal": {"loc": 1, "covariance_matrix": 2, "precision_matrix": 2, "scale_tril": 2},
    "NegativeBinomial": {"total_count": 0, "probs": 0, "logits": 0},
    "Normal": {"loc": 0, "scale": 0},
    "OneHotCategorical": {"probs": 1, "logits": 1},
    "Poisson": {"rate": 0},
}


@contextmanager
def recorded() -> Iterator[None]:
    """Inside, every distribution remembers its arguments as they were written (``_written``).

    A distribution's own attributes will not do: ``Categorical`` keeps its probabilities divided by their sum, which
    hides the counts from a gradient.
    """
    make, expands = DistributionMeta.__call__, {name: getattr(dist, name).__dict__.get("expand") for name in ARGUMENTS}

    def remembering(cls: Any, *args: Any, **kwargs: Any) -> Any:
        made = make(cls, *args, **kwargs)
        family = next((name for name in (str(c.__name__) for c in cls.__mro__) if name in ARGUMENTS), "")
        if family and isinstance(made, cls):
            given = inspect.signature(cls.__init__).bind(made, *args, **kwargs)
            given.apply_defaults()
            found = {k: v for k, v in given.arguments.items() if k in ARGUMENTS[family] and v is not None}
            # A subclass with arguments of its own has set its family's as attributes.
            made._written = family, found or {k: v for k, v in vars(made).items() if k in ARGUMENTS[family]}
        return made

    def passing_on(original: Any) -> Any:
        @functools.wraps(original)
        def expand(self: Any, batch_shape: Any, _instance: Any = None) -> Any:
            new = original(self, batch_shape, _instance)
            if "_written" in self.__dict__:
                new._written = self._written
            return new

        return expand

    try:
        DistributionMeta.__call__ = remembering  # type: ignore[method-assign]
        for name in ARGUMENTS:
            cls = getattr(dist, name)
            cls.expand = passing_on(cls.expand)
        yield
    finally:
        DistributionMeta.__call__ = make  # type: ignore[method-assign]
        for name, original in expands.items():
            if original is None:
                del getattr(dist, name).expand
            else:
                getattr(dist, name).expand = original


@dataclass(frozen=True)
class View:
    """An elementwise function of a parameter that an argument may be, and its inverse."""

    name: str
    of: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


def _same(v: Tensor) -> Tensor:
    return v


#: Tried in this order. "raw" is the parameter before its constraint's transform.
VIEWS = {
    view.name: view
    for view in (
        View("identity", _same, _same),
        View("log", torch.log, torch.exp),
        View("exp", torch.exp, torch.log),
        View("sqrt", torch.sqrt, torch.square),
        View("square", torch.square, torch.sqrt),
        View("reciprocal", torch.reciprocal, torch.reciprocal),
        View("rsqrt", torch.rsqrt, lambda v: v.square().reciprocal()),
        View("complement", lambda v: 1 - v, lambda v: 1 - v),
        View("negative", torch.neg, torch.neg),
        View("logit", torch.logit, torch.sigmoid),
        View("sigmoid", torch.sigmoid, torch.logit),
        View("softplus", torch.nn.functional.softplus, lambda v: v + (-(-v).expm1()).log()),
    )
}


@dataclass
class Lookup:
    """An argument as entries of parameters.

    Attributes:
        ids: the entry behind each number, -1 for a constant; of the argument's shape.
        constant: the constants, anything elsewhere.
        view: the function of the entry that the number is; None where all are constants.
    """

    ids: Tensor
    constant: Tensor
    view: str | None

    @property
    def fixed(self) -> bool:
        """Whether no parameter enters."""
        return self.view is None


class ParameterSpace:
    """The parameters of a program as one vector of entries.

    Args:
        model: whose ``named_parameters`` they are.
        names: the ones that matter.
    """

    #: Parameters larger than this are never looked for among arguments: they are weights of a network.
    LARGEST = 100_000

    def __init__(self, model: LatentVariableModel, names: list[str]) -> None:
        self.names = names
        self.raw = {name: model.get_parameter(name) for name in names}
        self.constraints = {name: model.constraint_of(name) or constraints.real for name in names}
        self.transforms = {name: transform_to(c) for name, c in self.constraints.items()}
        self.shapes = {name: value.shape for name, value in self.values().items()}
        self.offsets: dict[str, int] = {}
        total = 0
        for name in names:
            self.offsets[name] = total
            total += self.shapes[name].numel()
        self.size = total

    def values(self) -> dict[str, Tensor]:
        """Every parameter inside its constraint, detached."""
        return {name: self.transforms[name](raw.detach()) for name, raw in self.raw.items()}

    def vector(self) -> Tensor:
        """All entries, (size,), detached."""
        parts = [value.reshape(-1) for value in self.values().values()]
        return torch.cat(parts) if parts else torch.zeros(0)

    def views(self) -> dict[str, Tensor]:
        """Every view of every entry, (size,) each; NaN where a view has no value."""
        values = self.values()
        if not values:
            return {name: torch.zeros(0) for name in (*VIEWS, "softmax", "log_softmax", "raw", "gram")}
        vector = torch.cat([v.reshape(-1) for v in values.values()])
        small = torch.cat(
            [torch.full((v.numel(),), v.numel() <= self.LARGEST, device=v.device) for v in values.values()]
        )
        found = {name: view.of(vector) for name, view in VIEWS.items()}
        found["softmax"] = torch.cat([_rows(v, torch.softmax) for v in values.values()])
        found["log_softmax"] = torch.cat([_rows(v, torch.log_softmax) for v in values.values()])
        found["raw"] = torch.cat(
            [
                raw.detach().reshape(-1)
                if raw.shape == self.shapes[n]
                else torch.full_like(values[n], torch.nan).reshape(-1)
                for n, raw in self.raw.items()
            ]
        )
        found["gram"] = torch.cat([_gram(v) for v in values.values()])
        return {name: v.masked_fill(~small, torch.nan) for name, v in found.items()}

    def owner(self, ids: Tensor) -> set[str]:
        """The parameters that entries belong to."""
        held = torch.bincount(ids.reshape(-1).clamp_min(-1) + 1, minlength=self.size + 1)[1:] > 0
        return {name for name in self.names if bool(self.split(held, name).any())}

    def split(self, vector: Tensor, name: str) -> Tensor:
        """One parameter's part of a vector over entries."""
        start = self.offsets[name]
        return vector[start : start + self.shapes[name].numel()].reshape(self.shapes[name])

    @torch.no_grad()
    def assign(self, name: str, value: Tensor) -> None:
        """Set a parameter to a value inside its constraint."""
        constraint = self.constraints[name]
        raw = value.log() if isinstance(constraint, type(constraints.simplex)) else self.transforms[name].inv(value)
        self.raw[name].copy_(raw)

    @contextmanager
    def elsewhere(self, seed: int) -> Iterator[None]:
        """Inside, finite entries are random: a generic point; afterwards as before."""
        before = {name: raw.detach().clone() for name, raw in self.raw.items()}
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            try:
                for raw in self.raw.values():
                    noise = torch.randn(raw.shape, generator=generator, dtype=torch.float64).to(raw)
                    # By ``data``, so that graphs made before hold good afterwards.
                    raw.data.copy_(torch.where(raw.isfinite(), 0.7 * noise, raw))
                yield
            finally:
                for name, raw in self.raw.items():
                    raw.data.copy_(before[name])

    def evaluate(self, lookup: Lookup, vector: Tensor) -> Tensor:
        """An argument at the entries ``vector``."""
        if lookup.view is None:
            return lookup.constant
        if lookup.view in ("softmax", "log_softmax", "raw", "gram"):
            pool = self.views()[lookup.view]
        else:
            pool = VIEWS[lookup.view].of(vector)
        return torch.where(lookup.ids >= 0, pool[lookup.ids.clamp_min(0)], lookup.constant)


def _rows(value: Tensor, function: Callable[..., Tensor]) -> Tensor:
    return (function(value, -1) if value.dim() else torch.full_like(value, torch.nan)).reshape(-1)


def _gram(value: Tensor) -> Tensor:
    """L L^T of square matrices, for covariances made of a factor."""
    if value.dim() < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] < 2:
        return torch.full_like(value, torch.nan).reshape(-1)
    return (value @ value.mT).reshape(-1)


class Finder:
    """Finds arguments again among the views of the parameters at two generic points."""

    def __init__(self, first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
        self.names = list(first)
        self.size = len(first["identity"])
        a, b = torch.cat(list(first.values())), torch.cat(list(second.values()))
        known = a.isfinite() & b.isfinite()
        index = known.nonzero().flatten()
        order = torch.argsort(a[index], stable=True)
        self.index = index[order]  # view * size + entry, sorted by value at the first point
        self.a, self.b = a[self.index], b[self.index]

    def find(self, first: Tensor, second: Tensor) -> Lookup | None:
        """The lookup behind an argument's values at the two points; None where it is something else."""
        a, b = first.detach().reshape(-1).to(self.a), second.detach().reshape(-1).to(self.b)
        tolerance = 64 * torch.finfo(first.dtype if first.is_floating_point() else torch.float64).eps
        same = (a == b) | (a.isnan() & b.isnan())
        found = torch.full_like(a, -1, dtype=torch.long)
        pending = (~same).nonzero().flatten()
        slack = tolerance * (1 + a.abs())
        place = torch.searchsorted(self.a, a - slack)
        for step in range(12):  # several entries may look alike at the first point; the second tells them apart
            if not len(pending):
                break
            spot = (place[pending] + step).clamp_max(max(len(self.a) - 1, 0))
            if not len(self.a):
                return None
            fits = (self.a[spot] - a[pending]).abs() <= slack[pending]
            fits &= (self.b[spot] - b[pending]).abs() <= tolerance * (1 + b[pending].abs())
            entry = self.index[spot]
            better = fits & ((found[pending] < 0) | (entry < found[pending]))
            found[pending[better]] = entry[better]
        if (found[pending] < 0).any():
            return None
        used = torch.unique(found[pending] // self.size)
        if len(used) > 1:
            return None
        view = self.names[int(used[0])] if len(used) else None
        ids = torch.where(found >= 0, found % self.size, found).reshape(first.shape)
        return Lookup(ids, torch.where(same, a, torch.zeros_like(a)).reshape(first.shape), view)
