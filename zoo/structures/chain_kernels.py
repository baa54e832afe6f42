"""Compiled kernels of ``chain.py``: plain Python that numba compiles at the first call.

The innermost loops run over contiguous memory, and are spelled out, as slices would cost reference counts.

``emission`` (N, T, K) holds log-densities, and ``family`` (0, K) nothing; or ``emission`` (N, T, D) holds the data, and
``family`` (1 + 2 D, K) the constants, centres and half precisions of diagonal Gaussians (``diagonal.coefficients``).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from zoo.core.exponential import compiled_exp
from zoo.core.exponential import exp_in_place as _exp
from zoo.core.parallel import compiled


def _mix(a: Any, x: Any, out: Any, size: int, lanes: int) -> None:
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


def _weigh_lanes(
    emission: Any, family: Any, rows: Any, start: Any, low: int, t: int, active: int, seen: Any, out: Any, shift: Any,
    work: Any, bits: Any,
) -> None:  # fmt: skip
    """out[k, q] = exp(ln p - shift[q]) at step t of each lane's row; shift is the largest ln p of the step.

    ln p is ``emission`` itself, or the family's density of the data there, which are left in ``seen`` (D, lanes).
    """
    size, lanes = out.shape
    features = len(family) // 2
    if features:
        for q in range(active):
            n, s = rows[low + q], start[low + q] + t
            for d in range(features):
                seen[d, q] = emission[n, s, d]
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
    _exp(out.reshape(-1), size * lanes, work, bits)


def _gather(seen: Any, weight: Any, other: Any, other_weight: Any, family: Any, active: int, sums: Any) -> None:
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


def _count(forward: Any, after: Any, other: Any, other_after: Any, active: int, counts: Any) -> None:
    """Adds forward (K, lanes) times after (K, lanes) of two steps to each lane's counts (K, K, lanes)."""
    size = len(forward)
    for i in range(size):
        for j in range(size):
            for q in range(active):
                counts[i, j, q] += forward[i, q] * after[j, q] + other[i, q] * other_after[j, q]


