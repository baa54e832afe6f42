"""BernoulliHMM: what every chain promises, certain features, the beta prior, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hmm_oracles
import numpy as np
import pytest
import torch
from hmm_oracles import CHECKS, Array, Case, em_steps, sequences
from torch import Tensor

import zoo
from zoo.core.data import call
from zoo.models.bernoulli_hmm import BernoulliHMM

INF = float("inf")


def build(k: int, d: int = 3, **options: Any) -> BernoulliHMM:
    model = BernoulliHMM(k, d, **options)
    model.probs = torch.tensor([[0.9, 0.3, 0.2], [0.2, 0.6, 0.7], [0.6, 0.1, 0.45]])[:k, :d]
    hmm_oracles.set_chain(model)
    return model


def emission(model: BernoulliHMM, row: Array) -> Array:
    there, p = ~np.isnan(row), model.probs.detach().numpy()
    return np.log(np.where(row == 1, p, 1 - p)[:, there]).sum(-1)


CASE = Case(build, emission)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_chain(check: Callable[[Case], None]) -> None:
    check(CASE)


def test_fit_methods(tmp_path: Path) -> None:
    hmm_oracles.check_fit_methods(CASE, tmp_path)


def test_one_feature_is_the_categorical_hmm_of_two_symbols() -> None:
    """Two implementations of the same model, step by step through EM."""
    model = build(3, 1)
    data = sequences(model, [20, 7, 31], seed=1)
    other = zoo.CategoricalHMM(3, 2)
    hmm_oracles.set_chain(other)
    other.emission_probs = torch.cat([1 - model.probs, model.probs], -1).detach()
    for ours, theirs in zip(em_steps(model, data, 4), em_steps(other, data, 4), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)
    torch.testing.assert_close(model.probs[:, 0], other.emission_probs[:, 1], rtol=0, atol=1e-10)
    torch.testing.assert_close(model.transition_probs, other.transition_probs, rtol=0, atol=1e-10)


def test_prior_counts() -> None:
    """The beta prior is ``prior_strength`` rows that look like the data's mean; nothing unseen becomes impossible."""
    model = build(2, prior_strength=3.0)
    data = sequences(model, [12, 9], seed=2)
    data["x"][:, :, 0] = 0.0
    inside = torch.arange(12) < data["lengths"].unsqueeze(-1)
    x = data["x"][inside]
    model.overall.copy_(model.overall_statistic(x))
    smooth = (x.sum(0) + 0.5) / (len(x) + 1)
    weight = call(model.posterior, data).probs[inside]
    expected = (weight.mT @ x + 3 * smooth) / (weight.sum(0).unsqueeze(-1) + 3)
    model.m_step(call(model.e_step, data))
    torch.testing.assert_close(model.probs.detach(), expected, rtol=1e-10, atol=0)
    assert (model.probs[:, 0] > 0).all()


def test_certain_features() -> None:
    """Probabilities of exactly 0 and 1 rule states out; a sequence no state can emit scores -inf, without NaN."""
    model = BernoulliHMM(2, 1)
    model.probs = torch.tensor([[1.0], [0.25]])
    model.transition_probs = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
    x = torch.tensor([[[1.0], [0.0], [1.0]]], dtype=torch.float64)
    expected = math.log(0.5 * (0.3 + 0.25 * 0.8) * 0.75 * (0.2 + 0.8 * 0.25))
    assert float(model.log_marginal(x).detach()) == pytest.approx(expected, abs=1e-13)
    grads = torch.autograd.grad(model.log_marginal(x).sum(), [model.transition_probs_unconstrained])
    assert grads[0].isfinite().all()
    assert grads[0].abs().max() > 0.01
    model.probs = torch.ones(2, 1)
    assert model.log_marginal(x).item() == -INF
    statistics = model.e_step(x)
    assert statistics["log_likelihood"] == -INF
    assert not any(statistics[name].isnan().any() for name in ("starts", "steps", "counts", "ones", "zeros"))
    model.m_step(statistics)
    assert not any(value.isnan().any() for value in model.state_dict().values())


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.tensor([[1.0, 0.0], [2.0, 1.0]]), r"x expected entries 0 or 1, got 2 in row 1\. Binarise"),
        (torch.tensor([[[1.0, 0.0]], [[0.5, 1.0]]]), r"sequence 1 of x expected entries 0 or 1, got 0\.5 in row 0\."),
    ],
)
def test_bad_data(x: Tensor, match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        zoo.fit(BernoulliHMM(2, 2), x)
