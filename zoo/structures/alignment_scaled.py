"""Alignments on scaled probabilities, compiled: what ``alignment.py`` tries first."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from zoo.core.parallel import compiled
from zoo.structures import chain_kernels
from zoo.structures.chain_kernels import _exp


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
    skip[size] = 0.0
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
        silent += weights[t * used]
        for d in range(1, used):
            spoken += weights[t * used + d]
    ratio = spoken / max(1, used - 1) / silent if silent > 0.0 else 1.0
    ratio = min(max(ratio, 1e-6), 1e6)
    if size == 0 or speed > 1.9:
        return 1.0 if size == 0 else 40.0 / ratio
    square, rest = speed * speed, 4.0 - speed * speed
    root = math.sqrt(square * square * (1.0 + ratio) ** 2 + rest * square * (1.0 - ratio) ** 2)
    return (square * (1.0 + ratio) + root) / rest / ratio


def _weigh(log_probs: Any, length: int, symbols: Any, used: int, weights: Any, work: Any, bits: Any) -> float:
    """exp(log_probs - their largest of the frame) of the symbols used, a row a frame; the sum of what was taken off."""
    total = 0.0
    rows = max(1, len(work) // used)
    for begin in range(0, length, rows):
        end = min(length, begin + rows)
        for t in range(begin, end):
            top = -np.inf
            for d in range(used):
                v = float(log_probs[t, symbols[d]])
                weights[t * used + d] = v
                top = v if v > top else top
            for d in range(used):
                weights[t * used + d] -= top  # NaN, and so refused, if nothing is possible
            total += top
        _exp(weights[begin * used : end * used], (end - begin) * used, work, bits)
    return total


def scaled_kernel(
    log_probs: Any, targets: Any, lengths: Any, sizes: Any, blank: int, low: int, high: int, write: bool, value: Any,
    failed: Any, counts: Any,
) -> None:  # fmt: skip
    """Forward-backward of items low..high on scaled probabilities; ``failed`` where that may lose something.

    ``counts`` (N, T, C) comes filled with zeros. Blank u is at index u of a row, symbol u at index u + 1; at step t
    only [first, last] = [U - T + t, t] can be reached and can reach the end. Messages lose what is below 1e-295
    (processors are slow at the smallest numbers); the other direction's, scaled so that products sum to one, stay below
    1e270: the loss is far under rounding.
    """
    longest, most = 1, 0
    for n in range(low, high):
        longest, most = max(longest, lengths[n]), max(most, sizes[n])
    width = most + 3
    symbols, place = np.empty(most + 1, dtype=np.int64), np.empty(most + 1, dtype=np.int64)
    where, skip = np.empty(log_probs.shape[2], dtype=np.int64), np.empty(most + 2)
    flat, shared = np.empty(longest * (most + 1)), np.empty(most + 1)
    work = np.empty(max(1024, most + 1))
    bits = work.view(np.int64)
    blanks, marks = np.zeros((longest, width)), np.zeros((longest, width))  # forward messages
    blank_after, mark_after, label = np.zeros(width), np.zeros(width), np.zeros(width)
    beta_blank, beta_mark = np.zeros(width), np.zeros(width)
    for n in range(low, high):
        length, size = lengths[n], sizes[n]
        used = _used(targets[n], size, blank, symbols, place, where, skip)
        needed = size
        for u in range(1, size):
            needed += 1 if skip[u] == 0.0 else 0
        if length < needed:
            value[n] = -np.inf
            continue
        total = _weigh(log_probs[n], length, symbols, used, flat, work, bits)
        tilt = _tilt(flat, length, used, size)
        for u in range(size):
            skip[u] *= tilt
        # Forward. Messages keep their sum: the next step divides by it.
        product, norm = 1.0, 1.0
        for t in range(length):
            row = flat[t * used : (t + 1) * used]
            first, last = max(0, size - length + t), min(size, t)
            new_blank, new_mark = blanks[t], marks[t]
            inverse = 1.0 / norm
            norm = 0.0
            new_blank[last + 1] = 0.0
            new_mark[last + 2] = 0.0
            new_mark[first] = 0.0
            for u in range(first, min(size, last + 1)):
                label[u] = row[place[u]] * inverse
            if t == 0:
                new_blank[0] = row[0]
                norm += new_blank[0]
                new_mark[1] = label[0] if size else 0.0
                norm += new_mark[1]
            else:
                old_blank, old_mark = blanks[t - 1], marks[t - 1]
                silent = row[0] * inverse
                for u in range(first, last + 1):
                    v = (old_blank[u] + tilt * old_mark[u]) * silent
                    new_blank[u] = 0.0 if v < 1e-295 else v
                for u in range(first, min(size, last + 1)):
                    v = (old_mark[u + 1] + old_blank[u] + skip[u] * old_mark[u]) * label[u]
                    new_mark[u + 1] = 0.0 if v < 1e-295 else v
                if last == size:
                    new_mark[size + 1] = 0.0
                for u in range(first, last + 1):
                    norm += new_blank[u] + new_mark[u + 1]
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
        furthest = 0.0
        for t in range(length - 1, -1, -1):
            first, last = max(0, size - length + t), min(size, t)
            if t == length - 1:
                for u in range(first, last + 1):
                    beta_blank[u] = 0.0
                    beta_mark[u + 1] = 0.0
                beta_blank[size] = 1.0
                beta_mark[size] = tilt if size else 0.0
                beta_mark[size + 1] = 0.0
            else:
                row = flat[(t + 1) * used : (t + 2) * used]
                begin, stop = max(0, size - length + t + 1), min(size, t + 1)
                for u in range(begin, min(size, stop + 1)):
                    label[u] = row[place[u]]
                label[size] = 0.0
                for u in range(begin, stop + 1):
                    blank_after[u] = beta_blank[u] * row[0]
                    mark_after[u + 1] = beta_mark[u + 1] * label[u]
                if begin > 0:
                    blank_after[begin - 1] = 0.0
                    mark_after[begin] = 0.0
                mark_after[size + 1] = 0.0
                for u in range(first, last + 1):
                    beta_blank[u] = blank_after[u] + mark_after[u + 1]
                for u in range(first, min(size, last + 1)):
                    beta_mark[u + 1] = mark_after[u + 1] + tilt * blank_after[u + 1] + skip[u + 1] * mark_after[u + 2]
                if last == size:
                    beta_mark[size + 1] = 0.0
            old_blank, old_mark = blanks[t], marks[t]
            norm, reach = 0.0, 0.0
            for u in range(first, last + 1):
                norm += old_blank[u] * beta_blank[u] + old_mark[u + 1] * beta_mark[u + 1]
                reach += beta_blank[u] + beta_mark[u + 1]
            inverse = 1.0 / norm
            ratio = reach * inverse
            furthest = ratio if not ratio <= furthest else furthest  # NaN stays
            if not ratio <= 1e270:
                break
            silent = 0.0
            for u in range(first, last + 1):
                v, w = beta_blank[u] * inverse, beta_mark[u + 1] * inverse
                beta_blank[u] = 0.0 if v < 1e-295 else v
                beta_mark[u + 1] = 0.0 if w < 1e-295 else w
                silent += old_blank[u] * beta_blank[u]
            if write:
                for d in range(used):
                    shared[d] = 0.0
                shared[0] = silent
                for u in range(first, min(size, last + 1)):
                    shared[place[u]] += old_mark[u + 1] * beta_mark[u + 1]
                for d in range(used):
                    counts[n, t, symbols[d]] = shared[d]
        failed[n] = not furthest <= 1e270


@functools.lru_cache(maxsize=1)
def compile_kernels() -> None:
    """Replaces the kernels by numba's."""
    chain_kernels.compile_kernels()
    names = globals()
    names["_exp"] = chain_kernels._exp
    compiled(names, ("_used", "_tilt", "_weigh", "scaled_kernel"))
