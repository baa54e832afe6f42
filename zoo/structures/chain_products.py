"""Exact sums over many chains of many states that share their transitions: each step is one product of matrices.

All sequences go side by side, the longest first, so that those that have a step t are the first rows. With messages
scaled to sum to one (Rabiner, 1989, section V.A), W_t = exp(emission_t - its largest) and A the transitions,

    a_t = (a_{t-1} A) W_t / s_t,      b_{t-1} = (W_t b_t / s_t) A^T,      counts = A * sum_t a_{t-1}^T (W_t b_t / s_t),

the last sum one product over all steps. That is 6 K^2 operations a step and sequence in products, and a few passes over
(N, T, K) numbers beside.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["CountsByItem", "products"]


class CountsByItem:
    """Expected transitions of each of N sequences, (K, K) each, of which weighted sums are made and nothing else.

    Args:
        before, after: (M, K), whose products row by row, times the ``factor`` (K, K), are counted.
        items: (M,), of which sequence each row is.
    """

    def __init__(self, before: Tensor, after: Tensor, items: Tensor, factor: Tensor) -> None:
        self.before, self.after, self.items, self.factor = before, after, items, factor
        self.others: list[tuple[int, Tensor]] = []

    def add(self, item: int, counts: Tensor) -> None:
        """Counts (K, K) of a sequence that has no rows."""
        self.others.append((item, counts))

    def weighted(self, weights: Tensor) -> Tensor:
        """The sum over sequences of weight (N,) times counts, (K, K)."""
        weights = weights.to(self.after.dtype)
        found = self.before.mT @ (self.after * weights[self.items].unsqueeze(-1)) * self.factor
        for item, counts in self.others:
            found += weights[item] * counts
        return found


def products(
    initial: Tensor,
    transition: Tensor,
    emission: Tensor,
    lengths: Tensor,
    safe: float,
    value: Tensor,
    bad: Tensor,
    smooth: Tensor | None,
    checked: bool,
) -> CountsByItem | None:
    """Fills ``value`` (N,), without the shifts of initial and transitions, and ``bad`` (N,): where scaling may lose.

    Args:
        initial: (N or 1, K), transition: (K, K), both linear and at most one. emission: (N, T, K), logs. lengths: (N,).
        safe: normalisers below and messages from behind above its inverse are bad.
        smooth: (N, T, K), where the marginals go; None if they are not wanted.
        checked: whether the backward pass is needed though they are not.

    Returns:
        Expected transitions of all sequences but bad ones; None without ``smooth``.
    """
    n, k = emission.shape[0], emission.shape[2]
    order = lengths.argsort(descending=True, stable=True)
    steps = lengths[order]
    active = (steps.unsqueeze(0) > torch.arange(int(steps[0])).unsqueeze(1)).sum(1)  # rows that have step t, (T,)
    widths: list[int] = active.tolist()
    time = torch.repeat_interleave(torch.arange(len(widths)), active)
    first = active.cumsum(0) - active
    place = torch.arange(len(time)) - first[time]  # among the sorted rows
    rows = order[place]
    weights = emission[rows, time]  # (M, K), step after step
    shift = weights.amax(-1, keepdim=True)
    weights.sub_(shift).exp_()  # NaN, and so bad, if nothing is possible
    begins = [*first.tolist(), len(time)]
    parts = list(weights.split(widths))
    forward = torch.empty_like(weights)
    messages = list(forward.split(widths))
    norms = torch.empty(len(time), 1, dtype=weights.dtype)
    scales = list(norms.split(widths))
    for t, (message, weight, scale) in enumerate(zip(messages, parts, scales, strict=True)):
        if t:
            torch.mm(messages[t - 1][: widths[t]], transition, out=message)
            message.mul_(weight)
        else:
            torch.mul(initial.expand(n, k)[order], weight, out=message)
        torch.sum(message, -1, keepdim=True, out=scale)
        message.div_(scale)
    total = torch.zeros(n, dtype=weights.dtype).index_add_(0, rows, (norms.log() + shift)[:, 0])
    value.copy_(total)
    lost = ~(norms[:, 0] >= safe)
    if smooth is None and not checked:
        bad.index_fill_(0, rows[lost], True)
        return None
    behind = torch.ones(n, k, dtype=weights.dtype)
    for t in range(len(widths) - 1, -1, -1):
        if t + 1 < len(widths):
            joined = widths[t + 1]
            after = parts[t + 1].mul_(behind[:joined]).div_(scales[t + 1])  # in the place of the weights
            torch.mm(after, transition.mT, out=behind[:joined])
        own = behind[: widths[t]]
        lost[begins[t] : begins[t + 1]] |= ~(own.amax(-1) <= 1 / safe)
        if smooth is not None:
            smooth[order[: widths[t]], t] = own * messages[t]
    bad.index_fill_(0, rows[lost], True)
    if smooth is None:
        return None
    keep = place < torch.cat([active[1:], active.new_zeros(1)])[time]  # rows of a step that have a next one
    before, after, items = forward if bool(keep.all()) else forward[keep], weights[widths[0] :], rows[widths[0] :]
    if bool(bad.any()):
        good = ~bad[items]
        before, after, items = before[good], after[good], items[good]
    return CountsByItem(before, after, items, transition)
