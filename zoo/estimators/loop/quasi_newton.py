"""L-BFGS: steps of a quasi-Newton method down a function without noise.

Nocedal (1980), Updating quasi-Newton matrices with limited storage; Nocedal & Wright (2006), chapter 7. torch's own
imports a compiler and evaluates every point twice where it is stopped after each iteration; scipy's keeps its memory to
itself, so that no run could be resumed. The tests hold this one to scipy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.estimators.loop.line_search import Point, search

__all__ = ["QuasiNewton"]

#: Steps that are remembered: valleys of a guide's weights need many. Fewer where they would be more than so many
#: numbers, but never fewer than ``FEWEST``.
PAIRS, NUMBERS, FEWEST = 300, 2**21, 10
#: A step whose gradient changed less along it than this share of its length says nothing of the curvature.
CURVED = 1e-10


class QuasiNewton:
    """L-BFGS down a function of P variables, an iteration at a time.

    Args:
        function: (value, gradient (P,), whatever else) at variables (P,), float64; a value that is not finite where
            there is none.
        variables: where to begin, (P,).

    Attributes:
        variables, value, gradient, beside: the present point, and what the function said of it, from :meth:`begin` on.
    """

    def __init__(self, function: Callable[[Tensor], tuple[float, Tensor, Any]], variables: Tensor) -> None:
        self.function, self.variables = function, variables
        self.value, self.gradient = math.nan, torch.zeros_like(variables)
        self.beside: Any = None
        self._direction: Tensor | None = None
        self.most = max(FEWEST, min(PAIRS, NUMBERS // max(1, 2 * len(variables))))
        self.forget()

    def begin(self) -> None:
        """Look at the present point: before the first iteration, and after :meth:`load`."""
        self.value, self.gradient, self.beside = self.function(self.variables)
        self._direction = None

    def forget(self) -> None:
        """Forget all steps: the next one goes down the gradient."""
        self.steps = self.variables.new_empty(0, len(self.variables))
        self.changes, self.products = self.steps.clone(), self.variables.new_empty(0, 0)
        self._direction = None

    @property
    def direction(self) -> Tensor:
        """Minus the remembered inverse Hessian times the gradient, (P,)."""
        if self._direction is None:
            self._direction = -self._inverse(self.gradient) if len(self.steps) else -self.gradient
        return self._direction

    @property
    def promise(self) -> float:
        """What the next iteration may gain: half of the gradient times the step, as of a quadratic function."""
        return -0.5 * float(self.gradient @ self.direction)

    def _inverse(self, gradient: Tensor) -> Tensor:
        """The inverse Hessian times a gradient. The loops of Nocedal's recursion are two triangular systems."""
        solve = torch.linalg.solve_triangular
        curvature = self.products.diagonal()
        first = solve(self.products, (self.steps @ gradient).unsqueeze(-1), upper=True).squeeze(-1)
        change = self.changes[-1]
        moved = (gradient - first @ self.changes) * (curvature[-1] / change.dot(change))
        rest = (curvature * first - self.changes @ moved).unsqueeze(-1)
        return moved + solve(self.products.mT, rest, upper=False).squeeze(-1) @ self.steps

    def iterate(self, slack: float = 0.0) -> bool:
        """Go to a lower point; False where none is found, even down the gradient.

        Args:
            slack: what rounding may add to a value.
        """
        while True:
            direction = self.direction
            slope = float(self.gradient @ direction)
            if slope < 0:
                first = 1.0 if len(self.steps) else min(1.0, 1.0 / math.sqrt(-slope))
                start = Point(0.0, self.value, slope, self.gradient, self.beside)
                found = search(self._looking(direction), start, first, slack)
                if found is not None:
                    self._take(found, direction)
                    return True
            if not len(self.steps):
                return False
            self.forget()

    def _looking(self, direction: Tensor) -> Callable[[float], Point]:
        def at(t: float) -> Point:
            value, gradient, beside = self.function(self.variables + t * direction)
            return Point(t, value, float(gradient @ direction), gradient, beside)

        return at

    def _take(self, found: Point, direction: Tensor) -> None:
        step, change = found.t * direction, found.gradient - self.gradient
        self.variables = self.variables + step
        self.value, self.gradient, self.beside, self._direction = found.value, found.gradient, found.beside, None
        curvature = float(step @ change)
        if curvature <= CURVED * float(step.norm()) * float(change.norm()):
            return
        full = len(self.steps) == self.most
        self.steps = torch.cat([self.steps[full:], step.unsqueeze(0)])
        self.changes = torch.cat([self.changes[full:], change.unsqueeze(0)])
        grown = step.new_zeros(len(self.steps), len(self.steps))
        grown[:-1, :-1] = self.products[full:, full:]
        grown[:, -1] = self.steps @ change  # the upper triangle of steps times changes
        self.products = grown

    def state(self) -> dict[str, Tensor]:
        """Everything that moves, by name."""
        return {name: getattr(self, name) for name in ("variables", "steps", "changes", "products")}

    def load(self, values: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        for name, value in values.items():
            setattr(self, name, value.clone())  # where in memory a file's numbers lie moves the last digit of products
