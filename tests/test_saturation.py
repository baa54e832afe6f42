"""Logits that a climb took far out, though their probabilities are to come back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import zoo
from zoo.core.contract import prepared
from zoo.core.isolation import isolated
from zoo.estimators.loop.saturation import back_inside, saturated
from zoo.runs.prepare import start

SIGNS = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)


def gradient(values: Tensor) -> Tensor:
    """Of a function of five logits, to be lowered, whose probabilities (or those of the opposite) are to be large, as
    parts of a sum; and of two places."""
    v = values.clone().requires_grad_(True)
    logits = -(0.5 + (SIGNS * v[:5]).sigmoid()).log().sum()
    (found,) = torch.autograd.grad(logits + 0.5 * (v[5] - 99) ** 2 + 1e-3 * (v[6] - 2).abs(), v)
    return found


def test_logits_that_are_to_come_back_are_told_from_all_else() -> None:
    # Two on the wrong side, two where they are to be, one not far out; two places.
    values = torch.tensor([-20.0, 9.0, 15.0, -30.0, 2.0, 100.0, 50.0], dtype=torch.float64)
    every = torch.ones(7, dtype=torch.bool)
    found = saturated(values, gradient, every)
    assert found.tolist() == [True, True, False, False, False, False, False]
    assert not saturated(values, gradient, ~every).any()
    places = torch.stack(list(back_inside(values, found)))
    assert torch.equal(places[:, 2:], values[2:].expand(len(places), -1))
    assert places[:, 0].tolist() == [-1.0, -2.0, -4.0, -6.0, -9.0]
    assert places[:, 1].tolist() == [1.0, 2.0, 4.0, 6.0, 9.0]


def test_a_class_that_a_step_emptied_of_an_answer_takes_it_up_again() -> None:
    g = np.random.default_rng(20)
    n, k, d = int(g.integers(5, 61)), int(g.integers(2, 5)), int(g.integers(1, 4)) + 2
    z = g.integers(0, k, n)
    x = (g.random((n, d)) < g.random((k, d))[z]).astype(float)
    model = zoo.BernoulliMixture(k, d)
    with isolated(20):
        begun = start(model, prepared(model, x, new=True), "random")
    begun.eval()
    climbed = zoo.fit(begun, x, estimator="eg", init="current")
    expected = zoo.fit(begun, x, estimator="em", init="current", tol=1e-12, max_iter=50_000)
    assert abs(climbed.log_likelihood - expected.log_likelihood) < 1e-5 * n  # without: 0.0092 a datum lower
    assert climbed.status == "converged"
