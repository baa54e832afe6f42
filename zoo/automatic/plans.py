"""EM by a plan on data in pieces: expected statistics are collected piece by piece and added up, then solved once."""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from zoo.automatic.plan import Plan, Weights, make_plan
from zoo.automatic.sums import Use
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, count
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
class Plans:
    """The same plan for every piece of the data, with what each piece's arguments and values are.

    Attributes:
        pieces: of the data of this process. ranks: the processes that have the others.
    """

    pieces: list[tuple[Data, Plan]]
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
        first.climb([plan.expected(x, weights) for x, plan, weights in kept], ranks=self.ranks)
        collected = []
        for (x, plan, _), share in zip(kept, shares, strict=True):
            plan.reread(x)
            collected.append(Statistics(count(x), statistics["log_likelihood"], **plan.collect(share)))
        return first.solve(self.ranks.total(lambda: functools.reduce(operator.add, collected)))


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


def divided(model: LatentVariableModel, x: Data, ranks: Ranks, checked: bool = False) -> Plans:
    """The plans of one process for its own rows ``x``, where each of several has such.

    Raises:
        ZooError: as ``make_plan``, or the program is no product over rows.
    """
    pieces = make_plans(model, x, checked).pieces
    first = pieces[0][1]
    if not all(plan.by_row for _, plan in pieces):
        raise ZooError(
            f"auto_em: {model.name} expected every site in a plate over the rows, to be divided among {ranks.size} "
            "processes, got one outside. Fit it in one process."
        )
    theirs = ranks.each(lambda: ((first.updates, first.space.names, _used(first)), _light(first)))
    if any(found != theirs[0][0] for found, _ in theirs):
        raise ZooError(
            f"auto_em: {model.name} expected the same updates on the rows of each process, got others. "
            "Fit it in one process."
        )
    for _, uses in theirs:
        for rule, others in zip(first.rules, uses, strict=True):
            both = zip(rule.uses, others, strict=True)
            rule.elsewhere += [use for here, use in both if not here.leaf.alike(use.leaf)]
    return Plans(pieces, ranks)


def _light(plan: Plan) -> list[list[Use]]:
    """By rule, what another process has to know of its uses: which entries they reach, without data."""
    light = [[replace(use, leaf=replace(use.leaf, value=None, mask=None, inner=None)) for use in rule.uses]
             for rule in plan.rules]  # fmt: skip
    for use in (use for uses in light for use in uses):
        use.leaf.args = dict.fromkeys(use.leaf.args, torch.zeros(()))
    return light


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
