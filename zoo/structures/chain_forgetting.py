"""Compiled kernel of long sequences of few states, cut into blocks: one pass over each, as a chain forgets.

Multiplied together, the matrices "transition times weight" of some tens of steps have rows proportional to each other,
to rounding: M = u v. From there on the filter is v's whatever came before; from behind, the message is u's whatever
comes after. So each block (a lane) starts with the matrices of its first steps, its *window*, goes on with v alone, and
ends with its own message; this is what its first steps lacked, and the next block's u is what the way back lacks. No
block waits for another group of lanes: neighbours on either side stand in lanes of their own, and count for nothing.

How fast a chain forgets is looked at in each window (Atar & Zeitouni, 1997, "Exponential stability for nonlinear
filtering"); where it does not within a block, this kernel says so, and ``chain_transfers.py`` does the work.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo.core.parallel import compiled, in_parallel
from zoo.structures import chain_lanes, chain_steps, chain_transfers
from zoo.structures.chain_blocks import Group, leave, take
from zoo.structures.chain_lanes import add_lane as _add_lane
from zoo.structures.chain_lanes import begin_lanes as _begin_lanes
from zoo.structures.chain_lanes import filter_lanes as _filter_lanes
from zoo.structures.chain_lanes import smooth_lanes as _smooth_lanes
from zoo.structures.chain_steps import mix as _mix
from zoo.structures.chain_steps import weigh_lanes as _weigh_lanes
from zoo.structures.chain_transfers import proportional as _proportional
from zoo.structures.chain_transfers import rescale as _rescale

__all__ = ["compile_kernels", "forgetting_kernel", "one_pass"]


def _window(
    a: Any, emission: Any, family: Any, rows: Any, start: Any, steps: int, weights: Any, shifts: Any, seen: Any,
    state: Any, left: Any,
) -> int:  # fmt: skip
    """Steps after which every lane's matrix (K, K lanes) has rows ``left`` (K, lanes) times its first; 0 if none."""
    size, lanes = left.shape
    width, many, features = len(rows), size * lanes, seen.shape[1]
    new, norm = np.empty((size, many)), np.empty(lanes)
    own_seen, own, shift = np.empty((features, lanes)), np.empty((size, lanes)), np.empty(lanes)
    for t in range(steps):
        _weigh_lanes(emission, family, rows, start, 0, t, width, own_seen, own, shift)
        for q in range(lanes):  # copied, as computing in memory that is not in the cache takes twice as long
            shifts[t, q] = shift[q]
        for k in range(size):
            for q in range(lanes):
                weights[t, k, q] = own[k, q]
        for d in range(features):
            for q in range(lanes):
                seen[t, d, q] = own_seen[d, q]
        if t == 0:
            for j in range(size):
                for i in range(size):
                    for q in range(lanes):
                        step = (1.0 if i == j else 0.0) if q < width and start[q] == 0 else a[i, j]
                        new[j, i * lanes + q] = step
        else:
            _mix(a, state, new, size, many)
        for j in range(size):
            for i in range(size):
                for q in range(lanes):
                    state[j, i * lanes + q] = new[j, i * lanes + q] * own[j, q]
        if t % 8 == 7:  # eight steps shrink it by 1e-80 at most
            _rescale(state.reshape(size * size, lanes), lanes, norm)
            if _proportional(state, width, left, 4e-15):
                return t + 1
            # At this rate, rows are not alike at the end: no more work is lost on it.
            if t == 31 and not _proportional(state, width, left, math.exp(-33.0 * 32.0 / steps)):
                return 0
    return 0


