"""The benchmark of restricted Boltzmann machines: it runs, and its loop learns what ours does."""

from __future__ import annotations

import pytest
import torch

import zoo
from benchmarks import rbm


def test_quick_run_returns_the_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(rbm, "QUICK_IMAGES", 300)
    found = rbm.run(quick=True)
    speed = found["images_per_second"]
    assert set(speed) == {"zoo", "torch_loop", "sklearn_float32", "sklearn_float64"}
    assert found["times_faster_than"]["torch_loop"] == speed["zoo"] / speed["torch_loop"]
    assert 0 < found["share_of_floor"] < 1.5
    assert "floor" in capsys.readouterr().out


def test_the_plain_loop_learns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rbm, "RATE", 0.1)
    torch.manual_seed(0)
    x = (zoo.load_data("digits")[:600] > 8).float()
    independent = torch.distributions.Bernoulli(x.mean(0).clamp(0.01, 0.99)).log_prob(x).sum(1).mean()
    model = zoo.RestrictedBoltzmannMachine(64, 8)
    model.weights, model.visible_biases, model.hidden_biases = rbm.plain(x, hidden=8, epochs=200)[1]
    _, fit = rbm.ours(x, hidden=8, epochs=60)
    with torch.no_grad():
        for machine in (model, fit.model):
            assert machine.log_marginal(x).mean() > independent + 3
