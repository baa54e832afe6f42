"""Exact sums over the binary trees of sentences, each node with a symbol: what context-free grammars need.

The weight of a tree is ``root[A]`` of the symbol above all words, plus ``rules[A, B, C]`` of every node A with children
B and C, plus ``preterminals[t, P]`` of the symbol above word t; nats, none need be normalised, -inf forbids. The sum
over all trees is the inside algorithm (Baker, 1979), its gradient the outside algorithm (Eisner, 2016): :class:`Tree`.

The passes are matrix products over scaled probabilities (``tree_inside.py``), on any device; where scaling might lose
something, a sentence is done again by logarithms (``tree_logs.py``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from zoo.core.memory import BUCKET, LARGE, PIECE_NUMBERS, rows_at_once
from zoo.core.statistics import wide
from zoo.errors import ZooError
from zoo.structures import tree_inside, tree_logs, tree_parts
from zoo.structures.base import Structure, _Once

__all__ = ["Expected", "Tree"]


class Expected(NamedTuple):
    """Log-partitions (N,), and expected counts: of the root (A,), rules (A, S, S), preterminals (N, T, P).

    Where items have a root, or rules, of their own, the counts have N before them.
    """

    value: Tensor
    root: Tensor
    rules: Tensor
    preterminals: Tensor


@dataclass(frozen=True, eq=False)
class Tree(Structure[Tensor]):
    """Binary trees over N sentences; see the module. Parts are charts (..., N, T, T), int64.

    At [i, j] of a chart stands the symbol of the phrase from word i to word j, on the diagonal the preterminals, -1
    where there is none. Symbols are numbered as ``rules`` has them: A nonterminals, then P preterminals. Every
    nonterminal has two children, so that a sentence of one word has no tree.

    Memory beyond the arguments: for the sentences now worked on, four charts of T^2 A numbers each and T A^2 more;
    they are as many as fit into a bound. Draws and second derivatives go by logarithms, in T S^2 numbers a sentence.

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
        tensor([5.0000])
    """

    potentials: ClassVar[tuple[str, ...]] = ("root", "rules", "preterminals")
    root: Tensor
    rules: Tensor
    preterminals: Tensor
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        root, rules, words = self.root, self.rules, self.preterminals
        if words.dim() != 3 or 0 in words.shape:
            raise ZooError(f"preterminals: expected shape (N, T, P), got {tuple(words.shape)}.")
        n, t, p = words.shape
        a = root.shape[-1] if root.dim() else 0
        if a == 0 or root.shape not in ((a,), (n, a)):
            raise ZooError(f"root: expected shape (A,) or ({n}, A), got {tuple(root.shape)}.")
        s = a + p
        if rules.shape not in ((a, s, s), (n, a, s, s)):
            raise ZooError(f"rules: expected shape ({a}, {s}, {s}), or {n} of them, got {tuple(rules.shape)}.")
        if self.lengths is not None:
            lengths = self.lengths
            if lengths.shape != (n,) or lengths.is_floating_point():
                raise ZooError(f"lengths: expected {n} integers, got shape {tuple(lengths.shape)} of {lengths.dtype}.")
            if bool((lengths < 1).any()) or bool((lengths > t).any()):
                which = int(((lengths < 1) | (lengths > t)).nonzero()[0])
                raise ZooError(f"lengths: expected from 1 to {t}, got {int(lengths[which])} for sentence {which}.")

    @property
    def num_items(self) -> int:
        return self.preterminals.shape[0]

    @property
    def part_shape(self) -> tuple[int, ...]:
        return (self.preterminals.shape[1],) * 2

    @functools.cached_property
    def _sizes(self) -> Tensor:
        n, t, _ = self.preterminals.shape
        device = self.preterminals.device
        return torch.full((n,), t, device=device) if self.lengths is None else self.lengths.to(device)

    @functools.cached_property
    def inside_words(self) -> Tensor:
        """(N, T): which words exist."""
        return torch.arange(self.preterminals.shape[1], device=self._sizes.device) < self._sizes.unsqueeze(-1)

    # Passes, in pieces of like length -----------------------------------------------------------------------------

    def _pieces(
        self, numbers: int = 0, limit: int = LARGE
    ) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]]:
        """Which items, and their root, rules and preterminals in float64, without a graph, and lengths.

        Longest first, as many as fit; ``numbers`` is what one takes beside its charts.
        """
        n, t, _ = self.preterminals.shape
        a, s = self.rules.shape[-3], self.rules.shape[-1]
        own = self.rules.dim() == 4
        order = torch.arange(n) if self.lengths is None else self._sizes.cpu().argsort(descending=True, stable=True)
        root, rules = wide(self.root.detach()), wide(self.rules.detach())
        words = wide(self.preterminals.detach()).masked_fill(~self.inside_words.unsqueeze(-1), 0.0)
        each = 4 * t * t * a + 3 * t * a * a + numbers + (a * s * s if own else 0)
        size = min(rows_at_once(each, limit), n if self.lengths is None else BUCKET)
        for index in order.to(words.device).split(size):
            lengths = self._sizes[index]
            longest = max(2, int(lengths.max()))
            piece = words[index, :longest]
            if t < 2:
                piece = torch.cat([piece, torch.zeros_like(piece)], 1)
            yield (
                index,
                (
                    root[index] if root.dim() == 2 else root.unsqueeze(0),
                    rules[index] if own else rules.unsqueeze(0),
                    piece,
                    lengths,
                ),
            )

    def value(self) -> Tensor:
        found = wide(self.preterminals.detach()).new_empty(self.num_items)
        for index, arguments in self._pieces():
            charts = tree_inside.inside(*arguments)
            found[index] = charts.value
            if len(doubtful := _doubtful(charts)):
                with torch.no_grad():
                    found[index[doubtful]] = tree_logs.log_partition(*_taken(arguments, doubtful))
        return found.to(self.preterminals.dtype)

    @torch.no_grad()
    def expected(self, weights: Tensor | None = None, by_item: bool = False) -> Expected:
        """What EM needs: log-partitions and expected counts, without a graph, in float64.

        Args:
            weights: (N,), how often each sentence counts; the log-partitions do not. by_item: whether the rules' counts
                are wanted item by item, (N, A, S, S), and the root's.
        """
        words = wide(self.preterminals.detach())
        n, a = len(words), self.root.shape[-1]
        weights = words.new_ones(n) if weights is None else weights.to(words)
        own_root, own_rules = self.root.dim() == 2 or by_item, self.rules.dim() == 4 or by_item
        value, tags = words.new_empty(n), torch.zeros_like(words)
        root = words.new_zeros(n, a)
        rules = words.new_zeros(*((n,) if own_rules else ()), *self.rules.shape[-3:])
        for index, arguments in self._pieces(self.rules.shape[-3:].numel() if by_item else 0):
            charts = tree_inside.inside(*arguments)
            doubtful = _doubtful(charts)
            scale = weights[index]
            if len(doubtful):
                scale = scale.index_fill(0, doubtful, 0.0)
            counts = tree_inside.outside(charts, arguments[3], own_rules, scale)
            value[index] = charts.value
            root[index] = counts.root
            longest = min(counts.preterminals.shape[1], tags.shape[1])
            tags[index, :longest] = counts.preterminals[:, :longest]
            if own_rules:
                rules[index] = counts.rules
            else:
                rules += counts.rules
            for one in doubtful.tolist():
                place = index[one]
                value[place], root[place], table, words_of = tree_logs.weighted_counts(
                    _taken(arguments, doubtful.new_tensor([one])), weights[place]
                )
                tags[place, :longest] = words_of[:longest]
                if own_rules:
                    rules[place] = table
                else:
                    rules += table
        return Expected(value, root if own_root else root.sum(0), rules, tags)

    def solve(self, by_item: Sequence[bool]) -> tuple[Tensor, tuple[Tensor, ...]]:
        found = self.expected(by_item=by_item[0] or by_item[1])
        root, rules = found.root, found.rules
        if self.root.dim() == 1 and root.dim() == 2 and not by_item[0]:
            root = root.sum(0)
        if self.rules.dim() == 3 and rules.dim() == 4 and not by_item[1]:
            rules = rules.sum(0)
        return found.value.to(self.preterminals.dtype), (root, rules, found.preterminals)

    def log_partition(self) -> Tensor:
        """ln of the sum over all trees, (N,), nats; -inf where there is none. Differentiable once.

        Counts of shared rules are weighted and summed at once: they are never held item by item.
        """
        value: Tensor = _Weighted.apply(self, *self._tensors())
        return value

    def moments(self, other: Tree | None, gradient: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        theirs = (self if other is None else other)._tensors()
        found = self.expected(by_item=True)
        counts = (found.root, found.rules, found.preterminals)
        words = self.inside_words.unsqueeze(-1)
        scores = tuple(wide(t.detach()) for t in theirs)
        scores = (*scores[:2], scores[2].masked_fill(~words, 0.0))
        mean = sum(torch.where(c > 0, c * s, 0.0).flatten(1).sum(-1) for c, s in zip(counts, scores, strict=True))
        if other is None:
            mean = mean - found.value
        mean = torch.as_tensor(mean).masked_fill(~(found.value > -math.inf), math.nan)
        covariances: tuple[Tensor, ...] = ()
        if gradient:
            finite = tuple(s.masked_fill(s == -math.inf, 0.0) for s in scores)
            covariances = tuple(torch.zeros_like(c) for c in counts)
            for n in (found.value > -math.inf).nonzero().flatten().tolist():
                for whole, one in zip(covariances, self._covariances(n, finite), strict=True):
                    whole[n] = one
        return mean.to(self.preterminals.dtype), covariances

    def _covariances(self, n: int, scores: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of item n: derivatives of the mean of a score, by logarithms twice differentiated."""
        length = int(self._sizes[n])
        own = [t[n] if t.dim() > d else t for t, d in zip(self._tensors(), (1, 3, 2), strict=True)]
        theirs = [t[n] if t.dim() > d else t for t, d in zip(scores, (1, 3, 2), strict=True)]
        with torch.enable_grad():
            leaves = [wide(t.detach()).clone().requires_grad_() for t in (own[0], own[1], own[2][:length])]
            root, rules, words = (t.unsqueeze(0) for t in leaves)
            value = tree_logs.log_partition(root, rules, words, self._sizes[n : n + 1])
            counts = torch.autograd.grad(value.sum(), leaves, create_graph=True)
            score = (
                (counts[0] * theirs[0]).sum() + (counts[1] * theirs[1]).sum() + (counts[2] * theirs[2][:length]).sum()
            )
            root, rules, words = torch.autograd.grad(score, leaves)
        padded = torch.zeros_like(self.preterminals[n], dtype=words.dtype)
        padded[:length] = words
        return root, rules, padded

    # Trees --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def argmax(self) -> tuple[Tensor, Tensor]:
        """The most probable trees (N, T, T), -1 throughout where there is none, and their weights (N,)."""
        n, t, _ = self.preterminals.shape
        a, s = self.rules.shape[-3], self.rules.shape[-1]
        trees = torch.full((n, t, t), -1, dtype=torch.int64, device=self._sizes.device)
        scores = wide(self.preterminals.detach()).new_empty(n)
        for index, arguments in self._pieces(4 * t * a * max(a, s - a) + 2 * t * (s - a) ** 2):
            best, scores[index] = tree_parts.best_trees(*arguments)
            _place(trees, index, best)
        return trees, scores.to(self.preterminals.dtype)

    @torch.no_grad()
    def minimum_risk(self) -> Tensor:
        """The trees whose brackets are most often expected to be right, (N, T, T); see ``tree_parts.best_brackets``."""
        n, t, _ = self.preterminals.shape
        trees = torch.full((n, t, t), -1, dtype=torch.int64, device=self._sizes.device)
        for index, arguments in self._pieces():
            charts = tree_inside.inside(*arguments)
            counts = tree_inside.outside(charts, arguments[3], False, torch.ones_like(charts.value))
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
        s = self.rules.shape[-1]
        trees = torch.full((num_samples, n, t, t), -1, dtype=torch.int64, device=self._sizes.device)
        for index, (root, rules, words, lengths) in self._pieces(t * s * s):
            chart = tree_logs.log_chart(rules, words)
            drawn = tree_parts.drawn_trees(root, rules, chart, lengths, num_samples, generator, LARGE * PIECE_NUMBERS)
            for place, one in zip(trees, drawn, strict=True):
                _place(place, index, one)
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
        top = parts[..., rows, 0, self._sizes - 1]
        wrong = (there.flatten(-2).sum(-1) != 2 * self._sizes - 1) | (top < 0) | (top >= a)
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
        """How often trees (N, T, T), each as often as ``weights`` (N,) says, use the root (A,), rules (A, S, S), summed
        over items, and preterminals (N, T, P)."""
        words = wide(self.preterminals.detach())
        weights = words.new_ones(len(parts)) if weights is None else weights.to(words)
        return tree_parts.counted(parts, self._sizes, weights, self.rules.shape[-3], words.shape[-1])

    def tags(self, parts: Tensor) -> Tensor:
        """The preterminals of trees (..., N, T, T), counted from 0: (..., N, T), -1 where there is no word."""
        tags = parts.diagonal(0, -2, -1)
        return torch.where(tags >= 0, tags - self.rules.shape[-3], -1)

    def _check_alike(self, other: Structure[Any]) -> None:
        super()._check_alike(other)
        assert isinstance(other, Tree)
        if not torch.equal(self._sizes, other._sizes):
            raise ZooError("expect: expected trees over the same lengths, got others; give both the same lengths.")


class _Weighted(torch.autograd.Function):
    """The log-partition; its gradient is one weighted E step."""

    @staticmethod
    def forward(ctx: Any, tree: Tree, *potentials: Tensor) -> Tensor:
        ctx.tree = tree
        ctx.save_for_backward(*potentials)
        return tree.value()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tree, potentials = ctx.tree, ctx.saved_tensors
        counts = tree.expected(gradient.detach())[1:]
        found = [
            c.to(p.dtype) if needed else None
            for needed, c, p in zip(ctx.needs_input_grad[1:], counts, potentials, strict=True)
        ]
        if torch.is_grad_enabled():  # create_graph=True
            return None, *_Once.apply(len(potentials) + 1, gradient, *potentials, *found)
        return None, *found


def _doubtful(charts: tree_inside.Charts) -> Tensor:
    return charts.suspect.expand(len(charts.value)).nonzero().flatten()


def _taken(arguments: tuple[Tensor, Tensor, Tensor, Tensor], which: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    root, rules, words, lengths = arguments
    return (
        root[which] if len(root) > 1 else root,
        rules[which] if len(rules) > 1 else rules,
        words[which],
        lengths[which],
    )


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
