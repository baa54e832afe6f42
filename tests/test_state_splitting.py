"""``init="split"``: a chain of many states over symbols begins as fewer, fitted and split."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from zoo.core.data import take
from zoo.data import load_data


def test_split_states_are_sooner_told_apart_than_drawn_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """After as many iterations of EM."""
    x: Any = take(load_data("known_sentences"), slice(0, 300))
    model = zoo.CategoricalHMM(20, int(x["x"].max()) + 1)
    options = {"estimator": "em", "max_iter": 3, "tol": 0, "restarts": 1}
    split = zoo.fit(model, x, init="split", **options).log_likelihood
    monkeypatch.setattr("zoo.models.shared.state_splitting.FEWEST", 20)
    drawn = zoo.fit(model, x, init="split", **options).log_likelihood
    assert split is not None
    assert drawn is not None
    print(split, drawn)
    assert split > drawn + 0.05 * float(x["lengths"].sum())


def test_it_sets_the_chain_for_every_kind_of_start() -> None:
    x = torch.tensor([[0.0, 1.0, 2.0, 1.0], [2.0, 2.0, torch.nan, 0.0]])
    for initial in ("free", "uniform", "stationary"):
        model = zoo.CategoricalHMM(9, 3, initial=initial)
        before = model.transition_probs.detach().clone()
        data = model.prepare({"x": x, "lengths": torch.tensor([4, 4])})
        model.initialize(data, "split")
        assert (model.transition_probs - before).abs().max() > 0.01
        torch.testing.assert_close(model.emission_probs.sum(-1), torch.ones(9, dtype=torch.float64))
        assert model.log_marginal(**data).isfinite().all()


def test_chains_from_left_to_right_have_no_parts() -> None:
    model = zoo.CategoricalHMM(3, 3, topology="left_right")
    with pytest.raises(zoo.ZooError, match=r"init='split' expected topology='full'"):
        zoo.fit(model, torch.tensor([[0, 1, 2, 1]]), estimator="em", init="split")
