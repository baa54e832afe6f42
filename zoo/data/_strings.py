"""Strings of symbols and the longer sequences that spell them: spoken digits joined, and a small set that is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data._loaded import Loaded
from zoo.data.speech import features, read_recordings

__all__ = ["joined", "read_digit_strings", "read_symbol_strings"]

Array = NDArray[np.float64]

_ROUNDS = 2  # how often each recording is used, in another string each time


def joined(recordings: Sequence[Array], rate: int, rng: np.random.Generator) -> Array:
    """Recordings one after the other with pauses of 0.02 to 0.3 s, 0.05 to 0.4 s at the ends, in white noise.

    The noise lies 10 to 30 dB below the mean power of the recordings.
    """
    ends = rng.uniform(0.05, 0.4, 2)
    pauses = [ends[0], *rng.uniform(0.02, 0.3, len(recordings) - 1), ends[1]]
    silences = [np.zeros(round(rate * pause)) for pause in pauses]
    pieces = [silences[0]]
    for recording, silence in zip(recordings, silences[1:], strict=True):
        pieces += [recording, silence]
    signal = np.concatenate(pieces)
    power = np.concatenate(recordings).var() * 10 ** (-rng.uniform(1.0, 3.0))
    return signal + np.sqrt(power) * rng.standard_normal(len(signal))


def read_digit_strings(paths: Mapping[str, Path]) -> Loaded:
    """Strings of 3 to 7 digits, each by one speaker; y is the digit, and 10 for zero. Always the same strings."""
    ((split, path),) = paths.items()
    spoken: dict[str, list[tuple[int, int, Array]]] = {}
    rate = 0
    for name, rate, signal in read_recordings(path):  # noqa: B007 - one rate for all
        digit, speaker, index = name.split("_")
        if (int(index) < 5) == (split == "test"):  # the published split
            spoken.setdefault(speaker, []).append((int(digit), int(index), signal))
    rng = np.random.default_rng(0 if split == "train" else 1)
    strings: list[tuple[Array, list[int]]] = []
    for _ in range(_ROUNDS):
        for speaker in sorted(spoken):
            own = sorted(spoken[speaker], key=lambda said: said[:2])  # an archive keeps its files in any order
            order = rng.permutation(len(own)).tolist()
            while len(order) >= 3:
                size = min(int(rng.integers(3, 8)), len(order))
                chosen = [own[order.pop()] for _ in range(size)]
                signal = joined([said[2] for said in chosen], rate, rng)
                strings.append((features(signal, rate), [said[0] or 10 for said in chosen]))
    return _loaded([strings[i] for i in rng.permutation(len(strings))], np.float32)


def read_symbol_strings(_: Mapping[str, Path]) -> Loaded:
    """Strings of 1 to 4 symbols out of four, 2 to 4 frames each, with pauses of 0 to 2; always the same.

    A frame is normal about the symbol's own direction, 4 standard deviations from that of a pause.
    """
    rng = np.random.default_rng(0)
    strings: list[tuple[Array, list[int]]] = []
    while len(strings) < 400:
        symbols = rng.integers(1, 5, rng.integers(1, 5)).tolist()
        frames = [0] * int(rng.integers(0, 3))
        for i, symbol in enumerate(symbols):
            frames += [symbol] * int(rng.integers(2, 5))
            doubled = symbols[i + 1 : i + 2] == [symbol]
            frames += [0] * int(rng.integers(int(doubled), 3))  # nothing would tell two in a row from a long one
        strings.append((4.0 * np.eye(5)[frames][:, 1:] + rng.standard_normal((len(frames), 4)), symbols))
    return _loaded(strings, np.float64)


def _loaded(strings: Sequence[tuple[Array, list[int]]], dtype: type[np.floating]) -> Loaded:
    lengths = np.array([len(frames) for frames, _ in strings], dtype=np.int64)
    sizes = np.array([len(symbols) for _, symbols in strings], dtype=np.int64)
    x = np.zeros((len(strings), int(lengths.max()), strings[0][0].shape[1]), dtype=dtype)
    y = np.zeros((len(strings), int(sizes.max())), dtype=np.int64)
    for i, (frames, symbols) in enumerate(strings):
        x[i, : len(frames)], y[i, : len(symbols)] = frames, symbols
    return Loaded(x, lengths=lengths, targets=y, target_lengths=sizes)
