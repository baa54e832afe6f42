"""How far to go along a direction: the strong Wolfe conditions, by bracketing and cubic interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Point", "search"]

#: The share of the first slope that a step has to gain, and the share that may be left of it (Nocedal & Wright 2006).
ENOUGH, FLAT = 1e-4, 0.9
#: Points that a search looks at; how near to an end of its bracket it looks, and how much further than before.
MOST, MARGIN, FURTHER = 25, 0.1, 10.0


@dataclass(frozen=True)
class Point:
    """What a function that is to fall says at one place on a line.

    Attributes:
        t: how far along the line, in lengths of the direction.
        value: the function, infinite where it has no finite value.
        slope: its derivative in ``t``.
        gradient: its gradient in all variables, (P,).
        beside: what else came with the value.
    """

    t: float
    value: float
    slope: float
    gradient: Tensor
    beside: Any = None


def search(at: Callable[[float], Point], start: Point, t: float, slack: float = 0.0) -> Point | None:
    """The point that serves as the next one; None where nothing lower is found but for rounding.

    Nocedal & Wright (2006), Numerical Optimization, algorithms 3.5 and 3.6. A value that is not finite counts as too
    high, so that the search turns back from where a function ends.

    Args:
        at: looks at a place; costs one evaluation.
        start: the point at ``t`` = 0, whose slope is below 0.
        t: where to look first, above 0.
        slack: what rounding may add to a value.

    Returns:
        A point that satisfies both conditions; else, after ``MOST`` looks, the lowest that gains enough.
    """
    low, before, high = start, start, None
    for _ in range(MOST):
        found = at(t)
        too_high = found.value > start.value + ENOUGH * t * start.slope + slack or found.value > low.value + slack
        if not math.isfinite(found.value) or too_high:
            high = found
        elif abs(found.slope) <= -FLAT * start.slope:
            return found
        elif high is None:
            before, low = low, found
            high = before if found.slope >= 0 else None
        else:
            high = low if found.slope * (high.t - low.t) >= 0 else high
            low = found
        if high is None:
            t = _beyond(before, low)
        elif abs(high.t - low.t) <= 1e-14 * max(high.t, low.t):
            break
        else:
            t = _between(low, high)
    return low if low.value < start.value else None


def _beyond(before: Point, last: Point) -> float:
    """Where to look when the function still falls: as the cubic says, at least a little and at most much further."""
    least, most = last.t + (last.t - before.t), last.t + FURTHER * (last.t - before.t)
    guess = _cubic(before, last)
    return most if guess is None or guess <= last.t else min(max(guess, least), most)


def _between(low: Point, high: Point) -> float:
    """Where to look between the ends of a bracket, not too near to either."""
    width = high.t - low.t
    if not math.isfinite(high.value):
        return low.t + 0.2 * width
    guess = _cubic(low, high)
    ends = sorted((low.t + MARGIN * width, high.t - MARGIN * width))
    return low.t + 0.5 * width if guess is None else min(max(guess, ends[0]), ends[1])


def _cubic(a: Point, b: Point) -> float | None:
    """Where the cubic through two points and their slopes has its minimum (ibid., equation 3.59)."""
    if not math.isfinite(b.slope):
        return None
    first = a.slope + b.slope - 3 * (a.value - b.value) / (a.t - b.t)
    square = first * first - a.slope * b.slope
    if not 0 <= square < math.inf:
        return None
    second = math.copysign(math.sqrt(square), b.t - a.t)
    bottom = b.slope - a.slope + 2 * second
    return b.t - (b.t - a.t) * (b.slope + second - first) / bottom if bottom else None
