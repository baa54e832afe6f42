"""exp for compiled kernels, written so that it vectorises: libm's would be called entry by entry."""

from __future__ import annotations

import functools
from typing import Any

from zoo.core.parallel import compiled

__all__ = ["compiled_exp", "exp_in_place"]


def exp_in_place(x: Any, size: int, work: Any, bits: Any) -> None:
    """exp of the first ``size`` entries of x in place, all at most 0; zero below -708. To about 1 ulp.

    2^k e^r with |r| <= ln 2 / 2 and a Taylor polynomial. ``bits`` is ``work`` seen as int64. Sums are not to be
    reordered.
    """
    magic = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to an integer, which then stands in the low bits
    for i in range(size):
        v = -708.0 if x[i] < -708.0 else x[i]
        work[i] = v * 1.4426950408889634 + magic
    for i in range(size):
        v = -708.0 if x[i] < -708.0 else x[i]
        whole = work[i] - magic
        r = (v - whole * 0.6931471803691238) - whole * 1.9082149292705877e-10
        p = 1.0 / 6227020800.0
        p = p * r + 1.0 / 479001600.0
        p = p * r + 1.0 / 39916800.0
        p = p * r + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
        p = p * r + 1.0 / 120.0
        p = p * r + 1.0 / 24.0
        p = p * r + 1.0 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        x[i] = 0.0 if x[i] < -708.0 else p
    for i in range(size):
        bits[i] = (bits[i] << 52) + 4607182418800017408  # 1023 << 52, the bias
    for i in range(size):
        x[i] *= work[i]


@functools.cache
def compiled_exp() -> Any:
    """:func:`exp_in_place` by numba, for other kernels to call."""
    compiled(globals(), ["exp_in_place"], unordered=False)
    return exp_in_place
