"""What a rule is: one kind of closed-form update, and the uses of parameters that it serves.

It works in two halves: ``collect`` takes from a piece of the data what the update needs, which adds; ``solve`` sets the
parameters' entries from that, and sees no data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.automatic.lookup import VIEWS, ParameterSpace
from zoo.automatic.sums import Use, Weighted
from zoo.core.edges import margin_of

__all__ = ["Rule", "natural"]


class Rule:
    """One kind of update. ``views``: the functions of a parameter that it can invert."""

    name: str
    text: str
    views: tuple[str, ...] = ()

    def __init__(self, space: ParameterSpace) -> None:
        self.space = space
        self.uses: list[Use] = []
        #: Uses in other pieces of the data, where they reach other entries.
        self.elsewhere: list[Use] = []
        self.notes: list[str] = []

    def refuses(self, parameter: str, uses: list[Use]) -> str | None:
        """Why these uses of a parameter have no update in closed form."""
        views = {use.lookup.view for use in uses}
        odd = views - set(self.views)
        if odd:
            return f"enters through {sorted(map(str, odd))[0]}"
        if len(views) > 1:
            return "enters through several functions"
        if not natural(self.space.constraints[parameter]):
            return f"is constrained to {self.space.constraints[parameter]}"
        return None

    def collect(self, weighted: dict[int, Weighted], vector: Tensor) -> dict[str, Any]:
        """The expected statistics of the data by name, each of which adds; ``vector``: the present entries."""
        raise NotImplementedError

    def solve(self, sums: Mapping[str, Any], vector: Tensor) -> None:
        """Write the updated entries into ``vector``; ``sums``: what ``collect`` gave, added up over the data."""
        raise NotImplementedError

    def _least(self, vector: Tensor, otherwise: float, where: Tensor) -> Tensor:
        """By entry, how far from an edge of its support it stays; ``otherwise`` for those of no prior, where asked."""
        least = torch.where(where, otherwise, 0.0).to(vector)
        for name in self.space.names:
            inset = margin_of(self.space.constraints[name])
            if inset is not None:
                part = self.space.split(least, name)
                part.copy_(inset.margin_like(part).expand(part.shape))
        return least

    def _weighted(self, weighted: dict[int, Weighted]) -> list[tuple[Use, Weighted]]:
        """Each use with its leaf's weight."""
        return [(use, weighted[id(use.leaf)]) for use in self.uses]

    @property
    def reaching(self) -> list[Use]:
        """The uses that say which entries the rule writes."""
        return [*self.uses, *self.elsewhere]

    def _write(self, vector: Tensor, target: Tensor, touched: Tensor) -> None:
        """Set the touched entries so that their view is the target; an entry without data keeps its value."""
        for view in {use.lookup.view for use in self.reaching if use.argument != "value"}:
            assert view is not None
            mine = torch.zeros_like(touched)
            for use in self.reaching:
                if use.lookup.view == view and use.argument != "value":
                    mine[use.lookup.ids[use.lookup.ids >= 0]] = True
            mine &= touched
            vector[mine] = VIEWS[view].inverse(target[mine])


def natural(constraint: Any) -> bool:
    """Whether a maximum without the constraint is the maximum under it."""
    inset = margin_of(constraint)
    base = constraint if inset is None else inset.base
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    name = type(base).__name__
    if name in ("_Interval", "_HalfOpenInterval"):
        return float(base.lower_bound) == 0 and float(base.upper_bound) == 1
    if name in ("_GreaterThan", "_GreaterThanEq"):
        return float(base.lower_bound) == 0
    return name in ("_Real", "_Simplex", "_PositiveDefinite") or "Softplus" in name or "Cholesky" in name
