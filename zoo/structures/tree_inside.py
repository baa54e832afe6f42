"""Inside and outside passes over the spans of sentences, in matrix products over scaled probabilities.

A span of w words has the inside probabilities ``exp(scale) * inside``, the largest of ``inside`` (A,) being one. Those
of width w follow for all sentences at once: the products of parts, summed over where the span is cut, are a matrix
product for each span; the rules are then one matrix for all. Parts of one word are taken together with the rules that
use them, once a word and not once a span. A sentence of L words takes about L^2/2 (A^3 + A^2 L/3) multiplications,
three times that with counts; memory is the chart, N L^2 A numbers, and one width's products, N L A^2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.structures.tree_scales import SMALL, Counts, Scaled, real, scaled, summed

__all__ = ["Charts", "inside", "inside_of", "outer", "outside", "times"]


class Charts(NamedTuple):
    """The inside pass of N sentences of at most T words.

    Shapes:
        begins: (N, T, T + 1, A), [n, i, w]: inside of the span of w words from i on, scaled; zero for w < 2.
        ends: (N, T, T + 1, A), [n, j, T - w]: of the span of w words that ends with j.
        scales: (N, T, T + 1), [n, i, w], logarithms of what they are scaled by; -inf for an impossible span.
        leaves: (N, T, P), preterminals, scaled. left: (N, T, A, A), [a, c]: a word and c to its right, under a.
        right: (N, T, A, A), [a, b]: b and a word to its right, under a.
        rules: the four blocks of the rules, scaled by ``rule_scale``: nonterminal and nonterminal
            (M, A, A, A), word and nonterminal (M, A, P, A), nonterminal and word (M, A, A, P), words (M, A, P, P),
            M being 1 or N.
        rule_scale: (M, 1). root: (M, A), scaled. value: (N,), the log-partition.
        suspect: (N,), whether something may be lost.
    """

    begins: Tensor
    ends: Tensor
    scales: Tensor
    leaves: Tensor
    left: Tensor
    right: Tensor
    rules: tuple[Tensor, Tensor, Tensor, Tensor]
    rule_scale: Tensor
    root: Tensor
    value: Tensor
    suspect: Tensor


def _cut(begins: Tensor, ends: Tensor, scales: Tensor, w: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both parts of the spans of w words wherever they are cut, and the logarithms of the products' scales.

    (N, p, v, A) twice and (N, p, v), v the cuts that leave two words or more on either side.
    """
    t = begins.shape[1]
    p = t - w + 1
    first = begins[:, :p, 2 : w - 1]
    second = ends[:, w - 1 :, t - w + 2 : t - 1]
    # [n, i, v] of the right part: it begins at i + v and has w - v words.
    starts = torch.arange(p, device=begins.device).unsqueeze(-1) + torch.arange(2, w - 1, device=begins.device)
    words = w - torch.arange(2, w - 1, device=begins.device)
    weights = scales[:, :p, 2 : w - 1] + scales[:, starts, words]
    return first, second, weights


def inside(root: Tensor, rules: Tensor, preterminals: Tensor, lengths: Tensor) -> Charts:
    """The inside pass.

    Args:
        root: (M, A), rules: (M, A, S, S), preterminals: (N, T, P), log-weights in float64, M being 1 or N; zeros for
            words beyond a length. lengths: (N,).
    """
    return inside_of(scaled(root, rules, preterminals, lengths), lengths)


