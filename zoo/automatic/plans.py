"""EM by a plan on data in pieces: expected statistics are collected piece by piece and added up, then solved once."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.automatic.lookup import Lookup
from zoo.automatic.plan import Plan, Weights, make_plan
from zoo.automatic.sums import Use
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, count, num_data, stream_of
from zoo.core.isolation import kept_generators
from zoo.core.pieces import pieces
from zoo.core.ranks import Ranks
from zoo.core.statistics import Statistics
from zoo.errors import ZooError

__all__ = ["Plans", "divided", "make_plans", "parts"]

#: How many times the usual piece is taken: enumeration has a cost a piece, beside that of its numbers.
LARGER = 4


@dataclass(frozen=True)
class Kept:
    """The weights of the pieces, for parameters that climb: their sums are taken anew at each step."""

    pieces: tuple[Weights, ...]

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.pieces + other.pieces)


@dataclass(frozen=True)
class Passes:
    """The pieces of data that stay in their files, each with a plan that is made when a pass comes to it.

    Attributes:
        first: the plan of the first rows, which knows the entries of all in the end.
    """

    model: LatentVariableModel
    x: Data
    first: Plan

    def __iter__(self) -> Iterator[tuple[Data, Plan]]:
        for piece in pieces(self.model, self.x):
            with torch.enable_grad():
                plan = make_plan(self.model, piece, checked=True)
            if not plan.by_row or not _agree(plan, self.first):
                raise ZooError(
                    f"auto_em: {self.model.name} expected every site in a plate over the rows, and the same updates on "
                    f"each piece of {num_data(self.x)} rows, got others. Use svi, or fit rows in memory."
                )
            _reach(self.first, _entries(plan))
            yield piece, plan


@dataclass(frozen=True)
class Plans:
    """The same plan for every piece of the data, with what each piece's arguments and values are.

    Attributes:
        pieces: of the data of this process. ranks: the processes that have the others.
    """

    pieces: list[tuple[Data, Plan]] | Passes
    ranks: Ranks = field(default_factory=Ranks)

    def e_step(self) -> Statistics:
        """What ``m_step`` needs, added up over the pieces; nothing but an objective where the data are impossible."""
        kept: dict[str, Any] = {}

        def own() -> Statistics:
            values = dict(self._e_step())
            kept.update({name: values.pop(name) for name in ("weights",) if name in values})  # these stay here
            return Statistics(**values)

        every = self.ranks.each(own)
        impossible = [each for each in every if not math.isfinite(float(each["objective"]))]
        return Statistics(**{**(impossible[0] if impossible else functools.reduce(operator.add, every)), **kept})

    def _e_step(self) -> Statistics:
        added: Statistics | None = None
        for x, plan in self.pieces:
            evidence, weights = plan.e_step(x)
            value = torch.tensor(evidence, dtype=torch.float64)
            if not math.isfinite(evidence):
                return Statistics(count(x), value)
            values = {"weights": Kept((weights,))} if plan.numeric else plan.collect(plan.shares(weights))
            here = Statistics(count(x), value, **values)
            added = here if added is None else added + here
        assert added is not None
        return added

    def m_step(self, statistics: Statistics) -> list[str]:
        """Set the parameters, those that climb first; returns notes on floors that acted."""
        if not math.isfinite(float(statistics["objective"])):
            return []
        if isinstance(self.pieces, Passes):  # no parameter climbs
            return self.pieces.first.solve(statistics)
        first = self.pieces[0][1]
        if not first.numeric:
            return first.solve(statistics)
        kept = [
            (x, plan, weights) for (x, plan), weights in zip(self.pieces, statistics["weights"].pieces, strict=True)
        ]
        shares = [plan.shares(weights) for _, plan, weights in kept]
        first.climb([plan.expected(x, weights) for x, plan, weights in kept], ranks=self.ranks)
        collected = []
        for (x, plan, _), share in zip(kept, shares, strict=True):
            plan.reread(x)
            collected.append(Statistics(count(x), statistics["log_likelihood"], **plan.collect(share)))
        return first.solve(self.ranks.total(lambda: functools.reduce(operator.add, collected)))


def parts(model: LatentVariableModel, x: Data) -> Iterator[Data]:
    """The data in pieces that a program of the zoo's may be enumerated on; a user's has them whole."""
    return pieces(model, x, LARGER if stream_of(x) is None else 1)


def why_not_passed(model: LatentVariableModel, x: Data) -> str | None:
    """Why a plan cannot be followed on data that are read in pieces, in a phrase; None where it can."""
    if (stream := stream_of(x)) is None:
        return None
    with kept_generators():
        numeric = make_plan(model, next(parts(model, x)), checked=True).numeric
    if not numeric:
        return None
    return (
        f"its {numeric[0]!r} climbs by numeric steps, which take all data at once, and the {len(stream)} rows of "
        f"{stream.name} are read in pieces"
    )


def make_plans(model: LatentVariableModel, x: Data, checked: bool = False) -> Plans:
    """A plan for each piece of the data; one for all where the pieces do not add up to the whole.

    Args:
        checked: whether ``why_not_exact`` has had nothing to say.

    Raises:
        ZooError: as ``make_plan``.
    """
    if stream_of(x) is not None:
        return Plans(Passes(model, x, make_plan(model, next(parts(model, x)), checked=checked)))
    cut = list(parts(model, x))
    if len(cut) > 1:
        plans = [make_plan(model, piece, checked=checked) for piece in cut]
        if all(plan.by_row and _agree(plan, plans[0]) for plan in plans):
            for plan in plans[1:]:
                _reach(plans[0], _entries(plan))
            return Plans(list(zip(cut, plans, strict=True)))
    return Plans([(x, make_plan(model, x, checked=checked))])


def divided(model: LatentVariableModel, x: Data, ranks: Ranks, checked: bool = False) -> Plans:
    """The plans of one process for its own rows ``x``, where each of several has such.

    Raises:
        ZooError: as ``make_plan``, or the program is no product over rows.
    """
    own = make_plans(model, x, checked).pieces
    first = own.first if isinstance(own, Passes) else own[0][1]
    if not all(plan.by_row for _, plan in own):  # a pass of data in files, so that the first knows all its entries
        raise ZooError(
            f"auto_em: {model.name} expected every site in a plate over the rows, to be divided among {ranks.size} "
            "processes, got one outside. Fit it in one process."
        )
    theirs = ranks.each(lambda: ((first.updates, first.space.names, _used(first)), _entries(first)))
    if any(found != theirs[0][0] for found, _ in theirs):
        raise ZooError(
            f"auto_em: {model.name} expected the same updates on the rows of each process, got others. "
            "Fit it in one process."
        )
    for _, entries in theirs:
        _reach(first, entries)
    return Plans(own, ranks)


def _agree(a: Plan, b: Plan) -> bool:
    """Whether two pieces move every parameter in the same way, and what their rules collect is of the same leaves."""
    return (a.updates, a.space.names, _used(a)) == (b.updates, b.space.names, _used(b))


def _used(plan: Plan) -> list[tuple[str, str, str]]:
    return [(use.leaf.site, use.leaf.family, use.argument) for rule in plan.rules for use in rule.uses]


def _entries(plan: Plan) -> list[dict[tuple[str, str | None], Tensor]]:
    """By rule: by argument and function, which entries of parameters it writes."""
    found: list[dict[tuple[str, str | None], Tensor]] = []
    for rule in plan.rules:
        reached: dict[tuple[str, str | None], list[Tensor]] = {}
        for use in rule.reaching:
            reached.setdefault((use.argument, use.lookup.view), []).append(use.lookup.ids[use.lookup.ids >= 0])
        found.append({how: torch.cat(ids).unique() for how, ids in reached.items()})
    return found


def _reach(first: Plan, entries: list[dict[tuple[str, str | None], Tensor]]) -> None:
    """Let the rules that solve know of the entries that only another piece has data for."""
    for rule, known, theirs in zip(first.rules, _entries(first), entries, strict=True):
        for (argument, view), ids in theirs.items():
            here = known.get((argument, view))
            ids = ids if here is None else ids.to(here.device)
            new = ids if here is None else ids[~torch.isin(ids, here)]
            if len(new):
                rule.elsewhere.append(Use(rule.uses[0].leaf, argument, Lookup(new, torch.zeros(len(new)), view)))
