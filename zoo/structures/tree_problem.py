"""A tree's arguments, checked, and the sums over trees, piece by piece: compiled on a processor, by torch elsewhere."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from zoo.core.memory import BUCKET, LARGE, rows_at_once
from zoo.core.once import once
from zoo.core.parallel import has_numba
from zoo.core.statistics import wide
from zoo.errors import ZooError
from zoo.structures import tree_dense, tree_inside, tree_logs, tree_scales, tree_sparse

__all__ = ["Expected", "LogPartition", "TreeProblem", "taken"]

#: Root, rules and preterminals of some items, in float64, and their lengths.
Arguments: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
#: Some items: which they are, what they are given by, and their inside pass.
Summed: TypeAlias = tuple[Tensor, Arguments, Any]

#: Up to which share of possible rules sums run over their list.
SPARSE = 0.01


class Expected(NamedTuple):
    """Log-partitions and expected counts; where items have a root, or rules, of their own, with N before them.

    Attributes:
        value: log-partitions (N,), nats.
        root, rules, preterminals: expected counts, (A,), (A, S, S) and (N, T, P).
    """

    value: Tensor
    root: Tensor
    rules: Tensor
    preterminals: Tensor


class TreeProblem:
    """Checked arguments, and what is computed from them, without a graph and in float64; see ``tree.Tree``."""

    def __init__(
        self, root: Tensor, rules: Tensor, preterminals: Tensor, lengths: Tensor | None, backend: str | None = None
    ) -> None:
        if preterminals.dim() != 3 or 0 in preterminals.shape:
            raise ZooError(f"preterminals: expected shape (N, T, P), got {tuple(preterminals.shape)}.")
        n, t, p = preterminals.shape
        a = root.shape[-1] if root.dim() else 0
        if a == 0 or root.shape not in ((a,), (n, a)):
            raise ZooError(f"root: expected shape (A,) or ({n}, A), got {tuple(root.shape)}.")
        s = a + p
        if rules.shape not in ((a, s, s), (n, a, s, s)):
            raise ZooError(f"rules: expected shape ({a}, {s}, {s}), or {n} of them, got {tuple(rules.shape)}.")
        if lengths is not None:
            if lengths.shape != (n,) or lengths.is_floating_point():
                raise ZooError(f"lengths: expected {n} integers, got shape {tuple(lengths.shape)} of {lengths.dtype}.")
            if bool((lengths < 1).any()) or bool((lengths > t).any()):
                which = int(((lengths < 1) | (lengths > t)).nonzero()[0])
                raise ZooError(f"lengths: expected from 1 to {t}, got {int(lengths[which])} for sentence {which}.")
        self.n, self.t, self.p, self.a, self.s = n, t, p, a, s
        self.device = preterminals.device
        self.alike = lengths is None
        self.lengths = torch.full((n,), t, device=self.device) if lengths is None else lengths.to(self.device)
        self.potentials = tuple(wide(x.detach()) for x in (root, rules, preterminals))
        self.own_root, self.own_rules = root.dim() == 2, rules.dim() == 4
        self.backend = backend

    @functools.cached_property
    def passes(self) -> Any:
        """The module with the inside and the outside pass."""
        on_cpu = self.device.type == "cpu"
        if self.backend == "torch" or (self.backend is None and not (on_cpu and has_numba())):
            return tree_inside
        rules = self.potentials[1]
        few = not self.own_rules and int((rules == -math.inf).sum()) > (1 - SPARSE) * rules.numel()
        return tree_sparse if self.backend == "sparse" or (self.backend is None and few) else tree_dense

    @functools.cached_property
    def words(self) -> Tensor:
        """(N, T): which words exist."""
        return torch.arange(self.t, device=self.device) < self.lengths.unsqueeze(-1)

    @functools.cached_property
    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """Root, rules, and preterminals with zeros beyond a length."""
        root, rules, preterminals = self.potentials
        return root, rules, preterminals.masked_fill(~self.words.unsqueeze(-1), 0.0)

    def pieces(self, numbers: int = 0, limit: int = LARGE) -> Iterator[tuple[Tensor, Arguments]]:
        """Which items, and their root, rules and preterminals, with a first dimension throughout, and lengths.

        Longest first, as many as fit; ``numbers`` is what one takes beside its charts.
        """
        n, t, a, s = self.n, self.t, self.a, self.s
        root, rules, words = self.scores
        order = torch.arange(n) if self.alike else self.lengths.cpu().argsort(descending=True, stable=True)
        each = numbers + (a * s * s if self.own_rules else 0)
        each += 2 * t * t * s if self.passes is tree_sparse else 4 * t * t * a + 2 * t * a * (a + s)
        size = min(rows_at_once(each, limit), n if self.alike else BUCKET)
        for index in order.to(self.device).split(size):
            lengths = self.lengths[index]
            longest = max(2, int(lengths.max()))
            piece = words[index, :longest]
            if t < 2:
                piece = torch.cat([piece, torch.zeros_like(piece)], 1)
            yield (
                index,
                (
                    root[index] if self.own_root else root.unsqueeze(0),
                    rules[index] if self.own_rules else rules.unsqueeze(0),
                    piece,
                    lengths,
                ),
            )

    def summed(self, numbers: int = 0) -> Iterator[Summed]:
        """The inside passes, piece by piece."""
        for index, arguments in self.pieces(numbers):
            yield index, arguments, self.passes.inside(*arguments)

    @torch.no_grad()
    def value(self, summed: Iterable[Summed] | None = None) -> Tensor:
        """Log-partitions (N,), from inside passes where they are at hand."""
        found = self.potentials[2].new_empty(self.n)
        for index, arguments, charts in summed or self.summed():
            found[index] = charts.value
            if len(doubtful := _doubtful(charts)):
                found[index[doubtful]] = tree_logs.log_partition(*taken(arguments, doubtful))
        return found

    @torch.no_grad()
    def expected(
        self, weights: Tensor | None = None, by_item: bool = False, summed: Iterable[Summed] | None = None
    ) -> Expected:
        """Log-partitions and expected counts; see ``Tree.expected``.

        Args:
            summed: inside passes, where they are at hand.
        """
        n, a, words = self.n, self.a, self.potentials[2]
        weights = words.new_ones(n) if weights is None else weights.to(words)
        own_root, own_rules = self.own_root or by_item, self.own_rules or by_item
        value, tags, root = words.new_empty(n), torch.zeros_like(words), words.new_zeros(n, a)
        rules = words.new_zeros(*((n,) if own_rules else ()), a, self.s, self.s)
        for index, arguments, charts in summed or self.summed(a * self.s * self.s if by_item else 0):
            doubtful = _doubtful(charts)
            scale = weights[index]
            if len(doubtful):
                scale = scale.index_fill(0, doubtful, 0.0)
            counts = self.passes.outside(charts, arguments[3], own_rules, scale)
            value[index] = charts.value
            root[index] = counts.root
            longest = min(counts.preterminals.shape[1], self.t)
            tags[index, :longest] = counts.preterminals[:, :longest]
            if own_rules:
                rules[index] = counts.rules
            else:
                rules += counts.rules
            for one in doubtful.tolist():
                place = index[one]
                value[place], root[place], table, words_of = tree_logs.weighted_counts(
                    taken(arguments, doubtful.new_tensor([one])), weights[place]
                )
                tags[place, :longest] = words_of[:longest]
                if own_rules:
                    rules[place] = table
                else:
                    rules += table
        return Expected(value, root if own_root else root.sum(0), rules, tags)

    def moments(self, other: TreeProblem | None, gradient: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The mean of another one's score, of ln p without one, and its covariances with the counts, item by item."""
        found = self.expected(by_item=True)
        counts = (found.root, found.rules, found.preterminals)
        scores = (self if other is None else other).scores
        mean = sum(torch.where(c > 0, c * s, 0.0).flatten(1).sum(-1) for c, s in zip(counts, scores, strict=True))
        if other is None:
            mean = mean - found.value
        mean = torch.as_tensor(mean).masked_fill(~(found.value > -math.inf), math.nan)
        covariances: tuple[Tensor, ...] = ()
        if gradient:
            finite = tuple(s.masked_fill(s == -math.inf, 0.0) for s in scores)
            covariances = self._covariances(finite, found.value > -math.inf)
        return mean, covariances

    @torch.no_grad()
    def _covariances(self, scores: tuple[Tensor, ...], possible: Tensor) -> tuple[Tensor, ...]:
        """Of a score and all counts, item by item: how the counts move as the potentials move along the score."""
        n, t, p, a, s = self.n, self.t, self.p, self.a, self.s
        zeros = self.potentials[2].new_zeros
        found = zeros(n, a), zeros(n, a, s, s), zeros(n, t, p)
        each = 4 * t * t * a + 2 * t * a * (a + s) + 4 * a * s * s
        for index, arguments in self.pieces(each):
            longest, lengths = arguments[2].shape[1], arguments[3]
            root, rules = (x[index] if x.dim() > d else x.unsqueeze(0) for x, d in zip(scores, (1, 3), strict=False))
            words = zeros(len(index), longest, p)
            words[:, :t] = scores[2][index, :longest]
            given, step = tree_scales.moved(tree_scales.scaled(*arguments), (root, rules, words))
            charts = tree_inside.inside_of(given, lengths)
            counts = tree_inside.outside(charts, lengths, True, torch.ones_like(charts.value))
            found[0][index], found[1][index] = counts.root.imag / step, counts.rules.imag / step
            found[2][index, :longest] = counts.preterminals.imag[:, :t] / step
            for place in index[_doubtful(charts)].tolist():
                if not possible[place]:
                    continue
                for whole, item in zip(found, self._slow_covariances(place, scores), strict=True):
                    whole[place] = item
        return found

    def _slow_covariances(self, n: int, scores: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of item n: derivatives of the mean of a score, by logarithms twice differentiated."""
        length = int(self.lengths[n])
        own = [t[n] if t.dim() > d else t for t, d in zip(self.scores, (1, 3, 2), strict=True)]
        theirs = [t[n] if t.dim() > d else t for t, d in zip(scores, (1, 3, 2), strict=True)]
        with torch.enable_grad():
            leaves = [t.clone().requires_grad_() for t in (own[0], own[1], own[2][:length])]
            root, rules, words = (t.unsqueeze(0) for t in leaves)
            value = tree_logs.log_partition(root, rules, words, self.lengths[n : n + 1])
            counts = torch.autograd.grad(value.sum(), leaves, create_graph=True)
            score = (
                (counts[0] * theirs[0]).sum() + (counts[1] * theirs[1]).sum() + (counts[2] * theirs[2][:length]).sum()
            )
            root, rules, words = torch.autograd.grad(score, leaves)
        padded = torch.zeros_like(self.scores[2][n])
        padded[:length] = words
        return root, rules, padded


class LogPartition(torch.autograd.Function):
    """The log-partition; its gradient is one weighted E step. One inside pass serves both where it fits into memory."""

    @staticmethod
    def forward(ctx: Any, problem: TreeProblem, dtype: torch.dtype, *potentials: Tensor) -> Tensor:
        ctx.problem, ctx.summed = problem, None
        ctx.save_for_backward(*potentials)
        if not any(ctx.needs_input_grad[2:]):
            return problem.value().to(dtype)
        summed = problem.summed()
        first = next(summed)
        if len(first[0]) < problem.n:
            return problem.value(itertools.chain([first], summed)).to(dtype)
        ctx.summed = [first]
        return problem.value([first]).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        potentials = ctx.saved_tensors
        counts = ctx.problem.expected(gradient.detach(), summed=ctx.summed)[1:]
        found = [
            c.to(p.dtype) if needed else None
            for needed, c, p in zip(ctx.needs_input_grad[2:], counts, potentials, strict=True)
        ]
        return None, None, *once((gradient, *potentials), found)


def _doubtful(charts: Any) -> Tensor:
    return charts.suspect.expand(len(charts.value)).nonzero().flatten()


def taken(arguments: Arguments, which: Tensor) -> Arguments:
    """Of some items."""
    root, rules, words, lengths = arguments
    return (
        root[which] if len(root) > 1 else root,
        rules[which] if len(rules) > 1 else rules,
        words[which],
        lengths[which],
    )