def inside_of(given: Scaled, lengths: Tensor) -> Charts:
    """The inside pass of scaled potentials, which may be complex."""
    n, t, p = given.leaves.shape
    a = given.root.shape[-1]
    table, leaves, inner, suspect = given.rules, given.leaves, given.inner, given.suspect
    nn, ln = table[:, :, :a, :a], table[:, :, a:, :a]
    nl, ll = table[:, :, :a, a:], table[:, :, a:, a:]
    m = len(table)
    # A word and its sibling, under each symbol: (M, A A, P) times (N, P, T).
    left = _by_words(ln.permute(0, 1, 3, 2).reshape(m, a * a, p), leaves).reshape(n, t, a, a)
    right = _by_words(nl.reshape(m, a * a, p), leaves).reshape(n, t, a, a)
    begins = leaves.new_zeros(n, t, t + 1, a)
    ends = leaves.new_zeros(n, t, t + 1, a)
    scales = given.leaf_top.new_full((n, t, t + 1), -math.inf)
    scales[:, :, 1] = given.leaf_top
    rule_top = given.rule_top.unsqueeze(-1)
    flat = nn.reshape(m, a, a * a)
    for w in range(2, t + 1):
        q = t - w + 1
        here = inner[:, w - 1 :]  # whether the span lies in the sentence
        if w == 2:
            pairs = leaves[:, :-1].unsqueeze(-1) * leaves[:, 1:].unsqueeze(-2)
            total = times(pairs.flatten(-2), ll.reshape(m, a, p * p).mT)
            top = scales[:, :-1, 1] + scales[:, 1:, 1]
        else:
            logs = _sides(scales, w)
            if w > 3:
                first, second, cuts = _cut(begins, ends, scales, w)
                logs = torch.cat([logs, cuts], -1)
            top = logs.amax(-1)
            weights = (logs - top.masked_fill(top == -math.inf, 0.0).unsqueeze(-1)).exp_()
            lost = (weights < SMALL) & (logs > -math.inf)
            suspect = suspect | (lost.any(-1) & here).any(-1)
            total = weights[..., :1] * torch.matmul(left[:, :q], begins[:, 1 : q + 1, w - 1].unsqueeze(-1)).squeeze(-1)
            total += weights[..., 1:2] * torch.matmul(right[:, w - 1 :], begins[:, :q, w - 1].unsqueeze(-1)).squeeze(-1)
            if w > 3:
                joined = torch.matmul((first * weights[..., 2:].unsqueeze(-1)).mT, second)
                total += times(joined.flatten(-2), flat.mT)
        size = real(total).amax(-1)
        possible = size > 0
        total /= size.masked_fill(~possible, 1.0).unsqueeze(-1)
        suspect = suspect | (((real(total) > 0) & (real(total) < SMALL)).any(-1) & here).any(-1)
        begins[:, :q, w] = total
        ends[:, w - 1 :, t - w] = total
        scales[:, :q, w] = (top + size.log() + rule_top).masked_fill(~possible, -math.inf)
    rows = torch.arange(n, device=lengths.device)
    value, suspect = summed(given, lengths, begins[rows, 0, lengths], scales[rows, 0, lengths], suspect)
    return Charts(begins, ends, scales, leaves, left, right, (nn, ln, nl, ll), rule_top, given.root, value, suspect)


def _sides(scales: Tensor, w: int) -> Tensor:
    """Of the spans of w words, the logarithms of the products' scales where the first, or the last, word is cut off.

    (N, p, 2).
    """
    q = scales.shape[1] - w + 1
    return torch.stack(
        [scales[:, :q, 1] + scales[:, 1 : q + 1, w - 1], scales[:, :q, w - 1] + scales[:, w - 1 :, 1]], -1
    )


def _by_words(table: Tensor, leaves: Tensor) -> Tensor:
    """A table (M, R, P) times the words (N, T, P): (N, T, R)."""
    return times(leaves, table.mT)


