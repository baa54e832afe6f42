"""The passes of ``tree_inside.py`` over the list of possible rules, compiled: for grammars most of whose rules are not.

A span costs a product for each cut and pair of children that some rule has, and one for each rule; memory beyond the
arguments is two charts of N T^2 S numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.core.parallel import in_parallel
from zoo.structures import tree_sparse_kernels
from zoo.structures.tree_dense import ranges
from zoo.structures.tree_scales import Counts, Scaled, scaled, summed

__all__ = ["Charts", "inside", "outside"]


class Listed(NamedTuple):
    """Possible rules (K,) and the pairs (J,) of their children; see ``tree_sparse_kernels``."""

    pair_ends: Tensor
    first: Tensor
    second: Tensor
    above: Tensor
    pair: Tensor
    weight: Tensor


class Charts(NamedTuple):
    """The inside pass of N sentences of at most T words.

    Shapes:
        begins: (N, T, T + 1, S), [n, i, w]: inside of the span of w words from i on, scaled; zero for w = 0.
        scales: (N, T, T + 1), logarithms of what they are scaled by; -inf for an impossible span.
        listed: the rules. scaled: the potentials. value: (N,). suspect: (N,), whether something may be lost.
    """

    begins: Tensor
    scales: Tensor
    listed: Listed
    scaled: Scaled
    value: Tensor
    suspect: Tensor


def _listed(rules: Tensor) -> Listed:
    """Of rules (A, S, S), those above zero."""
    a, s = rules.shape[:2]
    above, first, second = (rules > 0).nonzero().unbind(-1)
    kind = 2 * (second >= a).long() + (first >= a).long()
    order = ((kind * s + first) * s + second).argsort(stable=True)
    code, pair = torch.unique_consecutive(((kind * s + first) * s + second)[order], return_inverse=True)
    ends = torch.searchsorted(code, torch.arange(5) * s * s)
    return Listed(ends, code // s % s, code % s, above[order], pair, rules[above, first, second][order])


def inside(root: Tensor, rules: Tensor, preterminals: Tensor, lengths: Tensor) -> Charts:
    """The inside pass; arguments as those of ``tree_inside.inside``, on the CPU, with rules (1, A, S, S)."""
    tree_sparse_kernels.compile_kernels()
    given = scaled(root, rules, preterminals, lengths)
    (n, t, _), a, leaves = preterminals.shape, root.shape[-1], given.leaves
    listed = _listed(given.rules[0])
    begins = leaves.new_zeros(n, t, t + 1, rules.shape[-1])
    begins[:, :, 1, a:] = leaves
    scales = leaves.new_full((n, t, t + 1), -math.inf)
    scales[:, :, 1] = given.leaf_top
    suspect = given.suspect.expand(n).contiguous()
    common = (*_arrays(listed), float(given.rule_top[0]), lengths.numpy())
    arrays = (begins.numpy(), scales.numpy(), suspect.numpy())
    kernel: Callable[..., None] = tree_sparse_kernels.inside_kernel
    in_parallel([functools.partial(kernel, *common, *each, *arrays) for each in ranges(n, False)])
    rows = torch.arange(n)
    value, suspect = summed(given, lengths, begins[rows, 0, lengths, :a], scales[rows, 0, lengths], suspect)
    return Charts(begins, scales, listed, given, value, suspect)


def outside(charts: Charts, lengths: Tensor, by_item: bool, weights: Tensor) -> Counts:
    """The outside pass; arguments as those of ``tree_inside.outside``."""
    begins, scales, listed, given, value, _ = charts
    n, a, rows = len(begins), given.root.shape[-1], torch.arange(len(begins))
    tops = begins[rows, 0, lengths, :a]
    whole = (given.root * tops).sum(-1, keepdim=True)
    counted = weights.unsqueeze(-1).masked_fill(value.unsqueeze(-1) == -math.inf, 0.0)
    seed = counted * given.root / whole.masked_fill(whole <= 0, 1.0)
    back = torch.zeros_like(begins)
    back[rows, 0, lengths, :a] = seed.masked_fill((lengths < 2).unsqueeze(-1), 0.0)
    parts = ranges(n, by_item)
    found = begins.new_zeros(len(parts), len(listed.above))
    common = (*_arrays(listed), float(given.rule_top[0]), lengths.numpy())
    arrays = (begins.numpy(), scales.numpy(), back.numpy())
    kernel: Callable[..., None] = tree_sparse_kernels.outside_kernel
    in_parallel([functools.partial(kernel, *common, *p, *arrays, f.numpy()) for p, f in zip(parts, found, strict=True)])
    rules = begins.new_zeros(*((n,) if by_item else ()), *given.rules.shape[1:])
    used = (listed.above, listed.first[listed.pair], listed.second[listed.pair])
    rules[(..., *used)] = (found if by_item else found.sum(0)) * listed.weight
    expected = back * begins
    return Counts(seed * tops, rules, expected[:, :, 1, a:], expected[..., :a])


def _arrays(listed: Listed) -> tuple[Any, ...]:
    return tuple(x.numpy() for x in listed)
