"""Compiled kernels of the transfer matrices of blocks, and the messages at the cuts that follow from them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from zoo.core.parallel import compiled
from zoo.structures import chain_steps
from zoo.structures.chain_steps import mix as _mix
from zoo.structures.chain_steps import weigh_lanes as _weigh_lanes

__all__ = ["compile_kernels", "cuts_kernel", "proportional", "rescale", "transfer_kernel"]


def proportional(state: Any, active: int, left: Any, tolerance: float) -> bool:
    """Whether rows i of each lane's matrix, state[:, i, lane], are left[i, lane] times the first, but for so much."""
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
                apart += not abs(state[j, i * lanes + q] - like) <= tolerance * like  # NaN is
        if apart:
            return False
    return True


def rescale(values: Any, active: int, norm: Any) -> None:
    """Divides each lane's numbers, values[:, lane], by their sum."""
    for q in range(active):
        norm[q] = 0.0
    for i in range(len(values)):
        for q in range(active):
            norm[q] += values[i, q]
    for q in range(active):
        norm[q] = 1.0 / norm[q]
    for i in range(len(values)):
        for q in range(active):
            values[i, q] *= norm[q]


def transfer_kernel(
    a: Any, emission: Any, family: Any, rows: Any, start: Any, length: Any, place: Any, low: int, high: int,
    lanes: int, transfer: Any, kept_weights: Any, kept_shifts: Any, kept_seen: Any,
) -> None:  # fmt: skip
    """transfer[place[row]], (K, K), up to a factor: the product over the row's steps of transition times weight.

    A row that starts its sequence begins with the weight alone. Rows come longest first. A chain forgets: once all
    rows of each matrix are proportional, to rounding, one of them is enough (:func:`proportional`). What
    ``_weigh_lanes`` finds stays in what is kept, by step, unless that is empty.
    """
    size = a.shape[0]
    width = high - low
    seen, weights, shift = np.empty((len(family) // 2, lanes)), np.empty((size, lanes)), np.empty(lanes)
    norm = np.empty(lanes)
    many = size * lanes
    state, new = np.ones((size, many)), np.empty((size, many))  # [to, from and lane]
    left, vector, mixed = np.empty((size, lanes)), np.empty((size, lanes)), np.empty((size, lanes))
    single = 0  # how many lanes have one row left, ``vector`` (to, lane), of which the matrix's are ``left`` times
    active = width
    for t in range(length[low]):
        while length[low + active - 1] <= t:
            active -= 1
        _weigh_lanes(emission, family, rows, start, low, t, active, seen, weights, shift)
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
                rescale(vector, active, norm)
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
            rescale(state.reshape(size * size, lanes), lanes, norm)
            if proportional(state, active, left, 4e-15):
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


@functools.lru_cache(maxsize=1)
def compile_kernels() -> None:
    """Replaces the kernels by numba's."""
    chain_steps.compile_kernels()
    names = globals()
    names["_mix"], names["_weigh_lanes"] = chain_steps.mix, chain_steps.weigh_lanes
    compiled(names, ("proportional", "rescale", "transfer_kernel", "cuts_kernel"))
