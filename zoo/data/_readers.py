"""Readers of the named data sets' files."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data._loaded import Loaded
from zoo.data._sprites import sprites
from zoo.data._table import arrange
from zoo.data._text import read_text_table
from zoo.data.speech import features, read_recordings

__all__ = [
    "read_amat",
    "read_csv",
    "read_earthquakes",
    "read_frey",
    "read_idx",
    "read_json_zip",
    "read_sklearn",
    "read_spoken",
    "read_sprites",
    "read_turtles",
]


def read_sklearn(name: str) -> Callable[[Mapping[str, Path]], Loaded]:
    def read(_: Mapping[str, Path]) -> Loaded:
        from sklearn import datasets

        bunch = getattr(datasets, f"load_{name}")()
        names = tuple(map(str, bunch.feature_names))
        x, labels = np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target, dtype=np.int64)
        return Loaded(x, names, labels=labels, classes=tuple(map(str, bunch.target_names)))

    return read


# Magnitude 7 or greater, worldwide, one count a year, 1900-2006. Facts from a public catalogue of the US government.
# fmt: off
_EARTHQUAKES = (
    13, 14, 8, 10, 16, 26, 32, 27, 18, 32, 36, 24, 22, 23, 22, 18, 25, 21, 21, 14, 8, 11, 14, 23, 18, 17, 19, 20, 22,
    19, 13, 26, 13, 14, 22, 24, 21, 22, 26, 21, 23, 24, 27, 41, 31, 27, 35, 26, 28, 36, 39, 21, 17, 22, 17, 19, 15, 34,
    10, 15, 22, 18, 15, 20, 15, 22, 19, 16, 30, 27, 29, 23, 20, 16, 21, 21, 25, 16, 18, 15, 18, 14, 10, 15, 8, 15, 6,
    11, 8, 7, 18, 16, 13, 12, 13, 20, 15, 16, 12, 18, 15, 16, 13, 15, 16, 11, 11,
)

# Degrees clockwise from north; Fisher (1993), Statistical Analysis of Circular Data, B.3.
_TURTLES = (
    8, 9, 13, 13, 14, 18, 22, 27, 30, 34, 38, 38, 40, 44, 45, 47, 48, 48, 48, 48, 50, 53, 56, 57, 58, 58, 61, 63, 64,
    64, 64, 65, 65, 68, 70, 73, 78, 78, 78, 83, 83, 88, 88, 88, 90, 92, 92, 93, 95, 96, 98, 100, 103, 106, 113, 118,
    138, 153, 153, 155, 204, 215, 223, 226, 237, 238, 243, 244, 250, 251, 257, 268, 285, 319, 343, 350,
)


def read_turtles(_: Mapping[str, Path]) -> Loaded:
    return Loaded(np.deg2rad(np.array(_TURTLES, dtype=np.float64))[:, None], ("direction",))


def read_earthquakes(_: Mapping[str, Path]) -> Loaded:
    return Loaded(np.array(_EARTHQUAKES, dtype=np.float64)[:, None], ("count",))


def read_csv(*columns: str) -> Callable[[Mapping[str, Path]], Loaded]:
    def read(paths: Mapping[str, Path]) -> Loaded:
        return arrange(read_text_table(paths["x"]), columns, None)

    return read


def read_idx(paths: Mapping[str, Path]) -> Loaded:
    # The checksum has vouched for the content: the header (16 bytes before images, 8 before labels) can be skipped.
    images = np.frombuffer(gzip.decompress(paths["x"].read_bytes()), np.uint8, offset=16).reshape(-1, 784)
    labels = np.frombuffer(gzip.decompress(paths["labels"].read_bytes()), np.uint8, offset=8)
    return Loaded(images.astype(np.float32) / np.float32(255), labels=labels.astype(np.int64))


def read_amat(paths: Mapping[str, Path]) -> Loaded:
    content = paths["x"].read_bytes()
    if paths["x"].suffix == ".gz":
        content = gzip.decompress(content)
    # One image a line, 784 digits, each followed by a blank or the line's end.
    digits = np.frombuffer(content, np.uint8).reshape(-1, 2 * 784)[:, ::2]
    return Loaded((digits - ord("0")).astype(np.float32))


def read_frey(paths: Mapping[str, Path]) -> Loaded:
    with np.load(paths["x"], allow_pickle=False) as arrays:
        return Loaded(arrays["ff"].astype(np.float32) / np.float32(255))


def read_spoken(paths: Mapping[str, Path]) -> Loaded:
    ((split, path),) = paths.items()
    spoken: list[tuple[tuple[int, str, int], NDArray[np.float64]]] = []
    for name, rate, signal in read_recordings(path):
        digit, speaker, index = name.split("_")
        if (int(index) < 5) == (split == "test"):  # the published split
            spoken.append(((int(digit), speaker, int(index)), features(signal, rate)))
    spoken.sort(key=lambda pair: pair[0])  # an archive keeps its files in any order
    lengths = np.array([len(frames) for _, frames in spoken], dtype=np.int64)
    x = np.zeros((len(spoken), int(lengths.max()), spoken[0][1].shape[1]))
    for row, (_, frames) in zip(x, spoken, strict=True):
        row[: len(frames)] = frames
    labels = np.array([key[0] for key, _ in spoken], dtype=np.int64)
    return Loaded(x, lengths=lengths, labels=labels)


def read_json_zip(*columns: str) -> Callable[[Mapping[str, Path]], Loaded]:
    def read(paths: Mapping[str, Path]) -> Loaded:
        with zipfile.ZipFile(paths["x"]) as archive:
            content = json.loads(archive.read(archive.namelist()[0]))
        return Loaded(np.column_stack([np.asarray(content[name], dtype=np.float64) for name in columns]), columns)

    return read


def read_sprites(_: Mapping[str, Path]) -> Loaded:
    images, factors = sprites()
    return Loaded(images, labels=factors[:, 0])