def outside(charts: Charts, lengths: Tensor, by_item: bool, weights: Tensor) -> Counts:
    """The outside pass: how often each potential is expected to be used.

    Args:
        by_item: whether rules that all items share are counted item by item.
        weights: (N,), how often each item counts.
    """
    begins, ends, scales, leaves, left, right, (nn, ln, nl, ll), rule_scale, root, value, _ = charts
    n, t, _, a = begins.shape
    p, m = leaves.shape[-1], len(nn)
    rows = torch.arange(n, device=lengths.device)
    whole = (root * begins[rows, 0, lengths]).sum(-1, keepdim=True)
    counted = weights.unsqueeze(-1).masked_fill(value.unsqueeze(-1) == -math.inf, 0.0)
    seed = counted * root / whole.masked_fill(real(whole) <= 0, 1.0)
    # Adjoints of the scaled inside numbers: times these they are the expected counts.
    back, back_ends = torch.zeros_like(begins), torch.zeros_like(ends)
    back[rows, 0, lengths] = seed
    back_left, back_right = torch.zeros_like(left), torch.zeros_like(right)
    back_leaves = torch.zeros_like(leaves)
    shape = (n,) if by_item or m > 1 else ()
    count_nn, count_ll = nn.new_zeros(*shape, a, a * a), nn.new_zeros(*shape, a, p * p)
    flat, flat_words = nn.reshape(m, a, a * a), ll.reshape(m, a, p * p)
    for w in range(t, 1, -1):
        q = t - w + 1
        here = back[:, :q, w] + back_ends[:, w - 1 :, t - w]
        back[:, :q, w] = here
        level = scales[:, :q, w] - rule_scale
        level = level.masked_fill(level == -math.inf, math.inf)
        if w == 2:
            here = here * (scales[:, :-1, 1] + scales[:, 1:, 1] - level).exp_().unsqueeze(-1)
            pairs = leaves[:, :-1].unsqueeze(-1) * leaves[:, 1:].unsqueeze(-2)
            count_ll += outer(here, pairs.flatten(-2), bool(shape))
            grown = times(here, flat_words).unflatten(-1, (p, p))
            back_leaves[:, :-1] += torch.matmul(grown, leaves[:, 1:].unsqueeze(-1)).squeeze(-1)
            back_leaves[:, 1:] += torch.matmul(grown.mT, leaves[:, :-1].unsqueeze(-1)).squeeze(-1)
            continue
        sides = (_sides(scales, w) - level.unsqueeze(-1)).exp_().unsqueeze(-2)  # (N, q, 1, 2)
        one, two = here * sides[..., 0], here * sides[..., 1]
        after, before = begins[:, 1 : q + 1, w - 1], begins[:, :q, w - 1]
        back_left[:, :q] += one.unsqueeze(-1) * after.unsqueeze(-2)
        back_right[:, w - 1 :] += two.unsqueeze(-1) * before.unsqueeze(-2)
        back[:, 1 : q + 1, w - 1] += torch.matmul(left[:, :q].mT, one.unsqueeze(-1)).squeeze(-1)
        back[:, :q, w - 1] += torch.matmul(right[:, w - 1 :].mT, two.unsqueeze(-1)).squeeze(-1)
        if w > 3:
            first, second, cuts = _cut(begins, ends, scales, w)
            cuts = (cuts - level.unsqueeze(-1)).exp_().unsqueeze(-1)
            weighted = first * cuts
            joined = torch.matmul(weighted.mT, second)
            count_nn += outer(here, joined.flatten(-2), bool(shape))
            grown = times(here, flat).unflatten(-1, (a, a))
            back[:, :q, 2 : w - 1] += torch.matmul(second, grown.mT) * cuts
            back_ends[:, w - 1 :, t - w + 2 : t - 1] += torch.matmul(weighted, grown)
    table_left, table_right = back_left.flatten(-2), back_right.flatten(-2)
    back_leaves += times(table_left, ln.permute(0, 1, 3, 2).reshape(m, a * a, p))
    back_leaves += times(table_right, nl.reshape(m, a * a, p))
    if shape:
        count_ln = torch.matmul(table_left.mT, leaves).unflatten(1, (a, a))
        count_nl = torch.matmul(table_right.mT, leaves).unflatten(1, (a, a))
    else:
        count_ln = torch.matmul(table_left.flatten(0, 1).mT, leaves.flatten(0, 1)).unflatten(0, (a, a))
        count_nl = torch.matmul(table_right.flatten(0, 1).mT, leaves.flatten(0, 1)).unflatten(0, (a, a))
    s = a + p
    rules = nn.new_zeros(*shape, a, s, s)
    whole_table = nn.new_zeros(m, a, s, s)
    whole_table[..., :a, :a], whole_table[..., a:, :a], whole_table[..., :a, a:], whole_table[..., a:, a:] = (
        nn,
        ln,
        nl,
        ll,
    )
    rules[..., :a, :a] = count_nn.unflatten(-1, (a, a))
    rules[..., a:, :a] = count_ln.transpose(-1, -2)
    rules[..., :a, a:] = count_nl
    rules[..., a:, a:] = count_ll.unflatten(-1, (p, p))
    rules *= whole_table if shape else whole_table[0]
    return Counts(seed * begins[rows, 0, lengths], rules, back_leaves * leaves, back * begins)


def times(rows: Tensor, table: Tensor) -> Tensor:
    """Rows (N, q, R) times a table (M, R, C), M being 1 or N."""
    if len(table) == 1:
        return torch.matmul(rows.flatten(0, 1), table[0]).unflatten(0, rows.shape[:2])
    return torch.matmul(rows, table)


def outer(rows: Tensor, columns: Tensor, by_item: bool) -> Tensor:
    """(N, q, R) and (N, q, C): summed products (R, C), or (N, R, C)."""
    if by_item:
        return torch.matmul(rows.mT, columns)
    return torch.matmul(rows.flatten(0, 1).mT, columns.flatten(0, 1))
