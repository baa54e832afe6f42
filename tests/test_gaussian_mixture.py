"""Gaussian mixtures: published optima, peers, floors, degenerate data, hard scales."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as Reference

import zoo
from zoo.densities.covariance import floored_factor

TYPES = ("full", "tied", "diag", "spherical")
IRIS = torch.tensor(load_iris().data)


def sample(rows=300, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.tensor([[0.0, 0.0, 0.0], [4.0, 1.0, -2.0]], dtype=torch.float64)
    z = torch.randint(2, (rows,), generator=generator)
    return centre[z] + torch.randn(rows, 3, dtype=torch.float64, generator=generator)


def started(x, k, covariance_type, seed=0):
    """A model at a rough start, and its parameters as scikit-learn takes them."""
    generator = torch.Generator().manual_seed(seed)
    model = zoo.GaussianMixture(k, x.shape[1], covariance_type=covariance_type)
    means = x[torch.randperm(len(x), generator=generator)[:k]]
    weights = torch.arange(1.0, k + 1, dtype=torch.float64) / (k * (k + 1) / 2)
    covariance = torch.cov(x.T, correction=0).expand(k, -1, -1)
    model.weights, model.means, model.covariances = weights, means, covariance
    precisions = torch.linalg.inv(model.covariances.detach())
    theirs = {"full": precisions, "tied": precisions[0]}
    theirs["diag"] = precisions.diagonal(dim1=1, dim2=2) if covariance_type == "diag" else None
    theirs["spherical"] = precisions[:, 0, 0]
    return model, {"weights_init": weights, "means_init": means, "precisions_init": theirs[covariance_type]}


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("iterations", [1, 7])
def test_same_start_as_scikit_learn_gives_the_same_parameters(covariance_type, iterations):
    model, theirs = started(IRIS, 3, covariance_type)
    fit = zoo.fit(model, IRIS, init="current", max_iter=iterations, tol=0)
    reference = Reference(
        3, covariance_type=covariance_type, reg_covar=0, tol=0, max_iter=iterations,
        **{name: value.numpy() for name, value in theirs.items()},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that tol=0 does not converge
        reference.fit(IRIS.numpy())
    assert fit.iterations == iterations
    np.testing.assert_allclose(fit.model.weights.detach(), reference.weights_, rtol=0, atol=1e-8)
    np.testing.assert_allclose(fit.model.means.detach(), reference.means_, rtol=0, atol=1e-8)
    covariances = fit.model.covariances.detach()
    expected = {"full": covariances, "tied": covariances[0]}
    expected["diag"], expected["spherical"] = covariances.diagonal(dim1=1, dim2=2), covariances[:, 0, 0]
    np.testing.assert_allclose(expected[covariance_type], reference.covariances_, rtol=0, atol=1e-8)
    assert fit.log_likelihood == pytest.approx(reference.score(IRIS.numpy()) * 150, abs=1e-8)


def test_same_start_as_pomegranate_gives_the_same_parameters():
    pomegranate = pytest.importorskip("pomegranate.gmm", reason="pomegranate is not installed")
    from pomegranate.distributions import Normal

    model, _ = started(IRIS, 3, "full")
    components = [
        Normal(m.clone(), c.clone()) for m, c in zip(model.means.detach(), model.covariances.detach(), strict=True)
    ]
    peer = pomegranate.GeneralMixtureModel(components, priors=model.weights.detach().clone(), max_iter=5, tol=0)
    peer.fit(IRIS)
    fit = zoo.fit(model, IRIS, init="current", max_iter=5, tol=0)
    # Its normalising constants are single precision whatever the data's dtype, so it can be held to no more.
    peer_means = torch.stack([d.means for d in peer.distributions])
    torch.testing.assert_close(fit.model.means.detach(), peer_means.detach(), rtol=0, atol=2e-5)


def test_faithful_reaches_the_published_optimum(zoo_data):
    fit = zoo.fit(zoo.GaussianMixture(2, 2), zoo_data("faithful"))
    assert fit.status == "converged"
    assert fit.log_likelihood == pytest.approx(-1130.2640, abs=1e-3)
    order = fit.model.means[:, 0].argsort()
    assert fit.model.weights[order].tolist() == pytest.approx([0.3559, 0.6441], abs=1e-4)
    assert fit.model.means[order].detach().numpy() == pytest.approx(
        np.array([[2.0364, 54.4785], [4.2897, 79.9681]]), abs=1e-4
    )


def test_faithful_tied_and_single(zoo_data):
    x = zoo_data("faithful")
    tied = zoo.fit(zoo.GaussianMixture(3, 2, covariance_type="tied"), x, restarts=5)
    assert tied.log_likelihood == pytest.approx(-1126.3159, abs=1e-3)
    assert zoo.fit(zoo.GaussianMixture(1, 2), x).log_likelihood == pytest.approx(-1289.7967, abs=1e-3)


def test_faithful_by_gradient_estimators(zoo_data):
    x = zoo_data("faithful")
    model = zoo.GaussianMixture(2, 2)
    assert zoo.fit(model, x, estimator="eg").log_likelihood == pytest.approx(-1130.2640, abs=0.01)
    svi = zoo.fit(model, x, estimator="svi")
    assert svi.log_likelihood == pytest.approx(-1130.2640, abs=1)
    assert svi.elbo <= svi.log_likelihood


def test_iris_best_of_twenty_restarts():
    fit = zoo.fit(zoo.GaussianMixture(3, 4), IRIS, restarts=20)
    assert fit.log_likelihood == pytest.approx(-180.1855, abs=1e-3)
    assert len(fit.restarts) == 20
    assert sum(entry["chosen"] for entry in fit.restarts) == 1
    assert not fit.degenerate


def test_tied_iris_is_found_by_the_first_start():
    fit = zoo.fit(zoo.GaussianMixture(3, 4, covariance_type="tied"), IRIS)
    assert fit.log_likelihood == pytest.approx(-256.3540, abs=1e-3)


@pytest.mark.parametrize(
    "estimator", ["eg", *(pytest.param(name, marks=pytest.mark.slow) for name in ("svi", "gumbel"))]
)
def test_every_row_of_the_demo_ends_near_the_optimum(estimator):
    fit = zoo.fit(zoo.GaussianMixture(3, 4), IRIS, estimator=estimator)
    assert fit.log_likelihood == pytest.approx(-180.1855, abs=1)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_log_marginal_is_the_textbook_sum(covariance_type):
    x = sample(20)
    model, _ = started(x, 2, covariance_type)
    terms = [
        torch.distributions.MultivariateNormal(m, c).log_prob(x) + w.log()
        for m, c, w in zip(model.means, model.covariances, model.weights, strict=True)
    ]
    torch.testing.assert_close(model.log_marginal(x), torch.stack(terms).logsumexp(0), rtol=0, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10_000))
def test_clipped_covariance_is_the_constrained_optimum(dim, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dim, dim, dtype=torch.float64, generator=generator)
    target = root @ root.T
    floor = torch.rand(dim, dtype=torch.float64, generator=generator) + 0.1
    factor, _ = floored_factor(target, floor)
    clipped = factor @ factor.mT
    assert torch.linalg.eigvalsh(clipped - floor.diag()).min() > -1e-9

    def score(covariance):
        return -torch.linalg.slogdet(covariance)[1] - torch.linalg.solve(covariance, target).trace()

    for _ in range(10):  # no feasible covariance scores higher
        other = torch.randn(dim, dim, dtype=torch.float64, generator=generator) * 0.3
        feasible = floor.diag() + other @ other.T
        mixed = 0.9 * clipped + 0.1 * feasible
        assert score(clipped) >= score(mixed) - 1e-9


def test_a_collapsing_component_meets_the_floor_and_says_so():
    x = torch.cat([sample(60), torch.full((1, 3), 50.0, dtype=torch.float64)])  # one far point
    fit = zoo.fit(zoo.GaussianMixture(3, 3), x)
    assert fit.degenerate
    assert "covariance floor acts on component" in fit.notes[0]
    assert math.isfinite(fit.log_likelihood)
    history = torch.tensor(fit.history["objective"])
    assert (history.diff() >= -1e-8).all()


def test_a_degenerate_start_loses_to_one_that_is_not():
    fit = zoo.fit(zoo.GaussianMixture(3, 3), sample(30), restarts=12)
    found = {entry["degenerate"]: entry["log_likelihood"] for entry in fit.restarts}
    assert found.keys() == {True, False}  # so few data meet both kinds of optimum
    assert max(e["log_likelihood"] for e in fit.restarts if e["degenerate"]) > fit.log_likelihood
    assert not fit.degenerate


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(
    "x",
    [
        torch.cat([sample(30), torch.ones(30, 1, dtype=torch.float64)], 1),  # a constant column
        sample(3).repeat(1, 4),  # fewer rows than columns
        torch.cat([sample(30), sample(30)[:1].repeat(20, 1) + 100], 0),  # a cluster that is one point
        sample(30) * 1e-6,
        sample(30) * 1e6 + 1e8,
        torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64),
    ],
    ids=["constant", "wide", "point", "tiny", "huge", "three"],
)
def test_degenerate_data_fit_without_nan(covariance_type, x):
    fit = zoo.fit(zoo.GaussianMixture(2, x.shape[1], covariance_type=covariance_type), x, max_iter=200)
    assert math.isfinite(fit.log_likelihood)
    assert all(bool(p.isfinite().all()) for p in (fit.model.means, fit.model.covariances, fit.model.weights))
    assert (torch.tensor(fit.history["objective"]).diff() >= -1e-6).all()


@pytest.mark.parametrize(("offset", "spread"), [(1e6, 1e-2), (1000.0, 1e-2)])
def test_far_and_tight_clusters_fit_to_the_accuracy_of_the_plain_formula(offset, spread):
    """One shift of all data, and two clusters at plus and minus ``offset``: EM must see what it sees at the origin."""
    base = sample(2000, seed=3)
    unit = zoo.fit(zoo.GaussianMixture(2, 3), base, max_iter=3, tol=0)
    if offset > 1e5:
        x = base * spread + offset
    else:
        side = (base[:, :1] > 2).double() * 2 - 1
        x = base * spread + side * offset
        base = base + side * (offset / spread)  # the same data in units of the spread
        unit = zoo.fit(zoo.GaussianMixture(2, 3), base, max_iter=3, tol=0)
    fit = zoo.fit(zoo.GaussianMixture(2, 3), x, max_iter=3, tol=0)
    shift = base.numel() * math.log(spread)
    # What the data themselves lose by being stored at this offset: relative to the spread, per datum.
    stored = 2000 * 20 * offset / spread * torch.finfo(torch.float64).eps
    assert fit.log_likelihood == pytest.approx(unit.log_likelihood - shift, abs=max(1e-6, stored))


def test_predict_and_align_recover_labels():
    x = sample(200)
    truth = (x[:, 0] > 2).long()
    fit = zoo.fit(zoo.GaussianMixture(2, 3), x)
    aligned = zoo.align(fit, truth, x)
    assert (aligned.predict(x) == truth).float().mean() > 0.95
    swapped = zoo.align(aligned, 1 - truth, x)
    assert torch.equal(swapped.predict(x), 1 - aligned.predict(x))
    assert swapped.log_likelihood == aligned.log_likelihood
    torch.testing.assert_close(swapped.model.log_marginal(x), aligned.model.log_marginal(x))
    back = zoo.align(swapped, aligned)
    torch.testing.assert_close(back.model.means, aligned.model.means)


def test_sample_has_the_model_s_moments():
    fit = zoo.fit(zoo.GaussianMixture(2, 3), sample(400))
    draws = fit.sample(20_000, seed=1)
    assert draws.shape == (20_000, 3)
    model = fit.model
    mean = model.weights @ model.means
    second = torch.einsum(
        "k,kij->ij", model.weights, model.covariances + model.means[:, :, None] * model.means[:, None]
    )
    covariance = (second - mean.outer(mean)).detach()
    error = 5 * (covariance.diagonal() / 20_000).sqrt()
    assert ((draws.mean(0) - mean.detach()).abs() < error).all()
    torch.testing.assert_close(torch.cov(draws.T), covariance, rtol=0.08, atol=0.05)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: zoo.GaussianMixture(0, 2), "num_components expected a whole number of at least 1, got 0"),
        (lambda: zoo.GaussianMixture(2, 2, covariance_type="ful"), "Did you mean 'full'"),
        (lambda: zoo.fit(zoo.GaussianMixture(2, 3), IRIS), r"expected shape \(N, 3\), got \(150, 4\)"),
        (lambda: zoo.fit(zoo.GaussianMixture(5, 4), IRIS[:3]), "at least num_components = 5 rows, got 3"),
        (lambda: zoo.fit(zoo.GaussianMixture(2, 4), IRIS[:1].repeat(9, 1)), "2 distinct rows, got 1"),
        (lambda: zoo.fit(zoo.GaussianMixture(2, 1), torch.tensor([1.0, math.nan, 2.0])), "NaN in row 1"),
        (lambda: zoo.fit(zoo.GaussianMixture(2, 1), torch.tensor([1.0, math.inf, 2.0])), "infinite entries in row 1"),
        (lambda: zoo.fit(zoo.GaussianMixture(2, 4), IRIS[:0]), "at least one row, got none"),
        (lambda: zoo.fit(zoo.GaussianMixture(2, 4), IRIS, init="kmeans"), r"Did you mean 'kmeans\+\+'"),
    ],
)
def test_bad_input_is_one_line_with_a_fix(make, match):
    with pytest.raises(zoo.ZooError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)
