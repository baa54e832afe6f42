"""Trees as charts of symbols: the best one, and how brackets that are most often right fit together.

A tree over T words is (T, T): at [i, j] the symbol of the phrase from word i to word j, on the diagonal the
preterminals, -1 where there is none. Symbols are numbered as rules have them, nonterminals first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["best_brackets", "best_trees", "children", "counted", "top_down"]

#: Chooses for nodes (M,) of items, begins and symbols, of w words: words on the left, both symbols.
Chooser = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def top_down(symbols: Tensor, lengths: Tensor, steps: int, choose: Chooser) -> Tensor:
    """Trees (N, T, T) grown from their roots' symbols (N,), -1 for no tree."""
    n = len(symbols)
    trees = torch.full((n, steps, steps), -1, dtype=torch.int64, device=symbols.device)
    there = (symbols >= 0).nonzero().flatten()
    trees[there, 0, lengths[there] - 1] = symbols[there]
    for w in range(steps, 1, -1):
        items, begins = (trees.diagonal(w - 1, 1, 2) >= 0).nonzero().unbind(-1)
        if len(items):
            ends = begins + w - 1
            words, left, right = choose(w, items, begins, trees[items, begins, ends])
            trees[items, begins, begins + words - 1] = left
            trees[items, begins + words, ends] = right
    return trees


