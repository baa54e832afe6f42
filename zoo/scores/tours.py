"""What simple search makes of a problem of the travelling salesman: nearest neighbours, and exchanges of two links."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["nearest_neighbour", "two_opt"]


def nearest_neighbour(distances: NDArray, first: int = 0) -> NDArray[np.int64]:
    """The tour (n,) that goes from a first city to the nearest that is left, again and again."""
    left = np.ones(len(distances), dtype=bool)
    tour = [first]
    left[first] = False
    for _ in range(len(distances) - 1):
        tour.append(int(np.where(left, distances[tour[-1]], np.inf).argmin()))
        left[tour[-1]] = False
    return np.array(tour)


def two_opt(tour: NDArray, distances: NDArray) -> NDArray[np.int64]:
    """The tour with the best exchange of two links made as long as one shortens it (Croes 1958), of symmetric
    distances."""
    tour = np.array(tour)
    n = len(tour)
    later = np.triu(np.ones((n, n), dtype=bool), 1)
    while True:
        after = np.roll(tour, -1)
        links = distances[tour, after]
        change = distances[np.ix_(tour, tour)] + distances[np.ix_(after, after)] - links[:, None] - links
        change = np.where(later, change, 0.0)
        i, j = np.unravel_index(int(change.argmin()), change.shape)
        if change[i, j] > -1e-9 * links.sum():
            return tour
        tour[i + 1 : j + 1] = tour[i + 1 : j + 1][::-1]
