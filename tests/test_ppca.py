"""Probabilistic PCA against its closed-form maximum, explicit Gaussians and scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import zoo
from zoo.errors import ZooError
from zoo.models.ppca import PPCA, tiny


def array(value: Tensor) -> Any:
    return value.detach().numpy()


def covariance_of(model: Any) -> Any:
    return array(model.loadings @ model.loadings.mT) + float(array(model.noise_variance)) * np.eye(model.num_features)


def maximum(x: Any, q: int) -> float:
    """Tipping & Bishop's maximum log-likelihood, from the eigenvalues of the covariance alone (dividing by N)."""
    n, d = x.shape
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True).reshape(d, d))[::-1]
    noise = values[q:].mean()
    return -n / 2 * (d * math.log(2 * math.pi) + np.log(values[:q]).sum() + (d - q) * math.log(noise) + d)


def wine(standardize: bool = True) -> Any:
    from sklearn.datasets import load_wine

    x = load_wine().data
    return (x - x.mean(0)) / x.std(0) if standardize else x


def iris() -> Any:
    from sklearn.datasets import load_iris

    return load_iris().data


def random_model(d: int, q: int, seed: int = 0, scale: float = 1.0, offset: float = 0.0) -> tuple[PPCA, Tensor]:
    rng = np.random.default_rng(seed)
    model = PPCA(q, d)
    model.loadings = torch.tensor(scale * rng.normal(size=(d, q)))
    model.mean = torch.tensor(offset + scale * rng.normal(size=d))
    model.noise_variance = torch.tensor(scale**2 * rng.uniform(0.2, 1.5))
    return model, torch.tensor(offset + scale * rng.normal(size=(9, d)) * rng.uniform(0.5, 2, size=d))


def condition(model: PPCA, x: Any) -> tuple[Any, Any]:
    """Mean (N, q) and covariance (q, q) of z given x, from the joint Gaussian of (x, z)."""
    loadings = array(model.loadings)
    regression = np.linalg.solve(covariance_of(model), loadings)
    return (x - array(model.mean)) @ regression, np.eye(loadings.shape[1]) - loadings.T @ regression


