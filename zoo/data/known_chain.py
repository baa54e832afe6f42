"""Sequences of a hidden Markov model that is known, seen through a decoder that bends; what made each frame is told.

A state is a Gaussian of codes in the plane, a code is bent into six features by a fixed map, and noise is added. The
states lie on curved sheets beside each other: a Gaussian HMM of as many states cuts across them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data._loaded import Loaded

__all__ = ["bent", "known_chain", "read_known_chain"]

Array = NDArray[np.float64]

#: [i, j] = p(z_t = j | z_{t-1} = i); the three start alike.
TRANSITIONS = np.array([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.1, 0.0, 0.9]])
#: Means (3, 2) and standard deviations (3, 2) of the codes: long, thin clouds beside each other.
MEANS = np.array([[0.0, 1.0], [0.0, 0.0], [0.0, -1.0]])
SCALES = np.array([[1.0, 0.3], [1.0, 0.3], [1.0, 0.3]])
#: Of the noise on each feature.
NOISE = 0.1
_NUMBER, _SEED = 200, 13


def bent(codes: Array) -> Array:
    """The features (..., 6) that codes (..., 2) are seen as, without noise: a parabola over the first, and a wave."""
    a, b = codes[..., 0], codes[..., 1]
    u = b + 0.25 * (a * a - 1.0)
    return np.stack([a, u, 0.6 * a - 0.5 * u, 0.5 * a + 0.6 * u, 0.4 * np.sin(2.0 * a) + 0.7 * u, -0.7 * a], -1)


def known_chain(number: int = _NUMBER, seed: int = _SEED) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """Frames (number, T, 6), lengths (number,) from 15 to 30, and the states (number, T), -1 beyond a length."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(15, 31, number)
    longest = int(lengths.max())
    x, states = np.zeros((number, longest, 6)), np.full((number, longest), -1, dtype=np.int64)
    for i, length in enumerate(lengths.tolist()):
        z = np.empty(length, dtype=np.int64)
        z[0] = rng.integers(3)
        for t in range(1, length):
            z[t] = np.searchsorted(TRANSITIONS[z[t - 1]].cumsum(), rng.random(), side="right")
        codes = MEANS[z] + SCALES[z] * rng.standard_normal((length, 2))
        x[i, :length] = bent(codes) + NOISE * rng.standard_normal((length, 6))
        states[i, :length] = z
    return x, lengths.astype(np.int64), states


def read_known_chain(_: Mapping[str, Path]) -> Loaded:
    """The data set, its labels the states."""
    x, lengths, states = known_chain()
    return Loaded(x, lengths=lengths, labels=states)
