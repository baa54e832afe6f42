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
from zoo.estimators.loop.metric import Metric
from zoo.estimators.loop.pairs import Pairs

__all__ = ["QuasiNewton"]

#: Steps that are remembered: valleys of a guide's weights need many. Fewer where they would be more than so many
#: numbers, but never fewer than ``FEWEST``.
PAIRS, NUMBERS, FEWEST = 300, 2**21, 10


class QuasiNewton:
    """L-BFGS down a function of P variables, an iteration at a time.

    Args:
        function: (value, gradient (P,), whatever else) at variables (P,), float64; a value that is not finite where
            there is none.
        variables: where to begin, (P,).
        metric: the inverse Hessian to begin with.

    Attributes:
        variables, value, gradient, beside: the present point, and what the function said of it, from :meth:`begin` on.
    """

    def __init__(
        self,
        function: Callable[[Tensor], tuple[float, Tensor, Any]],
        variables: Tensor,
        metric: Metric | None = None,
    ) -> None:
        self.function, self.variables = function, variables
        self.value, self.gradient = math.nan, torch.zeros_like(variables)
        self.beside: Any = None
        self._direction: Tensor | None = None
        self.most = max(FEWEST, min(PAIRS, NUMBERS // max(1, 2 * len(variables))))
        self.pairs = Pairs(len(variables), self.most, metric)
        self.forget()

    def begin(self) -> None:
        """Look at the present point: before the first iteration, and after :meth:`load`."""
        self.value, self.gradient, self.beside = self.function(self.variables)
        self._direction = None

    def forget(self) -> None:
        """Forget all steps: the next one goes down the gradient."""
        self.pairs = Pairs(len(self.variables), self.most, self.pairs.metric)
        self._direction = None

    @property
    def direction(self) -> Tensor:
        """Minus the remembered inverse Hessian times the gradient, (P,)."""
        if self._direction is None:
            self._direction = -self.pairs.times(self.gradient)
        return self._direction

    @property
    def promise(self) -> float:
        """What the next iteration may gain: half of the gradient times the step, as of a quadratic function."""
        return -0.5 * float(self.gradient @ self.direction)

    def iterate(self, slack: float = 0.0) -> bool:
        """Go to a lower point; False where none is found, even down the gradient.

        Args:
            slack: what rounding may add to a value.
        """
        while True:
            direction = self.direction
            slope = float(self.gradient @ direction)
            if slope < 0:
                first = 1.0 if len(self.pairs) else min(1.0, 1.0 / math.sqrt(-slope))
                start = Point(0.0, self.value, slope, self.gradient, self.beside)
                found = search(self._looking(direction), start, first, slack)
                if found is not None:
                    self._take(found, direction)
                    return True
            if not len(self.pairs):
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
        self.pairs.add(step, change)

    def state(self) -> dict[str, Tensor]:
        """Everything that moves, by name."""
        return {"variables": self.variables, **self.pairs.state()}

    def load(self, values: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        self.variables = values["variables"].clone()  # where in memory a file's numbers lie moves the last digits
        self.pairs.load(values)
