"""PoissonMixture: closed forms, rates of zero, impossible data, the earthquakes, hard sizes, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
from zoo.components.poisson import LogPoisson, log_factorials
from zoo.models.poisson_mixture import PoissonMixture, tiny

INF = float("inf")


def make(weights: Any, rates: Any) -> PoissonMixture:
    rates = torch.as_tensor(rates, dtype=torch.float64)
    model = PoissonMixture(*rates.shape)
    model.weights, model.rates = weights, rates
    return model


def rows(*values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_log_marginal_is_scipys() -> None:
    weights, rates = np.array([0.2, 0.5, 0.3]), np.array([[0.1, 30.0], [5.0, 2.0], [700.0, 1e-3]])
    x = np.array([[0, 31], [4, 0], [690, 0], [3, 3], [0, 0]])
    each = scipy.stats.poisson.logpmf(x[:, None, :], rates).sum(-1)  # (N, K)
    expected = scipy.special.logsumexp(each + np.log(weights), axis=1)
    ours = make(weights, rates).log_marginal(torch.tensor(x, dtype=torch.float64)).detach()
    np.testing.assert_allclose(ours, expected, rtol=1e-13, atol=1e-12)


def test_one_component_is_fitted_by_the_mean() -> None:
    x = torch.poisson(torch.tensor([3.0, 11.0, 0.4], dtype=torch.float64).expand(50, 3))
    fit = zoo.fit(PoissonMixture(1, 3), x, estimator="em")
    torch.testing.assert_close(fit.model.rates[0].detach(), x.mean(0), rtol=1e-12, atol=0)
    expected = scipy.stats.poisson.logpmf(x.numpy(), x.mean(0).numpy()).sum()
    assert fit.log_likelihood == pytest.approx(expected, rel=1e-12)
    assert fit.num_parameters == 3


def test_earthquakes(zoo_data: Callable[..., Any]) -> None:
    """Two Poissons for the yearly counts of Zucchini, MacDonald & Langrock (2016), table 1.2: -lnL = 360.3690."""
    x = zoo_data("earthquakes")
    fit = zoo.fit(PoissonMixture(2, 1), x, estimator="em")
    assert fit.status == "converged"
    assert fit.log_likelihood == pytest.approx(-360.3690, abs=1e-3)
    order = fit.model.rates.detach().flatten().argsort()
    torch.testing.assert_close(fit.model.rates.detach().flatten()[order], rows([15.777, 26.840])[0], rtol=0, atol=5e-3)
    torch.testing.assert_close(fit.model.weights.detach()[order], rows([0.676, 0.324])[0], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_eg_and_svi_reach_what_em_reaches(zoo_data: Callable[..., Any]) -> None:
    """Of mixtures, everyday runs climb so in the tests of angles and of Gaussians."""
    x, model = zoo_data("earthquakes"), PoissonMixture(2, 1)
    em, eg, svi = (zoo.fit(model, x, estimator=name) for name in ("em", "eg", "svi"))
    assert eg.log_likelihood == pytest.approx(em.log_likelihood, abs=1e-3)
    assert svi.log_likelihood == pytest.approx(em.log_likelihood, abs=1e-2)
    # The linear encoder holds the exact posterior, so nothing is lost to the guide.
    assert svi.evidence_gap == pytest.approx(0.0, abs=1e-2)


def test_parameters_are_recovered() -> None:
    truth = make([0.3, 0.7], [[2.0, 9.0], [8.0, 1.0]])
    generator = torch.Generator().manual_seed(5)
    z = torch.bernoulli(torch.full((2000,), 0.7, dtype=torch.float64), generator=generator).long()
    x = torch.poisson(truth.rates.detach()[z], generator=generator)
    fit = zoo.align(zoo.fit(PoissonMixture(2, 2), x, estimator="em"), z, x)
    assert fit.log_likelihood is not None
    assert fit.log_likelihood > float(truth.log_marginal(x).sum().detach())
    share = torch.stack([1 - z.double().mean(), z.double().mean()])
    error = (truth.rates.detach() / (2000 * share.unsqueeze(-1))).sqrt()
    assert ((fit.model.rates - truth.rates).abs() < 4.5 * error).all()
    torch.testing.assert_close(fit.model.weights.detach(), share, rtol=0, atol=0.01)


def test_a_rate_of_zero() -> None:
    model = make([0.25, 0.75], [[0.0, 3.0], [2.0, 0.0]])
    assert float(model.rates[0, 0].detach()) == 0.0
    x = rows([0, 0], [0, 2], [2, 0], [1, 1])

    def p(k: int, rate: float) -> float:
        return rate**k * math.exp(-rate) / math.factorial(k)

    expected = rows([0.25 * p(0, 3.0) + 0.75 * p(0, 2.0), 0.25 * p(2, 3.0), 0.75 * p(2, 2.0), 0.0])[0].log()
    value = model.log_marginal(x)
    torch.testing.assert_close(value.detach(), expected, rtol=0, atol=1e-14)
    assert value[3] == -INF
    torch.testing.assert_close(oracles.log_evidence(model.model, x).detach(), expected, rtol=0, atol=1e-14)
    # The impossible row must not spoil the gradient of the others, on either path.
    for scored in (value[:3].sum(), oracles.joint(model.model, x[:2], {"z": torch.tensor([1, 0])})):
        grads = torch.autograd.grad(scored, [model.rates_unconstrained, model.weights_unconstrained], retain_graph=True)
        assert all(g.isfinite().all() for g in grads)
        assert any(g.abs().max() > 0.1 for g in grads)
    posterior = model.posterior(x).probs.detach()
    torch.testing.assert_close(posterior[1:], rows([1, 0], [0, 1], [0.25, 0.75]), rtol=0, atol=1e-14)
    statistics = model.e_step(x)
    assert statistics["log_likelihood"] == -INF
    assert not statistics["sums"].isnan().any()


def test_em_finds_a_rate_of_exactly_zero(tmp_path: Path) -> None:
    x = rows(*[[0, 5 + i % 4] for i in range(10)], *[[90 + i, 5] for i in range(10)])
    fit = zoo.fit(PoissonMixture(2, 2), x, estimator="em")
    assert fit.status == "converged"
    assert (fit.model.rates == 0).sum() == 1
    fit.save(tmp_path / "a")
    assert torch.equal(zoo.load(tmp_path / "a").model.log_marginal(x), fit.model.log_marginal(x))


def test_gradients_start_inside() -> None:
    """A feature that never occurs in a cluster: the start keeps off the boundary, where Adam could not move it."""
    x = rows(*[[0, 5 + i % 4] for i in range(10)], *[[90 + i, 0] for i in range(10)])
    kinds: list[tuple[str, dict[str, Any]]] = [("eg", {}), ("svi", {"warmup": 50})]
    for estimator, options in kinds:
        fit = zoo.fit(PoissonMixture(2, 2), x, estimator=estimator, max_epochs=300, **options)
        assert fit.status != "diverged"
        assert fit.model.rates.isfinite().all()


def test_log_poisson_is_torchs_where_torchs_is_right() -> None:
    value, rate = rows([0, 1, 7, 40]), rows([0.3, 2.0, 7.0, 30.0])
    expected = torch.distributions.Poisson(rate).log_prob(value)
    torch.testing.assert_close(LogPoisson(rate.log()).log_prob(value), expected, rtol=1e-14, atol=1e-14)
    wide = LogPoisson(rate.log()).expand([3, 1, 4])
    assert wide.sample().shape == (3, 1, 4)
    assert wide.log_prob(value).shape == (3, 1, 4)
    log_rate = torch.tensor([-INF, -INF], dtype=torch.float64, requires_grad=True)
    scored = LogPoisson(log_rate).log_prob(rows([0, 3])[0])
    assert scored.tolist() == [0.0, -INF]
    assert torch.autograd.grad(scored[0], log_rate)[0].isfinite().all()


def test_log_factorials_by_table_and_by_lgamma() -> None:
    x = torch.randint(0, 4097, (100, 50)).double()
    torch.testing.assert_close(log_factorials(x), torch.lgamma(x + 1), rtol=0, atol=0)
    large = x.clone()
    large[3, 3] = 1e9
    torch.testing.assert_close(log_factorials(large), torch.lgamma(large + 1), rtol=0, atol=0)


def test_huge_counts() -> None:
    x = rows([1_000_000], [1_002_000], [999_500])
    model = make([0.5, 0.5], [[1e6], [1.5e6]])
    expected = scipy.stats.norm.logpdf(x.numpy()[:, 0], 1e6, 1e3) + math.log(0.5)  # the central limit
    np.testing.assert_allclose(model.log_marginal(x).detach(), expected, atol=3e-3)
    fit = zoo.fit(PoissonMixture(2, 1), x, estimator="em")
    assert fit.status in ("converged", "stalled")
    assert fit.log_likelihood is not None
    assert math.isfinite(fit.log_likelihood)


def test_one_row_one_component() -> None:
    fit = zoo.fit(PoissonMixture(1, 2), rows([3, 0]), estimator="em")
    assert fit.model.rates.tolist() == [[pytest.approx(3.0), 0.0]]
    assert fit.log_likelihood == pytest.approx(scipy.stats.poisson.logpmf(3, 3.0), abs=1e-12)


def test_a_dead_component_keeps_its_rates() -> None:
    model = make([0.0, 1.0], [[4.0], [2.0]])
    model.m_step(model.e_step(rows([1], [2])))
    assert model.rates.flatten().tolist() == pytest.approx([4.0, 1.5])


def test_parameters_that_are_not_rates() -> None:
    model, _ = tiny()
    kept = model.rates.detach().clone()
    with pytest.raises(zoo.ZooError, match=r"rates expected values in the support"):
        model.rates = -kept
    with pytest.raises(zoo.ZooError, match=r"rates expected shape \(2, 2\), got \(2, 3\)"):
        model.rates = torch.ones(2, 3)
    torch.testing.assert_close(model.rates.detach(), kept, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        ([[1.0, -2.0], [0.0, 1.0]], r"expected counts 0, 1, 2, \.\.\., got -2 in row 0\. "),
        ([[1.0, 2.0], [0.0, 1.5]], r"got 1\.5 in row 1\. Round"),
        ([[1.0, float("nan")]], r"got NaN in row 0"),
        ([[1.0, INF]], r"infinite entries in row 0"),
        ([[1.0, 2.0, 3.0]], r"expected shape \(N, 2\), got \(1, 3\)"),
        ([1.0, 2.0], r"expected shape \(N, 2\), got \(2,\)"),
        (np.zeros((0, 2)), r"at least one row, got none"),
        ([["one", "two"]], r"expected numbers"),
    ],
)
def test_bad_data(x: Any, match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        zoo.fit(PoissonMixture(2, 2), x)


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_bad_sizes(size: Any) -> None:
    with pytest.raises(zoo.ZooError, match="num_components expected a whole number of at least 1"):
        PoissonMixture(size, 1)
    with pytest.raises(zoo.ZooError, match="num_features expected a whole number of at least 1"):
        PoissonMixture(1, size)