def children(trees: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of trees (..., T, T), the children of what stands at [i, j]: words on the left, left symbol, right symbol.

    The left child is the longest shorter phrase that begins with the same word; -1 for what is not there.
    """
    t = trees.shape[-1]
    places = torch.arange(t, device=trees.device)
    ends = torch.where(trees >= 0, places, -1).cummax(-1).values
    ends = torch.cat([torch.full_like(ends[..., :1], -1), ends[..., :-1]], -1)  # the last one before j
    left = trees.gather(-1, ends.clamp_min(0)).masked_fill(ends < 0, -1)
    rows = (ends + 1).clamp(0, t - 1)  # the right child begins after it
    right = trees.gather(-2, rows).masked_fill(ends < 0, -1)
    return ends - places.unsqueeze(-1) + 1, left, right


def counted(trees: Tensor, lengths: Tensor, weights: Tensor, a: int, p: int) -> tuple[Tensor, Tensor, Tensor]:
    """How often trees (N, T, T) use the root (A,), rules (A, S, S), summed over items, and preterminals (N, T, P)."""
    s = a + p
    _, left, right = children(trees)
    n, i, j = (trees >= 0).nonzero().unbind(-1)
    symbol, node = trees[n, i, j], i != j
    root, rules, tags = weights.new_zeros(a), weights.new_zeros(a * s * s), weights.new_zeros(*trees.shape[:2], p)
    top = (i == 0) & (j == lengths[n] - 1) & node
    root.index_add_(0, symbol[top], weights[n[top]])
    used = (symbol * s + left[n, i, j]) * s + right[n, i, j]
    rules.index_add_(0, used[node], weights[n[node]])
    tags[n[~node], i[~node], symbol[~node] - a] = weights[n[~node]]
    return root, rules.reshape(a, s, s), tags


def best_trees(root: Tensor, rules: Tensor, preterminals: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable trees (N, T, T) and their weights (N,), by dynamic programming over spans (Kasami, 1965)."""
    n, t, _ = preterminals.shape
    a, s = rules.shape[1], rules.shape[-1]
    nn, nl, ln, ll = rules[:, :, :a, :a], rules[:, :, :a, a:], rules[:, :, a:, :a], rules[:, :, a:, a:]
    chart = [preterminals[:, :0], preterminals]
    pointers: list[Tensor] = [torch.empty(0), torch.empty(0)]
    # The best word under each symbol, for each sibling: on the left (N, T, A, A) [a, c], on the right [a, b].
    left, left_word = _over(ln.transpose(-1, -2), preterminals)
    right, right_word = _over(nl, preterminals)
    for w in range(2, t + 1):
        q = t - w + 1
        if w == 2:
            best, pick = _pairs(ll, preterminals[:, :-1].unsqueeze(-1) + preterminals[:, 1:].unsqueeze(-2))
            size = s - a
            chart.append(best)
            pointers.append((s * s) + (pick // size + a) * s + pick % size + a)
            continue
        after, at = (left[:, :q] + chart[w - 1][:, 1 : q + 1].unsqueeze(-2)).max(-1)
        word = left_word[:, :q].gather(-1, at.unsqueeze(-1)).squeeze(-1)
        best, where = after, s * s + (word + a) * s + at
        before, at = (right[:, w - 1 :] + chart[w - 1][:, :q].unsqueeze(-2)).max(-1)
        word = right_word[:, w - 1 :].gather(-1, at.unsqueeze(-1)).squeeze(-1)
        best, where = _higher(best, where, before, (w - 1) * s * s + at * s + word + a)
        if w > 3:
            joined = preterminals.new_full((n, q, a, a), -math.inf)
            cut = torch.zeros(joined.shape, dtype=torch.int64, device=joined.device)
            for v in range(2, w - 1):
                both = chart[v][:, :q].unsqueeze(-1) + chart[w - v][:, v : v + q].unsqueeze(-2)
                joined, cut = _higher(joined, cut, both, torch.full_like(cut, v))
            inner, pick = _pairs(nn, joined)
            words = cut.flatten(-2).gather(-1, pick)
            best, where = _higher(best, where, inner, words * s * s + pick // a * s + pick % a)
        chart.append(best)
        pointers.append(where)
    whole = torch.stack(
        [chart[int(k)][i, 0] if k > 1 else root.new_full((a,), -math.inf) for i, k in enumerate(lengths)]
    )
    scores, symbols = (root + whole).max(-1)

    def choose(w: int, items: Tensor, begins: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = pointers[w][items, begins, symbols]
        return found // (s * s), found // s % s, found % s

    return top_down(symbols.masked_fill(~(scores > -math.inf), -1), lengths, t, choose), scores


def _over(table: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Of a table (M, A, B, P) and words (N, T, P): the best word for each entry, (N, T, A, B) twice."""
    rows = [(table[:, i].unsqueeze(1) + words.unsqueeze(-2)).max(-1) for i in range(table.shape[1])]
    return torch.stack([r.values for r in rows], -2), torch.stack([r.indices for r in rows], -2)


def _pairs(table: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Of a table (M, A, B, C) and pairs (N, q, B, C): the best pair under each symbol, (N, q, A) twice."""
    rows = [(table[:, i].unsqueeze(1) + pairs).flatten(-2).max(-1) for i in range(table.shape[1])]
    return torch.stack([r.values for r in rows], -1), torch.stack([r.indices for r in rows], -1)


def _higher(best: Tensor, where: Tensor, other: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    better = other > best
    return torch.where(better, other, best), torch.where(better, there, where)


def best_brackets(symbols: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
    """The trees whose brackets are most often expected to be right, (N, T, T); -1 throughout where there is none.

    Each phrase has the symbol that is most probable there (Goodman, 1996, "Parsing algorithms and metrics").

    Args:
        symbols: (N, T, T + 1, A), [n, i, w], expected counts. tags: (N, T, P).
    """
    n, t, _, a = symbols.shape
    often, names = symbols.sum(-1), symbols.argmax(-1)
    best = torch.zeros_like(often)
    cuts = torch.ones(often.shape, dtype=torch.int64, device=often.device)
    for w in range(2, t + 1):
        q = t - w + 1
        both = torch.stack([best[:, :q, v] + best[:, v : v + q, w - v] for v in range(1, w)])
        top, at = both.max(0)
        best[:, :q, w] = often[:, :q, w] + top
        cuts[:, :q, w] = at + 1
    names = torch.cat([names[:, :, :1], tags.argmax(-1).unsqueeze(-1) + a, names[:, :, 2:]], -1)
    rows = torch.arange(n, device=lengths.device)
    possible = (lengths > 1) & (often[rows, 0, lengths] > 0.5)

    def choose(w: int, items: Tensor, begins: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        words = cuts[items, begins, w]
        return words, names[items, begins, words], names[items, begins + words, w - words]

    return top_down(names[rows, 0, lengths].masked_fill(~possible, -1), lengths, t, choose)
