"""Floors of a model's scales in a climb without steps of a known length, which could run beyond them at once."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.core.problem import Problem
from zoo.estimators.loop.units import Units

__all__ = ["Floors"]


class Floors:
    """What a model's ``lift`` put on a floor, and stays there while all else moves.

    Attributes:
        held: (P,), which variables stay. inward: (P,), the way that they were lifted.
        notes: what acts, a line each.
    """

    def __init__(self, problem: Problem, units: Units) -> None:
        self.problem, self.units = problem, units
        self.held = torch.zeros(units.size, dtype=torch.bool)
        self.inward = torch.zeros(units.size, dtype=torch.float64)
        self.notes = list[str]()
        self.offered = problem.lacks("lift") is None

    def lift(self, variables: Tensor) -> Tensor | None:
        """The variables with what has come below a floor put onto it; None where nothing has.

        The model's parameters are where the variables say, and follow.
        """
        if not self.offered:
            return None
        model = self.problem.model
        names = {id(p): name for name, p in model.named_parameters()}
        named = [(names[id(p)], p) for p in self.units.parameters]
        pieces = self.held.split(self.units.sizes)
        held = {name: piece.view(p.shape).to(p.device) for (name, p), piece in zip(named, pieces, strict=True)}
        found, notes = model.lift(self.problem.data, held)
        if not found:
            return None
        masks = [found.get(name, torch.zeros(p.shape, dtype=torch.bool)).flatten().cpu() for name, p in named]
        lifted_now = torch.cat(masks)
        lifted = torch.where(lifted_now, self.units.variables(), variables)
        self.inward = torch.where(lifted_now, lifted - variables, self.inward)
        self.held, self.notes = self.held | lifted_now, notes
        self.units.put(lifted)
        return lifted

    def free(self, gradient: Tensor) -> Tensor:
        """A gradient (P,) without what stays."""
        return gradient.masked_fill(self.held, 0.0)

    def releases(self, gradient: Tensor) -> bool:
        """Whether a function with this gradient (P,) is lower above the floors: then they let go of all they hold."""
        if float(gradient[self.held] @ self.inward[self.held]) >= 0:
            return False
        self.held, self.inward, self.notes = torch.zeros_like(self.held), torch.zeros_like(self.inward), []
        return True

    def binds(self, gradient: Tensor, tol: float) -> bool:
        """Whether nothing but the floors keeps what it holds from moving: each entry's gradient points against it.

        Of a matrix that is held as a whole, of which some eigenvalue lies on its floor, that is not so.
        """
        toward = gradient[self.held] * self.inward[self.held].sign()
        still = gradient[self.held].abs() <= tol
        return bool((still | (toward > 0)).all())

    def state(self) -> dict[str, Tensor]:
        """What stays, for a checkpoint."""
        return {"held": self.held, "inward": self.inward}
