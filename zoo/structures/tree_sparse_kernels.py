"""Compiled passes of ``tree_sparse.py``: plain Python that numba compiles at the first call.

Pairs of children (J,) and rules (K,), in the order of the pairs, come in four kinds one after another: of two phrases,
a word and a phrase, a phrase and a word, two words; ``pair_ends`` and ``rule_ends`` (5,) say where the kinds begin.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from zoo.core.parallel import compiled
from zoo.structures import tree_kernels
from zoo.structures.tree_kernels import _cuts, _weigh


def _join_pairs(
    chart: Any, n: int, i: int, w: int, weights: Any, pair_ends: Any, first: Any, second: Any, joined: Any
) -> None:
    """joined[j]: the products of both parts of a span, summed over where it is cut."""
    for j in range(len(joined)):
        joined[j] = 0.0
    for v in range(1, w):
        kind = 2 * (v == w - 1) + (v == 1)
        left, right, weight = chart[n, i, v], chart[n, i + v, w - v], weights[v]
        for j in range(pair_ends[kind], pair_ends[kind + 1]):
            joined[j] += weight * left[first[j]] * right[second[j]]


def inside_kernel(
    pair_ends: Any, first: Any, second: Any, above: Any, pair: Any, weight: Any, rule_scale: float, lengths: Any,
    low: int, high: int, chart: Any, scales: Any, suspect: Any,
) -> None:  # fmt: skip
    """Fills chart (N, T, T + 1, S) and scales of items low..high from two words on."""
    longest = chart.shape[1]
    logs, joined = np.empty(longest + 1), np.empty(len(first))
    for n in range(low, high):
        for w in range(2, lengths[n] + 1):
            for i in range(lengths[n] - w + 1):
                level = _cuts(scales, n, i, w, logs)
                suspect[n] |= _weigh(logs, level, w)
                _join_pairs(chart, n, i, w, logs, pair_ends, first, second, joined)
                made, top = chart[n, i, w], 0.0
                for k in range(len(above)):
                    made[above[k]] += weight[k] * joined[pair[k]]
                for a in range(len(made)):
                    top = made[a] if not made[a] <= top else top  # NaN stays
                inverse = 1.0 / top if top > 0.0 else 1.0
                for a in range(len(made)):
                    made[a] *= inverse
                    suspect[n] |= 0.0 < made[a] < 1e-75
                scales[n, i, w] = level + math.log(top) + rule_scale if top > 0.0 else -np.inf


def outside_kernel(
    pair_ends: Any, first: Any, second: Any, above: Any, pair: Any, weight: Any, rule_scale: float, lengths: Any,
    low: int, high: int, chart: Any, scales: Any, back: Any, counts: Any,
) -> None:  # fmt: skip
    """Adds to the adjoints of items low..high and to the counts (K,); ``back`` comes with those of whole sentences."""
    longest = chart.shape[1]
    logs, joined, grown = np.empty(longest + 1), np.empty(len(first)), np.empty(len(first))
    for n in range(low, high):
        for w in range(lengths[n], 1, -1):
            for i in range(lengths[n] - w + 1):
                _cuts(scales, n, i, w, logs)
                level = scales[n, i, w] - rule_scale
                _weigh(logs, np.inf if level == -np.inf else level, w)
                _join_pairs(chart, n, i, w, logs, pair_ends, first, second, joined)
                here = back[n, i, w]
                for j in range(len(grown)):
                    grown[j] = 0.0
                for k in range(len(above)):
                    counts[k] += here[above[k]] * joined[pair[k]]
                    grown[pair[k]] += here[above[k]] * weight[k]
                for v in range(1, w):
                    kind, share = 2 * (v == w - 1) + (v == 1), logs[v]
                    left, right = chart[n, i, v], chart[n, i + v, w - v]
                    back_left, back_right = back[n, i, v], back[n, i + v, w - v]
                    for j in range(pair_ends[kind], pair_ends[kind + 1]):
                        flow = share * grown[j]
                        back_left[first[j]] += flow * right[second[j]]
                        back_right[second[j]] += flow * left[first[j]]


@functools.lru_cache(maxsize=1)
def compile_kernels() -> None:
    """Replaces the kernels by numba's."""
    tree_kernels.compile_kernels()
    names = globals()
    names["_cuts"], names["_weigh"] = tree_kernels._cuts, tree_kernels._weigh
    compiled(names, ("_join_pairs", "inside_kernel", "outside_kernel"))
