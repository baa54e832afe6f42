"""Alignments on scaled probabilities, compiled: what ``alignment.py`` tries first."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from zoo.core.exponential import compiled_exp
from zoo.core.exponential import exp_in_place as _exp
from zoo.core.parallel import compiled

#: States are taken so many at a time.
LANES = 8


def _used(target: Any, size: int, blank: int, symbols: Any, place: Any, where: Any, skip: Any) -> int:
    """The distinct symbols of an item, the blank first, and where among them each of its targets is; their number.

    ``skip[u]`` is 1 where symbol u may follow symbol u - 1 without a blank.
    """
    where[blank] = 0
    symbols[0] = blank
    count = 1
    for u in range(size):
        where[target[u]] = -1
    for u in range(size):
        symbol = target[u]
        if where[symbol] < 0:
            where[symbol] = count
            symbols[count] = symbol
            count += 1
        place[u] = where[symbol]
        skip[u] = 1.0 if u > 0 and target[u - 1] != symbol else 0.0
    return count


def _tilt(weights: Any, length: int, used: int, size: int) -> float:
    """A factor r for each symbol passed, so that forward messages advance about as fast as paths that spell the target.

    Left alone they run to the end at a speed of their own, and what matters in the middle of long sequences underflows.
    With weights 1 of the blank and k of symbols, shares of the mass that have passed u symbols grow by the largest root
    of l^2 - (1 + k + k r) l + k = 0 a step; their speed, d ln l / d ln r, is U / T at the root of a quadratic in k r.
    """
    speed = 2.0 * size / length
    silent, spoken = 0.0, 0.0
    for t in range(length):
        row = weights[t * (used + 1) : (t + 1) * (used + 1)]
        silent += row[0]
        for d in range(1, used):
            spoken += row[d]
    ratio = spoken / max(1, used - 1) / silent if silent > 0.0 else 1.0
    ratio = min(max(ratio, 1e-6), 1e6)
    if size == 0 or speed > 1.9:
        return 1.0 if size == 0 else 40.0 / ratio
    square, rest = speed * speed, 4.0 - speed * speed
    root = math.sqrt(square * square * (1.0 + ratio) ** 2 + rest * square * (1.0 - ratio) ** 2)
    return (square * (1.0 + ratio) + root) / rest / ratio


def _weigh(log_probs: Any, length: int, symbols: Any, used: int, weights: Any) -> float:
    """exp(log_probs - their largest of the frame) of the symbols used, a row a frame; the sum of what was taken off.

    At the end of each row stands a zero.
    """
    total, width = 0.0, used + 1
    rows = max(1, 1024 // width)
    for begin in range(0, length, rows):
        end = min(length, begin + rows)
        for t in range(begin, end):
            row, top = weights[t * width : (t + 1) * width], -np.inf
            for d in range(used):
                v = float(log_probs[t, symbols[d]])
                row[d] = v
                top = v if v > top else top
            for d in range(used):
                row[d] -= top  # NaN, and so refused, if nothing is possible
            row[used] = -np.inf
            total += top
        _exp(weights[begin * width : end * width], (end - begin) * width)
    return total


def _window(t: int, size: int, length: int) -> tuple[int, int]:
    """Whole blocks of LANES around [U - T + t, t]: what can be reached at step t and can reach the end."""
    first, last = max(0, size - length + t), min(size, t)
    return first // LANES * LANES, last // LANES * LANES + LANES


def _advance(
    row: Any, place: Any, skip: Any, tilt: float, inverse: float, low: int, high: int, label: Any, blank: Any,
    mark: Any, new_blank: Any, new_mark: Any,
) -> float:  # fmt: skip
    """Forward messages of the next step, within its window; their sum."""
    places, skips, stays = place[low:high], skip[low:high], mark[low + 1 : high + 1]
    blank, mark, new_blank, new_mark = (
        blank[low:high],
        mark[low:high],
        new_blank[low:high],
        new_mark[low + 1 : high + 1],
    )
    silent, norm = row[0] * inverse, 0.0
    for u in range(high - low):
        label[u] = row[places[u]] * inverse
    for u in range(high - low):
        v = (blank[u] + tilt * mark[u]) * silent
        w = (stays[u] + blank[u] + skips[u] * mark[u]) * label[u]
        v = 0.0 if v < 1e-295 else v
        w = 0.0 if w < 1e-295 else w
        new_blank[u] = v
        new_mark[u] = w
        norm += v + w
    return norm


def _retreat(
    row: Any, place: Any, skip: Any, tilt: float, inverse: float, after: tuple[int, int], here: tuple[int, int],
    blank: Any, mark: Any, blank_after: Any, mark_after: Any,
) -> None:  # fmt: skip
    """The other direction's messages, from the window of the step after into that of this step; not yet scaled."""
    low, high = after
    silent, places = row[0] * inverse, place[low:high]
    blanks, marks = blank[low:high], mark[low + 1 : high + 1]
    new_blanks, new_marks = blank_after[low:high], mark_after[low + 1 : high + 1]
    for u in range(high - low):
        new_marks[u] = row[places[u]] * inverse
    for u in range(high - low):
        v, w = blanks[u] * silent, marks[u] * new_marks[u]
        new_blanks[u] = 0.0 if v < 1e-295 else v
        new_marks[u] = 0.0 if w < 1e-295 else w
    low, high = here
    blanks, marks, skips = blank[low:high], mark[low + 1 : high + 1], skip[low + 1 : high + 1]
    stays, silences = mark_after[low + 1 : high + 1], blank_after[low:high]
    pauses, hops = blank_after[low + 1 : high + 1], mark_after[low + 2 : high + 2]
    for u in range(high - low):
        blanks[u] = silences[u] + stays[u]
        marks[u] = stays[u] + tilt * pauses[u] + skips[u] * hops[u]