def lanes_kernel(
    a: Any, back: Any, emission: Any, family: Any, rows: Any, start: Any, length: Any, enter: Any, leave: Any, low: int,
    high: int, lanes: int, slot: int, write: bool, full: bool, value: Any, failed: Any, opening: Any, pairs: Any,
    smooth: Any, sums: Any, kept_weights: Any, kept_shifts: Any, kept_seen: Any,
) -> None:  # fmt: skip
    """Forward-backward on rows low..high, groups of lanes at a time; rows are (parts of) sequences, longest first.

    ``enter`` (rows, K) is the message into the first step, ``leave`` that into the last from behind, both linear.
    Pairs lack the factor of the transition; they go to ``pairs[slot]``, or to each row's own if slot is -1. ``opening``
    (rows, K) is p(z | x) at each row's first step. That of all steps goes to ``smooth``, and with a family into its
    ``sums``: to those of the two that are not empty. What ``transfer_kernel`` has kept of the rows, which are one group
    of lanes then, is not computed again; it may be empty.
    """
    size = a.shape[0]
    features = len(family) // 2
    keep = length[low] if full else 2
    known = len(kept_weights) > 0
    seen = kept_seen if known else np.empty((keep, features, lanes))
    weights = kept_weights if known else np.empty((keep, size, lanes))
    forward = np.empty((keep, size, lanes))
    work = np.empty(size * lanes)
    bits = work.view(np.int64)
    new = np.empty((size, lanes))
    beta = np.empty((size, lanes))
    afters, marginals = np.empty((2, size, lanes)), np.empty((2, size, lanes))  # of a step and the one held
    none = np.zeros((size, lanes))
    counts = np.empty((size, size, lanes))
    gathered = np.empty((len(sums), size, lanes))
    shift, total, norm, inverse = np.empty(lanes), np.empty(lanes), np.empty(lanes), np.empty(lanes)
    product, reach = np.empty(lanes), np.empty(lanes)
    least, most = np.empty(lanes), np.empty(lanes)
    broken = np.zeros(lanes, dtype=np.bool_)
    for first in range(low, high, lanes):
        width = min(lanes, high - first)
        active = width
        for q in range(lanes):
            total[q] = 0.0
            product[q] = 1.0
            inverse[q] = 1.0
            least[q] = np.inf
            most[q] = 0.0
        for t in range(length[first]):
            while length[first + active - 1] <= t:
                active -= 1
            here, before = (t, t - 1) if full else (t & 1, 1 - (t & 1))
            at = t if known else here
            if known:
                for q in range(active):
                    shift[q] = kept_shifts[t, q]
            else:
                _weigh_lanes(emission, family, rows, start, first, t, active, seen[at], weights[at], shift, work, bits)
            if t == 0:
                for j in range(size):
                    for q in range(active):
                        new[j, q] = enter[first + q, j]
            else:
                _mix(a, forward[before], new, size, active)
            for q in range(active):
                norm[q] = 0.0
            for j in range(size):
                for q in range(active):
                    v = new[j, q] * (weights[at, j, q] * inverse[q])
                    forward[here, j, q] = v
                    norm[q] += v
            # The message keeps its sum: the next step divides by it, off the critical path.
            # A zero becomes NaN in the next step, and NaN stays NaN: neither is missed by looking at the last.
            outside = 0
            for q in range(active):
                inverse[q] = 1.0 / norm[q]
                least[q] = norm[q] if norm[q] < least[q] else least[q]
                product[q] *= norm[q]
                total[q] += shift[q]
                outside += (product[q] < 1e-100) | (product[q] > 1e100)
            if outside:
                for q in range(active):
                    if (product[q] < 1e-100) | (product[q] > 1e100):
                        total[q] += math.log(product[q]) if product[q] > 0.0 else 0.0
                        product[q] = 1.0
        for q in range(width):
            value[first + q] = total[q] + math.log(product[q])
            broken[q] = not (least[q] >= 1e-100 and norm[q] >= 1e-100)
        if full:
            for i in range(size):
                for j in range(size):
                    for q in range(lanes):
                        counts[i, j, q] = 0.0
            gathered[:] = 0.0
            active = 0
            turn, held = 0, False
            for t in range(length[first] - 1, -1, -1):
                joined = active
                after, marginal = afters[turn], marginals[turn]
                while active < width and length[first + active] > t:
                    active += 1
                if joined:
                    for j in range(size):
                        for q in range(joined):
                            after[j, q] = weights[t + 1, j, q] * beta[j, q]
                    _mix(back, after, beta, size, joined)
                for j in range(size):
                    for q in range(joined, active):
                        beta[j, q] = leave[first + q, j]
                for q in range(active):
                    norm[q] = 0.0
                    reach[q] = 0.0
                for j in range(size):
                    for q in range(active):
                        norm[q] += forward[t, j, q] * beta[j, q]
                        reach[q] += beta[j, q]
                for q in range(active):
                    inverse[q] = 1.0 / norm[q]
                    ratio = reach[q] * inverse[q]
                    most[q] = ratio if ratio > most[q] else most[q]
                for j in range(size):
                    for q in range(active):
                        beta[j, q] *= inverse[q]
                        marginal[j, q] = forward[t, j, q] * beta[j, q]
                if write:
                    if t == 0:
                        for q in range(active):
                            for j in range(size):
                                opening[first + q, j] = marginal[j, q]
                    if len(smooth):
                        for q in range(active):
                            n, s = rows[first + q], start[first + q] + t
                            for j in range(size):
                                smooth[n, s, j] = marginal[j, q]
                    for j in range(size):
                        for q in range(joined):
                            after[j, q] *= inverse[q]
                    if not held and t > 0 and joined == active:
                        held, turn = True, 1 - turn  # until the next step, and both at once
                        continue
                    if held and joined < active:  # the one held has fewer lanes
                        if len(sums):
                            _gather(seen[t + 1], marginals[1 - turn], seen[t], none, family, joined, gathered)
                        _count(forward[t + 1], afters[1 - turn], forward[t], none, joined, counts)
                        held = False
                    other = t + 1 if held else t
                    if len(sums):
                        tail = marginals[1 - turn] if held else none
                        _gather(seen[t], marginal, seen[other], tail, family, active, gathered)
                    _count(forward[t], after, forward[other], afters[1 - turn] if held else none, joined, counts)
                    held = False
            for q in range(width):
                if not (most[q] <= 1e100 and norm[q] > 0.0):  # norm: of the first step, NaN if any was
                    broken[q] = True
        for q in range(width):
            failed[first + q] = broken[q]
            if write and not broken[q]:
                target = first + q if slot < 0 else slot
                for i in range(size):
                    for j in range(size):
                        pairs[target, i, j] += counts[i, j, q]
                for f in range(len(sums)):
                    for k in range(size):
                        sums[f, k] += gathered[f, k, q]


