"""Strings of symbols and the sequences that spell them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zoo.data import _strings, load_data


@pytest.mark.parametrize("split", ["train", "test"])
def test_digit_strings_use_the_recordings_of_their_split_alone(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [(digit, who, index) for who in ("a", "b") for digit in range(10) for index in range(8)]
    recordings = [(f"{d}_{w}_{i}", 8000, np.full(800 + 8 * n, float(n))) for n, (d, w, i) in enumerate(said)]
    monkeypatch.setattr(_strings, "read_recordings", lambda path: iter(recordings))
    used: list[list[int]] = []
    real = _strings.joined

    def spied(chosen: Any, rate: int, rng: Any) -> Any:
        used.append([int(samples[0]) for samples in chosen])
        return real(chosen, rate, rng)

    monkeypatch.setattr(_strings, "joined", spied)
    loaded = _strings.read_digit_strings({split: Path()})
    counts = Counter(n for string in used for n in string)
    assert {said[n][2] < 5 for n in counts} == {split == "test"}
    assert max(counts.values()) == 2
    assert all(len({said[n][1] for n in string}) == 1 and 3 <= len(string) <= 7 for string in used)
    spelled = [[said[n][0] or 10 for n in string] for string in used]
    assert loaded.targets is not None
    assert loaded.target_lengths is not None
    ours = [row[:size].tolist() for row, size in zip(loaded.targets, loaded.target_lengths, strict=True)]
    assert sorted(ours) == sorted(spelled)
    again = _strings.read_digit_strings({split: Path()})
    assert np.array_equal(again.x, loaded.x)


def test_recordings_are_joined_in_order_with_pauses_in_noise() -> None:
    tones = [np.sin(2 * np.pi * f * np.arange(4000) / 8000) for f in (500.0, 1500.0)]
    signal = _strings.joined(tones, 8000, np.random.default_rng(3))
    assert 8000 + 0.12 * 8000 <= len(signal) <= 8000 + 1.1 * 8000
    starts = [int(np.correlate(signal, tone, "valid").argmax()) for tone in tones]
    assert 400 <= starts[0] <= 3200
    assert 4000 + 160 <= starts[1] - starts[0] <= 4000 + 2400
    noise = signal[: starts[0]].var()
    assert 1e-3 <= noise / np.concatenate(tones).var() <= 1e-1


@pytest.mark.parametrize(("split", "count"), [pytest.param("train", 1078, marks=pytest.mark.slow), ("test", 125)])
def test_digit_strings(split: str, count: int, zoo_data: Callable[..., Any]) -> None:
    data = zoo_data("digit_strings", split=split)
    assert list(data) == ["x", "lengths", "y", "target_lengths"]
    x, lengths, y, sizes = data.values()
    assert len(x) == count
    assert x.shape[2] == 39
    assert sizes.aminmax() == (3, 7)
    inside = torch.arange(y.shape[1]) < sizes[:, None]
    assert ((y >= 1) == inside).all()
    assert all(bool((row[n:] == 0).all()) and row[:n].isfinite().all() for row, n in zip(x, lengths, strict=True))
    assert sorted(set(y[inside].tolist())) == list(range(1, 11))


def test_symbol_strings_can_be_told_by_their_frames() -> None:
    data = load_data("symbol_strings")
    x, lengths, y, sizes = data.values()
    assert x.shape[0] == 400
    assert x.dtype == torch.float64
    own = {tuple(row[:n].tolist()) for row, n in zip(y, sizes, strict=True)}
    assert {symbol for string in own for symbol in string} == {1, 2, 3, 4}
    assert any(a == b for string in own for a, b in itertools.pairwise(string))
    assert (lengths >= 2 * sizes).all()
    # The mean frame of strings of one symbol points to the symbol's own direction.
    for symbol in range(1, 5):
        alone = [x[n, : lengths[n]].mean(0) for n in range(400) if sizes[n] == 1 and y[n, 0] == symbol]
        assert int(torch.stack(alone).mean(0).argmax()) == symbol - 1


def test_sequences_of_a_file_may_have_targets(tmp_path: Path) -> None:
    x, lengths = np.zeros((3, 5, 2)), np.array([5, 4, 2])
    y, sizes = np.array([[1, 2], [2, 0], [1, 0]]), np.array([2, 1, 1])
    np.savez(tmp_path / "a.npz", x=x, lengths=lengths, y=y, target_lengths=sizes)
    data = load_data(tmp_path / "a.npz", targets="y")
    assert data["y"].tolist() == y.tolist()
    assert data["target_lengths"].tolist() == [2, 1, 1]
    np.savez(tmp_path / "b.npz", x=x, lengths=lengths, y=y, target_lengths=sizes[:2])
    with pytest.raises(Exception, match=r"b\.npz: expected target_lengths of shape \(3,\), one a sequence"):
        load_data(tmp_path / "b.npz", targets="y")
