"""k-means for starts: Lloyd's iterations from several sets of seeds, of which the tightest partition is kept.

Draws and order of sums are those of scikit-learn, whose import takes longer than a small fit; many rows go to its
compiled loop, which comes to the same bits.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.components.seeding import seeds

__all__ = ["kmeans"]

#: Iterations of Lloyd at most; total squared shift of the centres, in units of the mean variance, that ends them.
ITERATIONS, SHIFT = 300, 1e-4
#: Seedings of which the tightest partition is kept: one alone often ends in a poor one.
SEEDINGS = 10
#: Rows whose distances are taken at once.
PIECE = 2048
#: Rows from which the import of scikit-learn pays.
MANY = 5000


def kmeans(rows: NDArray, num_clusters: int, generator: np.random.RandomState) -> NDArray:
    """The centres (K, D) of the tightest of several partitions of the rows (N, D), N ≥ K."""
    if len(rows) > MANY:
        from sklearn.cluster import KMeans

        with _pools().limit(limits=1, user_api="openmp"):  # more threads wait for each other longer than they work
            return KMeans(num_clusters, n_init=SEEDINGS, random_state=generator).fit(rows).cluster_centers_
    mean, enough = rows.mean(0), SHIFT * np.var(rows, axis=0).mean()
    rows = np.ascontiguousarray(rows - mean)
    columns = np.ascontiguousarray(rows.T)
    best: tuple[float, NDArray, NDArray] | None = None
    for _ in range(SEEDINGS):
        centres, labels = _lloyd(rows, columns, seeds(rows, num_clusters, generator), enough)
        within = float(((rows - centres[labels]) ** 2).sum())
        if best is None or (within < best[0] and not _same(labels, best[2], num_clusters)):
            best = within, centres, labels
    assert best is not None
    return best[1] + mean


@functools.cache
def _pools() -> Any:
    """The threads of other libraries in this process, k-means' among them."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _lloyd(rows: NDArray, columns: NDArray, centres: NDArray, enough: float) -> tuple[NDArray, NDArray]:
    """Centres and labels where no label changes any more, or the centres hardly move."""
    labels = np.full(len(rows), -1)
    for _ in range(ITERATIONS):
        before, labels = labels, _labels(columns, centres)
        moved = _means(rows, columns, labels, centres)
        shift, centres = ((moved - centres) ** 2).sum(), moved
        if np.array_equal(labels, before):
            return centres, labels
        if shift <= enough:
            break
    return centres, _labels(columns, centres)


def _means(rows: NDArray, columns: NDArray, labels: NDArray, centres: NDArray) -> NDArray:
    """The means of the clusters; an empty one takes a row of those farthest from their centres."""
    k = len(centres)
    counts = np.bincount(labels, minlength=k).astype(float)
    sums = np.stack([np.bincount(labels, column, k) for column in columns], 1)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        apart = ((rows - centres[labels]) ** 2).sum(1)
        if apart.max() > 0:
            for cluster, row in zip(empty, np.argsort(-apart, kind="stable")[: len(empty)], strict=True):
                sums[labels[row]] -= rows[row]
                counts[labels[row]] -= 1
                sums[cluster], counts[cluster] = rows[row], 1
    filled = counts > 0
    return np.where(filled[:, None], sums * (1.0 / np.where(filled, counts, 1.0))[:, None], centres)


def _labels(columns: NDArray, centres: NDArray) -> NDArray:
    """The nearest centre of each row, the first of equals; piece by piece, so that the distances stay in the cache."""
    norms, twice = np.einsum("ij,ij->i", centres, centres)[:, None], -2.0 * centres
    labels = np.zeros(columns.shape[1], dtype=np.intp)
    for begin in range(0, len(labels), PIECE):
        piece = labels[begin : begin + PIECE]
        nearest, *others = twice @ columns[:, begin : begin + PIECE] + norms
        for k, apart in enumerate(others, 1):  # argmin takes five times as long
            piece[apart < nearest] = k
            np.minimum(nearest, apart, out=nearest)
    return labels


def _same(labels: NDArray, others: NDArray, num_clusters: int) -> bool:
    """Whether two partitions differ in the clusters' numbers alone."""
    return len(np.unique(labels * num_clusters + others)) == len(np.unique(labels)) == len(np.unique(others))
