"""Units of two values under couplings, checked at the door."""

from __future__ import annotations

from torch import Tensor

from zoo.core.checks import matrix, rows
from zoo.core.data import Data
from zoo.errors import ZooError

__all__ = ["checked_states"]


def checked_states(x: Data, num_features: int, values: tuple[float, float] | None, who: str) -> Tensor:
    """x (N, D) as one of the two values in each entry, any real number where there are none.

    Raises:
        ZooError: another shape or value; the fix says how to make the two of it.
    """
    x = matrix(x, num_features, who)
    if values is None:
        return x
    low, high = values
    bad = (x != low) & (x != high)
    if bad.any():
        raise ZooError(f"{who}: x expected {low:g} or {high:g}, got {x[bad][0]:g} in {rows(bad)}. {_fix(x, values)}")
    return x


def _fix(x: Tensor, values: tuple[float, float]) -> str:
    if not bool(((x != 0) & (x != 1)).any()):
        return "Pass 2 * x - 1."
    if not bool(((x != -1) & (x != 1)).any()):
        return "Pass (x + 1) / 2."
    threshold = float(x.min() + x.max()) / 2
    return f"Cut grey levels in two first: (x > {threshold:g})" + (
        " as 0 and 1." if values == (0.0, 1.0) else ", then 2 * x - 1."
    )
