"""exp for compiled kernels, written so that it vectorises: libm's would be called entry by entry."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from zoo.core.parallel import compiled

__all__ = ["compiled_exp", "compiled_exponential", "exp_in_place", "exponential"]


def exp_in_place(x: Any, size: int) -> None:
    """:func:`exponential` of the first ``size`` entries of x, in place."""
    for i in range(size):
        x[i] = exponential(x[i])


def exponential(x: Any) -> Any:
    """exp of x, at most 0, in its dtype, float64 or float32; zero below -708 or -64. To about 1 ulp.

    2^k e^r with |r| <= ln 2 / 2 and a Taylor polynomial: one number of a loop that LLVM makes vectors of. Sums are not
    to be reordered. NaN stays NaN. -64 is early for float32 so that products with the result are no subnormal numbers,
    which many processors are slow at.
    """
    return _of_dtype(x)


def _of_dtype(x: Any) -> Any:
    return math.exp(x)


def _double(x: Any) -> Any:
    magic = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to an integer, which then stands in the low bits
    t = x * 1.4426950408889634 + magic
    whole = t - magic
    r = (x - whole * 0.6931471803691238) - whole * 1.9082149292705877e-10
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
    bias = 4607182418800017408  # 1023 << 52
    power = np.int64((np.float64(t).view(np.int64) << 52) + bias).view(np.float64)
    return 0.0 if x < -708.0 else p * power


def _single(x: Any) -> Any:
    one, magic = np.float32(1.0), np.float32(12582912.0)  # 1.5 * 2^23
    t = x * np.float32(1.442695) + magic
    whole = t - magic
    r = (x - whole * np.float32(0.693359375)) - whole * np.float32(-2.12194440e-4)
    p = np.float32(1.0 / 5040.0)
    p = p * r + np.float32(1.0 / 720.0)
    p = p * r + np.float32(1.0 / 120.0)
    p = p * r + np.float32(1.0 / 24.0)
    p = p * r + np.float32(1.0 / 6.0)
    p = p * r + np.float32(0.5)
    p = p * r + one
    p = p * r + one
    bias = np.int32(1065353216)  # 127 << 23
    power = np.int32((np.float32(t).view(np.int32) << 23) + bias).view(np.float32)
    return np.float32(0.0) if x < np.float32(-64.0) else p * power


@functools.cache
def compiled_exponential() -> Any:
    """:func:`exponential` by numba, for other kernels to call."""
    from numba import types
    from numba.extending import overload

    @overload(_of_dtype, jit_options={"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"})
    def of_dtype(x: Any) -> Any:
        return _single if x == types.float32 else _double

    compiled(globals(), ["exponential"], unordered=False)
    return exponential


@functools.cache
def compiled_exp() -> Any:
    """:func:`exp_in_place` by numba, for other kernels to call."""
    compiled_exponential()
    compiled(globals(), ["exp_in_place"], unordered=False)
    return exp_in_place
