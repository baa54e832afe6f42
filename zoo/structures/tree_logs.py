"""The sum over trees by logarithms, differentiable as often as one likes: slow, and never loses anything.

For what scaled numbers may lose, and for second derivatives. -inf is a large negative number on the way, since the
gradient of the logarithm of a sum of zeros is none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["log_chart", "log_partition", "weighted_counts"]

FLOOR = -1e30


def log_chart(rules: Tensor, preterminals: Tensor) -> list[Tensor]:
    """By number of words w, logarithms of the inside sums of the spans of w words: (N, T, P), then (N, T - w + 1, A).

    Args:
        rules: (M, A, S, S), M being 1 or N. preterminals: (N, T, P).
    """
    rules, leaves = rules.clamp_min(FLOOR), preterminals.clamp_min(FLOOR)
    a, t = rules.shape[1], leaves.shape[1]
    blocks = [rules[:, :, :a, :a], rules[:, :, :a, a:], rules[:, :, a:, :a], rules[:, :, a:, a:]]
    chart = [leaves[:, :0], leaves]
    for w in range(2, t + 1):
        q = t - w + 1
        pairs: dict[int, Tensor] = {}  # products of both parts, summed over the cuts, by kind of parts
        for v in range(1, w):
            kind = 2 * (v == 1) + (v == w - 1)
            both = chart[v][:, :q].unsqueeze(-1) + chart[w - v][:, v : v + q].unsqueeze(-2)
            pairs[kind] = torch.logaddexp(pairs[kind], both) if kind in pairs else both
        sums = [
            torch.stack([torch.logsumexp(blocks[kind][:, i].unsqueeze(1) + both, (-2, -1)) for i in range(a)], -1)
            for kind, both in pairs.items()
        ]
        chart.append(torch.logsumexp(torch.stack(sums), 0).clamp_min(FLOOR))
    return chart


def log_partition(root: Tensor, rules: Tensor, preterminals: Tensor, lengths: Tensor) -> Tensor:
    """(N,), -inf and without a gradient where no tree is possible."""
    chart = log_chart(rules, preterminals)
    whole = torch.stack(
        [
            chart[int(length)][n, 0] if length > 1 else root.new_full(root.shape[-1:], FLOOR)
            for n, length in enumerate(lengths)
        ]
    )
    value = torch.logsumexp(root.clamp_min(FLOOR) + whole, -1)
    return value.masked_fill(value < FLOOR / 2, -math.inf)


def weighted_counts(
    arguments: tuple[Tensor, Tensor, Tensor, Tensor], weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The log-partition of one item, and its expected counts times a weight, without a graph."""
    *potentials, lengths = arguments
    with torch.enable_grad():
        leaves = [t.detach().clone().requires_grad_() for t in potentials]
        value = log_partition(leaves[0], leaves[1], leaves[2], lengths)
        root, rules, words = torch.autograd.grad(value.sum(), leaves)
    return value.detach()[0], weight * root[0], weight * rules[0], weight * words[0]
