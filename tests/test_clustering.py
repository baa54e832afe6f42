"""Agreement of clusters and classes, on tables small enough to count by hand, and against scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from zoo.errors import ZooError
from zoo.scores.clustering import confusion, hungarian_accuracy, normalized_mutual_information, purity


def test_by_hand() -> None:
    found, known = [5, 5, 5, 2, 2, 9], ["a", "a", "b", "b", "b", "b"]
    assert confusion(found, known).tolist() == [[0, 2], [2, 1], [0, 1]]
    assert hungarian_accuracy(found, known) == pytest.approx(4 / 6)
    assert purity(found, known) == pytest.approx(5 / 6)
    assert hungarian_accuracy([1, 1, 0], [0, 0, 1]) == purity([1, 1, 0], [0, 0, 1]) == 1.0
    assert purity(range(6), known) == 1.0
    assert hungarian_accuracy(range(6), known) == pytest.approx(2 / 6)


def test_naming_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        found, known = rng.integers(4, size=30), rng.integers(4, size=30)
        best = max(np.mean(np.array(names)[found] == known) for names in itertools.permutations(range(4)))
        assert hungarian_accuracy(found, known) == pytest.approx(best)
        theirs = normalized_mutual_info_score(known, found)
        assert normalized_mutual_information(found, known) == pytest.approx(theirs, abs=1e-12)


def test_lengths_must_match() -> None:
    with pytest.raises(ZooError, match="got 2 and 1"):
        purity([0, 1], [0])