# --- exact quantities -------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(d=st.integers(1, 6), q=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_evidence_and_posterior_are_those_of_the_joint_gaussian(d: int, q: int, seed: int) -> None:
    model, x = random_model(d, min(q, d), seed)
    expected = scipy.stats.multivariate_normal(array(model.mean), covariance_of(model)).logpdf(array(x))
    np.testing.assert_allclose(array(model.log_marginal(x)), np.atleast_1d(expected), rtol=1e-10, atol=1e-10)
    means, spread = condition(model, array(x))
    np.testing.assert_allclose(array(model.posterior(x).mean), means, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(array(model.posterior(x).covariance_matrix[0]), spread, rtol=1e-8, atol=1e-10)


def test_gradient_of_the_evidence_is_the_expected_complete_gradient() -> None:
    """Fisher's identity, the right side from moments of the joint Gaussian."""
    model, x = random_model(4, 2, seed=3)
    model.log_marginal(x).sum().backward()
    z, spread = condition(model, array(x))
    loadings, noise = array(model.loadings), float(array(model.noise_variance))
    residual = array(x) - array(model.mean) - z @ loadings.T
    square = (residual**2).sum() + len(x) * np.trace(loadings @ spread @ loadings.T)
    expected = {
        "mean_unconstrained": residual.sum(0) / noise,
        "loadings_unconstrained": (residual.T @ z - len(x) * loadings @ spread) / noise,
        "noise_variance_unconstrained": 0.5 * (square / noise - 4 * len(x)),  # stored as its logarithm
    }
    grads = {name: array(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    assert grads.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(grads[name], value, rtol=1e-9, atol=1e-9)


def test_statistics_are_moments_on_the_axes_of_the_loadings() -> None:
    model, x = random_model(4, 2, seed=5)
    m = model.e_step(x)["moments"]
    covariance = np.cov(array(x).T, bias=True)
    np.testing.assert_allclose(float(m.total), 9 * np.trace(covariance))
    # Whatever the basis of the span: the projector on it, seen through the covariance.
    loadings = array(model.loadings)
    projector = loadings @ np.linalg.pinv(loadings)
    np.testing.assert_allclose(array(m.cross @ m.cross.mT), 81 * covariance @ projector @ covariance, atol=1e-9)
    np.testing.assert_allclose(float(m.scatter.trace()), 9 * np.trace(projector @ covariance), rtol=1e-10)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_statistics_of_the_parts_add_up(offset: float) -> None:
    model, x = random_model(4, 2, offset=offset)
    whole, parts = model.e_step(x), model.e_step(x[:2]) + model.e_step(x[2:5]) + model.e_step(x[5:])
    assert parts["num_data"] == whole["num_data"] == 9
    torch.testing.assert_close(parts["log_likelihood"], whole["log_likelihood"])
    for name in ("count", "mean", "score_mean", "total", "cross", "scatter"):
        added, once = getattr(parts["moments"], name), getattr(whole["moments"], name)
        torch.testing.assert_close(added, once, rtol=1e-8, atol=1e-7)
    doubled = whole * 2.0
    torch.testing.assert_close(doubled["moments"].cross, 2 * whole["moments"].cross)
    torch.testing.assert_close(doubled["moments"].mean, whole["moments"].mean)


# --- the closed form --------------------------------------------------------------------------------------------------


def raw_wine() -> Any:
    return wine(False)


@pytest.mark.parametrize(
    ("data", "q"), [(wine, 2), (wine, 5), (iris, 1), (iris, 3), (raw_wine, 2), (raw_wine, 5), (raw_wine, 9)]
)
def test_em_reaches_the_closed_form(data: Any, q: int) -> None:
    x = data()
    model = PPCA(q, x.shape[1])
    best = maximum(x, q)
    for seed in range(3):
        fit = zoo.fit(model, x, seed=seed)
        assert fit.status == "converged"
        assert not fit.notes
        assert fit.history["log_likelihood"][0] < best - 10  # the start is not the answer
        assert fit.log_likelihood == pytest.approx(best, rel=1e-8)
    assert model.closed_form(torch.tensor(x)) == []
    assert float(model.log_marginal(torch.tensor(x)).sum().detach()) == pytest.approx(best, rel=1e-11)
    # One more step at the maximum moves nothing, and that is where EM went.
    kept = covariance_of(model)
    np.testing.assert_allclose(covariance_of(fit.model), kept, atol=2e-3 * kept.max())
    model.m_step(model.e_step(torch.tensor(x)))
    np.testing.assert_allclose(covariance_of(model), kept, rtol=1e-9, atol=1e-9)


def test_a_start_in_the_wrong_direction_is_left() -> None:
    """Axes that hold less variance than the noise add nothing at first, but keep turning and come to count."""
    x = iris()
    _, vectors = np.linalg.eigh(np.cov(x.T))
    model = PPCA(2, 4)
    model.loadings = torch.tensor(0.1 * (vectors[:, :2] + 1e-3 * vectors[:, 2:]))
    model.mean, model.noise_variance = torch.tensor(x.mean(0)), torch.tensor(1.0)
    fit = zoo.fit(model, x, init="current", tol=0, max_iter=60)
    assert fit.history["log_likelihood"][1] == pytest.approx(maximum(x, 0), abs=1e-6)  # no factor yet
    assert fit.log_likelihood == pytest.approx(maximum(x, 2), rel=1e-8)
    # One good axis at its own maximum, one useless: a step stays there until the useless one has turned.
    one = PPCA(1, 4)
    one.closed_form(torch.tensor(x))
    model.loadings = torch.cat([one.loadings, torch.tensor(1e-6 * vectors[:, :1])], -1)
    model.noise_variance = one.noise_variance
    model.m_step(model.e_step(torch.tensor(x)))
    after = float(model.log_marginal(torch.tensor(x)).sum().detach())
    assert after == pytest.approx(maximum(x, 1), abs=1e-7)


def test_closed_form_is_scikit_learns() -> None:
    """Their probabilistic PCA divides by N - 1; on a data set scaled to make up for it they agree."""
    from sklearn.decomposition import PCA

    x = wine()
    model = PPCA(3, 13)
    model.closed_form(torch.tensor(x))
    peer = PCA(3).fit(x * math.sqrt((len(x) - 1) / len(x)))
    np.testing.assert_allclose(covariance_of(model), peer.get_covariance(), atol=1e-10)
    assert float(array(model.noise_variance)) == pytest.approx(peer.noise_variance_, rel=1e-10)


def test_the_closed_form_is_an_estimator() -> None:
    """Wherever it starts: one row of history, the exact evidence, and reasons for those it cannot serve."""
    x = wine()
    fits = [
        zoo.fit(PPCA(3, 13), x, estimator="closed_form", seed=seed, init=init)
        for seed, init in ((0, "random"), (1, "current"))
    ]
    for fit in fits:
        assert (fit.status, fit.iterations, fit.notes, len(fit.restarts)) == ("converged", 1, [], 1)
        assert (
            fit.log_likelihood
            == fit.elbo
            == fit.history["log_likelihood"][0]
            == pytest.approx(maximum(x, 3), rel=1e-12)
        )
    np.testing.assert_array_equal(*(array(fit.model.loadings) for fit in fits))
    assert "leaves the noise undetermined" in zoo.fit(PPCA(4, 4), iris(), estimator="closed_form").notes[0]
    with pytest.raises(ZooError, match="it has no closed_form"):
        zoo.fit(zoo.FactorAnalysis(2, 13), x, estimator="closed_form")
    model = PPCA(3, 13)
    model.get_parameter("mean").requires_grad_(False)
    with pytest.raises(ZooError, match=r"'mean' is to stay .* its closed_form sets every parameter"):
        zoo.fit(model, x, estimator="closed_form")


def test_a_weight_is_a_number_of_rows_in_closed_form() -> None:
    x, times = torch.tensor(wine()), torch.arange(178) % 4
    weighted, repeated = PPCA(3, 13), PPCA(3, 13)
    weighted.closed_form(x, times.double())
    repeated.closed_form(x.repeat_interleave(times, 0))
    np.testing.assert_allclose(covariance_of(weighted), covariance_of(repeated), atol=1e-12)
    np.testing.assert_allclose(array(weighted.mean), array(repeated.mean), atol=1e-13)
    assert not np.allclose(covariance_of(weighted), np.cov(x.T, bias=True), atol=0.1)


def test_fitted_summary() -> None:
    fit = zoo.fit(PPCA(2, 13), wine())
    assert fit.num_parameters == 13 * 2 - 1 + 13 + 1
    assert fit.predict(wine()).shape == (178, 2)
    assert fit.log_likelihood == pytest.approx(-2875.6363, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 12), d=st.integers(1, 5), q=st.integers(1, 5), seed=st.integers(0, 10_000), grain=st.booleans())
@example(n=7, d=4, q=1, seed=0, grain=True)  # a start whose axis holds too little variance
@example(n=5, d=5, q=4, seed=9348, grain=True)  # plain EM stops at a saddle, 22 nats short
def test_em_and_closed_form_agree_on_any_small_data(n: int, d: int, q: int, seed: int, grain: bool) -> None:
    """Few rows, ties, as many factors as features: EM climbs, and ends at the closed form."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    x = x.round() if grain else x
    model = PPCA(min(q, d), d)
    fit = zoo.fit(model, x, seed=seed, max_iter=2000)
    assert (np.diff(fit.history["log_likelihood"]) >= -1e-8 * max(n, abs(fit.log_likelihood or 0))).all()
    notes = model.closed_form(torch.tensor(x))
    best = float(model.log_marginal(torch.tensor(x)).sum().detach())
    assert math.isfinite(best)
    assert fit.log_likelihood == pytest.approx(best, abs=1e-5 * max(1, abs(best)))
    assert bool(notes) == fit.degenerate


# --- hard sizes and bad input -----------------------------------------------------------------------------------------


def test_as_many_factors_as_features_fits_any_covariance() -> None:
    x = iris()
    saturated = scipy.stats.multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(x).sum()
    fit = zoo.fit(PPCA(4, 4), x)
    assert fit.log_likelihood == pytest.approx(saturated, abs=1e-4)
    assert fit.degenerate
    assert "leaves the noise undetermined" in fit.notes[0]
    model = PPCA(4, 4)
    assert model.closed_form(torch.tensor(x)) == fit.notes
    np.testing.assert_allclose(float(array(model.noise_variance)), 1e-6 * x.var(0).mean(), rtol=1e-9)


def test_few_rows_end_on_the_floor() -> None:
    x = iris()[:3]  # three rows lie in a plane
    fit = zoo.fit(PPCA(2, 4), x)
    assert fit.degenerate
    assert "noise floor acts" in fit.notes[0]
    np.testing.assert_allclose(float(array(fit.model.noise_variance)), 1e-6 * x.var(0).mean(), rtol=1e-6)
    model = PPCA(2, 4)
    model.closed_form(torch.tensor(x))
    assert fit.log_likelihood == pytest.approx(float(model.log_marginal(torch.tensor(x)).sum().detach()), abs=1e-4)
    single = zoo.fit(PPCA(1, 4), x[:1])
    assert single.degenerate
    np.testing.assert_allclose(array(single.model.mean), x[0])


@pytest.mark.parametrize(("scale", "offset"), [(1e6, 0.0), (1e-6, 0.0), (1.0, 1e6)])
def test_fit_does_not_depend_on_units(scale: float, offset: float) -> None:
    x = iris() * scale + offset
    fit = zoo.fit(PPCA(2, 4), x)
    assert fit.log_likelihood == pytest.approx(maximum(iris(), 2) - iris().size * math.log(scale), abs=1e-4)


def test_wide_data_need_no_square_matrix() -> None:
    """40 rows of 3000 features: no tensor on the way is much larger than the data, one of 3000 x 3000 is 75 times."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 3000)) + 0.5 * rng.normal(size=(40, 3000))
    largest = 0
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for value in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(value, Tensor):
                    largest = max(largest, value.numel() * value.element_size())
            return out

    with Watch():
        fit = zoo.fit(PPCA(3, 3000), x)
        fit.model.closed_form(torch.tensor(x))
    assert largest <= 4 * x.nbytes
    gram = np.linalg.eigvalsh((x - x.mean(0)) @ (x - x.mean(0)).T / 40)[::-1]
    noise = gram[3:].sum() / 2997
    best = -20 * (3000 * math.log(2 * math.pi) + np.log(gram[:3]).sum() + 2997 * math.log(noise) + 3000)
    assert fit.log_likelihood == pytest.approx(best, rel=1e-8)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: PPCA(5, 4), r"PPCA: num_factors expected at most num_features = 4, got 5\. "),
        (lambda: PPCA(1, 4).closed_form(torch.zeros(3, 5)), r"x expected shape \(N, 4\), got \(3, 5\)"),
        (lambda: zoo.fit(PPCA(1, 2), [[1.0, np.inf]]), "infinite entries in row 0"),
        (lambda: zoo.fit(*tiny(), estimator="hard_em"), "hard_em cannot fit this model"),
    ],
)
def test_mistakes_are_one_line(call: Any, match: str) -> None:
    with pytest.raises(ZooError, match=match) as raised:
        call()
    assert "\n" not in str(raised.value)


# Adam's 3000 steps of the defaults: about 5 s each, and the point is that the defaults suffice.
@pytest.mark.parametrize("estimator", ["eg", "svi"])
def test_gradients_reach_the_optimum_by_default(estimator: str) -> None:
    x = iris()
    fit = zoo.fit(PPCA(2, 4), x, estimator=estimator)
    assert fit.log_likelihood == pytest.approx(maximum(x, 2), abs=0.02 * len(x))