def forgetting_kernel(
    a: Any, back: Any, initial: Any, emission: Any, family: Any, rows: Any, start: Any, length: Any, before: Any,
    after: Any, own: int, slot: int, write: bool, value: Any, pairs: Any, opening: Any, smooth: Any, sums: Any,
    weights: Any, shifts: Any, seen: Any, forward: Any,
) -> bool:  # fmt: skip
    """Forward-backward on one group of blocks; False where they do not forget.

    Args:
        initial: (N, K), linear.
        rows, start, length: (M,), each lane's sequence, first step and steps: ``own`` blocks, the longest first, then
            neighbours of at least as many steps as the shortest block has.
        before, after: (own,), the lane in front of each and behind, -1 where its sequence begins or ends.
        slot: where pairs go, -1 for each sequence's own; they lack the factor of the transition.
        value: (N,), to which ln p is added, NaN where numbers may be lost.
        opening: (N, K), p(z_1 | x).
        smooth, sums: as for ``lanes_kernel``; the latter, as the pairs, are added to.
        weights, shifts, seen, forward: room, (T, K, lanes), (T, lanes), (T, D, lanes), (T, K, lanes).
    """
    size, lanes = weights.shape[1:]
    width = len(rows)
    state, left = np.ones((size, size * lanes)), np.empty((size, lanes))
    window = _window(
        a, emission, family, rows, start, min(length[own - 1], length[width - 1]), weights, shifts, seen, state, left
    )
    if window == 0:
        return False
    scale = np.empty((6, lanes))
    _begin_lanes(scale)
    enter, leave, ends = np.empty((own, size)), np.empty((own, size)), np.empty((width, size))
    for q in range(width):
        norm = 0.0
        for j in range(size):
            v = state[j, q]
            if start[q] == 0:
                v = 0.0
                for i in range(size):
                    v += initial[rows[q], i] * state[j, i * lanes + q]
            forward[window - 1, j, q] = v
            norm += v
        scale[2, q] = 1.0 / norm
    _filter_lanes(
        a, emission, family, rows, start, length, 0, width, window, length[0], True, False, enter, weights, shifts,
        seen, forward, scale,
    )  # fmt: skip
    for q in range(width):
        norm = 0.0
        for j in range(size):
            norm += forward[length[q] - 1, j, q]
        for j in range(size):
            ends[q, j] = forward[length[q] - 1, j, q] / norm
        scale[2, q] = 1.0
    for q in range(own):
        for j in range(size):
            leave[q, j] = left[j, after[q]] if after[q] >= 0 else 1.0
            enter[q, j] = 0.0 if before[q] >= 0 else initial[rows[q], j]
        if before[q] >= 0:
            for i in range(size):
                for j in range(size):
                    enter[q, j] += ends[before[q], i] * a[i, j]
    last = scale[4].copy()  # normalisers, NaN if any before was lost
    _filter_lanes(
        a, emission, family, rows, start, length, 0, own, 0, window, True, True, enter, weights, shifts, seen, forward,
        scale,
    )  # fmt: skip
    counts, gathered = np.zeros((size, size, lanes)), np.zeros((len(sums), size, lanes))
    most, norms, first = np.empty(lanes), np.empty(lanes), np.empty((own, size))
    if write:
        _smooth_lanes(
            back, family, rows, start, length, 0, own, leave, True, weights, forward, seen, first, smooth, counts,
            gathered, most, norms,
        )  # fmt: skip
    for q in range(own):
        good = scale[3, q] >= 1e-100 and scale[4, q] >= 1e-100 and (last[q] >= 1e-100 or window == length[q])
        if write and not (most[q] <= 1e100 and norms[q] > 0.0):
            good = False
        value[rows[q]] += scale[0, q] + math.log(scale[1, q]) if good else np.nan
        if not (write and good):
            continue
        if before[q] < 0:
            for j in range(size):
                opening[rows[q], j] = first[q, j]
        else:  # from the block in front to this one
            for i in range(size):
                for j in range(size):
                    counts[i, j, q] += ends[before[q], i] * first[q, j] / enter[q, j]
        _add_lane(q, counts, gathered, pairs[rows[q] if slot < 0 else slot], sums)
    return True


def one_pass(
    a: Any, back: Any, initial: Any, emission: Any, family: Any, groups: Sequence[Group], write: bool,
    per_sequence: bool, smooth: Any, features: int,
) -> tuple[Any, Any, Any, Any] | None:  # fmt: skip
    """Forward-backward on all groups, in parallel; arguments are those of :func:`forgetting_kernel`.

    Args:
        features: rows of the family's sums that are wanted, 1 + 2 D or 0.

    Returns:
        ln p (N,), p(z_1 | x) (N, K), pairs (N or 1, K, K) without the factor of the transition, sums (1 + 2 D or 0, K);
        None where a block does not forget, or numbers may be lost.
    """
    n, k = initial.shape
    longest, lanes = max(int(group.length[0]) for group in groups), groups[0].lanes
    room_shapes = (longest, k, lanes), (longest, lanes), (longest, len(family) // 2, lanes), (longest, k, lanes)
    shapes = (n,), (n, k), (n if per_sequence else 1, k, k), (features, k)
    edges = list(itertools.accumulate(map(math.prod, shapes), initial=0))
    slow: list[Group] = []

    def parts_of(found: Any) -> list[Any]:
        return [found[i:j].reshape(shape) for (i, j), shape in zip(itertools.pairwise(edges), shapes, strict=True)]

    def one(group: Group) -> Any:
        found = np.zeros(edges[-1])
        if not slow:
            value, opening, pairs, sums = parts_of(found)
            room = take(*room_shapes)
            forgets = forgetting_kernel(
                a, back, initial, emission, family, group.rows, group.start, group.length, group.before, group.after,
                len(group.before), -1 if per_sequence else 0, write, value, pairs, opening, smooth, sums, *room,
            )  # fmt: skip
            leave(room)
            if not forgets:
                slow.append(group)
        return found

    found = in_parallel([functools.partial(one, group) for group in groups], pure=not len(smooth))
    value, opening, pairs, sums = parts_of(np.add.reduce(found))
    return None if slow or np.isnan(value).any() else (value, opening, pairs, sums)


@functools.lru_cache(maxsize=1)
def compile_kernels() -> None:
    """Replaces the kernels by numba's."""
    for module in (chain_steps, chain_lanes, chain_transfers):
        module.compile_kernels()
    names = globals()
    names["_mix"], names["_weigh_lanes"] = chain_steps.mix, chain_steps.weigh_lanes
    names["_add_lane"], names["_begin_lanes"] = chain_lanes.add_lane, chain_lanes.begin_lanes
    names["_filter_lanes"], names["_smooth_lanes"] = chain_lanes.filter_lanes, chain_lanes.smooth_lanes
    names["_proportional"], names["_rescale"] = chain_transfers.proportional, chain_transfers.rescale
    compiled(names, ("_window", "forgetting_kernel"))
