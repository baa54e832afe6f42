"""The E step of a Gaussian mixture and the sums for its M step in one compiled pass, a tile of rows at a time.

Differences from the means come first, then they are whitened, as the formula is written: nothing cancels. Only a
tile's numbers are ever written. Rows lie side by side in the vectors, four features by four at once, so that a number
is loaded for every two products; that is fast on any processor, whichever library of matrix products is at hand.

Sums are in float64. The products of a tile are in the dtype of the data: float32 changes results as a change of every
difference x - mu by a few parts in 10^8 would.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.exponential import compiled_exp
from zoo.core.exponential import exp_in_place as _exp
from zoo.core.memory import PIECE_NUMBERS
from zoo.core.parallel import compiled, in_parallel, pieces

__all__ = ["TILE", "Sums", "sums"]

#: Rows of a tile: a known number, so that loops over them are unrolled.
TILE = 128
#: Features are padded by zeros to a multiple of it.
_BLOCK = 4
#: Slices of the data: their number depends on sizes alone, so that sums are the same whatever the number of threads,
#: and is large, so that a thread which comes late to its core is waited for no longer than a slice takes.
_MOST_SLICES, _FEWEST_SLICES, _LEAST_ROWS = 64, 4, 32 * TILE


@dataclass(frozen=True)
class Sums:
    """What the rows add up to, with r the responsibilities and a the points that second moments are taken about.

    Shapes:
        log_likelihood, objective: (). count: sum of r, (K,). first: sum of r (x - a), (K, D).
        second: sum of r (x - a)(x - a)^T, (K, D, D), or its diagonal, (K, D).
        left_out: ranges of rows, in none of the sums, where a density is no number above zero.
    """

    log_likelihood: Tensor
    objective: Tensor
    count: Tensor
    first: Tensor
    second: Tensor
    left_out: list[tuple[int, int]]


def sums(
    x: Tensor, heights: Tensor, whitener: Tensor, means: Tensor, about: Tensor, hard: bool,
    counts: Tensor | None, labels: Tensor | None,
) -> Sums:  # fmt: skip
    """One pass over the rows.

    Args:
        x: (N, D), on the CPU. heights: ln w_k N(mu_k; mu_k, Sigma_k), (K,).
        whitener: inverses of the Cholesky factors, (K, D, D), or of standard deviations, (K, D).
        means: (K, D), float64. about: (K, D), float64, the points that moments are taken about.
        hard: each row counts wholly for its most probable component, the first of equals.
        counts: (N,), how often each row counts. labels: (N,), each row's component, -1 where it is not known.
    """
    kernel = _kernel()
    dtype = torch.float32 if x.dtype == torch.float32 else torch.float64
    components, features = means.shape
    diagonal = whitener.dim() == 2
    size = -(-features // _BLOCK) * _BLOCK
    flat = whitener.unsqueeze(1) if diagonal else whitener
    height, width = (1, size) if diagonal else (size, size)
    padded = torch.zeros(components, height, width, dtype=dtype)
    padded[:, : flat.shape[1], :features] = flat
    rows = x.detach()
    most = PIECE_NUMBERS // (components * width * height)
    parts = pieces(len(x), max(_FEWEST_SLICES, min(_MOST_SLICES, most)), _LEAST_ROWS)
    whole = (
        heights.double().contiguous().numpy(),
        padded.numpy(),
        _halves(means, size, dtype),
        _halves(about, size, dtype),
    )

    def add(start: int, stop: int) -> tuple[Any, ...]:
        values = rows[start:stop].to(dtype).contiguous().numpy()
        beside = (
            np.zeros(0) if counts is None else counts[start:stop].double().contiguous().numpy(),
            np.zeros(0, dtype=np.int64) if labels is None else labels[start:stop].long().contiguous().numpy(),
        )
        found = (
            np.zeros(2),
            np.zeros(components),
            np.zeros((components, size)),
            np.zeros((components, height, width)),
            np.zeros(-(-(stop - start) // TILE), dtype=np.bool_),
        )
        kernel(values, *beside, *whole, hard, *found)
        return found

    slices = in_parallel([functools.partial(add, *part) for part in parts], pure=True)
    total, each, first, second = (torch.from_numpy(sum(found[i] for found in slices)) for i in range(4))
    second = second[:, 0, :features] if diagonal else second[:, :features, :features].tril()
    if not diagonal:
        second = second + second.tril(-1).mT
    left_out = _ranges([found[4] for found in slices], parts)
    return Sums(total[0], total[1], each, first[:, :features], second, left_out)


def _halves(points: Tensor, size: int, dtype: torch.dtype) -> Any:
    """(2, K, size): points in a dtype, and what that left of them, which is nothing in float64."""
    both = torch.zeros(2, points.shape[0], size, dtype=dtype)
    both[0, :, : points.shape[1]] = points
    both[1, :, : points.shape[1]] = points - both[0, :, : points.shape[1]].double()
    return both.numpy()


def _ranges(odd: list[Any], parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The rows of marked tiles, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for marks, (start, stop) in zip(odd, parts, strict=True):
        for tile in np.flatnonzero(marks).tolist():
            low, high = start + tile * TILE, min(start + (tile + 1) * TILE, stop)
            if ranges and ranges[-1][1] == low:
                low = ranges.pop()[0]
            ranges.append((low, high))
    return ranges


def _subtract(columns: Any, point: Any, rest: Any, out: Any) -> None:
    """out = columns - (point + rest), in this order: compiled without reordering sums."""
    for d in range(len(columns)):
        c, e = point[d], rest[d]
        for q in range(TILE):
            out[d, q] = (columns[d, q] - c) - e


def _diagonal_squares(columns: Any, point: Any, rest: Any, w: Any, out: Any) -> None:
    """out[q] = |w (columns[:, q] - point - rest)|^2, w the diagonal (1, D): compiled without reordering sums."""
    for d in range(0, len(columns), 4):
        a0, a1, a2, a3 = w[0, d], w[0, d + 1], w[0, d + 2], w[0, d + 3]
        c0, c1, c2, c3 = point[d], point[d + 1], point[d + 2], point[d + 3]
        e0, e1, e2, e3 = rest[d], rest[d + 1], rest[d + 2], rest[d + 3]
        for q in range(TILE):
            y0, y1 = ((columns[d, q] - c0) - e0) * a0, ((columns[d + 1, q] - c1) - e1) * a1
            y2, y3 = ((columns[d + 2, q] - c2) - e2) * a2, ((columns[d + 3, q] - c3) - e3) * a3
            v = (y0 * y0 + y1 * y1) + (y2 * y2 + y3 * y3)
            out[q] = v if d == 0 else out[q] + v


def _squares(difference: Any, w: Any, white: Any, out: Any) -> None:
    """out[q] = |w difference[:, q]|^2, w lower triangular; ``white`` (4, rows) is overwritten."""
    size = len(difference)
    for i in range(0, size, 4):
        for j in range(0, i, 4):
            a00, a01, a02, a03 = w[i, j], w[i, j + 1], w[i, j + 2], w[i, j + 3]
            a10, a11, a12, a13 = w[i + 1, j], w[i + 1, j + 1], w[i + 1, j + 2], w[i + 1, j + 3]
            a20, a21, a22, a23 = w[i + 2, j], w[i + 2, j + 1], w[i + 2, j + 2], w[i + 2, j + 3]
            a30, a31, a32, a33 = w[i + 3, j], w[i + 3, j + 1], w[i + 3, j + 2], w[i + 3, j + 3]
            if j == 0:
                for q in range(TILE):
                    x0, x1, x2, x3 = difference[j, q], difference[j + 1, q], difference[j + 2, q], difference[j + 3, q]
                    white[0, q] = a00 * x0 + a01 * x1 + a02 * x2 + a03 * x3
                    white[1, q] = a10 * x0 + a11 * x1 + a12 * x2 + a13 * x3
                    white[2, q] = a20 * x0 + a21 * x1 + a22 * x2 + a23 * x3
                    white[3, q] = a30 * x0 + a31 * x1 + a32 * x2 + a33 * x3
            else:
                for q in range(TILE):
                    x0, x1, x2, x3 = difference[j, q], difference[j + 1, q], difference[j + 2, q], difference[j + 3, q]
                    white[0, q] += a00 * x0 + a01 * x1 + a02 * x2 + a03 * x3
                    white[1, q] += a10 * x0 + a11 * x1 + a12 * x2 + a13 * x3
                    white[2, q] += a20 * x0 + a21 * x1 + a22 * x2 + a23 * x3
                    white[3, q] += a30 * x0 + a31 * x1 + a32 * x2 + a33 * x3
        a00 = w[i, i]
        a10, a11 = w[i + 1, i], w[i + 1, i + 1]
        a20, a21, a22 = w[i + 2, i], w[i + 2, i + 1], w[i + 2, i + 2]
        a30, a31, a32, a33 = w[i + 3, i], w[i + 3, i + 1], w[i + 3, i + 2], w[i + 3, i + 3]
        if i == 0:
            for q in range(TILE):
                x0, x1, x2, x3 = difference[i, q], difference[i + 1, q], difference[i + 2, q], difference[i + 3, q]
                y0 = a00 * x0
                y1 = a10 * x0 + a11 * x1
                y2 = a20 * x0 + a21 * x1 + a22 * x2
                y3 = a30 * x0 + a31 * x1 + a32 * x2 + a33 * x3
                out[q] = y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3
        else:
            for q in range(TILE):
                x0, x1, x2, x3 = difference[i, q], difference[i + 1, q], difference[i + 2, q], difference[i + 3, q]
                y0 = white[0, q] + a00 * x0
                y1 = white[1, q] + a10 * x0 + a11 * x1
                y2 = white[2, q] + a20 * x0 + a21 * x1 + a22 * x2
                y3 = white[3, q] + a30 * x0 + a31 * x1 + a32 * x2 + a33 * x3
                out[q] += y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3


def _moments(difference: Any, weight: Any, scaled: Any, first: Any, second: Any) -> None:
    """Adds w d to ``first``, and w d d^T (its lower half, in blocks) or w d^2 to ``second``, (D, D) or (1, D)."""
    size = len(difference)
    zero = difference[0, 0] - difference[0, 0]  # of the dtype
    if len(second) < size:
        for d in range(0, size, 4):
            f0, f1, f2, f3 = zero, zero, zero, zero
            s0, s1, s2, s3 = zero, zero, zero, zero
            for q in range(TILE):
                r = weight[q]
                x0, x1, x2, x3 = difference[d, q], difference[d + 1, q], difference[d + 2, q], difference[d + 3, q]
                y0, y1, y2, y3 = r * x0, r * x1, r * x2, r * x3
                f0 += y0
                f1 += y1
                f2 += y2
                f3 += y3
                s0 += y0 * x0
                s1 += y1 * x1
                s2 += y2 * x2
                s3 += y3 * x3
            first[d] += f0
            first[d + 1] += f1
            first[d + 2] += f2
            first[d + 3] += f3
            second[0, d] += s0
            second[0, d + 1] += s1
            second[0, d + 2] += s2
            second[0, d + 3] += s3
        return
    for d in range(size):
        total = zero
        for q in range(TILE):
            v = difference[d, q] * weight[q]
            scaled[d, q] = v
            total += v
        first[d] += total
    for i in range(0, size, 4):
        for j in range(0, i + 4, 4):
            s00, s01, s02, s03 = zero, zero, zero, zero
            s10, s11, s12, s13 = zero, zero, zero, zero
            s20, s21, s22, s23 = zero, zero, zero, zero
            s30, s31, s32, s33 = zero, zero, zero, zero
            for q in range(TILE):
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
                second[row, j] += values[0]
                second[row, j + 1] += values[1]
                second[row, j + 2] += values[2]
                second[row, j + 3] += values[3]


def _densities(
    columns: Any, heights: Any, w: Any, means: Any, difference: Any, white: Any, square: Any, out: Any
) -> None:
    """out[k, q] = heights[k] - |w_k (x_q - mu_k)|^2 / 2 of a tile."""
    for k in range(len(heights)):
        if w.shape[1] < w.shape[2]:
            _diagonal_squares(columns, means[0, k], means[1, k], w[k], square)
        else:
            _subtract(columns, means[0, k], means[1, k], difference)
            _squares(difference, w[k], white, square)
        for q in range(TILE):
            out[k, q] = heights[k] - 0.5 * square[q]


def tiles_kernel(
    x: Any, counts: Any, labels: Any, heights: Any, w: Any, means: Any, about: Any, hard: bool,
    totals: Any, count: Any, first: Any, second: Any, odd: Any,
) -> None:  # fmt: skip
    """Adds a slice of rows to its sums; ``odd`` marks tiles that are in none of them."""
    rows, features = x.shape
    components, size = means.shape[1:]
    columns, difference = np.zeros((size, TILE), means.dtype), np.zeros((size, TILE), means.dtype)
    scaled, white = np.zeros((size, TILE), means.dtype), np.zeros((4, TILE), means.dtype)
    square, weight = np.zeros(TILE, means.dtype), np.zeros(TILE, means.dtype)
    joint, peak, norm = np.zeros((components, TILE)), np.zeros(TILE), np.zeros(TILE)
    best, work = np.zeros(TILE, np.int64), np.zeros(TILE)
    bits = work.view(np.int64)
    for tile in range(len(odd)):
        start = tile * TILE
        active = min(TILE, rows - start)
        for q in range(TILE):
            n = start + (q if q < active else 0)  # the last tile is filled up with a row that then counts for nothing
            for d in range(features):
                columns[d, q] = x[n, d]
        _densities(columns, heights, w, means, difference, white, square, joint)
        if len(labels):
            for q in range(active):
                for k in range(components):
                    if labels[start + q] >= 0 and labels[start + q] != k:
                        joint[k, q] = -np.inf
        for q in range(TILE):
            peak[q] = joint[0, q]
            norm[q] = 0.0
        for k in range(1, components):
            for q in range(TILE):
                peak[q] = joint[k, q] if joint[k, q] > peak[q] else peak[q]
        if hard:
            for k in range(components - 1, -1, -1):
                for q in range(TILE):
                    best[q] = k if joint[k, q] == peak[q] else best[q]
        for k in range(components):
            for q in range(TILE):
                joint[k, q] -= peak[q]
            _exp(joint[k], TILE, work, bits)
            for q in range(TILE):
                norm[q] += joint[k, q]
        for q in range(active):
            if not norm[q] >= 1.0:  # the largest is 1 if it is a number
                odd[tile] = True
        if odd[tile]:
            continue
        likely, peaks, product = 0.0, 0.0, 1.0
        for q in range(active):
            times = counts[start + q] if len(counts) else 1.0
            peaks += times * peak[q]
            if len(counts):
                likely += times * math.log(norm[q])
            else:
                product *= norm[q]
                if product > 1e100:
                    likely += math.log(product)
                    product = 1.0
            norm[q] = times if hard else times / norm[q]
        for q in range(active, TILE):
            norm[q] = 0.0
        likely += math.log(product) + peaks
        totals[0] += likely
        totals[1] += peaks if hard else likely
        for k in range(components):
            present = 0.0
            for q in range(TILE):
                r = (1.0 if best[q] == k else 0.0) if hard else joint[k, q]
                r *= norm[q]
                weight[q] = r
                present += r
            if present > 0.0:
                count[k] += present
                _subtract(columns, about[0, k], about[1, k], difference)
                _moments(difference, weight, scaled, first[k], second[k])


@functools.cache
def _kernel() -> Any:
    """The kernel, compiled by numba at the first call."""
    names = globals()
    names["_exp"] = compiled_exp()
    compiled(names, ["_subtract", "_diagonal_squares"], unordered=False)
    compiled(names, ["_squares", "_moments", "_densities", "tiles_kernel"])
    return names["tiles_kernel"]
