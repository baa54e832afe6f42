"""Compiled kernels of one step of few states, many sequences side by side: the lanes of vectors.

The innermost loops run over contiguous memory, and are spelled out, as slices would cost reference counts.

``emission`` (N, T, K) holds log-densities, and ``family`` (0, K) nothing; or ``emission`` (N, T, D) holds the data, and
``family`` (1 + 2 D, K) the constants, centres and half precisions of diagonal Gaussians (``diagonal.coefficients``).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from zoo.core.exponential import compiled_exp
from zoo.core.exponential import exp_in_place as _exp
from zoo.core.parallel import compiled

__all__ = ["compile_kernels", "count", "gather", "mix", "weigh_lanes"]


def mix(a: Any, x: Any, out: Any, size: int, lanes: int) -> None:
    """out[j, q] = sum_i a[i, j] x[i, q]; four i at once, as loads and stores decide."""
    head = size if size < 6 else (size - 1) % 4 + 1
    for j in range(size):
        if head == 1:
            a0 = a[0, j]
            for q in range(lanes):
                out[j, q] = a0 * x[0, q]
        elif head == 2:
            a0, a1 = a[0, j], a[1, j]
            for q in range(lanes):
                out[j, q] = a0 * x[0, q] + a1 * x[1, q]
        elif head == 3:
            a0, a1, a2 = a[0, j], a[1, j], a[2, j]
            for q in range(lanes):
                out[j, q] = a0 * x[0, q] + a1 * x[1, q] + a2 * x[2, q]
        elif head == 4:
            a0, a1, a2, a3 = a[0, j], a[1, j], a[2, j], a[3, j]
            for q in range(lanes):
                out[j, q] = a0 * x[0, q] + a1 * x[1, q] + a2 * x[2, q] + a3 * x[3, q]
        else:
            a0, a1, a2, a3, a4 = a[0, j], a[1, j], a[2, j], a[3, j], a[4, j]
            for q in range(lanes):
                out[j, q] = a0 * x[0, q] + a1 * x[1, q] + a2 * x[2, q] + a3 * x[3, q] + a4 * x[4, q]
        for i in range(head, size, 4):
            a0, a1, a2, a3 = a[i, j], a[i + 1, j], a[i + 2, j], a[i + 3, j]
            for q in range(lanes):
                out[j, q] += a0 * x[i, q] + a1 * x[i + 1, q] + a2 * x[i + 2, q] + a3 * x[i + 3, q]


def weigh_lanes(
    emission: Any, family: Any, rows: Any, start: Any, low: int, t: int, active: int, seen: Any, out: Any, shift: Any,
) -> None:  # fmt: skip
    """out[k, q] = exp(ln p - shift[q]) at step t of each lane's row; shift is the largest ln p of the step.

    ln p is ``emission`` itself, or the family's density of the data there, which are left in ``seen`` (D, lanes).
    """
    size, lanes = out.shape
    features = len(family) // 2
    if features:
        for q in range(active):  # unsigned, as a signed index would be looked at for being negative
            n, s = np.uint64(rows[low + q]), np.uint64(start[low + q] + t)
            for d in range(features % 4):
                seen[d, q] = emission[n, s, d]
        for d in range(features % 4, features, 4):
            for q in range(active):
                n, s = np.uint64(rows[low + q]), np.uint64(start[low + q] + t)
                seen[d, q], seen[d + 1, q] = emission[n, s, d], emission[n, s, d + 1]
                seen[d + 2, q], seen[d + 3, q] = emission[n, s, d + 2], emission[n, s, d + 3]
        for k in range(size):
            top = family[0, k]
            for q in range(active):
                out[k, q] = top
            for d in range(features % 4):
                c0, h0 = family[1 + d, k], family[1 + features + d, k]
                for q in range(active):
                    r0 = seen[d, q] - c0
                    out[k, q] -= r0 * r0 * h0
            for d in range(features % 4, features, 4):  # four at once, as loads and stores of out decide
                c0, c1, c2, c3 = family[1 + d, k], family[2 + d, k], family[3 + d, k], family[4 + d, k]
                h = 1 + features + d
                h0, h1, h2, h3 = family[h, k], family[h + 1, k], family[h + 2, k], family[h + 3, k]
                for q in range(active):
                    r0, r1, r2, r3 = seen[d, q] - c0, seen[d + 1, q] - c1, seen[d + 2, q] - c2, seen[d + 3, q] - c3
                    out[k, q] -= r0 * r0 * h0 + r1 * r1 * h1 + r2 * r2 * h2 + r3 * r3 * h3
    else:
        for q in range(active):
            n, s = rows[low + q], start[low + q] + t
            for k in range(size):
                out[k, q] = emission[n, s, k]
    for q in range(active):
        shift[q] = out[0, q]
    for k in range(1, size):
        for q in range(active):
            shift[q] = out[k, q] if out[k, q] > shift[q] else shift[q]
    for k in range(size):
        for q in range(active):
            out[k, q] -= shift[q]  # NaN, and so refused, if nothing is possible
        for q in range(active, lanes):
            out[k, q] = 0.0
    _exp(out.reshape(-1), size * lanes)


def gather(seen: Any, weight: Any, other: Any, other_weight: Any, family: Any, active: int, sums: Any) -> None:
    """Adds w, w (x - centre) and w (x - centre)^2 of two steps to each lane's sums (1 + 2 D, K, lanes).

    Two at once, as loads and stores of the sums decide.
    """
    features, size = len(seen), len(weight)
    for k in range(size):
        for q in range(active):
            sums[0, k, q] += weight[k, q] + other_weight[k, q]
        for d in range(features):
            centre = family[1 + d, k]
            for q in range(active):
                r, r2 = seen[d, q] - centre, other[d, q] - centre
                s, s2 = weight[k, q] * r, other_weight[k, q] * r2
                sums[1 + d, k, q] += s + s2
                sums[1 + features + d, k, q] += s * r + s2 * r2


def count(forward: Any, after: Any, other: Any, other_after: Any, active: int, counts: Any) -> None:
    """Adds forward (K, lanes) times after (K, lanes) of two steps to each lane's counts (K, K, lanes)."""
    size = len(forward)
    for i in range(size):
        for j in range(size):
            for q in range(active):
                counts[i, j, q] += forward[i, q] * after[j, q] + other[i, q] * other_after[j, q]


@functools.lru_cache(maxsize=1)
def compile_kernels() -> None:
    """Replaces the kernels by numba's."""
    names = globals()
    names["_exp"] = compiled_exp()
    compiled(names, ["weigh_lanes"], unordered=False)
    compiled(names, ["mix", "gather", "count"])
