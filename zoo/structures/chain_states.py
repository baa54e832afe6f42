"""Compiled kernels of one sequence after the other, the states in the lanes of vectors."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np

from zoo.core.exponential import compiled_exp
from zoo.core.exponential import exp_in_place as _exp
from zoo.core.isolation import available_threads
from zoo.core.parallel import compiled, in_parallel

__all__ = [
    "backward_kernel",
    "both_ends",
    "combine_kernel",
    "compile_kernels",
    "forward_kernel",
    "states_kernel",
    "weigh_kernel",
]


def weigh_kernel(emission: Any, family: Any, start: int, stop: int, weights: Any, shift: Any) -> None:
    """weights[t] = exp(ln p - shift[t]), where shift is the largest ln p of the step, as in ``_weigh_lanes``."""
    size = weights.shape[1]
    features = len(family) // 2
    peaks = np.empty(8)
    for t in range(start, stop):
        for k in range(size):
            weights[t, k] = family[0, k] if features else emission[t, k]
        for d in range(features):
            for k in range(size):
                r = emission[t, d] - family[1 + d, k]
                weights[t, k] -= r * r * family[1 + features + d, k]
        # Eight maxima at once, then theirs: one after the other, each would wait for the one before.
        for q in range(8):
            peaks[q] = weights[t, q] if q < size else weights[t, 0]
        for k in range(8, size - 7, 8):
            for q in range(8):
                peaks[q] = weights[t, k + q] if weights[t, k + q] > peaks[q] else peaks[q]
        peak = peaks[0]
        for q in range(1, 8):
            peak = peaks[q] if peaks[q] > peak else peak
        for k in range(size - size % 8, size):
            peak = weights[t, k] if weights[t, k] > peak else peak
        shift[t] = peak
        for k in range(size):
            weights[t, k] -= peak  # NaN, and so refused, if nothing is possible
        _exp(weights[t], size)


def _times(a: Any, x: Any, out: Any) -> None:
    """out = x a, for a vector x and a matrix a; eight rows at once, as loads and stores of out decide."""
    size = a.shape[0]
    for j in range(size):
        out[j] = 0.0
    stop = size - size % 8
    for i in range(0, stop, 8):
        x0, x1, x2, x3, x4, x5, x6, x7 = x[i], x[i + 1], x[i + 2], x[i + 3], x[i + 4], x[i + 5], x[i + 6], x[i + 7]
        for j in range(size):
            first = x0 * a[i, j] + x1 * a[i + 1, j] + x2 * a[i + 2, j] + x3 * a[i + 3, j]
            out[j] += first + x4 * a[i + 4, j] + x5 * a[i + 5, j] + x6 * a[i + 6, j] + x7 * a[i + 7, j]
    for i in range(stop, size):
        x0 = x[i]
        for j in range(size):
            out[j] += x0 * a[i, j]


def forward_kernel(
    initial: Any, initial_shift: float, step: Any, step_shift: Any, varying: bool, weights: Any, shift: Any,
    length: int, forward: Any, keep: bool,
) -> tuple[float, bool]:  # fmt: skip
    """Scaled forward messages, each with its normaliser as its sum; the value, and whether no normaliser was tiny."""
    size = initial.shape[0]
    total, product, inverse = initial_shift, 1.0, 1.0
    for t in range(length):
        here, before = (t, t - 1) if keep else (t & 1, 1 - (t & 1))
        if t == 0:
            for j in range(size):
                forward[here, j] = initial[j]
        else:
            _times(step[t - 1 if varying else 0], forward[before], forward[here])
            total += step_shift[t - 1 if varying else 0]
        norm = 0.0
        for j in range(size):
            forward[here, j] *= weights[t, j] * inverse
            norm += forward[here, j]
        if not norm >= 1e-100:
            return -np.inf, False
        inverse = 1.0 / norm
        product *= norm
        total += shift[t]
        if not (1e-100 < product < 1e100):
            total += math.log(product)
            product = 1.0
    return total + math.log(product), True


def backward_kernel(step: Any, back: Any, varying: bool, weights: Any, length: int, backward: Any, scales: Any) -> None:
    """Backward messages that sum to one, and scales[t]: the factor that made backward[t - 1] so."""
    size = weights.shape[1]
    after = np.empty(size)
    for j in range(size):
        backward[length - 1, j] = 1.0
    for t in range(length - 1, 0, -1):
        for j in range(size):
            after[j] = weights[t, j] * backward[t, j]
        if varying:
            for i in range(size):
                dot = 0.0
                for j in range(size):
                    dot += step[t - 1, i, j] * after[j]
                backward[t - 1, i] = dot
        else:
            _times(back, after, backward[t - 1])
        norm = 0.0
        for i in range(size):
            norm += backward[t - 1, i]
        scales[t] = 1.0 / norm if norm > 0.0 else 0.0
        for i in range(size):
            backward[t - 1, i] *= scales[t]


def combine_kernel(
    step: Any, varying: bool, weights: Any, forward: Any, backward: Any, scales: Any, start: int, stop: int,
    smooth: Any, pairs: Any, write: bool,
) -> bool:  # fmt: skip
    """Marginals of steps start..stop, and pairs (t, t + 1) for t among them; whether nothing can have been lost."""
    length, size = forward.shape
    after = np.empty((4, size))
    origin = np.empty((4, size))
    held = 0
    for t in range(start, stop):
        norm, reach = 0.0, 0.0
        for j in range(size):
            norm += forward[t, j] * backward[t, j]
            reach += backward[t, j]
        if not (norm > 0.0 and reach <= 1e100 * norm):
            return False
        inverse = 1.0 / norm
        if not write:
            continue
        for j in range(size):
            smooth[t, j] = forward[t, j] * backward[t, j] * inverse
        if t + 1 == length:
            break
        inverse *= scales[t + 1]
        if varying:
            for i in range(size):
                f = forward[t, i] * inverse
                for j in range(size):
                    pairs[t, i, j] = f * step[t, i, j] * weights[t + 1, j] * backward[t + 1, j]
            continue
        for j in range(size):
            after[held, j] = weights[t + 1, j] * backward[t + 1, j] * inverse
            origin[held, j] = forward[t, j]
        held += 1
        if held == 4:  # four at once, as loads and stores of the sums decide
            for i in range(size):
                f0, f1, f2, f3 = origin[0, i], origin[1, i], origin[2, i], origin[3, i]
                for j in range(size):
                    pairs[0, i, j] += f0 * after[0, j] + f1 * after[1, j] + f2 * after[2, j] + f3 * after[3, j]
            held = 0
    for h in range(held):
        for i in range(size):
            f0 = origin[h, i]
            for j in range(size):
                pairs[0, i, j] += f0 * after[h, j]
    return True


def _add(rows: Any, weight: Any, family: Any, length: int, sums: Any) -> None:
    """Adds w, w (x - centre) and w (x - centre)^2 of so many rows to the sums (1 + 2 D, K)."""
    size, features = weight.shape[1], rows.shape[1]
    for t in range(length):
        for k in range(size):
            sums[0, k] += weight[t, k]
        for d in range(features):
            for k in range(size):
                r = rows[t, d] - family[1 + d, k]
                s = weight[t, k] * r
                sums[1 + d, k] += s
                sums[1 + features + d, k] += s * r


def states_kernel(
    initial: Any, initial_shift: Any, transition: Any, back: Any, shift: Any, emission: Any, family: Any, lengths: Any,
    low: int, high: int, slot: int, varying: bool, write: bool, full: bool, value: Any, bad: Any, opening: Any,
    pairs: Any, smooth: Any, sums: Any,
) -> None:  # fmt: skip
    """Sequences low..high one after the other; pairs as in ``lanes_kernel``, or per step if ``varying``."""
    longest, size = 0, initial.shape[1]
    for n in range(low, high):
        longest = max(longest, lengths[n])
    weights = np.empty((longest, size))
    shifts, scales = np.empty(longest), np.empty(longest)
    forward = np.empty((longest if full else 2, size))
    backward = np.empty((longest if full else 1, size))
    scratch = np.zeros((1, size, size))
    own_smooth = np.empty((1 if len(smooth) else longest, size))
    for n in range(low, high):
        length = lengths[n]
        own, which = n if initial.shape[0] > 1 else 0, n if varying else 0
        weigh_kernel(emission[n], family, 0, length, weights, shifts)
        value[n], good = forward_kernel(
            initial[own],
            initial_shift[own],
            transition[which],
            shift[which],
            varying,
            weights,
            shifts,
            length,
            forward,
            full,
        )
        if good and full:
            backward_kernel(transition[which], back, varying, weights, length, backward, scales)
            target = smooth[n] if len(smooth) else own_smooth
            if varying and write:
                both = pairs[n]
            else:
                both = scratch
                scratch[:] = 0.0
            good = combine_kernel(
                transition[which], varying, weights, forward[:length], backward, scales, 0, length, target, both, write
            )
            if good and write and not varying:
                into = n if slot < 0 else slot
                for i in range(size):
                    for j in range(size):
                        pairs[into, 0, i, j] += scratch[0, i, j]
            if good and write:
                for j in range(size):
                    opening[n, j] = target[0, j]
                if len(sums):
                    _add(emission[n], target, family, length, sums)
        bad[n] = not good


def both_ends(
    initial: Any, initial_shift: float, step: Any, back: Any, step_shift: Any, varying: bool, emission: Any,
    family: Any, length: int, write: bool, smooth: Any, pairs: Any,
) -> tuple[float, bool]:  # fmt: skip
    """One sequence by two threads, as the forward and the backward pass do not need each other: value and failure.

    Marginals go to ``smooth`` (T, K), and pairs to ``pairs`` (T - 1 or 1, K, K), to which they are added if shared.
    """
    k = len(initial)
    weights, forward, backward = np.empty((length, k)), np.empty((length, k)), np.empty((length, k))
    shifts, scales = np.empty(length), np.empty(length)
    edges = np.linspace(0, length, 2 * available_threads() + 1).astype(np.int64)
    pieces = [(int(a), int(b)) for a, b in itertools.pairwise(edges) if a < b]
    in_parallel([functools.partial(weigh_kernel, emission, family, a, b, weights, shifts) for a, b in pieces])
    forwards = functools.partial(
        forward_kernel, initial, initial_shift, step, step_shift, varying, weights, shifts, length, forward, True
    )
    backwards = functools.partial(backward_kernel, step, back, varying, weights, length, backward, scales)
    (total, good), _ = in_parallel([forwards, backwards])
    parts = np.zeros((len(pieces), 1, k, k))
    results = in_parallel([
        functools.partial(
            combine_kernel, step, varying, weights, forward, backward, scales, a, b, smooth,
            pairs if varying and write else parts[i], write,
        )
        for i, (a, b) in enumerate(pieces)
    ])  # fmt: skip
    bad = not (good and all(results))
    if not varying and not bad:
        pairs += parts.sum(0)
    return total, bad


@functools.lru_cache(maxsize=1)
def compile_kernels() -> None:
    """Replaces the kernels by numba's."""
    names = globals()
    names["_exp"] = compiled_exp()
    kernels = ("weigh_kernel", "_times", "forward_kernel", "backward_kernel", "combine_kernel", "_add", "states_kernel")
    compiled(names, kernels)
