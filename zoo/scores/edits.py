"""How far strings of symbols are from those that they should be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from zoo.errors import ZooError

__all__ = ["edit_distance", "label_error_rate"]


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """The least number of insertions, deletions and substitutions that turn one string into the other (Levenshtein)."""
    target = np.asarray(b)
    steps = np.arange(len(target) + 1)
    row = steps.copy()
    for symbol in a:
        changed = np.minimum(row[1:] + 1, row[:-1] + (target != symbol))
        # Insertions run along the row: the best is the least of (cost - place) so far, plus the place.
        row = np.minimum.accumulate(np.concatenate([row[:1] + 1, changed]) - steps) + steps
    return int(row[-1])


def label_error_rate(predicted: Tensor, y: Tensor) -> float:
    """Edits per symbol of the truth, over all strings; both (N, U) of their own widths, padded with 0.

    Raises:
        ZooError: different numbers of strings, or no symbol in ``y``.
    """
    if len(predicted) != len(y):
        raise ZooError(f"label_error_rate: expected {len(y)} predicted strings, got {len(predicted)}. Match them.")
    ours, theirs = ([[s for s in row if s > 0] for row in strings.tolist()] for strings in (predicted, y))
    symbols = sum(map(len, theirs))
    if not symbols:
        raise ZooError("label_error_rate: expected symbols in y, got none. Pass strings that are not all empty.")
    return sum(map(edit_distance, ours, theirs)) / symbols