def scaled_kernel(
    log_probs: Any, targets: Any, lengths: Any, sizes: Any, blank: int, low: int, high: int, write: bool, value: Any,
    failed: Any, counts: Any,
) -> None:  # fmt: skip
    """Forward-backward of items low..high on scaled probabilities; ``failed`` where that may lose something.

    ``counts`` (N, T, C) comes filled with zeros. Blank u is at index u of a row, symbol u at index u + 1; of a row only
    whole blocks around what can be reached, and can reach the end, are computed, so that no loop has a remainder; those
    beyond are zero. Messages lose what is below 1e-295 (processors are slow at the smallest numbers); the other
    direction's, scaled so that products sum to one, stay below 1e270: the loss is far under rounding.
    """
    longest, most = 1, 0
    for n in range(low, high):
        longest, most = max(longest, lengths[n]), max(most, sizes[n])
    width = most // LANES * LANES + 2 * LANES + 2
    symbols, place = np.empty(most + 1, dtype=np.int64), np.empty(width, dtype=np.int64)
    where, skip = np.empty(log_probs.shape[2], dtype=np.int64), np.empty(width)
    flat, shared = np.empty(longest * (most + 2)), np.empty(most + 2)
    blanks, marks = np.empty((longest, width)), np.empty((longest, width))  # forward messages
    label, posterior = np.empty(width), np.empty(width)
    beta_blank, beta_mark = np.empty(width), np.empty(width)
    blank_after, mark_after = np.empty(width), np.empty(width)
    for n in range(low, high):
        length, size = lengths[n], sizes[n]
        used = _used(targets[n], size, blank, symbols, place, where, skip)
        needed = size
        for u in range(1, size):
            needed += 1 if skip[u] == 0.0 else 0
        if length < needed:
            value[n] = -np.inf
            continue
        total = _weigh(log_probs[n], length, symbols, used, flat)
        tilt = _tilt(flat, length, used, size)
        for u in range(width):
            # Beyond the target stands a symbol of weight zero: each row of ``flat`` has one more than is used.
            place[u] = place[u] if u < size else used
            skip[u] = skip[u] * tilt if u < size else 0.0
            beta_blank[u], beta_mark[u], blank_after[u], mark_after[u] = 0.0, 0.0, 0.0, 0.0
        # Forward. Messages keep their sum: the next step divides by it.
        product, norm = 1.0, 1.0
        for t in range(length):
            row = flat[t * (used + 1) : (t + 1) * (used + 1)]
            first, stop = _window(t, size, length)
            if t == 0:
                for u in range(stop):
                    blanks[0, u], marks[0, u + 1] = 0.0, 0.0
                blanks[0, 0] = row[0]
                marks[0, 1] = row[place[0]]
                norm = blanks[0, 0] + marks[0, 1]
            else:
                old_blank, old_mark = blanks[t - 1], marks[t - 1]
                norm = _advance(
                    row, place, skip, tilt, 1.0 / norm, first, stop, label, old_blank, old_mark, blanks[t], marks[t]
                )
            marks[t, first] = 0.0
            for u in range(stop, stop + LANES):  # a block that the next step may read
                blanks[t, u], marks[t, u + 1] = 0.0, 0.0
            if not norm > 0.0:
                break
            if t + 1 < length:
                if norm < 1e-100:
                    total += math.log(norm)
                else:
                    product *= norm
                if product < 1e-100 or product > 1e100:
                    total += math.log(product)
                    product = 1.0
        end = blanks[length - 1, size] + tilt * marks[length - 1, size]
        if not (norm > 0.0 and end > 0.0):
            failed[n] = True
            continue
        value[n] = total + math.log(product) + math.log(end) - size * math.log(tilt)
        # Backward: messages such that their product with the forward ones, the posterior, sums to one.
        furthest, inverse = 0.0, 1.0
        for t in range(length - 1, -1, -1):
            here = _window(t, size, length)
            first, stop = here
            if t == length - 1:
                beta_blank[size] = 1.0
                beta_mark[size] = tilt if size else 0.0
            else:
                row = flat[(t + 1) * (used + 1) : (t + 2) * (used + 1)]
                after = _window(t + 1, size, length)
                _retreat(row, place, skip, tilt, inverse, after, here, beta_blank, beta_mark, blank_after, mark_after)
                for u in range(t + 1, stop):  # not reached yet; empty from step U on
                    beta_blank[u], beta_mark[u + 1] = 0.0, 0.0
            silent, spoken, reach = 0.0, 0.0, 0.0
            old_blank, old_mark = blanks[t, first:stop], marks[t, first + 1 : stop + 1]
            late_blank, late_mark = beta_blank[first:stop], beta_mark[first + 1 : stop + 1]
            for u in range(stop - first):
                both = old_mark[u] * late_mark[u]
                posterior[u] = both
                silent += old_blank[u] * late_blank[u]
                spoken += both
                reach += late_blank[u] + late_mark[u]
            inverse = 1.0 / (silent + spoken)
            ratio = reach * inverse
            furthest = ratio if not ratio <= furthest else furthest  # NaN stays
            if not ratio <= 1e270:
                break
            if write:
                for d in range(used + 1):
                    shared[d] = 0.0
                shared[0] = silent * inverse
                places = place[first:stop]
                for u in range(stop - first):
                    shared[places[u]] += posterior[u] * inverse
                for d in range(used):
                    counts[n, t, symbols[d]] = shared[d]
        failed[n] = not furthest <= 1e270


@functools.lru_cache(maxsize=1)
def compile_kernels() -> None:
    """Replaces the kernels by numba's."""
    names = globals()
    names["_exp"] = compiled_exp()
    compiled(names, ("_used", "_tilt", "_weigh", "_window", "_advance", "_retreat", "scaled_kernel"))
