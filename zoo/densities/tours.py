"""Tours as assignments of cities to positions: lengths, the penalised energy and its mean, exact sums.

An assignment has each city in one position of a closed tour of n positions; positions may be empty, or hold several
cities. Where each holds one it is a tour, and every tour is 2n assignments: where it begins, and which way it goes.

    energy(s) = sum over i, a, b of d_ab s_ai s_b,i+1  +  penalty / 2 sum over i of (sum over a of s_ai - 1)^2
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.errors import ZooError

__all__ = [
    "MOST_CITIES", "assigned", "critical_temperature", "log_partition", "mean_energy", "relaxed_log_partition",
    "shortest", "tour_lengths",
]  # fmt: skip

#: The most cities over whose tours is summed: 2^15 sets of them, with as many ends; and of assignments, n^n.
MOST_CITIES, MOST_ASSIGNED = 16, 7


def tour_lengths(tours: Tensor, distances: Tensor) -> Tensor:
    """The lengths (...,) of closed tours (..., n), cities in the order of the visit, by distances (n, n)."""
    return distances[tours, tours.roll(-1, -1)].sum(-1)


def assigned(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Tours (..., n) of the most probable position of each city, and whether that is a tour, (...,).

    Nothing is repaired: where a position is taken twice, -1 stands for all cities.
    """
    n = probs.shape[-1]
    position = probs.argmax(-1)
    order = position.argsort(-1)
    valid = (position.gather(-1, order) == torch.arange(n, device=probs.device)).all(-1)
    return torch.where(valid.unsqueeze(-1), order, -1), valid


def mean_energy(probs: Tensor, distances: Tensor, penalty: float) -> Tensor:
    """The mean of the energy, (...,), where city a is in position i with probability probs[..., a, i], independently.

    Of an assignment (0 and 1) it is its energy. A city is in one position, so that its variance there is p (1 - p).

    Args:
        probs: (..., n, n), rows sum to one. distances: (..., n, n), zero diagonal.
    """
    along = (probs * (distances @ probs.roll(-1, -1))).sum((-2, -1))
    surplus = (probs.sum(-2) - 1).square().sum(-1) + (probs * (1 - probs)).sum((-2, -1))
    return along + 0.5 * penalty * surplus


def critical_temperature(distances: Tensor, penalty: float) -> float:
    """Above it the even q (each city everywhere alike) is the only mean field near it; below, it gives way.

    A small change of q that runs around the positions as cos(2 π k i / n) is answered by
    -(2 cos(2 π k / n) D + penalty (J - I)) / (n T) times itself (J all ones): it grows where an eigenvalue is above 1.
    """
    n = len(distances)
    apart = penalty * (1 - torch.eye(n, dtype=distances.dtype, device=distances.device))
    waves = torch.arange(1, n // 2 + 1, dtype=distances.dtype, device=distances.device)
    pull = 2 * torch.cos(2 * math.pi * waves / n)[:, None, None] * distances + apart
    return -float(torch.linalg.eigvalsh(pull)[:, 0].min()) / n


def log_partition(costs: Tensor) -> Tensor:
    """ln of the sum of exp(-cost) over all n! assignments that are tours, nats, (); differentiable.

    By dynamic programming over sets of cities (Held & Karp 1962, with sums in the place of minima): 2^(n-1) n^2 steps.

    Args:
        costs: β times the distances, (n, n).

    Raises:
        ZooError: more than 16 cities.
    """
    return _over_tours(costs, lambda values: values.logsumexp(-1)) + math.log(len(costs))


def shortest(distances: Tensor) -> Tensor:
    """The length of the shortest tour, (), by the same programme (Held & Karp 1962): up to 16 cities."""
    return -_over_tours(distances, lambda values: values.amax(-1))


def _over_tours(costs: Tensor, reduced: Callable[[Tensor], Tensor]) -> Tensor:
    """Minus costs added along tours that begin in the last city, these put together by ``reduced``."""
    n = len(costs)
    if n > MOST_CITIES:
        raise ZooError(
            f"the sum over tours of {n} cities has (n - 1)! terms, expected at most {MOST_CITIES} cities. "
            "Take fewer, or solve(distances)."
        )
    m = n - 1  # the last city is where tours begin
    steps, first = -costs[:m, :m], -costs[m, :m]
    sets = torch.arange(2**m, device=costs.device)
    inside = (sets[:, None] >> torch.arange(m, device=costs.device)) & 1 == 1  # (2^m, m)
    size = inside.sum(1)
    ends = torch.where(inside & (size == 1)[:, None], first, -torch.inf)  # (2^m, m): of paths through a set, by end
    for count in range(2, m + 1):
        these, last = (inside & (size == count)[:, None]).nonzero(as_tuple=True)
        before = ends[these ^ (1 << last)] + steps[:, last].T  # (M, m)
        ends = ends.index_put((these, last), reduced(before))
    return reduced(ends[-1] - costs[:m, m])


def relaxed_log_partition(costs: Tensor, penalty: float) -> Tensor:
    """ln of the sum of exp(-energy) over all n^n assignments, nats, (): what the mean field's bound is a bound on.

    Args:
        costs: β times the distances, (n, n). penalty: β times the energy's.

    Raises:
        ZooError: more than 7 cities.
    """
    n = len(costs)
    if n > MOST_ASSIGNED:
        raise ZooError(f"{n} cities have {n}^{n} assignments, expected at most {MOST_ASSIGNED} cities. Take fewer.")
    codes = torch.arange(n**n, device=costs.device)
    positions = torch.stack([codes // n**a % n for a in range(n)], -1)
    parts = [
        (-mean_energy(torch.nn.functional.one_hot(some, n).to(costs.dtype), costs, penalty)).logsumexp(0)
        for some in positions.split(100_000)
    ]
    return torch.stack(parts).logsumexp(0)
