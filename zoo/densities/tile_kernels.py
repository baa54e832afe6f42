"""Gaussian mixtures over tiles of rows, to be compiled: E step and sums for the M step.

Differences from the means come first, then they are whitened, as the formula is written: nothing cancels. Only a
tile's numbers are ever written. Rows lie side by side in the vectors, four features by four at once, so that a number
is loaded for every two products; that is fast on any processor, whichever library of matrix products is at hand.

A tile is in the dtype of the data, sums over tiles are in float64. Kernels take whole arrays and the number of a
component: a view of a part would cost more than some of the loops here.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from zoo.core.exponential import compiled_exponential
from zoo.core.exponential import exponential as _exp
from zoo.core.parallel import compiled

__all__ = ["compiled_tiles", "tile_rows"]

#: Bytes of a feature in a tile, so that what is read again and again stays in a processor's first cache; more where
#: covariances are diagonal.
_FULL_BYTES, _DIAGONAL_BYTES = 1024, 1536
#: Norms that are multiplied before a logarithm is taken: each is at most the number of components.
_PRODUCTS = 32


def tile_rows(diagonal: bool, bits: int) -> int:
    """Rows of a tile of numbers of so many bits: known when a kernel is compiled, so that its loops are unrolled."""
    return 8 * (_DIAGONAL_BYTES if diagonal else _FULL_BYTES) // bits


def _scratch(rows: int, columns: int, like: Any) -> Any:
    """Zeros (rows, columns) of the dtype of ``like``, at the beginning of a cache line: vectors that straddle lines
    are read at half of the speed."""
    size, width = rows * columns, like.itemsize
    numbers = np.zeros(size + 64 // width, like.dtype)
    skip = (-numbers.ctypes.data % 64) // width
    return numbers[skip : skip + size].reshape(rows, columns)


def _transpose(x: Any, start: int, active: int, columns: Any) -> None:
    """columns[:, q] = x[start + q], row by row, as they stream in; from ``active`` on the first again, for nothing."""
    for q in range(columns.shape[1]):
        n = start + (q if q < active else 0)
        for d in range(x.shape[1]):
            columns[d, q] = x[n, d]


def _subtract(k: int, columns: Any, points: Any, out: Any) -> None:
    for d in range(len(columns)):
        c = points[k, d]
        for q in range(columns.shape[1]):
            out[d, q] = columns[d, q] - c


def _diagonal_joint(k: int, columns: Any, heights: Any, w: Any, means: Any, rest: Any, joint: Any) -> None:
    """joint[k, q] = heights[k] - |w_k (columns[:, q] - means[k]) + rest[k]|^2 / 2, w_k the diagonal (1, D)."""
    size, rows = len(columns), tile_rows(True, np.finfo(joint.dtype).bits)
    height, half = heights[k], joint.dtype.type(0.5)
    for d in range(0, size, 4):
        a0, a1, a2, a3 = w[k, 0, d], w[k, 0, d + 1], w[k, 0, d + 2], w[k, 0, d + 3]
        b0, b1, b2, b3 = rest[k, d], rest[k, d + 1], rest[k, d + 2], rest[k, d + 3]
        c0, c1, c2, c3 = means[k, d], means[k, d + 1], means[k, d + 2], means[k, d + 3]
        for q in range(rows):
            y0, y1 = (columns[d, q] - c0) * a0 + b0, (columns[d + 1, q] - c1) * a1 + b1
            y2, y3 = (columns[d + 2, q] - c2) * a2 + b2, (columns[d + 3, q] - c3) * a3 + b3
            before = height if d == 0 else joint[k, q]
            joint[k, q] = before - half * ((y0 * y0 + y1 * y1) + (y2 * y2 + y3 * y3))


def _full_joint(
    k: int, columns: Any, heights: Any, w: Any, means: Any, rest: Any, difference: Any, white: Any, joint: Any
) -> None:
    """joint[k, q] = heights[k] - |w_k (columns[:, q] - means[k]) + rest[k]|^2 / 2, w_k lower triangular.

    ``white`` (4, rows) is overwritten.
    """
    size, rows = len(columns), tile_rows(False, np.finfo(joint.dtype).bits)
    height, half = heights[k], joint.dtype.type(0.5)
    _subtract(k, columns, means, difference)
    for i in range(0, size, 4):
        b0, b1, b2, b3 = rest[k, i], rest[k, i + 1], rest[k, i + 2], rest[k, i + 3]
        for j in range(0, i, 4):
            a00, a01, a02, a03 = w[k, i, j], w[k, i, j + 1], w[k, i, j + 2], w[k, i, j + 3]
            a10, a11, a12, a13 = w[k, i + 1, j], w[k, i + 1, j + 1], w[k, i + 1, j + 2], w[k, i + 1, j + 3]
            a20, a21, a22, a23 = w[k, i + 2, j], w[k, i + 2, j + 1], w[k, i + 2, j + 2], w[k, i + 2, j + 3]
            a30, a31, a32, a33 = w[k, i + 3, j], w[k, i + 3, j + 1], w[k, i + 3, j + 2], w[k, i + 3, j + 3]
            for q in range(rows):
                x0, x1, x2, x3 = difference[j, q], difference[j + 1, q], difference[j + 2, q], difference[j + 3, q]
                y0, y1 = b0 if j == 0 else white[0, q], b1 if j == 0 else white[1, q]
                y2, y3 = b2 if j == 0 else white[2, q], b3 if j == 0 else white[3, q]
                white[0, q] = y0 + a00 * x0 + a01 * x1 + a02 * x2 + a03 * x3
                white[1, q] = y1 + a10 * x0 + a11 * x1 + a12 * x2 + a13 * x3
                white[2, q] = y2 + a20 * x0 + a21 * x1 + a22 * x2 + a23 * x3
                white[3, q] = y3 + a30 * x0 + a31 * x1 + a32 * x2 + a33 * x3
        a00 = w[k, i, i]
        a10, a11 = w[k, i + 1, i], w[k, i + 1, i + 1]
        a20, a21, a22 = w[k, i + 2, i], w[k, i + 2, i + 1], w[k, i + 2, i + 2]
        a30, a31, a32, a33 = w[k, i + 3, i], w[k, i + 3, i + 1], w[k, i + 3, i + 2], w[k, i + 3, i + 3]
        for q in range(rows):
            x0, x1, x2, x3 = difference[i, q], difference[i + 1, q], difference[i + 2, q], difference[i + 3, q]
            y0, y1 = b0 if i == 0 else white[0, q], b1 if i == 0 else white[1, q]
            y2, y3 = b2 if i == 0 else white[2, q], b3 if i == 0 else white[3, q]
            y0 += a00 * x0
            y1 += a10 * x0 + a11 * x1
            y2 += a20 * x0 + a21 * x1 + a22 * x2
            y3 += a30 * x0 + a31 * x1 + a32 * x2 + a33 * x3
            before = height if i == 0 else joint[k, q]
            joint[k, q] = before - half * (y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3)


def _diagonal_moments(k: int, columns: Any, about: Any, weight: Any, first: Any, second: Any) -> None:
    """Adds w (x - a) to first[k] and w (x - a)^2 to second[k], (1, D)."""
    size, rows = len(columns), tile_rows(True, np.finfo(weight.dtype).bits)
    zero = weight[0] - weight[0]  # of the dtype
    for d in range(0, size, 4):
        c0, c1, c2, c3 = about[k, d], about[k, d + 1], about[k, d + 2], about[k, d + 3]
        f0, f1, f2, f3 = zero, zero, zero, zero
        s0, s1, s2, s3 = zero, zero, zero, zero
        for q in range(rows):
            r = weight[q]
            x0, x1 = columns[d, q] - c0, columns[d + 1, q] - c1
            x2, x3 = columns[d + 2, q] - c2, columns[d + 3, q] - c3
            y0, y1, y2, y3 = r * x0, r * x1, r * x2, r * x3
            f0 += y0
            f1 += y1
            f2 += y2
            f3 += y3
            s0 += y0 * x0
            s1 += y1 * x1
            s2 += y2 * x2
            s3 += y3 * x3
        first[k, d] += f0
        first[k, d + 1] += f1
        first[k, d + 2] += f2
        first[k, d + 3] += f3
        second[k, 0, d] += s0
        second[k, 0, d + 1] += s1
        second[k, 0, d + 2] += s2
        second[k, 0, d + 3] += s3


def _full_moments(
    k: int, columns: Any, about: Any, weight: Any, difference: Any, scaled: Any, first: Any, second: Any
) -> None:
    """Adds w (x - a) to first[k], and w (x - a)(x - a)^T, its lower half, in blocks, to second[k]."""
    size, rows = len(columns), tile_rows(False, np.finfo(weight.dtype).bits)
    zero = weight[0] - weight[0]  # of the dtype
    _subtract(k, columns, about, difference)
    for d in range(size):
        total = zero
        for q in range(rows):
            v = difference[d, q] * weight[q]
            scaled[d, q] = v
            total += v
        first[k, d] += total
    for i in range(0, size, 4):
        for j in range(0, i + 4, 4):
            s00, s01, s02, s03 = zero, zero, zero, zero
            s10, s11, s12, s13 = zero, zero, zero, zero
            s20, s21, s22, s23 = zero, zero, zero, zero
            s30, s31, s32, s33 = zero, zero, zero, zero
            for q in range(rows):
                x0, x1, x2, x3 = difference[j, q], difference[j + 1, q], difference[j + 2, q], difference[j + 3, q]
                y0, y1, y2, y3 = scaled[i, q], scaled[i + 1, q], scaled[i + 2, q], scaled[i + 3, q]
                s00 += y0 * x0
                s01 += y0 * x1
                s02 += y0 * x2
                s03 += y0 * x3
                s10 += y1 * x0
                s11 += y1 * x1
                s12 += y1 * x2
                s13 += y1 * x3
                s20 += y2 * x0
                s21 += y2 * x1
                s22 += y2 * x2
                s23 += y2 * x3
                s30 += y3 * x0
                s31 += y3 * x1
                s32 += y3 * x2
                s33 += y3 * x3
            for row, values in (
                (i, (s00, s01, s02, s03)), (i + 1, (s10, s11, s12, s13)),
                (i + 2, (s20, s21, s22, s23)), (i + 3, (s30, s31, s32, s33)),
            ):  # fmt: skip
                second[k, row, j] += values[0]
                second[k, row, j + 1] += values[1]
                second[k, row, j + 2] += values[2]
                second[k, row, j + 3] += values[3]


def _peaks(joint: Any, peak: Any) -> None:
    """The largest of each column; NaN where the first is that."""
    rows = len(peak)
    for q in range(rows):
        peak[q] = joint[0, q]
    for k in range(1, len(joint)):
        for q in range(rows):
            peak[q] = joint[k, q] if joint[k, q] > peak[q] else peak[q]


def _exponentials(joint: Any, peak: Any, norm: Any) -> None:
    """exp(joint - peak) in place, and what each column of them adds up to."""
    rows = len(peak)
    for k in range(len(joint)):
        for q in range(rows):
            e = _exp(joint[k, q] - peak[q])
            joint[k, q] = e
            norm[q] = e if k == 0 else norm[q] + e


def _weigh(k: int, joint: Any, norm: Any, weight: Any) -> Any:
    """weight = joint[k] norm, and what it adds up to."""
    total = norm[0] - norm[0]
    for q in range(len(weight)):
        r = joint[k, q] * norm[q]
        weight[q] = r
        total += r
    return total


def tiles_kernel(
    x: Any, counts: Any, labels: Any, heights: Any, shift: float, w: Any, means: Any, rest: Any, about: Any,
    hard: bool, totals: Any, count: Any, first: Any, second: Any, odd: Any,
) -> None:  # fmt: skip
    """Adds a slice of rows to its sums; ``odd`` marks tiles that are in none of them.

    Args:
        shift: what was taken from all heights.
        rest: -w_k of what the dtype left of the means, (K, D).
    """
    dtype = means.dtype
    components, size = means.shape
    diagonal = w.shape[1] < w.shape[2]
    tile = tile_rows(diagonal, np.finfo(dtype).bits)
    height = 1 if diagonal else size
    columns, white = _scratch(size, tile, means), _scratch(4, tile, means)
    difference, scaled = _scratch(height, tile, means), _scratch(height, tile, means)
    joint, rows = _scratch(components, tile, means), _scratch(3, tile, means)
    weight, peak, norm = rows[0], rows[1], rows[2]
    best = np.zeros(tile, np.int64)
    zero, one = dtype.type(0.0), dtype.type(1.0)
    for number in range(len(odd)):
        start = number * tile
        active = min(tile, len(x) - start)
        _transpose(x, start, active, columns)
        for k in range(components):
            if diagonal:
                _diagonal_joint(k, columns, heights, w, means, rest, joint)
            else:
                _full_joint(k, columns, heights, w, means, rest, difference, white, joint)
        if len(labels):
            for q in range(active):
                for k in range(components):
                    if labels[start + q] >= 0 and labels[start + q] != k:
                        joint[k, q] = -np.inf
        _peaks(joint, peak)
        if hard:
            for k in range(components - 1, -1, -1):
                for q in range(tile):
                    best[q] = k if joint[k, q] == peak[q] else best[q]
        _exponentials(joint, peak, norm)
        for q in range(active):
            if not norm[q] >= one:  # the largest is 1 if it is a number
                odd[number] = True
        if odd[number]:
            continue
        likely, peaks = 0.0, shift * active
        if len(counts):
            peaks = 0.0
            for q in range(active):
                times = counts[start + q]
                peaks += times * (shift + peak[q])
                likely += times * math.log(norm[q])
                norm[q] = times if hard else times / norm[q]
        else:
            for q in range(active):
                peaks += peak[q]
            for begin in range(0, active, _PRODUCTS):
                product = 1.0
                for q in range(begin, min(begin + _PRODUCTS, active)):
                    product *= norm[q]
                likely += math.log(product)
            for q in range(active):
                norm[q] = one if hard else one / norm[q]
        for q in range(active, tile):
            norm[q] = zero
        likely += peaks
        totals[0] += likely
        totals[1] += peaks if hard else likely
        if hard:
            for k in range(components):
                for q in range(tile):
                    joint[k, q] = one if best[q] == k else zero
        for k in range(components):
            present = _weigh(k, joint, norm, weight)
            if present > zero:
                count[k] += present
                if diagonal:
                    _diagonal_moments(k, columns, about, weight, first, second)
                else:
                    _full_moments(k, columns, about, weight, difference, scaled, first, second)


@functools.cache
def compiled_tiles() -> Any:
    """The kernel, compiled by numba at the first call."""
    names = globals()
    names["_exp"] = compiled_exponential()
    compiled(names, ["tile_rows", "_subtract", "_diagonal_joint", "_exponentials"], unordered=False)
    compiled(names, ["_scratch", "_transpose", "_full_joint", "_diagonal_moments", "_full_moments", "_peaks", "_weigh"])
    compiled(names, ["tiles_kernel"])
    return names["tiles_kernel"]
