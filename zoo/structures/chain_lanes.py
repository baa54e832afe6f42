"""Compiled kernels of few states and many sequences, which stand side by side in the lanes of vectors."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from zoo.core.parallel import compiled
from zoo.structures import chain_steps
from zoo.structures.chain_steps import count as _count
from zoo.structures.chain_steps import gather as _gather
from zoo.structures.chain_steps import mix as _mix
from zoo.structures.chain_steps import weigh_lanes as _weigh_lanes

__all__ = ["compile_kernels", "filter_lanes", "lanes_kernel", "smooth_lanes"]


def filter_lanes(
    a: Any, emission: Any, family: Any, rows: Any, start: Any, length: Any, first: int, width: int, begin: int,
    stop: int, full: bool, known: bool, enter: Any, weights: Any, shifts: Any, seen: Any, forward: Any, scale: Any,
) -> None:  # fmt: skip
    """Forward messages of steps begin..stop of each lane, each with its normaliser as its sum.

    Lane q is row first + q. Step 0 takes ``enter`` (rows, K), another the message before it. Messages, weights and data
    stand at their step, or at that modulo two unless ``full``. What is ``known`` is not weighed again.

    Args:
        scale: (6, lanes), to go on with: the sum of shifts, the product and the inverse of the last of normalisers, the
            least and the last of them, and room.
    """
    size, lanes = weights.shape[1:]
    total, product, inverse, least, norm, shift = scale[0], scale[1], scale[2], scale[3], scale[4], scale[5]
    new = np.empty((size, lanes))
    active = width
    for t in range(begin, stop):
        while length[first + active - 1] <= t:
            active -= 1
        here, before = (t, t - 1) if full else (t & 1, 1 - (t & 1))
        at = t if known else here
        if known:
            for q in range(active):
                shift[q] = shifts[t, q]
        else:
            _weigh_lanes(emission, family, rows, start, first, t, active, seen[at], weights[at], shift)
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


def smooth_lanes(
    back: Any, family: Any, rows: Any, start: Any, length: Any, first: int, width: int, leave: Any, write: bool,
    weights: Any, forward: Any, seen: Any, opening: Any, smooth: Any, counts: Any, gathered: Any, most: Any, norm: Any,
) -> None:  # fmt: skip
    """The way back, after the messages of all steps: what :func:`lanes_kernel` says of pairs, ``opening`` and sums.

    Args:
        leave: (rows, K), the message into each row's last step from behind.
        counts: (K, K, lanes), to which pairs are added, and gathered: (1 + 2 D or 0, K, lanes), the family's sums.
        most, norm: (lanes,), filled: the largest message from behind relative to what it is worth, and the first
            step's normaliser.
    """
    size, lanes = weights.shape[1:]
    beta, inverse, reach = np.empty((size, lanes)), np.empty(lanes), np.empty(lanes)
    afters, marginals = np.empty((2, size, lanes)), np.empty((2, size, lanes))  # of a step and the one held
    none = np.zeros((size, lanes))
    for q in range(lanes):
        most[q] = 0.0
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
        if not write:
            continue
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
            if len(gathered):
                _gather(seen[t + 1], marginals[1 - turn], seen[t], none, family, joined, gathered)
            _count(forward[t + 1], afters[1 - turn], forward[t], none, joined, counts)
            held = False
        other = t + 1 if held else t
        if len(gathered):
            tail = marginals[1 - turn] if held else none
            _gather(seen[t], marginal, seen[other], tail, family, active, gathered)
        _count(forward[t], after, forward[other], afters[1 - turn] if held else none, joined, counts)
        held = False


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
    keep = length[low] if full else 2
    known = len(kept_weights) > 0
    seen = kept_seen if known else np.empty((keep, len(family) // 2, lanes))
    weights = kept_weights if known else np.empty((keep, size, lanes))
    forward, scale = np.empty((keep, size, lanes)), np.empty((6, lanes))
    counts, gathered = np.empty((size, size, lanes)), np.empty((len(sums), size, lanes))
    most, norm = np.empty(lanes), np.empty(lanes)
    broken = np.zeros(lanes, dtype=np.bool_)
    for first in range(low, high, lanes):
        width = min(lanes, high - first)
        begin_lanes(scale)
        filter_lanes(
            a, emission, family, rows, start, length, first, width, 0, length[first], full, known, enter, weights,
            kept_shifts, seen, forward, scale,
        )  # fmt: skip
        for q in range(width):
            value[first + q] = scale[0, q] + math.log(scale[1, q])
            broken[q] = not (scale[3, q] >= 1e-100 and scale[4, q] >= 1e-100)
        if full:
            counts[:], gathered[:] = 0.0, 0.0
            smooth_lanes(
                back, family, rows, start, length, first, width, leave, write, weights, forward, seen, opening, smooth,
                counts, gathered, most, norm,
            )  # fmt: skip
            for q in range(width):
                if not (most[q] <= 1e100 and norm[q] > 0.0):  # norm: of the first step, NaN if any was
                    broken[q] = True
        for q in range(width):
            failed[first + q] = broken[q]
            if write and not broken[q]:
                add_lane(q, counts, gathered, pairs[first + q if slot < 0 else slot], sums)


def begin_lanes(scale: Any) -> None:
    """What :func:`filter_lanes` goes on with, at the start."""
    for q in range(scale.shape[1]):
        scale[0, q], scale[1, q], scale[2, q], scale[3, q], scale[4, q] = 0.0, 1.0, 1.0, np.inf, 0.0


def add_lane(q: int, counts: Any, gathered: Any, pairs: Any, sums: Any) -> None:
    """A lane's counts (K, K, lanes) and sums (1 + 2 D, K, lanes) to all."""
    size = len(pairs)
    for i in range(size):
        for j in range(size):
            pairs[i, j] += counts[i, j, q]
    for f in range(len(sums)):
        for k in range(size):
            sums[f, k] += gathered[f, k, q]


@functools.lru_cache(maxsize=1)
def compile_kernels() -> None:
    """Replaces the kernels by numba's."""
    chain_steps.compile_kernels()
    names = globals()
    for name in ("count", "gather", "mix", "weigh_lanes"):
        names[f"_{name}"] = getattr(chain_steps, name)
    compiled(names, ("filter_lanes", "smooth_lanes", "begin_lanes", "add_lane", "lanes_kernel"))
