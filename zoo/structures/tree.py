"""Exact sums over the binary trees of sentences, each node with a symbol: what context-free grammars need.

The weight of a tree is ``root[A]`` of the symbol above all words, plus ``rules[A, B, C]`` of every node A with children
B and C, plus ``preterminals[t, P]`` of the symbol above word t; nats, none need be normalised, -inf forbids. The sum
over all trees is the inside algorithm (Baker, 1979), its gradient the outside algorithm (Eisner, 2016): :class:`Tree`.

The passes are products of matrices over scaled probabilities, compiled on the CPU (``tree_dense.py``; over the list of
rules where few are possible, ``tree_sparse.py``), torch's on any device (``tree_inside.py``); where scaling might lose
something, a sentence is done again by logarithms (``tree_logs.py``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.core.memory import LARGE, PIECE_NUMBERS
from zoo.core.statistics import wide
from zoo.errors import ZooError
from zoo.structures import tree_draws, tree_logs, tree_parts, tree_scales
from zoo.structures.base import Structure
from zoo.structures.tree_problem import Expected, LogPartition, TreeProblem, taken

__all__ = ["Tree"]


@dataclass(frozen=True, eq=False)
class Tree(Structure[Tensor]):
    """Binary trees over N sentences; see the module. Parts are charts (..., N, T, T), int64.

    At [i, j] of a chart stands the symbol of the phrase from word i to word j, on the diagonal the preterminals, -1
    where there is none. Symbols are numbered as ``rules`` has them: A nonterminals, then P preterminals. Every
    nonterminal has two children, so that a sentence of one word has no tree.

    Memory beyond the arguments: for the sentences now worked on, four charts of T^2 A numbers each and 2 T A (2 A + P)
    more (of few rules two charts of T^2 S); they are as many as fit into a bound.

    Args:
        root: (A,) or (N, A), log-weights of the symbol above all words.
        rules: (A, S, S) or (N, A, S, S), S = A + P, nonterminals first: [a, b, c] of a above b and c.
        preterminals: (N, T, P), ln p(x_t | P).
        lengths: (N,), integers from 1 to T; by default all T. What lies beyond is never read.

    Raises:
        ZooError: shapes or lengths that do not fit.

    Example:
        >>> import torch
        >>> from zoo.structures.tree import Tree
        >>> tree = Tree(torch.zeros(1), torch.zeros(1, 2, 2), torch.zeros(1, 4, 1))
        >>> tree.log_partition().exp()  # the binary trees over four words
        tensor([5.])
    """

    potentials: ClassVar[tuple[str, ...]] = ("root", "rules", "preterminals")
    root: Tensor
    rules: Tensor
    preterminals: Tensor
    lengths: Tensor | None = None
    _backend: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _ = self._problem  # checks the arguments

    @functools.cached_property
    def _problem(self) -> TreeProblem:
        return TreeProblem(self.root, self.rules, self.preterminals, self.lengths, self._backend)

    @property
    def num_items(self) -> int:
        return self.preterminals.shape[0]

    @property
    def part_shape(self) -> tuple[int, ...]:
        return (self.preterminals.shape[1],) * 2

    @property
    def inside_words(self) -> Tensor:
        """(N, T): which words exist."""
        return self._problem.words

    def value(self) -> Tensor:
        return self._cast(self._problem.value())

    def _cast(self, values: Tensor) -> Tensor:
        return values.to(self.preterminals.dtype)

    def expected(self, weights: Tensor | None = None, by_item: bool = False) -> Expected:
        """What EM needs: log-partitions and expected counts, without a graph, in float64.

        Args:
            weights: (N,), how often each sentence counts; the log-partitions do not. by_item: whether the rules' counts
                are wanted item by item, (N, A, S, S), and the root's.
        """
        return self._problem.expected(weights, by_item)

    def solve(self, by_item: Sequence[bool]) -> tuple[Tensor, tuple[Tensor, ...]]:
        found = self.expected(by_item=by_item[0] or by_item[1])
        root, rules = found.root, found.rules
        if self.root.dim() == 1 and root.dim() == 2 and not by_item[0]:
            root = root.sum(0)
        if self.rules.dim() == 3 and rules.dim() == 4 and not by_item[1]:
            rules = rules.sum(0)
        return self._cast(found.value), (root, rules, found.preterminals)

    def log_partition(self) -> Tensor:
        """ln of the sum over all trees, (N,), nats; -inf where there is none. Differentiable once.

        Counts of shared rules are weighted and summed at once: they are never held item by item.
        """
        value: Tensor = LogPartition.apply(self._problem, self.preterminals.dtype, *self._tensors())
        return value

    def moments(self, other: Tree | None, gradient: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        mean, covariances = self._problem.moments(None if other is None else other._problem, gradient)
        return self._cast(mean), covariances

    # Trees --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def argmax(self) -> tuple[Tensor, Tensor]:
        """The most probable trees (N, T, T), -1 throughout where there is none, and their weights (N,)."""
        n, t, _ = self.preterminals.shape
        a, s = self.rules.shape[-3], self.rules.shape[-1]
        trees = torch.full((n, t, t), -1, dtype=torch.int64, device=self._problem.lengths.device)
        scores = wide(self.preterminals.detach()).new_empty(n)
        for index, arguments in self._problem.pieces(4 * t * a * max(a, s - a) + 2 * t * (s - a) ** 2):
            best, scores[index] = tree_parts.best_trees(*arguments)
            _place(trees, index, best)
        return trees, self._cast(scores)

    @torch.no_grad()
    def minimum_risk(self) -> Tensor:
        """The trees whose brackets are most often expected to be right, (N, T, T); see ``tree_parts.best_brackets``."""
        n, t, _ = self.preterminals.shape
        trees = torch.full((n, t, t), -1, dtype=torch.int64, device=self._problem.lengths.device)
        for index, arguments, charts in self._problem.summed():
            counts = self._problem.passes.outside(charts, arguments[3], False, torch.ones_like(charts.value))
            _place(trees, index, tree_parts.best_brackets(counts.symbols, counts.preterminals, arguments[3]))
        return trees

    @torch.no_grad()
    def sample(self, num_samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws of whole trees, (num_samples, N, T, T): inside sums, then rules from the root down.

        Raises:
            ZooError: a sentence is impossible and has no posterior.
        """
        if num_samples < 1:
            raise ZooError(f"num_samples: expected at least 1, got {num_samples}.")
        value = self.value()
        if not bool((value > -math.inf).all()):
            first = int((~(value > -math.inf)).nonzero()[0])
            raise ZooError(
                f"sample: sentence {first} has probability zero or NaN and no posterior to draw from; leave it out."
            )
        n, t, _ = self.preterminals.shape
        trees = torch.full((num_samples, n, t, t), -1, dtype=torch.int64, device=self._problem.lengths.device)
        for index, arguments, charts in self._problem.summed():
            doubtful = charts.suspect.expand(len(index))
            for rows in ((~doubtful).nonzero().flatten(), *doubtful.nonzero()):
                if len(rows):
                    root, rules, words, lengths = part = taken(arguments, rows)
                    common = (lengths, num_samples, generator, LARGE * PIECE_NUMBERS)
                    if doubtful[rows[0]]:
                        drawn = tree_draws.from_logs(root, rules, tree_logs.log_chart(rules, words), *common)
                    else:
                        given = tree_scales.scaled(*part)
                        drawn = tree_draws.from_scaled(given, charts.begins[rows], charts.scales[rows], *common)
                    for place, one in zip(trees, drawn, strict=True):
                        _place(place, index[rows], one)
        return trees

    def score(self, parts: Tensor) -> Tensor:
        n, t, _ = self.preterminals.shape
        if parts.dim() < 3 or parts.shape[-3:] != (n, t, t) or parts.is_floating_point():
            raise ZooError(
                f"score: expected integer charts (..., {n}, {t}, {t}), got shape {tuple(parts.shape)} of {parts.dtype}."
            )
        a, s = self.rules.shape[-3], self.rules.shape[-1]
        _, left, right = tree_parts.children(parts)
        there = parts >= 0
        nodes = there & ~torch.eye(t, dtype=torch.bool, device=parts.device)
        tags = parts.diagonal(0, -2, -1)
        rows = torch.arange(n, device=parts.device)
        top = parts[..., rows, 0, self._problem.lengths - 1]
        wrong = (there.flatten(-2).sum(-1) != 2 * self._problem.lengths - 1) | (top < 0) | (top >= a)
        wrong = wrong | (nodes & ((parts >= a) | (left < 0) | (right < 0))).flatten(-2).any(-1)
        wrong = wrong | (((tags < a) | (tags >= s)) & self.inside_words).any(-1)
        total = self.root[rows, top.clamp(0, a - 1)] if self.root.dim() == 2 else self.root[top.clamp(0, a - 1)]
        index = (parts.clamp(0, a - 1), left.clamp(0, s - 1), right.clamp(0, s - 1))
        used = self.rules[index] if self.rules.dim() == 3 else self.rules[(rows.reshape(-1, 1, 1), *index)]
        total = total + torch.where(nodes, used, torch.zeros_like(used)).flatten(-2).sum(-1)
        emitted = self.preterminals.expand(*tags.shape[:-2], *self.preterminals.shape)
        emitted = emitted.gather(-1, (tags - a).clamp(0, s - a - 1).unsqueeze(-1)).squeeze(-1)
        total = total + torch.where(self.inside_words, emitted, torch.zeros_like(emitted)).sum(-1)
        return total.masked_fill(wrong, -math.inf)

    def counts(self, parts: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """How often ``parts``, trees (N, T, T), each as often as ``weights`` (N,) says, use the root (A,), rules
        (A, S, S), summed over items, and preterminals (N, T, P)."""
        words = wide(self.preterminals.detach())
        weights = words.new_ones(len(parts)) if weights is None else weights.to(words)
        return tree_parts.counted(parts, self._problem.lengths, weights, self.rules.shape[-3], words.shape[-1])

    def tags(self, parts: Tensor) -> Tensor:
        """Preterminals of ``parts``, trees (..., N, T, T), counted from 0: (..., N, T), -1 where there is no word."""
        tags = parts.diagonal(0, -2, -1)
        return torch.where(tags >= 0, tags - self.rules.shape[-3], -1)

    def _check_alike(self, other: Structure[Any]) -> None:
        super()._check_alike(other)
        assert isinstance(other, Tree)
        if not torch.equal(self._problem.lengths, other._problem.lengths):
            raise ZooError("expect: expected trees over the same lengths, got others; give both the same lengths.")


def _place(trees: Tensor, index: Tensor, found: Tensor) -> None:
    t = min(found.shape[-1], trees.shape[-1])
    whole = trees.new_full((len(index), *trees.shape[1:]), -1)
    whole[:, :t, :t] = found[:, :t, :t]
    trees[index] = whole


def tiny() -> Tree:
    """The smallest honest instance: ragged, with a rule that is forbidden."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(2, dtype=torch.float64, generator=generator)
    rules = torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)
    rules[0, 1, 2] = -math.inf
    preterminals = torch.randn(3, 4, 1, dtype=torch.float64, generator=generator)
    return Tree(root, rules, preterminals, torch.tensor([4, 2, 3]))
