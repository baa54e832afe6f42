"""Where a climb ends in logits that have run far out, though the probabilities behind them are to come back.

A probability at 0 or 1 has next to no derivative in its logit, whatever it has itself: there a climb looks done that is
not. On that branch every derivative is an exponential, so that a step of one back inside makes it e times as large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["back_inside", "saturated"]

#: From where on a logit counts as far out, how far out a derivative still has digits, and where a logit is tried
#: instead, the boldest place first.
FAR, SEEN, PLACES = 6.0, 12.0, (1.0, 2.0, 4.0, 6.0, 9.0)
#: How near to e a derivative's growth has to be, as a factor.
NEAR_E = 1.3


def saturated(values: Tensor, gradient_at: Callable[[Tensor], Tensor], among: Tensor) -> Tensor:
    """Which variables are logits far out that would lower a function if they came back, (P,) bool.

    Args:
        values: the variables, (P,).
        gradient_at: the function's gradient at values, (P,) to (P,); asked twice at most.
        among: those that may be, (P,) bool.
    """
    out = among & (values.abs() > FAR)
    if not bool(out.any()):
        return out
    sign = values.sign()
    seen = torch.where(out & (values.abs() > SEEN), SEEN * sign, values)
    slope = gradient_at(seen)
    inward = out & (slope * sign > 0)
    if not bool(inward.any()):
        return inward
    growth = gradient_at(seen - sign * inward) / slope.where(inward, torch.ones_like(slope))
    return inward & (growth > math.e / NEAR_E) & (growth < math.e * NEAR_E)


def back_inside(values: Tensor, which: Tensor) -> Iterator[Tensor]:
    """Places to try: the variables in question all nearer to 0, (P,) each."""
    for place in PLACES:
        yield torch.where(which & (values.abs() > place), values.sign() * place, values)
