"""The table of CTC's estimators: at toy size."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from zoo.core.data import take
from zoo.data import load_data
from zoo.models.gaussian_hmm import GaussianHMM
from zoo.reproduce import ctc, reproduce
from zoo.reproduce._words import decoded


def toy(split: str, count: int | None = None) -> dict[str, torch.Tensor]:
    data = load_data("symbol_strings")
    assert isinstance(data, dict)
    return take(data, slice(0, 40) if split == "train" else slice(40, 60))


def test_it_runs_at_toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"epochs": 3, "hidden_dim": 4, "measured": 4, "draws": 30, "guide_steps": 2}
    monkeypatch.setitem(ctc.SETTINGS, "quick", dataclasses.replace(ctc.SETTINGS["quick"], **sizes))
    monkeypatch.setattr(ctc, "strings", toy)
    monkeypatch.setattr(ctc, "_words", lambda setting, seed: {"name": "HMM", "value": 1.0, "note": ""})
    done = reproduce("ctc", say=lambda line: None)
    rows = {row["name"]: row for row in done.record["rows"]}
    assert list(rows) == ["eg", "svi", "iwae", "reinforce", "HMM"]
    del rows["HMM"]
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


def test_chains_in_a_loop_find_the_words_that_were_said() -> None:
    """Two words of three sounds each, one the other backwards, said in turns and twice in a row."""
    sounds = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
    models = []
    for order in ((0, 1, 2), (2, 1, 0)):
        model = GaussianHMM(3, 2, topology="left_right")
        model.means = sounds[list(order)]
        model.transition_probs = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
        models.append(model)
    said = [[7, 7, 9], [9, 7]]
    generator = torch.Generator().manual_seed(0)
    rows = []
    for string in said:
        frames = [s for word in string for s in ((0, 1, 2) if word == 7 else (2, 1, 0)) for _ in range(4)]
        noise = torch.randn(len(frames), 2, generator=generator, dtype=torch.float64)
        rows.append(sounds[frames] + noise)
    x = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    found = decoded(models, [7, 9], x, torch.tensor([len(row) for row in rows]))
    assert found.tolist() == [[7, 7, 9], [9, 7, 0]]
