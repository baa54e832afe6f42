"""The table of CTC's estimators: at toy size."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from zoo.core.data import take
from zoo.data import load_data
from zoo.reproduce import ctc, reproduce


def toy(split: str, count: int | None = None) -> dict[str, torch.Tensor]:
    data = load_data("symbol_strings")
    assert isinstance(data, dict)
    return take(data, slice(0, 40) if split == "train" else slice(40, 60))


def test_it_runs_at_toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"epochs": 3, "hidden_dim": 4, "measured": 4, "draws": 60, "guide_steps": 2}
    monkeypatch.setitem(ctc.SETTINGS, "quick", dataclasses.replace(ctc.SETTINGS["quick"], **sizes))
    monkeypatch.setattr(ctc, "strings", toy)
    done = reproduce("ctc", say=lambda line: None)
    rows = {row["name"]: row for row in done.record["rows"]}
    assert list(rows) == ["eg", "svi", "iwae", "reinforce"]
    for row in rows.values():
        assert 0 <= row["value"] <= 300
        assert row["nats_a_digit"][0] < 0
        assert set(row["gradients"]) == {"start", "optimum"}
    for point in ("start", "optimum"):
        exact, summed, drawn = (rows[name]["gradients"][point] for name in ("eg", "svi", "reinforce"))
        assert exact["bias"] == exact["sd"] == summed["sd"] == 0
        assert summed["bias"] > 0.01, "the guide is not the posterior"
        assert drawn["sd"] > 0.01
        # Draws from the guide have the mean that summing under it has.
        assert drawn["bias"] <= summed["bias"] + 5 * drawn["bias_se"]
    assert "eg" in str(done)


@pytest.mark.slow
def test_three_frames_are_one(zoo_data) -> None:
    whole, stacked = zoo_data("digit_strings", split="test"), ctc.strings("test", 5)
    assert stacked["x"].shape[2] == 117
    assert stacked["lengths"].tolist() == [int(n) // 3 for n in whole["lengths"][:5]]
    assert torch.equal(stacked["x"][1, 4], whole["x"][1, 12:15].reshape(-1))
