"""Seeds of clusters by k-means++, greedy: rows far from the seeds before them are the likelier next ones.

Arthur & Vassilvitskii (2007), "k-means++: the advantages of careful seeding"; of a few rows drawn for each seed the one
that leaves least is taken. The draws and the arithmetic are those of scikit-learn's ``kmeans_plusplus``, whose checks
of its arguments take longer than this does on small data. Several sets of seeds on the same rows are found at once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["num_draws", "seeds"]


def num_draws(number: int) -> int:
    """How many random numbers a set of so many seeds takes."""
    return 1 + (number - 1) * _trials(number)


def seeds(rows: Any, number: int, draws: Any) -> Any:
    """Rows to begin clusters from, S sets of them.

    Args:
        rows: (N, D), float64, an array.
        number: how many in each set, at most N.
        draws: (S, :func:`num_draws`), from 0 to 1: the random numbers of each set.

    Returns:
        (S, number, D), rows among those given.
    """
    count, trials = len(rows), _trials(number)
    sizes, every = np.einsum("ij,ij->i", rows, rows), np.arange(len(draws))
    each = np.ones(count)
    even = np.cumsum(each / each.sum())
    even /= even[-1]
    first = np.searchsorted(even, draws[:, 0], side="right")
    chosen = [first]
    nearest = _squares(rows[first[:, np.newaxis]], rows, sizes)[:, 0]  # (S, N)
    left = (nearest[:, np.newaxis] @ each)[:, 0]  # what the distances to the nearest seed sum to
    for begin in range(1, draws.shape[1], trials):
        drawn = draws[:, begin : begin + trials] * left[:, np.newaxis]
        reached = np.cumsum(each * nearest, axis=-1)
        candidates = np.stack([np.searchsorted(*both) for both in zip(reached, drawn, strict=True)])
        candidates = np.minimum(candidates, count - 1)  # rounding may lead beyond the last one
        remaining = np.minimum(nearest[:, np.newaxis], _squares(rows[candidates], rows, sizes))
        totals = (remaining @ each.reshape(-1, 1))[..., 0]
        best = np.argmin(totals, axis=-1)
        left, nearest = totals[every, best], remaining[every, best]
        chosen.append(candidates[every, best])
    return rows[np.stack(chosen, axis=-1)]


def _trials(number: int) -> int:
    """Rows drawn for a seed."""
    return 2 + int(math.log(number))


def _squares(some: Any, rows: Any, sizes: Any) -> Any:
    """Squared distances of some rows (S, M, D) to all (N, D) of the squared norms ``sizes`` (N,), (S, M, N)."""
    distances = -2 * (some @ rows.T)
    distances += np.einsum("sij,sij->si", some, some)[..., np.newaxis]
    distances += sizes
    return np.maximum(distances, 0, out=distances)
