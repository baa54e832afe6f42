"""The passes of ``tree_inside.py`` for processors, compiled; the same numbers, a span at a time.

Words and the rules that use them are products of large matrices, torch's; the rest is ``tree_kernels.py``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.core.parallel import in_parallel, pieces
from zoo.structures import tree_kernels
from zoo.structures.tree_inside import outer, times
from zoo.structures.tree_scales import Counts, Scaled, scaled, summed

__all__ = ["Charts", "inside", "outside", "ranges"]

#: Numbers of a cache line: rows are padded to whole ones.
LINE = 8
#: Ranges of items that may be worked on at once; fixed, so that sums are the same whatever the number of threads.
RANGES = 8


class Charts(NamedTuple):
    """The inside pass of N sentences of at most T words. W is A, and zeros up to whole cache lines.

    Shapes:
        begins: (N, T, T + 1, W), [n, i, w]: inside of the span of w words from i on, scaled; zero for w < 2.
        scales: (N, T, T + 1), [n, i, w], logarithms of what they are scaled by; -inf for an impossible span.
        left: (N, T, A, W), [c, a]: a word and c to its right, under a. right: [b, a], b and a word to its right.
        after: (N, T, P, W), [b, a]: a word under b and this one, under a.
        scaled: the potentials. value: (N,), the log-partition. suspect: (N,), whether something may be lost.
    """

    begins: Tensor
    scales: Tensor
    left: Tensor
    right: Tensor
    after: Tensor
    scaled: Scaled
    value: Tensor
    suspect: Tensor


def _padded(table: Tensor) -> Tensor:
    """Zeros behind the last dimension, up to whole cache lines."""
    return torch.nn.functional.pad(table, (0, -table.shape[-1] % LINE)).contiguous()


def _tables(rules: Tensor, a: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rules (M, A, S, S) with a word on the left, (M, P, A W), on the right, (M, P, A W), of words (M, P, P W).

    In this order: the word, of two the one on the right; its sibling; the symbol above.
    """
    left, right = rules[:, :, a:, :a].permute(0, 2, 3, 1), rules[:, :, :a, a:].permute(0, 3, 2, 1)
    words = rules[:, :, a:, a:].permute(0, 3, 2, 1)
    return _padded(left).flatten(2), _padded(right).flatten(2), _padded(words).flatten(2)


def ranges(items: int, single: bool) -> list[tuple[int, int]]:
    """Ranges of items that may be worked on at once, or all single items."""
    return pieces(items, most=items if single else RANGES, least=1)


def inside(root: Tensor, rules: Tensor, preterminals: Tensor, lengths: Tensor) -> Charts:
    """The inside pass; arguments as those of ``tree_inside.inside``, on the CPU."""
    tree_kernels.compile_kernels()
    given = scaled(root, rules, preterminals, lengths)
    n, t, _ = preterminals.shape
    a, leaves = root.shape[-1], given.leaves
    left, right, after = (times(leaves, table).unflatten(-1, (-1, a + -a % LINE)) for table in _tables(given.rules, a))
    pairs = leaves.new_zeros(n, t, left.shape[-1])
    torch.matmul(leaves[:, :-1].unsqueeze(-2), after[:, 1:], out=pairs[:, :-1].unsqueeze(-2))
    begins = leaves.new_zeros(n, t, t + 1, left.shape[-1])
    scales = leaves.new_full((n, t, t + 1), -math.inf)
    scales[:, :, 1] = given.leaf_top
    suspect = given.suspect.expand(n).contiguous()
    rows = _padded(given.rules[:, :, :a, :a].permute(0, 2, 3, 1))
    table = torch.nn.functional.pad(rows, (0, 0, 0, rows.shape[-1] - a)).flatten(1).numpy()
    flat = [x.contiguous().reshape(-1).numpy() for x in (left, right, begins)]
    arrays = [*flat[:2], pairs.numpy(), flat[2], scales.numpy(), suspect.numpy()]
    calls: list[Callable[[], None]] = []
    for low, high in ranges(n, len(table) > 1):
        m = low if len(table) > 1 else 0
        common = (table[m], float(given.rule_top[m]), a, lengths.numpy(), low, high)
        calls.append(functools.partial(tree_kernels.inside_kernel, *common, *arrays))
    in_parallel(calls)
    rows = torch.arange(n)
    value, suspect = summed(given, lengths, begins[rows, 0, lengths, :a], scales[rows, 0, lengths], suspect)
    return Charts(begins, scales, left, right, after, given, value, suspect)


def outside(charts: Charts, lengths: Tensor, by_item: bool, weights: Tensor) -> Counts:
    """The outside pass; arguments as those of ``tree_inside.outside``."""
    begins, scales, left, right, after, given, value, _ = charts
    n, t, a, width = left.shape
    m, leaves, rows = len(given.rules), given.leaves, torch.arange(n)
    tops = begins[rows, 0, lengths, :a]
    whole = (given.root * tops).sum(-1, keepdim=True)
    counted = weights.unsqueeze(-1).masked_fill(value.unsqueeze(-1) == -math.inf, 0.0)
    seed = counted * given.root / whole.masked_fill(whole <= 0, 1.0)
    back = torch.zeros_like(begins)
    back[rows, 0, lengths, :a] = seed
    back_left, back_right, back_pairs = torch.zeros_like(left), torch.zeros_like(right), leaves.new_zeros(n, t, width)
    own = by_item or m > 1
    parts = ranges(n, own)
    found = leaves.new_zeros(len(parts), width, a, width)
    table = _padded(given.rules[:, :, :a, :a]).flatten(1).numpy()
    flat = [x.reshape(-1).numpy() for x in (left, right, begins, back, back_left, back_right)]
    arrays = [*flat[:3], scales.numpy(), *flat[3:], back_pairs.numpy()]
    calls: list[Callable[[], None]] = []
    for slot, (low, high) in enumerate(parts):
        k = low if m > 1 else 0
        common = (table[k], float(given.rule_top[k]), a, lengths.numpy(), low, high)
        more = (*arrays, found[slot].reshape(-1).numpy())
        calls.append(functools.partial(tree_kernels.outside_kernel, *common, *more))
    in_parallel(calls)
    # Words, and the rules that use them: back through products of large matrices.
    here = back_pairs[:, :-1]
    back_after = torch.zeros_like(after)
    torch.mul(leaves[:, :-1].unsqueeze(-1), here.unsqueeze(-2), out=back_after[:, 1:])
    words = torch.zeros_like(leaves)
    words[:, :-1] = torch.matmul(after[:, 1:], here.unsqueeze(-1)).squeeze(-1)
    backs = [x.flatten(2) for x in (back_left, back_right, back_after)]
    for adjoint, used in zip(backs, _tables(given.rules, a), strict=True):
        words += times(adjoint, used.mT)
    with_left, with_right, both = (outer(leaves, x, own).unflatten(-1, (-1, width))[..., :a] for x in backs)
    rules = leaves.new_empty(*((n,) if own else ()), *given.rules.shape[1:])
    rules[..., :a, :a] = (found if own else found.sum(0))[..., :a, :, :a]
    rules[..., a:, :a] = with_left.movedim(-1, -3)
    rules[..., :a, a:] = with_right.movedim(-1, -3).mT
    rules[..., a:, a:] = both.movedim(-1, -3).mT
    rules *= given.rules if own else given.rules[0]
    return Counts(seed * tops, rules, words * leaves, (back * begins)[..., :a])
