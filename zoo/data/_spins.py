"""Signs on a small grid whose couplings are known, and four letters to remember."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data._loaded import Loaded

__all__ = ["read_letters", "read_spins", "spin_couplings"]

ROWS, COLUMNS = 3, 4


def spin_couplings() -> NDArray[np.float64]:
    """The couplings (12, 12) behind ``spins``: neighbours on a grid of 3 x 4, 0.6 down and alternately 0.6 and -0.4
    across; no biases."""
    couplings = np.zeros((ROWS * COLUMNS, ROWS * COLUMNS))
    for row in range(ROWS):
        for column in range(COLUMNS):
            here = row * COLUMNS + column
            if column + 1 < COLUMNS:
                couplings[here, here + 1] = -0.4 if (row + column) % 2 else 0.6
            if row + 1 < ROWS:
                couplings[here, here + COLUMNS] = 0.6
    return couplings + couplings.T


def read_spins(_: Mapping[str, Path]) -> Loaded:
    """2000 independent draws from the machine of these couplings, by the sum over its 4096 states; always the same."""
    couplings = spin_couplings()
    n = len(couplings)
    states = 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1)) & 1) - 1.0
    weight = np.exp(0.5 * np.einsum("si,ij,sj->s", states, couplings, states))
    drawn = np.random.default_rng(0).choice(len(states), 2000, p=weight / weight.sum())
    return Loaded(states[drawn])


_LETTERS = """
XXXXX X...X XXXX. X...X
..X.. .X.X. X...X X..X.
..X.. ..X.. XXXX. XXX..
..X.. .X.X. X...X X..X.
..X.. X...X XXXX. X...X
"""


def read_letters(_: Mapping[str, Path]) -> Loaded:
    """T, X, B and K on 5 x 5 points, 1 where there is ink and -1 elsewhere, rows one after another."""
    lines = [line.split() for line in _LETTERS.split("\n") if line]
    letters = ["".join(line[i] for line in lines) for i in range(4)]
    return Loaded(np.array([[1.0 if point == "X" else -1.0 for point in letter] for letter in letters]))
