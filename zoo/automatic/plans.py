"""EM by a plan on data in pieces: expected statistics are collected piece by piece and added up, then solved once."""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass

import torch

from zoo.automatic.plan import Plan, Weights, make_plan
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, count
from zoo.core.pieces import pieces
from zoo.core.statistics import Statistics

__all__ = ["Plans", "make_plans", "parts"]

#: How many times the usual piece is taken: enumeration has a cost a piece, beside that of its numbers.
LARGER = 4


@dataclass(frozen=True)
class Kept:
    """The weights of the pieces, for parameters that climb: their sums are taken anew at each step."""

    pieces: tuple[Weights, ...]

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.pieces + other.pieces)


@dataclass(frozen=True)
class Plans:
    """The same plan for every piece of the data, with what each piece's arguments and values are."""

    pieces: list[tuple[Data, Plan]]

    def e_step(self) -> Statistics:
        """What ``m_step`` needs, added up over the pieces; nothing but an objective where the data are impossible."""
        added: list[Statistics] = []
        for x, plan in self.pieces:
            evidence, weights = plan.e_step(x)
            value = torch.tensor(evidence, dtype=torch.float64)
            if not math.isfinite(evidence):
                return Statistics(count(x), value)
            values = {"weights": Kept((weights,))} if plan.numeric else plan.collect(plan.shares(weights))
            added.append(Statistics(count(x), value, **values))
        return functools.reduce(operator.add, added)

    def m_step(self, statistics: Statistics) -> list[str]:
        """Set the parameters, those that climb first; returns notes on floors that acted."""
        if not math.isfinite(float(statistics["objective"])):
            return []
        first = self.pieces[0][1]
        if not first.numeric:
            return first.solve(statistics)
        kept = [
            (x, plan, weights) for (x, plan), weights in zip(self.pieces, statistics["weights"].pieces, strict=True)
        ]
        shares = [plan.shares(weights) for _, plan, weights in kept]
        first.climb([plan.expected(x, weights) for x, plan, weights in kept])
        collected = []
        for (x, plan, _), share in zip(kept, shares, strict=True):
            plan.reread(x)
            collected.append(Statistics(count(x), statistics["log_likelihood"], **plan.collect(share)))
        return first.solve(functools.reduce(operator.add, collected))


def parts(model: LatentVariableModel, x: Data) -> list[Data]:
    """The data in pieces that a program of the zoo's may be enumerated on; a user's has them whole."""
    return list(pieces(model, x, LARGER))


def make_plans(model: LatentVariableModel, x: Data, checked: bool = False) -> Plans:
    """A plan for each piece of the data; one for all where the pieces do not add up to the whole.

    Args:
        checked: whether ``why_not_exact`` has had nothing to say.

    Raises:
        ZooError: as ``make_plan``.
    """
    cut = parts(model, x)
    if len(cut) > 1:
        plans = [make_plan(model, piece, checked=checked) for piece in cut]
        if all(plan.by_row and _agree(plan, plans[0]) for plan in plans):
            for plan in plans[1:]:
                _reach(plans[0], plan)
            return Plans(list(zip(cut, plans, strict=True)))
    return Plans([(x, make_plan(model, x, checked=checked))])


def _agree(a: Plan, b: Plan) -> bool:
    """Whether two pieces move every parameter in the same way, and what their rules collect is of the same leaves."""
    return (a.updates, a.space.names, _used(a)) == (b.updates, b.space.names, _used(b))


def _used(plan: Plan) -> list[tuple[str, str, str]]:
    return [(use.leaf.site, use.leaf.family, use.argument) for rule in plan.rules for use in rule.uses]


def _reach(first: Plan, other: Plan) -> None:
    """Let the rules that solve know of the entries that only another piece has data for."""
    for mine, theirs in zip(first.rules, other.rules, strict=True):
        both = zip(mine.uses, theirs.uses, strict=True)
        mine.elsewhere += [use for here, use in both if not here.leaf.alike(use.leaf)]
