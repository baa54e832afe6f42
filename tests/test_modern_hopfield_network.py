"""Modern Hopfield networks against the energy and the step as Ramsauer and others wrote them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import zoo
from zoo.models.modern_hopfield_network import tiny
from zoo.scores.recall import recall_errors


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stored(x: Tensor, beta: float) -> zoo.ModernHopfieldNetwork:
    model = zoo.ModernHopfieldNetwork(x.shape[1], len(x), beta)
    assert model.closed_form(x) == []
    return model.eval()


@settings(max_examples=20, deadline=None)
@given(m=st.integers(1, 6), d=st.integers(1, 5), seed=st.integers(0, 10**6), beta=st.floats(0.2, 8.0))
def test_energy_and_step_are_ramsauer_s_for_patterns_of_one_length(m: int, d: int, seed: int, beta: float) -> None:
    x, states = drawn(m, d, seed=seed), drawn(5, d, seed=seed + 1)
    x = x / x.norm(dim=1, keepdim=True)
    model, a, s = stored(x, beta), x.numpy(), states.numpy()
    energy = -np.log(np.exp(beta * s @ a.T).sum(1)) / beta + 0.5 * (s**2).sum(1)
    ours = model.energy(states).detach().numpy()
    np.testing.assert_allclose(ours - ours[0], energy - energy[0], rtol=0, atol=1e-9)
    weight = np.exp(beta * s @ a.T)
    step = (weight / weight.sum(1, keepdims=True)) @ a
    np.testing.assert_allclose(model.recall(states, max_steps=1).numpy(), step, rtol=0, atol=1e-9)
    way = [states, *(model.recall(states, max_steps=k) for k in (1, 2, 3))]
    for before, after in itertools.pairwise(way):
        assert (model.energy(after) <= model.energy(before) + 1e-12).all()
    last = model.recall(states, max_steps=5000)
    torch.testing.assert_close(model.recall(last, max_steps=1), last, rtol=0, atol=1e-5)


def test_it_holds_many_more_patterns_than_it_has_units() -> None:
    x = drawn(2000, 64).sign()
    model = stored(x, 1.0)
    assert float((recall_errors(model, x, 0.2, 1) == 0).double().mean()) > 0.995
    assert torch.equal(model.predict(x), torch.arange(2000))


def test_patterns_that_are_told_apart_stay_and_others_are_averaged() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 0.1], [9.0, 9.0]]).double()
    back = stored(x, 1.0).recall(x)
    torch.testing.assert_close(back, torch.tensor([[0.0, 0.05], [0.0, 0.05], [9.0, 9.0]]).double(), rtol=0, atol=1e-3)


def test_what_is_stored_twice_counts_twice() -> None:
    x = torch.tensor([[3.0], [1.0], [3.0], [2.0]])
    fit = zoo.fit(zoo.ModernHopfieldNetwork(1, 4), x, estimator="closed_form")
    assert fit.model.patterns.tolist() == [[3], [1], [2], [0]]
    assert fit.model.weights.tolist() == [0.5, 0.25, 0.25, 0]
    kernel = torch.distributions.Normal(x.double().flatten(), 1.0)
    expected = (kernel.log_prob(torch.tensor([[0.5]])).logsumexp(1) - torch.tensor(4.0).log()).item()
    assert fit.score_samples([[0.5]]).tolist() == [pytest.approx(expected)]
    weighted = zoo.fit(zoo.ModernHopfieldNetwork(1, 4), x[[0, 1, 3]], estimator="closed_form", weights=[2.0, 1, 1])
    assert torch.equal(weighted.model.weights, fit.model.weights)


def test_rows_of_data_make_room_for_themselves() -> None:
    x = torch.as_tensor(zoo.load_data("letters"))
    fit = zoo.fit(zoo.ModernHopfieldNetwork.from_data(x), x)
    assert fit.estimator == "closed_form"
    assert zoo.evaluate(fit, x).num_recalled == 4
    assert fit.log_likelihood == pytest.approx(float(fit.score_samples(x).sum()))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: zoo.fit(zoo.ModernHopfieldNetwork(2, 3), drawn(4, 2), estimator="closed_form"),
            "num_patterns=3.*got 4",
        ),
        (lambda: zoo.ModernHopfieldNetwork(2, 3, inverse_temperature=0.0), "a positive number, got 0"),
        (lambda: zoo.ModernHopfieldNetwork(2, 0), "num_patterns expected a whole number of at least 1"),
        (lambda: tiny()[0].recall(drawn(2, 3)), r"x expected shape \(N, 2\), got \(2, 3\)"),
    ],
)
def test_bad_input_is_told_in_one_line(act: Any, message: str) -> None:
    with pytest.raises(zoo.ZooError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)
