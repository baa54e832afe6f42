"""Speech features against their definitions, and the set of spoken digits."""

from __future__ import annotations

import io
import math
import os
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from zoo.data import load_data
from zoo.data.speech import (
    cepstra,
    deltas,
    features,
    from_mel,
    log_mel,
    mel_filters,
    read_recordings,
    smooth_spectrogram,
    to_mel,
)
from zoo.errors import ZooError

RATE = 8000


def test_mel_scale() -> None:
    assert float(to_mel(1000.0)) == pytest.approx(1000, abs=0.02)  # what the scale's constants are chosen for
    hertz = np.array([0.0, 100.0, 440.0, 4000.0])
    np.testing.assert_allclose(from_mel(to_mel(hertz)), hertz, atol=1e-9)


def test_filters_are_the_triangles_of_the_definition() -> None:
    low, high, count, size = 100.0, 4000.0, 26, 256
    corners = [
        700 * (10 ** ((m0 + i * (m1 - m0) / (count + 1)) / 2595) - 1)
        for m0, m1 in [(2595 * math.log10(1 + low / 700), 2595 * math.log10(1 + high / 700))]
        for i in range(count + 2)
    ]
    filters = mel_filters(count, size, RATE, low, high)
    assert filters.shape == (count, size // 2 + 1)
    for m in range(count):
        left, middle, right = corners[m : m + 3]
        for k in range(size // 2 + 1):
            f = k * RATE / size
            height = 0.0
            if left < f <= middle:
                height = (f - left) / (middle - left)
            elif middle < f < right:
                height = (right - f) / (right - middle)
            assert filters[m, k] == pytest.approx(height, abs=1e-12)
    assert (filters.sum(1) > 0).all()  # no filter falls between two bins
    between = (np.arange(size // 2 + 1) * RATE / size >= corners[1]) & (
        np.arange(size // 2 + 1) * RATE / size <= corners[-2]
    )
    np.testing.assert_allclose(filters.sum(0)[between], 1.0)  # neighbouring triangles add up to one


@pytest.mark.parametrize("hertz", [300.0, 700.0, 1500.0, 3000.0])
def test_a_pure_tone_peaks_in_its_filter(hertz: float) -> None:
    signal = np.sin(2 * np.pi * hertz * np.arange(RATE // 2) / RATE)
    middles = from_mel(np.linspace(to_mel(100.0), to_mel(4000.0), 28))[1:-1]
    peak = log_mel(signal, RATE)[1:].argmax(1)
    assert (np.abs(peak - np.abs(middles - hertz).argmin()) <= (hertz < 500)).all()  # low filters are two bins wide


def test_frames_lie_inside_the_recording() -> None:
    for samples, frames in [(200, 1), (279, 1), (280, 2), (8000, 98), (50, 1)]:
        assert log_mel(np.ones(samples), RATE).shape == (frames, 26)
        assert features(np.ones(samples), RATE).shape == (frames, 39)
    assert np.isfinite(features(np.zeros(4000), RATE)).all()  # digital silence


def test_deltas_of_a_ramp_are_its_slope() -> None:
    ramp = np.arange(12.0)[:, None] * np.array([[1.0, -0.5]])
    slope = deltas(ramp)
    np.testing.assert_allclose(slope[2:-2], np.tile([[1.0, -0.5]], (8, 1)))
    assert slope[0].tolist() == [0.5, -0.25]  # the first frame repeated: (1 * 1 + 2 * 2) / 10
    assert (deltas(np.full((4, 3), 7.0)) == 0).all()
    assert deltas(np.ones((1, 3))).tolist() == [[0, 0, 0]]


def test_cepstra_are_the_orthonormal_transform() -> None:
    energies = np.random.default_rng(0).normal(size=(3, 26))
    angles = np.pi / 26 * (np.arange(26) + 0.5)[:, None] * np.arange(13)
    weight = np.where(np.arange(13) == 0, math.sqrt(1 / 26), math.sqrt(2 / 26))
    np.testing.assert_allclose(cepstra(energies), energies @ np.cos(angles) * weight, atol=1e-12)


def test_features_do_not_hear_loudness() -> None:
    signal = np.random.default_rng(1).normal(size=3000)
    np.testing.assert_allclose(features(signal, RATE), features(7.0 * signal, RATE), atol=1e-9)
    x = features(signal, RATE)
    np.testing.assert_allclose(x[:, :13].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(x[:, 13:26], deltas(x[:, :13]), atol=1e-12)
    np.testing.assert_allclose(x[:, 26:], deltas(x[:, 13:26]), atol=1e-12)


def archive(path: Path, samples: NDArray[np.int16], channels: int = 1) -> Path:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(samples.tobytes())
    with tarfile.open(path, "w:bz2") as target:
        for name, content in [("r/readme.txt", b"no sound"), ("r/3_ann_7.wav", sound.getvalue())]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            target.addfile(info, io.BytesIO(content))
    return path


def test_a_smooth_spectrogram_has_the_cepstra_it_was_made_of() -> None:
    energies = np.random.default_rng(0).normal(size=(6, 26))
    x = cepstra(energies, 26)
    np.testing.assert_allclose(smooth_spectrogram(x, 26, 26), energies, atol=1e-12)
    smooth = smooth_spectrogram(np.hstack([x[:, :13], np.full((6, 26), 9.0)]))
    np.testing.assert_allclose(cepstra(smooth, 26), np.hstack([x[:, :13], np.zeros((6, 13))]), atol=1e-12)


def test_recordings_come_out_of_an_archive(tmp_path: Path) -> None:
    samples = np.array([0, 16384, -32768, 32767], dtype="<i2")
    ((name, rate, signal),) = read_recordings(archive(tmp_path / "r.tar.bz2", samples))
    assert (name, rate) == ("3_ann_7", RATE)
    assert signal.tolist() == [0.0, 0.5, -1.0, 32767 / 32768]
    with pytest.raises(ZooError, match=r"r/3_ann_7.wav expected one channel of 16 bits, got 2 of 16 bits"):
        list(read_recordings(archive(tmp_path / "stereo.tar.bz2", samples, channels=2)))


@pytest.mark.skipif(
    not (Path(os.environ.get("ZOO_DATA", "")) / "fsdd" / "recordings.tar.bz2").is_file(),
    reason="ZOO_DATA names no folder with the recordings",
)
@pytest.mark.parametrize(
    ("split", "count", "longest", "frames"),
    [pytest.param("train", 2700, 226, 112911, marks=pytest.mark.slow), ("test", 300, 113, 12326)],
)
def test_spoken_digits(split: str, count: int, longest: int, frames: int) -> None:
    data, digits = load_data("spoken_digits", split=split, labels=True)
    assert isinstance(data, dict)
    assert data["x"].shape == (count, longest, 39)
    assert data["x"].dtype == torch.float64
    assert data["lengths"].sum().item() == frames
    assert torch.bincount(digits).tolist() == [count // 10] * 10
    inside = torch.arange(longest) < data["lengths"][:, None]
    assert (data["x"][~inside] == 0).all()
    means = data["x"].sum(1)[:, :13] / data["lengths"][:, None]
    torch.testing.assert_close(means, torch.zeros_like(means), rtol=0, atol=1e-9)
