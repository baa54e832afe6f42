"""How patterns of -1 and 1 are written into couplings, and how many of them a rule holds.

N units, M patterns x; every rule gives symmetric couplings with a zero diagonal. How many are held is said of patterns
drawn evenly, each unit by itself: those that resemble each other are held less well by ``hebbian``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["RULES", "capacity", "hebbian", "law", "perfect", "pseudo_inverse", "retrieval_error", "storkey", "unstable"]

#: Patterns a unit beyond which Hebbian retrieval fails at once, of many units (Amit, Gutfreund & Sompolinsky 1985).
CRITICAL_LOAD = 0.13786


def hebbian(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum of x x' over patterns (M, N), each as often as its weight (M,), over N; (N, N) (Hebb; Hopfield 1982)."""
    counted = x if weights is None else x * weights.to(x).unsqueeze(-1)
    return _hollow(x.mT @ counted / x.shape[1])


def pseudo_inverse(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """The projection on the span of the patterns, (N, N) (Personnaz, Guyon & Dreyfus 1985, "Information storage and
    retrieval in spin-glass like neural networks"). How often a pattern counts changes nothing, unless it is never."""
    x = x if weights is None else x[weights > 0]
    _, sizes, directions = torch.linalg.svd(x, full_matrices=False)
    kept = directions[sizes > sizes.max() * max(x.shape) * torch.finfo(x.dtype).eps] if len(x) else directions
    return _hollow(kept.mT @ kept)


def storkey(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Patterns one after another, each less what the couplings say of it already, (N, N).

    Storkey (1997), "Increasing the capacity of a Hopfield network without sacrificing functionality": w_ij grows by
    (x_i x_j - x_i h_ji - h_ij x_j) / N, where h_ij is the sum of w_ik x_k over k other than i and j. A pattern that
    counts k times, a whole number, is written k times.
    """
    n = x.shape[1]
    if weights is not None:
        x = x.repeat_interleave(weights.long(), 0)
    w = x.new_zeros(n, n)
    for row in x:
        field = w @ row
        # x x' - x field' - field x' + 2 w, as h_ij = field_i - w_ij x_j, in one pass over w.
        both = torch.stack([row, field], 1), torch.stack([row - field, -row])
        w.addmm_(*both, beta=1 + 2 / n, alpha=1 / n).fill_diagonal_(0.0)
    return _hollow(w)


def _hollow(w: Tensor) -> Tensor:
    return ((w + w.mT) / 2).fill_diagonal_(0.0)


RULES: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "hebbian": hebbian,
    "pseudo_inverse": pseudo_inverse,
    "storkey": storkey,
}


def perfect(num_units: int) -> float:
    """N / (4 ln N): so many patterns drawn evenly are all stable under the Hebbian rule with a probability that goes to
    one as N grows (McEliece, Posner, Rodemich & Venkatesh 1987, "The capacity of the Hopfield associative memory")."""
    return num_units / (4 * math.log(num_units)) if num_units > 1 else 1.0


def capacity(rule: str, num_units: int) -> float:
    """How many patterns drawn evenly a rule holds: see :func:`law`."""
    if rule == "hebbian":
        return CRITICAL_LOAD * num_units
    if rule == "storkey":
        return num_units / math.sqrt(2 * math.log(num_units)) if num_units > 1 else 1.0
    return num_units - 1


def law(rule: str) -> str:
    """Where :func:`capacity` comes from: retrieval at all (Amit and others 1985); all patterns stable (Storkey &
    Valabregue 1999, "The basins of attraction of a new Hopfield learning rule"; Personnaz and others 1985)."""
    return {"hebbian": "0.138 N", "storkey": "N / sqrt(2 ln N)", "pseudo_inverse": "N - 1"}[rule]


def unstable(rule: str, num_units: int, num_patterns: int) -> float:
    """The share of units of patterns drawn evenly that would move from where they were stored, as expected.

    Hebbian: what M - 1 others add at a unit is nearly normal. Other rules, beyond their capacity: of patterns drawn for
    it, always the same, as many a unit on at most 400 units.
    """
    if rule == "hebbian":
        return 0.5 * math.erfc(math.sqrt((num_units - 1) / (2 * max(num_patterns - 1, 1e-9))))
    if num_patterns <= capacity(rule, num_units):
        return 0.0
    few = min(num_units, 400)
    shape = round(num_patterns * few / num_units), few
    drawn = torch.randint(2, shape, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    return float(((drawn @ RULES[rule](drawn, None)) * drawn < 0).double().mean())


def retrieval_error(load: float) -> float:
    """The share of units that differ from a stored pattern where Hebbian recall from it ends, of many units with
    ``load`` patterns each, at temperature zero; one half where no state near the pattern is left.

    Amit, Gutfreund & Sompolinsky (1985), "Storing infinite numbers of patterns in a spin-glass model of neural
    networks": with y = m / sqrt(2 load r), the overlap is m = erf(y), and y (sqrt(2 load) + 2 / sqrt(pi) exp(-y^2)) =
    erf(y); of its solutions the largest.
    """
    if load <= 0:
        return 0.0
    y = 1 / math.sqrt(2 * load)  # where the overlap would be one

    def less(y: float) -> float:
        return math.erf(y) - y * (math.sqrt(2 * load) + 2 / math.sqrt(math.pi) * math.exp(-y * y))

    while y > 1e-3 and less(y) < 0:  # steps so small that only next to the critical load they pass both crossings
        y *= 0.9995
    return 0.5 * math.erfc(y) if y > 1e-3 else 0.5
