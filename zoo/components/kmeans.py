"""k-means for starts: Lloyd's iterations from several sets of seeds, of which the tightest partition is kept.

Draws and order of sums are those of scikit-learn, whose import takes longer than a small fit; many rows go to its
compiled loop, which comes to the same bits.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.components.seeding import num_draws, seeds

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
    begun = seeds(rows, num_clusters, generator.random_sample((SEEDINGS, num_draws(num_clusters))))
    centres, labels = _lloyd(rows, np.ascontiguousarray(rows.T), begun, enough)
    best: tuple[float, int] | None = None
    for index in range(SEEDINGS):
        within = float(((rows - centres[index][labels[index]]) ** 2).sum())
        if best is None or (within < best[0] and not _same(labels[index], labels[best[1]], num_clusters)):
            best = within, index
    assert best is not None
    return centres[best[1]] + mean


@functools.cache
def _pools() -> Any:
    """The threads of other libraries in this process, k-means' among them."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _lloyd(rows: NDArray, columns: NDArray, centres: NDArray, enough: float) -> tuple[NDArray, NDArray]:
    """Centres (S, K, D) and labels (S, N), each where no label changes any more, or the centres hardly move."""
    labels = np.full((len(centres), len(rows)), -1)
    final, active = centres.copy(), np.arange(len(centres))  # which of them still move
    for _ in range(ITERATIONS):
        before, now = labels[active], _labels(columns, centres)
        moved = _means(rows, columns, now, centres)
        shift, centres = ((moved - centres) ** 2).sum((1, 2)), moved
        final[active], labels[active] = centres, now
        still = (now == before).all(1)
        hardly = ~still & (shift <= enough)
        if hardly.any():
            labels[active[hardly]] = _labels(columns, centres[hardly])
        going = ~still & ~hardly
        active, centres = active[going], centres[going]
        if not len(active):
            return final, labels
    labels[active] = _labels(columns, centres)
    return final, labels


def _means(rows: NDArray, columns: NDArray, labels: NDArray, centres: NDArray) -> NDArray:
    """The means (S, K, D) of the clusters; an empty one takes a row of those farthest from their centres."""
    several, k = centres.shape[:2]
    cells = (labels + k * np.arange(several)[:, np.newaxis]).ravel()
    counts = np.bincount(cells, minlength=several * k).astype(float).reshape(several, k)
    each = [np.bincount(cells, np.tile(column, several), several * k) for column in columns]
    sums = np.stack(each, 1).reshape(centres.shape)
    for one in np.flatnonzero((counts == 0).any(1)):
        _fill(rows, labels[one], centres[one], counts[one], sums[one])
    filled = counts > 0
    return np.where(filled[..., None], sums * (1.0 / np.where(filled, counts, 1.0))[..., None], centres)


def _fill(rows: NDArray, labels: NDArray, centres: NDArray, counts: NDArray, sums: NDArray) -> None:
    """Give the empty clusters of one partition a row each, in counts (K,) and sums (K, D)."""
    empty = np.flatnonzero(counts == 0)
    apart = ((rows - centres[labels]) ** 2).sum(1)
    if apart.max() > 0:
        for cluster, row in zip(empty, np.argsort(-apart, kind="stable")[: len(empty)], strict=True):
            sums[labels[row]] -= rows[row]
            counts[labels[row]] -= 1
            sums[cluster], counts[cluster] = rows[row], 1


def _labels(columns: NDArray, centres: NDArray) -> NDArray:
    """The nearest of its centres (S, K, D) of each row, (S, N), the first of equals; piece by piece, so that the
    distances stay in the cache."""
    norms, twice = np.einsum("sij,sij->si", centres, centres)[..., None], -2.0 * centres
    labels = np.zeros((len(centres), columns.shape[1]), dtype=np.intp)
    for begin in range(0, columns.shape[1], PIECE):
        piece = labels[:, begin : begin + PIECE]
        distances = twice @ columns[:, begin : begin + PIECE] + norms
        nearest = distances[:, 0]
        for k in range(1, distances.shape[1]):  # argmin takes five times as long
            apart = distances[:, k]
            piece[apart < nearest] = k
            np.minimum(nearest, apart, out=nearest)
    return labels


def _same(labels: NDArray, others: NDArray, num_clusters: int) -> bool:
    """Whether two partitions differ in the clusters' numbers alone."""
    return len(np.unique(labels * num_clusters + others)) == len(np.unique(labels)) == len(np.unique(others))
