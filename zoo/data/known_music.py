"""Chords that follow each other by a known chain: piano rolls whose likelihood under their own process is exact.

z_1 = I;  z_t | z_{t-1} ~ Categorical(row z_{t-1} of the table)       seven chords of a major key
x_{t,k} | z_t ~ Bernoulli(SOUNDING if key k is one of the chord's, else STRAY)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data._loaded import Loaded

__all__ = ["CHORDS", "read_known_chords", "tables"]

#: The keys of each chord, in semitones above the key note, two octaves and a fifth of them.
CHORDS: dict[str, tuple[int, ...]] = {
    "I": (0, 12, 16, 19),
    "ii": (2, 14, 17, 21),
    "iii": (4, 16, 19, 23),
    "IV": (5, 12, 17, 21),
    "V": (7, 14, 19, 23),
    "vi": (9, 16, 21, 24),
    "vii": (11, 14, 17, 23),
}
KEYS, SOUNDING, STRAY = 32, 0.9, 0.01
_STAYS = 0.4
#: Where each chord goes when it goes.
_GOES: dict[str, dict[str, float]] = {
    "I": {"IV": 0.3, "V": 0.3, "vi": 0.2, "ii": 0.15, "iii": 0.05},
    "ii": {"V": 0.8, "vii": 0.2},
    "iii": {"vi": 0.6, "IV": 0.4},
    "IV": {"V": 0.5, "I": 0.3, "ii": 0.2},
    "V": {"I": 0.75, "vi": 0.25},
    "vi": {"ii": 0.5, "IV": 0.5},
    "vii": {"I": 0.9, "iii": 0.1},
}
_NUMBER, _SHORTEST, _LONGEST, _SEED = 300, 16, 40, 20261


def tables() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Start (K,), transitions (K, K) and the chance of each key (K, D) in each of the K = 7 chords."""
    names = list(CHORDS)
    transition = _STAYS * np.eye(len(names))
    for i, name in enumerate(names):
        for other, share in _GOES[name].items():
            transition[i, names.index(other)] += (1 - _STAYS) * share
    probs = np.full((len(names), KEYS), STRAY)
    for row, keys in zip(probs, CHORDS.values(), strict=True):
        row[list(keys)] = SOUNDING
    return np.eye(len(names))[0], transition, probs


def read_known_chords(_: Mapping[str, Path]) -> Loaded:
    rng = np.random.default_rng(_SEED)
    initial, transition, probs = tables()
    edges = transition.cumsum(1)
    lengths = rng.integers(_SHORTEST, _LONGEST + 1, _NUMBER)
    x = np.zeros((_NUMBER, _LONGEST, KEYS))
    for roll, length in zip(x, lengths.tolist(), strict=True):
        state = int(initial.argmax())
        for step in roll[:length]:
            step[:] = rng.random(KEYS) < probs[state]
            state = min(int(np.searchsorted(edges[state], rng.random(), side="right")), len(edges) - 1)
    return Loaded(x, lengths=lengths.astype(np.int64))