def _proportional(state: Any, active: int, left: Any) -> bool:
    """Whether rows i of each lane's matrix, state[:, i, lane], are left[i, lane] times the first, to rounding."""
    size, lanes = left.shape
    for i in range(size):
        for q in range(active):
            left[i, q] = 0.0
        for j in range(size):
            for q in range(active):
                left[i, q] += state[j, i * lanes + q]
    for i in range(size - 1, -1, -1):
        for q in range(active):
            left[i, q] /= left[0, q]
    apart = 0
    for i in range(1, size):
        for j in range(size):
            for q in range(active):
                like = left[i, q] * state[j, q]
                apart += not abs(state[j, i * lanes + q] - like) <= 4e-15 * like  # NaN is
        if apart:
            return False
    return True


def transfer_kernel(
    a: Any, emission: Any, family: Any, rows: Any, start: Any, length: Any, place: Any, low: int, high: int,
    lanes: int, transfer: Any, kept_weights: Any, kept_shifts: Any, kept_seen: Any,
) -> None:  # fmt: skip
    """transfer[place[row]], (K, K), up to a factor: the product over the row's steps of transition times weight.

    A row that starts its sequence begins with the weight alone. Rows come longest first. A chain forgets: once all
    rows of each matrix are proportional, to rounding, one of them is enough (:func:`_proportional`). What
    ``_weigh_lanes`` finds stays in what is kept, by step, unless that is empty.
    """
    size = a.shape[0]
    width = high - low
    seen, weights, shift = np.empty((len(family) // 2, lanes)), np.empty((size, lanes)), np.empty(lanes)
    work = np.empty(size * lanes)
    bits = work.view(np.int64)
    norm = np.empty(lanes)
    many = size * lanes
    state, new = np.ones((size, many)), np.empty((size, many))  # [to, from and lane]
    left, vector, mixed = np.empty((size, lanes)), np.empty((size, lanes)), np.empty((size, lanes))
    single = 0  # how many lanes have one row left, ``vector`` (to, lane), of which the matrix's are ``left`` times
    active = width
    for t in range(length[low]):
        while length[low + active - 1] <= t:
            active -= 1
        _weigh_lanes(emission, family, rows, start, low, t, active, seen, weights, shift, work, bits)
        if len(kept_weights):  # copied, as computing in memory that is not in the cache takes twice as long
            for q in range(lanes):
                kept_shifts[t, q] = shift[q]
            for k in range(size):
                for q in range(lanes):
                    kept_weights[t, k, q] = weights[k, q]
            for d in range(len(seen)):
                for q in range(lanes):
                    kept_seen[t, d, q] = seen[d, q]
        if single:
            _mix(a, vector, mixed, size, active)
            for j in range(size):
                for q in range(active):
                    vector[j, q] = mixed[j, q] * weights[j, q]
            if t % 8 == 7:
                for q in range(active):
                    norm[q] = 0.0
                for j in range(size):
                    for q in range(active):
                        norm[q] += vector[j, q]
                for q in range(active):
                    norm[q] = 1.0 / norm[q]
                for j in range(size):
                    for q in range(active):
                        vector[j, q] *= norm[q]
            continue
        if t == 0:
            for j in range(size):
                for i in range(size):
                    for q in range(lanes):
                        if q < active and start[low + q] == 0:
                            new[j, i * lanes + q] = 1.0 if i == j else 0.0
                        else:
                            new[j, i * lanes + q] = a[i, j]
        else:
            _mix(a, state, new, size, many)
        for j in range(size):
            for i in range(size):
                for q in range(active):  # a row that has ended keeps its matrix
                    state[j, i * lanes + q] = new[j, i * lanes + q] * weights[j, q]
        if t % 8 == 7:  # eight steps shrink it by 1e-80 at most
            for q in range(lanes):
                norm[q] = 0.0
            for j in range(size):
                for i in range(size):
                    for q in range(lanes):
                        norm[q] += state[j, i * lanes + q]
            for q in range(lanes):
                norm[q] = 1.0 / norm[q]
            for j in range(size):
                for i in range(size):
                    for q in range(lanes):
                        state[j, i * lanes + q] *= norm[q]
            if _proportional(state, active, left):
                single = active
                for j in range(size):
                    for q in range(active):
                        vector[j, q] = state[j, q]
    for q in range(width):
        for i in range(size):
            for j in range(size):
                entry = left[i, q] * vector[j, q] if q < single else state[j, i * lanes + q]
                transfer[place[low + q], i, j] = entry


def cuts_kernel(
    a: Any, initial: Any, transfer: Any, first: Any, number: Any, enter: Any, ends: Any, leave: Any
) -> None:
    """Messages at the cuts: into each block's first step, out of its last, and from behind into its last."""
    size = a.shape[0]
    for n in range(len(first)):
        low, high = first[n], first[n] + number[n]
        for b in range(low, high):
            for j in range(size):
                if b == low:
                    enter[b, j] = initial[n, j]
                else:
                    enter[b, j] = 0.0
                    for i in range(size):
                        enter[b, j] += ends[b - 1, i] * a[i, j]
            norm = 0.0
            for j in range(size):
                ends[b, j] = 0.0
                for i in range(size):
                    ends[b, j] += (initial[n, i] if b == low else ends[b - 1, i]) * transfer[b, i, j]
                norm += ends[b, j]
            for j in range(size):
                ends[b, j] = ends[b, j] / norm if norm > 0.0 else np.nan
        for j in range(size):
            leave[high - 1, j] = 1.0
        for b in range(high - 1, low, -1):
            norm = 0.0
            for i in range(size):
                leave[b - 1, i] = 0.0
                for j in range(size):
                    leave[b - 1, i] += transfer[b, i, j] * leave[b, j]
                norm += leave[b - 1, i]
            for i in range(size):
                leave[b - 1, i] = leave[b - 1, i] / norm if norm > 0.0 else np.nan


def weigh_kernel(emission: Any, family: Any, start: int, stop: int, weights: Any, shift: Any) -> None:
    """weights[t] = exp(ln p - shift[t]), where shift is the largest ln p of the step, as in ``_weigh_lanes``."""
    size = weights.shape[1]
    features = len(family) // 2
    work, peaks = np.empty(size), np.empty(8)
    bits = work.view(np.int64)
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
        _exp(weights[t], size, work, bits)


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


def _log_step(message: Any, log_a: Any, a: Any, shift: float, out: Any, work: Any) -> None:
    """out[j] = ln sum_i exp(message[i] + log_a[i, j]); directly where the sum by a = exp(log_a - shift) is tiny."""
    size = message.shape[0]
    peak = -np.inf
    for i in range(size):
        peak = message[i] if not message[i] <= peak else peak  # NaN stays
    if peak == -np.inf:
        for j in range(size):
            out[j] = -np.inf
        return
    for i in range(size):
        work[i] = math.exp(message[i] - peak)
    for j in range(size):
        dot = 0.0
        for i in range(size):
            dot += work[i] * a[i, j]
        if dot > 1e-100:
            out[j] = peak + shift + math.log(dot)
            continue
        top = -np.inf
        for i in range(size):
            v = message[i] + log_a[i, j]
            top = v if not v <= top else top
        dot = 0.0
        if top != -np.inf:
            for i in range(size):
                dot += math.exp(message[i] + log_a[i, j] - top)
        out[j] = top + math.log(dot) if top != -np.inf else -np.inf


def _log_sum(x: Any) -> float:
    """ln sum exp(x)."""
    top = -np.inf
    for i in range(x.shape[0]):
        top = x[i] if not x[i] <= top else top
    if top == -np.inf:
        return -np.inf
    dot = 0.0
    for i in range(x.shape[0]):
        dot += math.exp(x[i] - top)
    return top + math.log(dot)


def _forward_logs_one(
    log_initial: Any,
    log_transition: Any,
    transition: Any,
    shift: Any,
    emission: Any,
    lengths: Any,
    n: int,
    messages: Any,
) -> float:
    """ln p(z_t | x_1..x_t) of sequence n into messages (T, K); returns the value. -inf from an impossible step on."""
    size = emission.shape[2]
    own, which = n if log_initial.shape[0] > 1 else 0, n if log_transition.shape[0] > 1 else 0
    work = np.empty(size)
    total = 0.0
    for t in range(lengths[n]):
        if t == 0:
            for j in range(size):
                messages[t, j] = log_initial[own, j] + emission[n, t, j]
        else:
            s = t - 1 if log_transition.shape[1] > 1 else 0
            _log_step(
                messages[t - 1], log_transition[which, s], transition[which, s], shift[which, s], messages[t], work
            )
            for j in range(size):
                messages[t, j] += emission[n, t, j]
        norm = _log_sum(messages[t])
        total += norm
        if norm == -np.inf:
            for later in range(t, lengths[n]):
                for j in range(size):
                    messages[later, j] = -np.inf
            return norm
        for j in range(size):
            messages[t, j] -= norm
    return total


def forward_logs_kernel(
    log_initial: Any, log_transition: Any, transition: Any, shift: Any, emission: Any, lengths: Any,
    low: int, high: int, messages: Any, value: Any,
) -> None:  # fmt: skip
    """Forward messages of sequences low..high."""
    for n in range(low, high):
        value[n] = _forward_logs_one(log_initial, log_transition, transition, shift, emission, lengths, n, messages[n])


def logs_kernel(
    log_initial: Any, log_transition: Any, transition: Any, shift: Any, emission: Any, lengths: Any,
    n: int, write: bool, value: Any, smooth: Any, pairs: Any,
) -> None:  # fmt: skip
    """Forward-backward of sequence n by logarithms; pairs (1 or T - 1, K, K) with the factor of the transition."""
    size, length = emission.shape[2], lengths[n]
    messages = np.empty((length, size))
    value[n] = _forward_logs_one(log_initial, log_transition, transition, shift, emission, lengths, n, messages)
    if not write:
        return
    if value[n] == -np.inf:
        for t in range(length):
            for j in range(size):
                smooth[t, j] = 0.0
        return
    which = n if log_transition.shape[0] > 1 else 0
    behind, after, joint = np.zeros(size), np.empty(size), np.empty((size, size))
    for t in range(length - 1, -1, -1):
        for j in range(size):
            after[j] = messages[t, j] + behind[j]
        norm = _log_sum(after)
        for j in range(size):
            smooth[t, j] = math.exp(after[j] - norm)
            after[j] = behind[j] - norm + emission[n, t, j]
        if t == 0:
            break
        s = t - 1 if log_transition.shape[1] > 1 else 0
        into = t - 1 if pairs.shape[0] > 1 else 0
        for i in range(size):
            for j in range(size):
                joint[i, j] = log_transition[which, s, i, j] + after[j]
            behind[i] = _log_sum(joint[i])
            for j in range(size):
                joint[i, j] += messages[t - 1, i]
        norm = _log_sum(joint.reshape(-1))
        for i in range(size):
            for j in range(size):
                pairs[into, i, j] += math.exp(joint[i, j] - norm)


def viterbi_kernel(
    log_initial: Any, log_transition: Any, transition: Any, shift: Any, emission: Any, lengths: Any,
    low: int, high: int, paths: Any, scores: Any,
) -> None:  # fmt: skip
    """Best paths of sequences low..high; paths come filled with -1."""
    size = emission.shape[2]
    longest = 0
    for n in range(low, high):
        longest = max(longest, lengths[n])
    origin = np.empty((longest, size), dtype=np.int32)
    score, new = np.empty(size), np.empty(size)
    arg = np.empty(size, dtype=np.int32)
    for n in range(low, high):
        own, which = n if log_initial.shape[0] > 1 else 0, n if log_transition.shape[0] > 1 else 0
        for j in range(size):
            score[j] = log_initial[own, j] + emission[n, 0, j]
        for t in range(1, lengths[n]):
            s = t - 1 if log_transition.shape[1] > 1 else 0
            for j in range(size):
                new[j] = score[0] + log_transition[which, s, 0, j]
                arg[j] = 0
            for i in range(1, size):
                for j in range(size):
                    v = score[i] + log_transition[which, s, i, j]
                    better = v > new[j]
                    new[j] = v if better else new[j]
                    arg[j] = i if better else arg[j]
            for j in range(size):
                origin[t, j] = arg[j]
                score[j] = new[j] + emission[n, t, j]
        best = 0
        for j in range(1, size):
            if score[j] > score[best]:
                best = j
        scores[n] = score[best]
        if score[best] > -np.inf:
            for t in range(lengths[n] - 1, -1, -1):
                paths[n, t] = best
                if t:
                    best = origin[t, best]


def sample_kernel(
    log_initial: Any, log_transition: Any, transition: Any, shift: Any, emission: Any, lengths: Any,
    low: int, high: int, messages: Any, uniform: Any, paths: Any,
) -> None:  # fmt: skip
    """Draws (S, N, T) by inverting the cumulative weights at ``uniform``; paths come filled with -1."""
    size = emission.shape[2]
    weights, logits = np.empty(size), np.empty(size)
    for n in range(low, high):
        which = n if log_transition.shape[0] > 1 else 0
        for d in range(uniform.shape[0]):
            state = 0
            for t in range(lengths[n] - 1, -1, -1):
                s = t if log_transition.shape[1] > 1 else 0
                top = -np.inf
                for i in range(size):
                    logits[i] = messages[n, t, i]
                    if t + 1 < lengths[n]:
                        logits[i] += log_transition[which, s, i, state]
                    top = max(top, logits[i])
                total = 0.0
                for i in range(size):
                    total += math.exp(logits[i] - top)
                    weights[i] = total
                state = 0
                while state < size - 1 and weights[state] <= uniform[d, n, t] * total:
                    state += 1
                paths[d, n, t] = state


def moments_kernel(
    log_initial: Any, log_transition: Any, transition: Any, shift: Any, emission: Any, lengths: Any,
    low: int, high: int, messages: Any, own: bool, other_initial: Any, other_transition: Any, other_emission: Any,
    full: bool, mean: Any, pairs: Any, smooth: Any,
) -> None:  # fmt: skip
    """Means under the posterior of another chain's weights, of ln p itself if ``own``; from forward messages.

    The posterior runs backward: p(z_{t-1} = i | z_t = j) is message times transition, normalised. ``behind[t, j]`` is
    the mean of the weight up to step t given z_t = j, ``ahead`` that from there on. If ``full``, covariances with the
    counts: ``pairs`` (N, 1 or T - 1, K, K), ``smooth`` (N, T, K), both zero on entry, and zero where no mean is finite.
    """
    size = emission.shape[2]
    longest = 0
    for n in range(low, high):
        longest = max(longest, lengths[n])
    behind, norms = np.empty((longest, size)), np.empty((longest, size))
    logits = np.empty(size)
    ahead, sooner, weight, before = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    for n in range(low, high):
        which = n if log_transition.shape[0] > 1 else 0
        other, start = n if other_transition.shape[0] > 1 else 0, n if other_initial.shape[0] > 1 else 0
        last = lengths[n] - 1
        for j in range(size):
            behind[0, j] = 0.0 if own else other_initial[start, j] + other_emission[n, 0, j]
        for t in range(1, last + 1):
            s = t - 1 if log_transition.shape[1] > 1 else 0
            r = t - 1 if other_transition.shape[1] > 1 else 0
            for j in range(size):
                for i in range(size):
                    logits[i] = messages[n, t - 1, i] + log_transition[which, s, i, j]
                norm = _log_sum(logits)
                norms[t, j] = norm
                behind[t, j] = 0.0
                for i in range(size):
                    if logits[i] > -np.inf:
                        gain = logits[i] - norm if own else other_transition[other, r, i, j]
                        share = math.exp(logits[i] - norm)
                        if share > 0.0:
                            behind[t, j] += share * (behind[t - 1, i] + gain)
                if not own:
                    behind[t, j] += other_emission[n, t, j]
        total = 0.0
        for j in range(size):
            weight[j] = math.exp(messages[n, last, j])
            ahead[j] = messages[n, last, j] if own else 0.0
            if weight[j] > 0.0:
                total += weight[j] * (behind[last, j] + ahead[j])
        mean[n] = total
        if not full or not total > -np.inf:
            continue
        for t in range(last, -1, -1):
            for j in range(size):
                if weight[j] > 0.0:
                    smooth[n, t, j] = weight[j] * (behind[t, j] + ahead[j] - total)
            if t == 0:
                break
            s = t - 1 if log_transition.shape[1] > 1 else 0
            r = t - 1 if other_transition.shape[1] > 1 else 0
            into = t - 1 if pairs.shape[1] > 1 else 0
            for i in range(size):
                before[i], sooner[i] = 0.0, 0.0
                for j in range(size):
                    if not weight[j] > 0.0:
                        continue
                    logit = messages[n, t - 1, i] + log_transition[which, s, i, j]
                    pair = weight[j] * math.exp(logit - norms[t, j])
                    if not pair > 0.0:
                        continue
                    gain = ahead[j]
                    gain += logit - norms[t, j] if own else other_transition[other, r, i, j] + other_emission[n, t, j]
                    before[i] += pair
                    sooner[i] += pair * gain
                    pairs[n, into, i, j] += pair * (behind[t - 1, i] + gain - total)
            for i in range(size):
                weight[i] = before[i]
                ahead[i] = sooner[i] / before[i] if before[i] > 0.0 else 0.0


def clear_kernel(values: Any, lengths: Any) -> None:
    """Zeros beyond each length."""
    for n in range(values.shape[0]):
        for t in range(lengths[n], values.shape[1]):
            for k in range(values.shape[2]):
                values[n, t, k] = 0.0


_COMPILED = (
    "_mix", "_gather", "_count", "lanes_kernel", "_proportional", "transfer_kernel", "cuts_kernel", "weigh_kernel",
    "_times", "forward_kernel", "backward_kernel", "combine_kernel", "_add", "states_kernel", "_log_step", "_log_sum",
    "_forward_logs_one", "forward_logs_kernel", "logs_kernel", "viterbi_kernel", "sample_kernel", "moments_kernel",
    "clear_kernel",
)  # fmt: skip


@functools.lru_cache(maxsize=1)
def compile_kernels() -> None:
    """Replaces the kernels by numba's."""
    names = globals()
    names["_exp"] = compiled_exp()
    compiled(names, ["_weigh_lanes"], unordered=False)
    compiled(names, _COMPILED)
