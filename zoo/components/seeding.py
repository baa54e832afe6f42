"""Seeds of clusters by k-means++, greedy: rows far from the seeds before them are the likelier next ones.

Arthur & Vassilvitskii (2007), "k-means++: the advantages of careful seeding"; of a few rows drawn for each seed the one
that leaves least is taken. The draws and the arithmetic are those of scikit-learn's ``kmeans_plusplus``, whose checks
of its arguments take longer than this does on small data.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["seeds"]


def seeds(rows: Any, number: int, generator: np.random.RandomState) -> Any:
    """Rows to begin clusters from.

    Args:
        rows: (N, D), float64, an array.
        number: how many, at most N.
        generator: where draws come from.

    Returns:
        (number, D), rows among those given.
    """
    count = len(rows)
    trials = 2 + int(math.log(number))
    sizes = np.einsum("ij,ij->i", rows, rows)
    each = np.ones(count)
    chosen = [generator.choice(count, p=each / each.sum())]
    nearest = _squares(rows[chosen], rows, sizes)
    left = nearest @ each  # what the distances to the nearest seed sum to
    for _ in range(1, number):
        drawn = generator.uniform(size=trials) * left
        candidates = np.searchsorted(np.cumsum(each * nearest), drawn)
        candidates = np.minimum(candidates, count - 1)  # rounding may lead beyond the last one
        remaining = np.minimum(nearest, _squares(rows[candidates], rows, sizes))
        totals = remaining @ each.reshape(-1, 1)
        best = np.argmin(totals)
        left, nearest = totals[best], remaining[best]
        chosen.append(candidates[best])
    return rows[chosen]


def _squares(some: Any, rows: Any, sizes: Any) -> Any:
    """Squared distances of some rows (M, D) to all (N, D) of the squared norms ``sizes`` (N,), (M, N)."""
    distances = -2 * (some @ rows.T)
    distances += np.einsum("ij,ij->i", some, some)[:, np.newaxis]
    distances += sizes
    return np.maximum(distances, 0, out=distances)
