"""The deep Markov model beside Pyro programs: that both are the same model, which the times stand on."""

from __future__ import annotations

import pytest
import torch

from benchmarks import _deep_markov as bench

SMALL = {"latent_dim": 3, "hidden_dim": 5, "transition_dim": 4, "emission_dim": 4, "cell": "rnn"}


def few(count: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([5, 4, 2])
    x = (torch.rand(3, 5, 88, generator=generator) < 0.1).float() * (torch.arange(5) < lengths[:, None]).unsqueeze(-1)
    return [(x, lengths)] * count


def test_both_say_the_same_of_one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SIZES", SMALL)
    monkeypatch.setattr(bench, "minibatches", few)
    compared, grown = bench.deep_markov_rows(1, (4, 8))
    assert compared["difference"] < 1e-6
    assert compared["zoo_cpu_ms"] > 0
    assert compared["ratio"] == pytest.approx(compared["zoo_cpu_ms"] / compared["pyro_cpu_ms"])
    assert len(grown["cpu_ms"]) == 2


def test_rolls_as_long_stand_in_where_the_chorales_are_not_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise bench.ZooError("not there")

    monkeypatch.setattr(bench, "load_data", missing)
    ((x, lengths),) = bench.minibatches(1)
    assert x.shape == (20, int(lengths[0]), 88)
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)
    assert not x[-1, int(lengths[-1]) :].any()
