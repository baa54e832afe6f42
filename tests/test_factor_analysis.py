"""Factor analysis against explicit joint Gaussians, scikit-learn, and its own neighbours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import Trace_ELBO
from torch import Tensor

import zoo
from zoo.core.as_module import AsModule
from zoo.errors import ZooError
from zoo.models.factor_analysis import (
    PRECISE,
    FactorAnalysis,
    best_loadings,
    best_log_likelihood,
    best_noise,
    tiny,
)
from zoo.models.ppca import PPCA

# --- oracles: nothing here comes from zoo -----------------------------------------------------------------------------


def array(value: Tensor) -> Any:
    return value.detach().numpy()


def dense(model: FactorAnalysis) -> tuple[Any, Any, Any, Any]:
    """loadings, mean, noise (D,) and the explicit covariance (D, D)."""
    loadings, mean = array(model.loadings), array(model.mean)
    noise = np.broadcast_to(array(model.noise_variance), mean.shape)
    return loadings, mean, noise, loadings @ loadings.T + np.diag(noise)


def condition(model: FactorAnalysis, x: Any) -> tuple[Any, Any]:
    """Mean (N, q) and covariance (q, q) of z given x, from the joint Gaussian of (x, z)."""
    loadings, mean, _, covariance = dense(model)
    regression = np.linalg.solve(covariance, loadings)  # (D, q)
    return (x - mean) @ regression, np.eye(loadings.shape[1]) - loadings.T @ regression


def random_model(
    d: int, q: int, seed: int = 0, scale: float = 1.0, offset: float = 0.0
) -> tuple[FactorAnalysis, Tensor]:
    """A model with random parameters, and data that it did not make."""
    rng = np.random.default_rng(seed)
    model = FactorAnalysis(q, d)
    model.loadings = torch.tensor(scale * rng.normal(size=(d, q)))
    model.mean = torch.tensor(offset + scale * rng.normal(size=d))
    model.noise_variance = torch.tensor(scale**2 * rng.uniform(0.2, 1.5, size=d))
    return model, torch.tensor(offset + scale * rng.normal(size=(9, d)) * rng.uniform(0.5, 2, size=d))


def wine() -> Any:
    from sklearn.datasets import load_wine

    x = load_wine().data
    return (x - x.mean(0)) / x.std(0)


def iris() -> Any:
    from sklearn.datasets import load_iris

    return load_iris().data


# --- exact quantities -------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(d=st.integers(1, 6), q=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_evidence_and_posterior_are_those_of_the_joint_gaussian(d: int, q: int, seed: int) -> None:
    model, x = random_model(d, min(q, d), seed)
    _, mean, _, covariance = dense(model)
    expected = scipy.stats.multivariate_normal(mean, covariance).logpdf(array(x))
    np.testing.assert_allclose(array(model.log_marginal(x)), np.atleast_1d(expected), rtol=1e-10, atol=1e-10)
    posterior = model.posterior(x)
    means, spread = condition(model, array(x))
    np.testing.assert_allclose(array(posterior.mean), means, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(array(posterior.covariance_matrix[0]), spread, rtol=1e-8, atol=1e-10)
    assert posterior.batch_shape == (9,)


@pytest.mark.parametrize(("scale", "offset"), [(1e6, 0.0), (1e-6, 0.0), (1.0, 1e6), (1e-3, 1e6)])
def test_evidence_keeps_its_digits_at_any_scale_and_offset(scale: float, offset: float) -> None:
    model, x = random_model(5, 2, scale=scale, offset=offset)
    # The same numbers moved and rescaled exactly: differences first, so the oracle sees no offset.
    covariance = dense(model)[3]
    centred = (array(x) - array(model.mean)) / scale
    expected = scipy.stats.multivariate_normal(np.zeros(5), covariance / scale**2).logpdf(centred) - 5 * math.log(scale)
    np.testing.assert_allclose(array(model.log_marginal(x)), expected, rtol=1e-9, atol=1e-9)


def test_small_noise_loses_no_digits() -> None:
    """ln p(x) where the noise is a 1e-12th of the variance, against the formula in extended precision."""
    model, x = random_model(3, 1, seed=4)
    model.noise_variance = torch.tensor([1e-12, 0.5, 0.7])
    loadings, mean, noise, _ = (np.asarray(v, dtype=np.longdouble) for v in dense(model))
    # Given z, the first feature fixes it: integrate z out by completing the square, in long double.
    w, delta = loadings[:, 0], array(x) - mean
    precision = 1 + (w**2 / noise).sum()
    peak = (delta * w / noise).sum(-1) / precision
    quadratic = ((delta - peak[:, None] * w) ** 2 / noise).sum(-1) + peak**2
    expected = -(quadratic + np.log(precision) + np.log(noise).sum() + 3 * np.log(2 * np.longdouble(np.pi))) / 2
    np.testing.assert_allclose(array(model.log_marginal(x)), expected.astype(float), rtol=1e-10)


def test_gradient_of_the_evidence_is_the_expected_complete_gradient() -> None:
    """Fisher's identity, the right side from moments of the joint Gaussian."""
    model, x = random_model(4, 2, seed=3)
    model.log_marginal(x).sum().backward()
    loadings, mean, noise, _ = dense(model)
    z, spread = condition(model, array(x))
    residual = array(x) - mean - z @ loadings.T
    by_mean = residual.sum(0) / noise
    by_loadings = (residual.T @ z - len(x) * loadings @ spread) / noise[:, None]
    square = (residual**2).sum(0) + len(x) * np.einsum("dq,qr,dr->d", loadings, spread, loadings)
    by_log_noise = 0.5 * (square / noise - len(x))  # the parameter is stored as its logarithm
    grads = {name: array(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    assert set(grads) == {"mean_unconstrained", "loadings_unconstrained", "noise_variance_unconstrained"}
    np.testing.assert_allclose(grads["mean_unconstrained"], by_mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(grads["loadings_unconstrained"], by_loadings, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(grads["noise_variance_unconstrained"], by_log_noise, rtol=1e-9, atol=1e-9)


def plug_in_posterior(model: FactorAnalysis | PPCA, x: Tensor) -> None:
    """Make the guide the exact posterior, from the joint Gaussian."""
    model.encoder.set_from(x)
    at_zero, spread = condition(model, np.zeros((1, x.shape[1])))  # type: ignore[arg-type]
    unit, _ = condition(model, np.eye(x.shape[1]))  # type: ignore[arg-type]
    slope = torch.tensor(unit - at_zero).mT  # (q, D)
    standardize, factor = model.encoder.standardize, torch.linalg.cholesky(torch.tensor(spread))
    with torch.no_grad():
        model.encoder.linear.weight.copy_(slope * standardize.scale)
        model.encoder.linear.bias.copy_(torch.tensor(at_zero[0]) + slope @ standardize.loc)
        model.encoder.log_diagonal.copy_(factor.diagonal().log())
        model.encoder.lower.copy_(factor)


@pytest.mark.parametrize("cls", [FactorAnalysis, PPCA])
def test_one_sample_bound_is_the_evidence_under_the_exact_posterior(cls: type[FactorAnalysis | PPCA]) -> None:
    model, x = random_model(4, 2, seed=6)
    if cls is PPCA:
        ppca = PPCA(2, 4)
        ppca.loadings, ppca.mean, ppca.noise_variance = model.loadings, model.mean, torch.tensor(0.4)
        model = ppca  # type: ignore[assignment]
    plug_in_posterior(model, x)
    evidence = model.log_marginal(x).sum().item()
    elbo = Trace_ELBO()(AsModule(model, "model"), AsModule(model, "guide"))
    for seed in range(5):
        torch.manual_seed(seed)
        assert -elbo(x).item() == pytest.approx(evidence, abs=1e-9)
    with torch.no_grad():
        model.encoder.linear.bias.add_(0.3)  # any other q lies below
    assert zoo.evaluate(model, x).elbo < evidence - 0.1  # type: ignore[operator]


# --- statistics and M step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_statistics_of_the_parts_add_up(offset: float) -> None:
    model, x = random_model(4, 2, offset=offset)
    whole, parts = model.e_step(x), model.e_step(x[:2]) + model.e_step(x[2:5]) + model.e_step(x[5:])
    assert parts["num_data"] == whole["num_data"] == 9
    torch.testing.assert_close(parts["log_likelihood"], whole["log_likelihood"])
    np.testing.assert_allclose(whole["moments"].scatter[0], 8 * np.cov(array(x).T), rtol=1e-9)
    for name in ("count", "mean", "scatter"):
        torch.testing.assert_close(getattr(parts["moments"], name), getattr(whole["moments"], name))


def log_likelihood(covariance: Any, fitted: Any) -> float:
    """Mean ln p(x) of centred data with this covariance under N(0, fitted)."""
    d = len(covariance)
    return -0.5 * float(
        np.trace(np.linalg.solve(fitted, covariance)) + np.linalg.slogdet(fitted)[1] + d * math.log(2 * math.pi)
    )


@pytest.mark.parametrize("copies", [1, 2, 6], ids=["alone", "a few", "at once"])
@pytest.mark.parametrize("q", [2, 4])
def test_each_conditional_step_is_a_maximum(q: int, copies: int) -> None:
    """No change of a single noise variance, and no change of the loadings, does better."""
    rng = np.random.default_rng(1)
    covariance = np.cov(rng.normal(size=(20, 5)) @ rng.normal(size=(5, 5)), rowvar=False)
    loadings, noise = rng.normal(size=(5, q)), np.diag(covariance) / 2
    floor = 0.01 * np.diag(covariance)
    several = rng.normal(size=(copies, 5, q))
    several[-1] = loadings
    new = best_noise(covariance, several, *(np.tile(values, (copies, 1)) for values in (noise, floor)))[-1]
    current = noise.copy()

    def reached(d: int, value: float) -> float:
        diagonal = current.copy()
        diagonal[d] = value
        return log_likelihood(covariance, loadings @ loadings.T + np.diag(diagonal))

    for d in range(5):  # replay the sweep, searching along each coordinate
        grid = np.geomspace(floor[d], 50 * covariance[d, d], 300)
        grid = np.concatenate([grid, np.maximum(new[d] * np.array([0.999, 1.001]), floor[d])])
        assert reached(d, new[d]) >= max(reached(d, value) for value in grid) - 1e-13
        current[d] = new[d]
    assert not np.allclose(new, noise, rtol=0.05)
    best, spectrum = best_loadings(covariance, new, q)
    top = log_likelihood(covariance, best @ best.T + np.diag(new))
    assert float(best_log_likelihood(spectrum, new, 20, q)) == pytest.approx(20 * top, rel=1e-13)
    assert top > log_likelihood(covariance, loadings @ loadings.T + np.diag(new))
    for _ in range(200):
        other = best + 10 ** rng.uniform(-4, 0) * rng.normal(size=best.shape)
        assert log_likelihood(covariance, other @ other.T + np.diag(new)) < top


@pytest.mark.parametrize(("noise", "precise"), [(0.5, True), (1e-4, False)])
def test_copies_know_what_a_step_has_reached_where_that_is_precise(noise: float, precise: bool) -> None:
    rng = np.random.default_rng(5)
    x = torch.from_numpy(3 + rng.normal(size=(40, 2)) @ rng.normal(size=(2, 6)) + noise * rng.normal(size=(40, 6)))
    model = FactorAnalysis(2, 6)
    model.initialize(x, "pca")
    copies: Any = model.copies(x, [model, model])
    for _ in range(5):
        copies.m_step(copies.e_step()[1])
    state = copies.state()
    _, spectrum = best_loadings(np.cov(x.numpy().T, bias=True), state.noise_variance, 2)
    assert (spectrum.max() < PRECISE) == precise == (state.log_likelihood is not None)
    for name, value in copies.state_of(state, 1).items():
        model.get_parameter(name).data = value
    np.testing.assert_allclose(copies.e_step()[0], float(model.log_marginal(x).sum().detach()), rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 12), d=st.integers(1, 5), q=st.integers(1, 5), seed=st.integers(0, 10_000), grain=st.booleans())
def test_em_climbs_on_any_small_data(n: int, d: int, q: int, seed: int, grain: bool) -> None:
    """Few rows, ties, constant columns: monotone (else the fit raises), finite, never NaN."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    fit = zoo.fit(FactorAnalysis(min(q, d), d), x.round() if grain else x, max_iter=300, seed=seed)
    assert fit.status in ("converged", "stalled", "max_iter")
    assert math.isfinite(fit.log_likelihood)  # type: ignore[arg-type]
    climbed = np.diff(fit.history["log_likelihood"])
    assert (climbed >= -1e-8 * abs(fit.log_likelihood)).all()  # type: ignore[arg-type]


# --- published and peers ----------------------------------------------------------------------------------------------


def test_wine_is_scikit_learns_maximum() -> None:
    from sklearn.decomposition import FactorAnalysis as Peer

    x = wine()
    fit = zoo.fit(FactorAnalysis(2, 13), x)
    peer = Peer(n_components=2, tol=1e-13, svd_method="lapack", max_iter=5000).fit(x)
    assert fit.status == "converged"
    assert not fit.notes
    assert fit.log_likelihood == pytest.approx(-2747.1911, abs=1e-4)
    assert fit.log_likelihood / len(x) == pytest.approx(peer.score(x), abs=1e-6)  # type: ignore[operator]
    covariance = array(fit.model.loadings @ fit.model.loadings.mT + fit.model.noise_variance.diag())
    np.testing.assert_allclose(covariance, peer.get_covariance(), atol=2e-4)
    np.testing.assert_allclose(array(fit.model.mean), x.mean(0), atol=1e-12)
    assert fit.num_parameters == 13 * 2 - 1 + 13 + 13
    # The same space, another rotation: our posterior means are a rotation of theirs.
    ours, theirs = array(fit.predict(x)), peer.transform(x)
    rotation = np.linalg.lstsq(ours, theirs, rcond=None)[0]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(2), atol=1e-3)
    np.testing.assert_allclose(ours @ rotation, theirs, atol=1e-3)


def test_heywood_case_ends_on_the_floor_and_says_so() -> None:
    """Iris, 2 factors: the maximum has noise variances of zero; scikit-learn creeps towards it from below."""
    x = iris()
    fit = zoo.fit(FactorAnalysis(2, 4), x)
    assert fit.status == "converged"
    assert fit.degenerate
    assert fit.notes == ["noise floor acts on features 1, 2 (Heywood case)"]
    np.testing.assert_allclose(array(fit.model.noise_variance)[[1, 2]], 1e-6 * x.var(0)[[1, 2]], rtol=1e-9)
    lower = zoo.fit(FactorAnalysis(2, 4, noise_floor=1e-9), x)
    assert 0 < lower.log_likelihood - fit.log_likelihood < 1e-3  # type: ignore[operator]
    assert fit.log_likelihood == pytest.approx(-389.1065, abs=1e-3)
    again = zoo.fit(fit.model, x, init="current")
    assert again.log_likelihood >= fit.log_likelihood - 1e-7  # type: ignore[operator]


def test_a_start_below_the_floor_still_climbs() -> None:
    x = iris()
    low = zoo.fit(FactorAnalysis(2, 4, noise_floor=1e-9), x).model
    model = FactorAnalysis(2, 4)
    model.load_state_dict(low.state_dict())
    fit = zoo.fit(model, x, init="current")
    assert fit.log_likelihood >= float(low.log_marginal(torch.tensor(x)).sum().detach()) - 1e-7  # type: ignore[operator]
    assert fit.degenerate


def test_equal_noise_is_ppca() -> None:
    model, x = random_model(5, 2, seed=8)
    ppca = PPCA(2, 5)
    ppca.loadings, ppca.mean, ppca.noise_variance = model.loadings, model.mean, torch.tensor(0.7)
    model.noise_variance = torch.full((5,), 0.7)
    torch.testing.assert_close(model.log_marginal(x), ppca.log_marginal(x))
    torch.testing.assert_close(model.posterior(x).mean, ppca.posterior(x).mean)
    # and with noises of its own it can only do better
    data = wine()
    both = [zoo.fit(cls(2, 13), data).log_likelihood for cls in (FactorAnalysis, PPCA)]
    assert both[0] > both[1] + 1  # type: ignore[operator]


def test_restarts_leave_a_local_optimum() -> None:
    """Wine, 5 factors: the principal start ends in a lower optimum than random ones."""
    x = wine()
    one = zoo.fit(FactorAnalysis(5, 13), x, restarts=1)
    fit = zoo.fit(FactorAnalysis(5, 13), x, restarts=6)
    assert one.log_likelihood == pytest.approx(-2630.6628, abs=1e-3)
    best = max(r["log_likelihood"] for r in fit.restarts)
    assert best > one.log_likelihood + 5  # type: ignore[operator]


# --- hard sizes and bad input -----------------------------------------------------------------------------------------


def test_constant_column_and_single_row_end_on_the_floor() -> None:
    x = iris().copy()
    x[:, 1] = 3.0
    fit = zoo.fit(FactorAnalysis(1, 4), x)
    assert fit.degenerate
    assert "1" in fit.notes[0]
    assert math.isfinite(fit.log_likelihood)  # type: ignore[arg-type]
    assert np.abs(array(fit.model.loadings[1])).max() < 1e-6
    single = zoo.fit(FactorAnalysis(1, 4), x[:1])
    assert single.degenerate
    np.testing.assert_allclose(array(single.model.mean), x[0])
    column = zoo.fit(FactorAnalysis(1, 1), x[:, :1])
    gaussian = scipy.stats.norm(x[:, 0].mean(), x[:, 0].std()).logpdf(x[:, 0]).sum()
    assert column.log_likelihood == pytest.approx(gaussian, abs=1e-6)


@pytest.mark.parametrize(("scale", "offset"), [(1e6, 0.0), (1e-6, 0.0), (1.0, 1e6)])
def test_fit_does_not_depend_on_units(scale: float, offset: float) -> None:
    x = wine()[:, :6]
    plain = zoo.fit(FactorAnalysis(2, 6), x)
    moved = zoo.fit(FactorAnalysis(2, 6), x * scale + offset)
    expected = plain.log_likelihood - x.size * math.log(scale)
    assert moved.log_likelihood == pytest.approx(expected, abs=1e-4)


def test_wide_data() -> None:
    """More features than rows: the evidence needs no D x D matrix, and EM still converges."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 2)) @ rng.normal(size=(2, 60)) + rng.normal(size=(20, 60))
    fit = zoo.fit(FactorAnalysis(2, 60), x, tol=1e-6)
    assert fit.status == "converged"
    fitted = scipy.stats.multivariate_normal(*[dense(fit.model)[i] for i in (1, 3)])  # type: ignore[arg-type]
    assert fit.log_likelihood == pytest.approx(fitted.logpdf(x).sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: FactorAnalysis(5, 4), r"num_factors expected at most num_features = 4, got 5\. "),
        (lambda: FactorAnalysis(0, 4), "num_factors expected a whole number of at least 1, got 0"),
        (lambda: FactorAnalysis(1, 4, noise_floor=0.0), "noise_floor expected a fraction between 0 and 1, got 0.0"),
        (lambda: zoo.fit(FactorAnalysis(1, 4), np.zeros((3, 5))), r"x expected shape \(N, 4\), got \(3, 5\)"),
        (lambda: zoo.fit(FactorAnalysis(1, 2), [[1.0, np.nan]]), "NaN in row 0"),
        (lambda: zoo.fit(*tiny(), estimator="hard_em"), "hard_em cannot fit this model"),
    ],
)
def test_mistakes_are_one_line(call: Any, match: str) -> None:
    with pytest.raises(ZooError, match=match) as raised:
        call()
    assert "\n" not in str(raised.value)


# --- gradient estimators ----------------------------------------------------------------------------------------------


SLOW = [pytest.param(data, "svi", marks=pytest.mark.slow) for data in (wine, iris)]  # test_ppca.py climbs by it too


# Adam's 3000 steps of the defaults: 4 to 10 s each, and the point is that the defaults suffice.
@pytest.mark.parametrize(("data", "estimator"), [(wine, "eg"), (iris, "eg"), *SLOW])
def test_gradients_reach_the_optimum_by_default(data: Any, estimator: str) -> None:
    x = data()
    best = zoo.fit(FactorAnalysis(2, x.shape[1]), x).log_likelihood
    fit = zoo.fit(FactorAnalysis(2, x.shape[1]), x, estimator=estimator)
    assert fit.log_likelihood == pytest.approx(best, abs=0.02 * len(x))
    if estimator == "svi":
        assert 0 < fit.evidence_gap < 0.01 * len(x)  # type: ignore[operator]
