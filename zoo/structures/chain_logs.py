"""Compiled kernels by logarithms: forward-backward where scaling may lose, best paths, draws and posterior means."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from zoo.core.parallel import compiled

__all__ = [
    "clear_kernel",
    "compile_kernels",
    "forward_logs_kernel",
    "logs_kernel",
    "moments_kernel",
    "sample_kernel",
    "viterbi_kernel",
]


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


@functools.lru_cache(maxsize=1)
def compile_kernels() -> None:
    """Replaces the kernels by numba's."""
    kernels = (
        "_log_step", "_log_sum", "_forward_logs_one", "forward_logs_kernel", "logs_kernel", "viterbi_kernel",
        "sample_kernel", "moments_kernel", "clear_kernel",
    )  # fmt: skip
    compiled(globals(), kernels)
