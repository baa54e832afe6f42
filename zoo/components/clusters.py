"""Clusters of rows that starts begin from; those that several starts ask for are found at once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.components.kmeans import kmeans
from zoo.components.seeding import num_draws, seeds
from zoo.core.memory import PIECE_NUMBERS, PIECE_ROWS
from zoo.core.parallel import in_parallel
from zoo.errors import ZooError

__all__ = ["Clusters", "all_clustered", "cluster", "clusters_of", "num_distinct", "partition"]

#: Rows that k-means sees, at most.
SEEN = 20_000


@dataclass(frozen=True)
class Clusters:
    """What a start waits for: labels (N,) of rows of which at least ``number`` are distinct, by the nearest centre.

    Both kinds of start are needed: on iris the tied optimum is reached from Lloyd's partition, others only from
    the bare seeds.

    Attributes:
        rows: (N, D). seen: those from which centres are found. number: of clusters.
        init: "kmeans++" (Arthur & Vassilvitskii 2007) or "random" (distinct rows as centres, never Lloyd).
        lloyd: whether seeds are moved by Lloyd's iterations. seed: what centres are drawn from.
    """

    rows: Tensor
    seen: Tensor
    number: int
    init: str
    lloyd: bool
    seed: int


def cluster(x: Tensor, num_clusters: int, init: str, *, lloyd: bool, who: str) -> Clusters:
    """A starting partition of rows, to be asked for.

    Raises:
        ZooError: fewer rows, or fewer distinct rows, than clusters.
    """
    distinct = num_distinct(x, num_clusters)
    if distinct < num_clusters:
        kind = "rows" if x.shape[0] < num_clusters else "distinct rows"
        got = x.shape[0] if kind == "rows" else distinct
        raise ZooError(
            f"{who}: data expected at least num_components = {num_clusters} {kind}, got {got}. "
            "Ask for fewer components."
        )
    return clusters_of(x, num_clusters, init, lloyd=lloyd)


def clusters_of(x: Tensor, num_clusters: int, init: str, *, lloyd: bool) -> Clusters:
    """The same of rows that are known to be distinct enough; by torch's generator, centres see at most ``SEEN``."""
    if num_clusters == 1:
        return Clusters(x, x, 1, init, lloyd, 0)
    seed = int(torch.randint(2**31 - 1, (1,)))
    rows = x if x.shape[0] <= SEEN else x[torch.randperm(x.shape[0])[:SEEN].to(x.device)]
    return Clusters(x, rows, num_clusters, init, lloyd, seed)


def num_distinct(rows: Tensor, enough: int) -> int:
    """How many distinct rows there are among (M, D); counting may stop at ``enough``."""
    found = len(set(map(tuple, rows[: 4 * enough].tolist())))  # of a few, it takes a fraction of torch's time
    if found >= enough or len(rows) <= 4 * enough:
        return found
    for some in (20_000, len(rows)):
        found = torch.unique(rows[:some], dim=0).shape[0]
        if found >= enough or len(rows) <= some:
            break
    return found


def partition(x: Tensor, num_clusters: int, init: str, *, lloyd: bool) -> Tensor:
    """Labels (N,) of one such partition, now."""
    return all_clustered([clusters_of(x, num_clusters, init, lloyd=lloyd)])[0]


def all_clustered(several: Sequence[Clusters]) -> list[Tensor]:
    """The labels (N,) of each; bare seeds of the same rows are found at once, to the bits of one after the other."""
    found: dict[int, Tensor] = {}
    for index, asked in enumerate(several):
        if index in found:
            continue
        alike = [i for i in range(index, len(several)) if i not in found and _alike(asked, several[i])]
        alike = alike[: max(1, PIECE_NUMBERS // (asked.rows.numel() * asked.number))]
        found.update(zip(alike, _labels([several[i] for i in alike]), strict=True))
    return [found[index] for index in range(len(several))]


def _alike(one: Clusters, other: Clusters) -> bool:
    if one is other:
        return True
    plain = one.init != "random" and not one.lloyd and (one.init, one.lloyd) == (other.init, other.lloyd)
    if not plain or one.number != other.number or one.rows.shape != other.rows.shape:
        return False
    # A part of the rows is another part for each.
    return one.seen is one.rows and other.seen is other.rows and torch.equal(one.rows, other.rows)


def _labels(several: Sequence[Clusters]) -> list[Tensor]:
    """Those of clusters that are alike."""
    first = several[0]
    x, number = first.rows, first.number
    if number == 1:
        return [torch.zeros(x.shape[0], dtype=torch.long, device=x.device) for _ in several]
    array = first.seen.cpu().double().numpy()
    array = array - array.mean(0)
    offset, middles = first.seen.double().mean(0), torch.as_tensor(_centres(array, several), device=x.device)

    def nearest(piece: Tensor) -> Tensor:
        centred = (piece.double() - offset).expand(len(several), -1, -1)
        return torch.cdist(centred, middles, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)

    if len(x) <= PIECE_ROWS:
        return list(nearest(x))
    parts = in_parallel([functools.partial(nearest, piece) for piece in x.split(PIECE_ROWS)], pure=True)
    return list(torch.cat(parts, 1))


class _Draws(threading.local):
    """A generator to be seeded: a new one would first ask the system for randomness, fifty times as long."""

    def __init__(self) -> None:
        self.generator = np.random.RandomState(0)


_draws = _Draws()


def _centres(array: NDArray, several: Sequence[Clusters]) -> NDArray:
    """(S, K, D), of rows about their mean."""
    first, number, generator = several[0], several[0].number, _draws.generator
    if first.init == "random":
        unique = np.unique(array, axis=0)
        scarce = len(unique) < number  # among the rows seen here
        drawn = np.random.default_rng(first.seed).choice(len(unique), number, replace=scarce)
        return unique[drawn][np.newaxis]
    if first.lloyd:
        generator.seed(first.seed)
        return kmeans(array, number, generator)[np.newaxis]
    draws = np.empty((len(several), num_draws(number)))
    for asked, own in zip(several, draws, strict=True):
        generator.seed(asked.seed)
        own[:] = generator.random_sample(own.shape)
    return seeds(array, number, draws)
