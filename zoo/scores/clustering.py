"""How well found clusters agree with known classes: no label of a cluster means anything by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ZooError

__all__ = ["confusion", "hungarian_accuracy", "normalized_mutual_information", "purity"]


def confusion(predicted: Any, labels: Any) -> NDArray[np.int64]:
    """Counts (clusters, classes) of data in each cluster and class, both in sorted order.

    Raises:
        ZooError: two arrays of different length, or none at all.
    """
    found, known = (np.asarray(values).reshape(-1) for values in (predicted, labels))
    if len(found) != len(known) or not len(found):
        raise ZooError(
            f"predicted and labels expected as many entries, at least one, got {len(found)} and {len(known)}. "
            "Match them."
        )
    clusters, rows = np.unique(found, return_inverse=True)
    classes, columns = np.unique(known, return_inverse=True)
    table = np.zeros((len(clusters), len(classes)), dtype=np.int64)
    np.add.at(table, (rows, columns), 1)
    return table


def hungarian_accuracy(predicted: Any, labels: Any) -> float:
    """The share of data whose cluster is named like its class, under the best one-to-one naming (Kuhn 1955).

    Clusters left over where there are more of them than classes count as wrong.
    """
    from scipy.optimize import linear_sum_assignment  # takes as long to import as a small fit

    table = confusion(predicted, labels)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def purity(predicted: Any, labels: Any) -> float:
    """The share of data that belong to the largest class in their cluster: at least the accuracy, 1 for singletons."""
    table = confusion(predicted, labels)
    return float(table.max(axis=1).sum() / table.sum())


def normalized_mutual_information(predicted: Any, labels: Any) -> float:
    """I(cluster; class) over the mean of the two entropies, in [0, 1]; 1 where both are constant."""
    share = confusion(predicted, labels) / np.asarray(labels).reshape(-1).shape[0]
    across, down = share.sum(axis=1), share.sum(axis=0)
    inside = share > 0
    information = float((share[inside] * np.log(share[inside] / np.outer(across, down)[inside])).sum())
    entropy = -float((across * np.log(across)).sum() + (down * np.log(down)).sum()) / 2
    return information / entropy if entropy > 0 else 1.0
