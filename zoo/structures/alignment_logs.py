"""Alignments by logarithms, exact whatever the numbers: compiled by numba at the first call, plain Python without it.

The states of an item with U symbols are s = 0..2U: blanks at even s, symbol u at s = 2u + 1. A path starts in state 0
or 1, stays, goes on by one, or by two where ``hop[s]`` lets it (into a symbol other than the one before), and ends in
the last state or the one before.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from zoo.core.parallel import compiled, has_numba


def _states(target: Any, size: int, blank: int, labels: Any, hop: Any) -> int:
    """The symbol of each state, and whether it may be reached from two before; how many states there are."""
    for u in range(size + 1):
        labels[2 * u] = blank
        hop[2 * u] = False
        if u < size:
            labels[2 * u + 1] = target[u]
            hop[2 * u + 1] = u > 0 and target[u - 1] != target[u]
    return 2 * size + 1


def _forward_logs(log_probs: Any, labels: Any, hop: Any, length: int, states: int, messages: Any) -> float:
    """ln p(s_t | x_1..x_t) of one item into messages (T, S); the value. -inf from an impossible step on."""
    total = 0.0
    for t in range(length):
        top = -np.inf
        for s in range(states):
            if t == 0:
                v = 0.0 if s < 2 else -np.inf
            else:
                v = messages[t - 1, s]
                if s > 0:
                    v = np.logaddexp(v, messages[t - 1, s - 1])
                if hop[s]:
                    v = np.logaddexp(v, messages[t - 1, s - 2])
            v += float(log_probs[t, labels[s]]) if v > -np.inf else 0.0
            messages[t, s] = v
            top = v if not v <= top else top
        if top == -np.inf:
            return top
        norm = 0.0
        for s in range(states):
            norm += math.exp(messages[t, s] - top)
        norm = top + math.log(norm)
        for s in range(states):
            messages[t, s] -= norm
        total += norm
    last = messages[length - 1, states - 1]
    return total + (np.logaddexp(last, messages[length - 1, states - 2]) if states > 1 else last)


def _ends(messages: Any, length: int, states: int, weight: Any) -> None:
    """p(s_T | x), (S,): the last state and the one before."""
    for s in range(states):
        weight[s] = 0.0
    last = messages[length - 1, states - 1]
    before = messages[length - 1, states - 2] if states > 1 else -np.inf
    norm = np.logaddexp(last, before)
    weight[states - 1] = math.exp(last - norm)
    if states > 1:
        weight[states - 2] = math.exp(before - norm)


def _origins(messages: Any, hop: Any, t: int, s: int, logs: Any) -> int:
    """ln p(s_{t-1} = s - i | s_t = s) into logs[i]; how many i there are."""
    count = 1 + (s > 0) + hop[s]
    norm = -np.inf
    for i in range(count):
        logs[i] = messages[t - 1, s - i]
        norm = np.logaddexp(norm, logs[i])
    for i in range(count):
        logs[i] -= norm
    return count


def logs_kernel(
    log_probs: Any, targets: Any, lengths: Any, sizes: Any, blank: int, low: int, high: int, rows: Any, write: bool,
    value: Any, counts: Any,
) -> None:  # fmt: skip
    """Items rows[low..high] by logarithms: the posterior runs backward, from each state to the up to three before it.

    ``counts`` may hold what a kernel that failed has left.
    """
    logs = np.empty(3)
    for r in range(low, high):
        n = rows[r]
        length, top = lengths[n], 2 * sizes[n] + 1
        labels, hop = np.empty(top, dtype=np.int64), np.empty(top, dtype=np.bool_)
        states = _states(targets[n], sizes[n], blank, labels, hop)
        messages, weight, before = np.empty((length, states)), np.empty(states), np.empty(states)
        value[n] = _forward_logs(log_probs[n], labels, hop, length, states, messages)
        if not write:
            continue
        for t in range(length):
            for s in range(states):
                counts[n, t, labels[s]] = 0.0
        if value[n] == -np.inf:
            continue
        _ends(messages, length, states, weight)
        for t in range(length - 1, -1, -1):
            for s in range(states):
                before[s] = 0.0
            for s in range(states):
                if weight[s] == 0.0:
                    continue
                counts[n, t, labels[s]] += weight[s]
                if t:
                    for i in range(_origins(messages, hop, t, s, logs)):
                        before[s - i] += weight[s] * math.exp(logs[i])
            weight, before = before, weight


def moments_kernel(
    log_probs: Any, targets: Any, lengths: Any, sizes: Any, blank: int, low: int, high: int, own: bool, other: Any,
    full: bool, value: Any, mean: Any, covariances: Any,
) -> None:  # fmt: skip
    """Means under the posterior of another score, of ln p itself if ``own``; covariances with the counts if ``full``.

    As for chains: ``behind`` is the mean of the score up to a step given its state, ``ahead`` of that from there on.
    """
    logs = np.empty(3)
    for n in range(low, high):
        length, top = lengths[n], 2 * sizes[n] + 1
        labels, hop = np.empty(top, dtype=np.int64), np.empty(top, dtype=np.bool_)
        states = _states(targets[n], sizes[n], blank, labels, hop)
        messages, behind = np.empty((length, states)), np.zeros((length, states))
        value[n] = _forward_logs(log_probs[n], labels, hop, length, states, messages)
        mean[n] = np.nan
        if not value[n] > -np.inf:
            continue
        for t in range(length):
            for s in range(states):
                if messages[t, s] == -np.inf:
                    continue
                if t:
                    for i in range(_origins(messages, hop, t, s, logs)):
                        share = math.exp(logs[i])
                        if share > 0.0:
                            behind[t, s] += share * (behind[t - 1, s - i] + (logs[i] if own else 0.0))
                if not own:
                    behind[t, s] += float(other[n, t, labels[s]])
        weight, before, ahead, sooner = np.empty(states), np.empty(states), np.zeros(states), np.empty(states)
        _ends(messages, length, states, weight)
        total = 0.0
        for s in range(states):
            if weight[s] > 0.0:
                ahead[s] = math.log(weight[s]) if own else 0.0
                total += weight[s] * (behind[length - 1, s] + ahead[s])
        mean[n] = total
        if not full or not total > -np.inf:
            continue
        for t in range(length - 1, -1, -1):
            for s in range(states):
                before[s], sooner[s] = 0.0, 0.0
            for s in range(states):
                if weight[s] == 0.0:
                    continue
                covariances[n, t, labels[s]] += weight[s] * (behind[t, s] + ahead[s] - total)
                if t:
                    for i in range(_origins(messages, hop, t, s, logs)):
                        pair = weight[s] * math.exp(logs[i])
                        gain = ahead[s] + (logs[i] if own else float(other[n, t, labels[s]]))
                        if pair > 0.0:
                            before[s - i] += pair
                            sooner[s - i] += pair * gain
            for s in range(states):
                weight[s] = before[s]
                ahead[s] = sooner[s] / before[s] if before[s] > 0.0 else 0.0


def viterbi_kernel(
    log_probs: Any, targets: Any, lengths: Any, sizes: Any, blank: int, low: int, high: int, paths: Any, scores: Any
) -> None:
    """Best paths of items low..high, of symbols; paths come filled with -1."""
    for n in range(low, high):
        length, top = lengths[n], 2 * sizes[n] + 1
        labels, hop = np.empty(top, dtype=np.int64), np.empty(top, dtype=np.bool_)
        states = _states(targets[n], sizes[n], blank, labels, hop)
        origin = np.zeros((length, states), dtype=np.int8)
        score, new = np.full(states, -np.inf), np.empty(states)
        for t in range(length):
            for s in range(states):
                best = score[s] if t else (0.0 if s < 2 else -np.inf)
                if t and s > 0 and score[s - 1] > best:
                    best = score[s - 1]
                    origin[t, s] = 1
                if t and hop[s] and score[s - 2] > best:
                    best = score[s - 2]
                    origin[t, s] = 2
                new[s] = best + float(log_probs[n, t, labels[s]]) if best > -np.inf else best
            score, new = new, score
        s = states - 1
        if states > 1 and score[states - 2] > score[states - 1]:
            s = states - 2
        scores[n] = score[s]
        if score[s] > -np.inf:
            for t in range(length - 1, -1, -1):
                paths[n, t] = labels[s]
                s -= origin[t, s]


def sample_kernel(
    log_probs: Any, targets: Any, lengths: Any, sizes: Any, blank: int, low: int, high: int, uniform: Any, value: Any,
    paths: Any,
) -> None:  # fmt: skip
    """Draws (D, N, T) of symbols by inverting cumulative probabilities at ``uniform``; paths come filled with -1."""
    logs = np.empty(3)
    for n in range(low, high):
        length, top = lengths[n], 2 * sizes[n] + 1
        labels, hop = np.empty(top, dtype=np.int64), np.empty(top, dtype=np.bool_)
        states = _states(targets[n], sizes[n], blank, labels, hop)
        messages, weight = np.empty((length, states)), np.empty(states)
        value[n] = _forward_logs(log_probs[n], labels, hop, length, states, messages)
        if not value[n] > -np.inf:
            continue
        _ends(messages, length, states, weight)
        for d in range(uniform.shape[0]):
            s = states - 1 if uniform[d, n, length - 1] < weight[states - 1] or states == 1 else states - 2
            paths[d, n, length - 1] = labels[s]
            for t in range(length - 1, 0, -1):
                count = _origins(messages, hop, t, s, logs)
                step, reached = 0, math.exp(logs[0])
                while step < count - 1 and uniform[d, n, t - 1] >= reached:
                    step += 1
                    reached += math.exp(logs[step])
                while logs[step] == -np.inf:  # rounding at the end of the sum
                    step -= 1
                s -= step
                paths[d, n, t - 1] = labels[s]


@functools.lru_cache(maxsize=1)
def compile_kernels() -> None:
    """Replaces the kernels by numba's, where it is installed."""
    if has_numba():
        compiled(
            globals(),
            (
                "_states", "_forward_logs", "_ends", "_origins", "logs_kernel", "moments_kernel", "viterbi_kernel",
                "sample_kernel",
            ),
        )  # fmt: skip
