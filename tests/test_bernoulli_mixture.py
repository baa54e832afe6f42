"""BernoulliMixture: closed forms, certain features, impossible data, digits, hard sizes, bad input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

import zoo
from zoo.models.bernoulli_mixture import BernoulliMixture, tiny

INF = float("inf")


def make(weights: Any, probs: Any) -> BernoulliMixture:
    probs = torch.as_tensor(probs, dtype=torch.float64)
    model = BernoulliMixture(*probs.shape)
    model.weights, model.probs = weights, probs
    return model


def rows(*values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_log_marginal_is_scipys() -> None:
    weights, probs = np.array([0.2, 0.8]), np.array([[0.01, 0.5, 0.99], [0.7, 1e-9, 0.3]])
    x = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)])
    each = scipy.stats.bernoulli.logpmf(x[:, None, :], probs).sum(-1)
    expected = scipy.special.logsumexp(each + np.log(weights), axis=1)
    value = make(weights, probs).log_marginal(torch.tensor(x, dtype=torch.float64)).detach()
    np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-13)
    assert float(value.logsumexp(0)) == pytest.approx(0.0, abs=1e-13)  # all data there are


def test_one_component_is_fitted_by_the_mean() -> None:
    x = (torch.rand(60, 3) < torch.tensor([0.2, 0.5, 0.9])).double()
    fit = zoo.fit(BernoulliMixture(1, 3), x, estimator="em")
    torch.testing.assert_close(fit.model.probs[0].detach(), x.mean(0), rtol=1e-12, atol=0)
    entropy = scipy.stats.bernoulli(x.mean(0).numpy()).entropy().sum()
    assert fit.log_likelihood == pytest.approx(-60 * entropy, rel=1e-12)
    assert fit.num_parameters == 3


def test_parameters_are_recovered() -> None:
    truth = make([0.4, 0.6], [[0.9, 0.8, 0.9, 0.2], [0.1, 0.3, 0.2, 0.9]])
    generator = torch.Generator().manual_seed(3)
    z = torch.bernoulli(torch.full((4000,), 0.6, dtype=torch.float64), generator=generator).long()
    x = torch.bernoulli(truth.probs.detach()[z], generator=generator)
    fit = zoo.align(zoo.fit(BernoulliMixture(2, 4), x, estimator="em"), z, x)
    assert fit.log_likelihood is not None
    assert fit.log_likelihood > float(truth.log_marginal(x).sum().detach())
    # Standard errors as if the classes were seen, with room for the doubt that four answers leave.
    p, share = truth.probs.detach(), torch.tensor([[0.4], [0.6]], dtype=torch.float64)
    error = (p * (1 - p) / (4000 * share)).sqrt()
    assert ((fit.model.probs - p).abs() < 8 * error).all()


def test_certain_features_and_impossible_data() -> None:
    model = make([0.25, 0.75], [[1.0, 0.5], [0.0, 0.2]])
    assert model.probs.tolist() == [[1.0, 0.5], [0.0, pytest.approx(0.2)]]
    x = rows([1, 0], [0, 0], [0, 1])
    expected = rows([0.25 * 0.5, 0.75 * 0.8, 0.75 * 0.2])[0].log()
    value = model.log_marginal(x)
    torch.testing.assert_close(value.detach(), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(oracles.log_evidence(model.model, x).detach(), expected, rtol=0, atol=1e-14)
    grads = torch.autograd.grad(value.sum(), [model.logits, model.weights_unconstrained])
    assert all(g.isfinite().all() for g in grads)
    assert all(g.abs().max() > 0.1 for g in grads)

    sure = make([0.5, 0.5], [[1.0, 0.3], [1.0, 0.6]])
    mixed = rows([0, 1], [1, 1])
    value = sure.log_marginal(mixed)
    assert value[0] == -INF
    assert float(value[1].detach()) == pytest.approx(np.log(0.45), abs=1e-14)
    assert torch.autograd.grad(value[1], sure.logits)[0].isfinite().all()
    torch.testing.assert_close(sure.posterior(mixed).probs[0].detach(), rows([0.5, 0.5])[0], rtol=0, atol=0)
    assert not any(v.isnan().any() for v in sure.e_step(mixed).values() if isinstance(v, Tensor))


def test_gradient_of_the_program_at_certain_features() -> None:
    model = make([0.25, 0.75], [[1.0, 0.5], [0.0, 0.2]])
    x = rows([1, 0], [0, 1])
    ours = torch.autograd.grad(model.log_marginal(x).sum(), model.logits)[0]
    grad = torch.autograd.grad(oracles.joint(model.model, x, {"z": torch.tensor([0, 1])}), model.logits)[0]
    torch.testing.assert_close(grad, ours, rtol=0, atol=1e-14)


def test_em_finds_probabilities_of_exactly_zero_and_one(tmp_path: Path) -> None:
    x = rows(*[[1, 1, i % 2] for i in range(20)], *[[0, 1, i % 3 == 0] for i in range(20)])
    fit = zoo.fit(BernoulliMixture(2, 3), x, estimator="em")
    assert fit.status == "converged"
    assert fit.model.probs[:, 1].tolist() == [1.0, 1.0]
    assert fit.log_likelihood is not None
    assert fit.model.log_marginal(rows([1, 0, 1]))[0] == -INF
    fit.save(tmp_path / "a")
    again = zoo.load(tmp_path / "a")
    assert torch.equal(again.model.log_marginal(x), fit.model.log_marginal(x))
    assert torch.equal(again.model.logits, fit.model.logits)


def test_gradients_start_inside() -> None:
    x = rows(*[[1, 1, i % 2] for i in range(20)], *[[0, 1, i % 3 == 0] for i in range(20)])
    fit = zoo.fit(BernoulliMixture(2, 3), x, estimator="eg", max_epochs=300)
    assert fit.status != "diverged"
    assert fit.model.logits.isfinite().all()


def test_digits() -> None:
    """Ten classes for binarised digits: far better than one class, and classes are digits more often than not."""
    x, digit = zoo.load_data("digits", labels=True)
    assert isinstance(x, Tensor)
    x = (x > 7).double()
    fit = zoo.fit(BernoulliMixture(10, 64), x, estimator="em")
    assert fit.status == "converged"
    single = zoo.fit(BernoulliMixture(1, 64), x, estimator="em")
    assert fit.log_likelihood is not None
    assert single.log_likelihood is not None
    assert fit.bic is not None
    assert single.bic is not None
    assert fit.bic < single.bic
    aligned = zoo.align(fit, digit, x)
    assert float((aligned.predict(x) == digit).double().mean()) > 0.6


def test_one_row_one_component() -> None:
    fit = zoo.fit(BernoulliMixture(1, 2), rows([1, 0]), estimator="em")
    assert fit.model.probs.tolist() == [[1.0, 0.0]]
    assert fit.log_likelihood == pytest.approx(0.0, abs=1e-12)


def test_a_dead_component_keeps_its_probs() -> None:
    model = make([0.0, 1.0], [[0.3], [0.6]])
    model.m_step(model.e_step(rows([1], [0], [0], [0])))
    assert model.probs.flatten().tolist() == pytest.approx([0.3, 0.25])


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([[0.5, 1.5, 0.5], [0.5, 0.5, 0.5]], r"BernoulliMixture\.probs expected values in \[0, 1\], got 1\.5"),
        ([[0.5, -0.1, 0.5], [0.5, 0.5, 0.5]], r"got -0\.1"),
        ([[0.5, float("nan"), 0.5], [0.5, 0.5, 0.5]], r"got nan"),
        ([[0.5, 0.5], [0.5, 0.5]], r"expected shape \(2, 3\), got \(2, 2\)"),
        ("half", r"expected a tensor or an array, got str"),
    ],
)
def test_bad_probs(value: Any, match: str) -> None:
    model, _ = tiny()
    kept = model.probs.detach().clone()
    with pytest.raises(zoo.ZooError, match=match):
        model.probs = value
    torch.testing.assert_close(model.probs.detach(), kept, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        ([[0.0, 1.0], [1.0, 2.0]], r"expected entries 0 or 1, got 2 in row 1\. Binarise"),
        ([[0.0, 0.5], [1.0, 0.25]], r"expected entries 0 or 1, got 0\.5 in rows 0, 1\. Binarise"),
        ([[0.0, -1.0]], r"got -1 in row 0"),
        ([[1.0, float("nan")]], r"got NaN in row 0"),
        ([[1.0, 0.0, 1.0]], r"expected shape \(N, 2\), got \(1, 3\)"),
        (np.zeros((0, 2)), r"at least one row, got none"),
    ],
)
def test_bad_data(x: Any, match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        zoo.fit(BernoulliMixture(2, 2), x)


def test_truth_values_are_data() -> None:
    x = torch.rand(20, 2) < 0.5
    fit = zoo.fit(BernoulliMixture(1, 2), x, estimator="em")
    torch.testing.assert_close(fit.model.probs[0].detach(), x.double().mean(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_bad_sizes(size: Any) -> None:
    with pytest.raises(zoo.ZooError, match="num_components expected a whole number of at least 1"):
        BernoulliMixture(size, 1)
