"""Potentials of trees as scaled probabilities, the value at the end, and whether something may have been lost.

Scaled numbers lose what is below 1e-308 of the largest that could stand there. All trees weigh at most as much as there
are of them (below 4^L) with the heaviest root, rules and words: where that is so far above the sum found that a loss
could show, or where the sum is zero and small numbers stood on the way, the sentence is marked, and ``tree_logs.py``
does it again by logarithms.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["SMALL", "STEP", "Counts", "Scaled", "moved", "real", "scaled", "summed"]

#: A product of four numbers that are no smaller than this is no zero.
SMALL = 1e-75
#: Nats between all that could be and what was found, from which a loss of 1e-308 could show in the sixteenth digit.
FAR = 670.0

#: How far an imaginary step goes, times the largest change of a log-weight: its square is lost beside one.
STEP = 1e-12


class Scaled(NamedTuple):
    """Probabilities, the largest of each row one, and logarithms of what they are scaled by.

    Shapes:
        root: (M, A), by root_top (M,). rules: (M, A, S, S), by rule_top (M,), M being 1 or N.
        leaves: (N, T, P), by leaf_top (N, T), which is -inf where a word is impossible.
        inner: (N, T), which words there are. suspect: (N,), whether one of them is so small that it may be lost.
    """

    root: Tensor
    root_top: Tensor
    rules: Tensor
    rule_top: Tensor
    leaves: Tensor
    leaf_top: Tensor
    inner: Tensor
    suspect: Tensor


class Counts(NamedTuple):
    """Expected counts: of the root (N, A); of rules (A, S, S), or (N, A, S, S); of preterminals (N, T, P); and of the
    symbols of spans (N, T, T + 1, A), [n, i, w]."""

    root: Tensor
    rules: Tensor
    preterminals: Tensor
    symbols: Tensor


def _scaled(logs: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """exp(logs - top), the tops over ``dims`` (0 where all are -inf), and which numbers are too small."""
    top = logs.amax(dims, keepdim=True)
    top = top.masked_fill(top == -math.inf, 0.0)
    values = (logs - top).exp_()
    return values, top, (values < SMALL) & (logs > -math.inf)


def scaled(root: Tensor, rules: Tensor, preterminals: Tensor, lengths: Tensor) -> Scaled:
    """The potentials, scaled.

    Args:
        root: (M, A), rules: (M, A, S, S), preterminals: (N, T, P), log-weights in float64, M being 1 or N; zeros for
            words beyond a length. lengths: (N,).
    """
    table, rule_top, odd = _scaled(rules, (1, 2, 3))
    start, root_top, odd_root = _scaled(root, (1,))
    leaves, leaf_top, odd_leaf = _scaled(preterminals, (2,))
    inner = torch.arange(preterminals.shape[1], device=lengths.device) < lengths.unsqueeze(-1)
    suspect = (odd_leaf.any(-1) & inner).any(-1) | odd.flatten(1).any(-1) | odd_root.any(-1)
    top = leaf_top.squeeze(-1).masked_fill((leaves == 0).all(-1), -math.inf)
    return Scaled(start, root_top.squeeze(-1), table, rule_top.reshape(-1), leaves, top, inner, suspect)


def moved(given: Scaled, direction: tuple[Tensor, Tensor, Tensor]) -> tuple[Scaled, float]:
    """The potentials after a small imaginary step in a direction of log-weights, in their shapes; the step's length.

    Sums and products of these have in their imaginary parts the derivatives of their real parts in that direction,
    times the step, without a difference being taken (Squire & Trapp, 1998, "Using complex variables to estimate
    derivatives of real functions").
    """
    step = STEP / max(1.0, *(float(d.abs().max()) for d in direction))
    root, rules, leaves = (
        torch.complex(*torch.broadcast_tensors(x, step * x * d))  # a direction of each item's own makes such potentials
        for x, d in zip((given.root, given.rules, given.leaves), direction, strict=True)
    )
    return given._replace(root=root, rules=rules, leaves=leaves), step


def real(x: Tensor) -> Tensor:
    """The real part of what may be complex."""
    return x.real if x.is_complex() else x


def summed(given: Scaled, lengths: Tensor, whole: Tensor, scale: Tensor, suspect: Tensor) -> tuple[Tensor, Tensor]:
    """The log-partitions (N,), and which of them may have lost something.

    Args:
        whole: (N, A), scaled inside probabilities of whole sentences. scale: (N,), the logarithms of their scales.
        suspect: (N,), where small numbers stood on the way.
    """
    total = real((given.root * whole).sum(-1))
    value = (scale + total.log() + given.root_top).masked_fill(total <= 0, -math.inf)
    # Of all nodes, each with its place; an impossible word counts as one, as its sum is no sum that was found.
    most = real(given.rules).flatten(2).sum(-1).amax(-1).log() + given.rule_top + math.log(4.0)
    words = given.leaf_top.masked_fill(~given.inner | (given.leaf_top == -math.inf), 0.0)
    bound = (lengths - 1) * most + words.sum(-1)
    longest, symbols = given.leaves.shape[1], given.rules.shape[-1]
    bound = bound + real(given.root).sum(-1).log() + given.root_top + 2 * math.log(longest * symbols)
    far = FAR + math.log(STEP) if given.root.is_complex() else FAR  # imaginary parts are so much smaller
    return value, torch.where(value > -math.inf, bound - value > far, suspect)
