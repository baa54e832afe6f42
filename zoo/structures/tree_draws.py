"""Exact draws of trees from the root down: a node's cut, and its children's symbols, given its own.

One random number a node: it is looked up among all cuts and pairs of symbols in turn, first cuts, then left symbols.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.structures.tree_parts import top_down
from zoo.structures.tree_scales import Scaled

__all__ = ["drawn", "from_logs", "from_scaled"]

#: Draws for nodes (M,) of w words, by items, begins and symbols: words on the left, left symbol, right symbol.
Draw = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def drawn(
    whole: Tensor, lengths: Tensor, steps: int, num_samples: int, generator: torch.Generator | None, room: int,
    draw: Draw, each: Callable[[int], int],
) -> Tensor:  # fmt: skip
    """Trees (num_samples, N, T, T).

    Args:
        whole: (N, A), log-weights of the symbols above all words. room: numbers that may be worked on at a time, of
            which a node of w words needs ``each(w)``.
    """
    n, a = whole.shape
    first = _drawn(whole.expand(num_samples, n, a).reshape(-1, a), generator)

    def choose(w: int, items: Tensor, begins: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = max(1, room // each(w))
        parts = zip(items.split(size), begins.split(size), symbols.split(size), strict=True)
        words, left, right = zip(*(draw(w, i % n, b, c) for i, b, c in parts), strict=True)
        return torch.cat(words), torch.cat(left), torch.cat(right)

    return top_down(first, lengths.repeat(num_samples), steps, choose).reshape(num_samples, n, steps, steps)


def from_scaled(
    given: Scaled, begins: Tensor, scales: Tensor, lengths: Tensor, num_samples: int,
    generator: torch.Generator | None, room: int,
) -> Tensor:  # fmt: skip
    """Draws from scaled inside probabilities (N, T, T + 1, A or more) and their scales (N, T, T + 1)."""
    a, s = given.root.shape[-1], given.rules.shape[-1]
    begins, rows = begins[..., :a], torch.arange(len(begins), device=begins.device)
    whole = given.root.log() + begins[rows, 0, lengths].log()
    draw = functools.partial(_draw_scaled, given, begins, scales, generator)
    return drawn(whole, lengths, given.leaves.shape[1], num_samples, generator, room, draw, lambda w: 3 * s * (s + w))


def _draw_scaled(
    given: Scaled, begins: Tensor, scales: Tensor, generator: torch.Generator | None, w: int, items: Tensor,
    places: Tensor, symbols: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The weight of each cut is a form in both parts, with the rules of the node's symbol between them."""
    a, s, m = given.root.shape[-1], given.rules.shape[-1], len(items)
    here, words = items.unsqueeze(-1), torch.arange(1, w, device=items.device)
    after = places.unsqueeze(-1) + words
    left, right = begins.new_zeros(2, m, w - 1, s)
    left[:, 0, a:] = given.leaves[items, places]
    left[:, 1:, :a] = begins[items, places, 2:w]
    right[:, -1, a:] = given.leaves[items, places + w - 1]
    right[:, :-1, :a] = begins[here, after[:, :-1], w - words[:-1]]
    logs = scales[items, places, 1:w] + scales[here, after, w - words]
    left *= (logs - logs.amax(-1, keepdim=True)).exp_().unsqueeze(-1)
    table = given.rules[items if len(given.rules) > 1 else torch.zeros_like(items), symbols]
    cuts = (torch.matmul(left, table) * right).sum(-1)
    uniform = torch.rand(m, 1, generator=generator, dtype=cuts.dtype, device=cuts.device)
    rows = torch.arange(m, device=items.device)
    cut, rest = _found(cuts, uniform * cuts.sum(-1, keepdim=True))
    pairs = left[rows, cut].unsqueeze(-1) * table * right[rows, cut].unsqueeze(-2)
    one, rest = _found(pairs.sum(-1), rest)
    two, _ = _found(pairs[rows, one], rest)
    return cut + 1, one, two


def _found(weights: Tensor, amount: Tensor) -> tuple[Tensor, Tensor]:
    """Where amounts (M, 1) fall among weights (M, K) laid end to end, never on a weight of zero; what is left there."""
    ends = weights.cumsum(-1)
    amount = torch.minimum(amount.clamp_min(0.0), ends[:, -1:] * (1 - 2**-53))
    index = torch.searchsorted(ends, amount, right=True).clamp_max(weights.shape[-1] - 1)
    return index.squeeze(-1), amount - ends.gather(-1, index) + weights.gather(-1, index)


def from_logs(
    root: Tensor, rules: Tensor, chart: list[Tensor], lengths: Tensor, num_samples: int,
    generator: torch.Generator | None, room: int,
) -> Tensor:  # fmt: skip
    """Draws from the inside sums by logarithms, by number of words: (N, T, P), then (N, T - w + 1, A) for each w."""
    s = rules.shape[-1]
    whole = root + torch.stack([chart[int(k)][i, 0] for i, k in enumerate(lengths)])
    draw = functools.partial(_draw_logs, rules, chart, generator)
    steps = chart[1].shape[1]
    return drawn(whole, lengths, steps, num_samples, generator, room, draw, lambda w: (w - 1) * s * s)


def _draw_logs(
    rules: Tensor, chart: list[Tensor], generator: torch.Generator | None, w: int, items: Tensor, begins: Tensor,
    symbols: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    s = rules.shape[-1]
    found = _drawn(_options(rules, chart, w, items, begins, symbols).flatten(1), generator)
    return found // (s * s) + 1, found // s % s, found % s


def _options(rules: Tensor, chart: list[Tensor], w: int, items: Tensor, begins: Tensor, symbols: Tensor) -> Tensor:
    """Logarithms (M, w - 1, S, S) of every cut and pair of symbols of nodes of w words."""
    a, s = rules.shape[1], rules.shape[-1]
    left = chart[1].new_full((len(items), w - 1, s), -math.inf)
    right = left.clone()
    for v in range(1, w):
        left[:, v - 1, a if v == 1 else 0 : s if v == 1 else a] = chart[v][items, begins]
        last = v == w - 1
        right[:, v - 1, a if last else 0 : s if last else a] = chart[w - v][items, begins + v]
    table = rules[items if len(rules) > 1 else torch.zeros_like(items), symbols]
    return table.unsqueeze(1) + left.unsqueeze(-1) + right.unsqueeze(-2)


def _drawn(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """One index (M,) for each row of logits (M, K)."""
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    total = weights.cumsum(-1)
    uniform = torch.rand(len(logits), 1, generator=generator, dtype=logits.dtype, device=logits.device)
    return torch.searchsorted(total, uniform * total[:, -1:], right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
