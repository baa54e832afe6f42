"""GaussianMixtureHMM: what every chain promises, one component as GaussianHMM, one state as a mixture, hmmlearn."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hmm_oracles
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hmm_oracles import CHECKS, Array, Case, em_steps, sequences, table

import zoo
from zoo.core.data import call
from zoo.models.gaussian_mixture_hmm import GaussianMixtureHMM

INF = float("inf")


def build(k: int, covariance_type: str = "diag", **options: Any) -> GaussianMixtureHMM:
    model = GaussianMixtureHMM(k, 2, 2, covariance_type=covariance_type, **options)
    means = torch.tensor([[-3.0, 0.5], [-1.5, -0.5], [1.5, -0.5], [3.0, 1.0], [0.0, 4.0], [0.5, 2.5]])
    model.means = means[: 2 * k]
    scales = torch.tensor([[0.7, 0.4], [0.5, 0.9], [0.8, 0.6], [1.0, 0.5], [0.6, 0.8], [0.9, 0.7]])[: 2 * k]
    factor = scales.diag_embed().double()
    factor[:, 1, 0] = 0.3
    model.covariances = factor @ factor.mT
    model.mixture_weights = torch.tensor([[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]], dtype=torch.float64)[:k]
    hmm_oracles.set_chain(model)
    return model


def emission(model: GaussianMixtureHMM, row: Array) -> Array:
    there = ~np.isnan(row)
    weights = model.mixture_weights.detach().numpy()
    if not there.any():
        return np.zeros(len(weights))
    each = [
        scipy.stats.multivariate_normal.logpdf(row[there], m[there], c[there][:, there])
        for m, c in zip(model.means.detach().numpy(), model.covariances.detach().numpy(), strict=True)
    ]
    return np.asarray(scipy.special.logsumexp(np.reshape(each, weights.shape) + np.log(weights), axis=1))


CASES = {kind: Case(partial(build, covariance_type=kind), emission) for kind in ("diag", "full")}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_chain(check: Callable[[Case], None]) -> None:
    check(CASES["diag"])


@pytest.mark.parametrize("check", ["check_evidence", "check_identity", "check_climbing"])
def test_full_covariances(check: str) -> None:
    getattr(hmm_oracles, check)(CASES["full"])


@pytest.mark.parametrize("kind", sorted(CASES))
def test_fit_methods(kind: str, tmp_path: Path) -> None:
    hmm_oracles.check_fit_methods(CASES[kind], tmp_path)


@pytest.mark.parametrize("kind", ["diag", "full", "tied", "spherical"])
def test_one_component_a_state_is_the_gaussian_hmm(kind: str) -> None:
    other = zoo.GaussianHMM(3, 2, covariance_type=kind)
    other.means = torch.tensor([[-1.0, 0.5], [1.5, -0.5], [0.5, 2.0]])
    hmm_oracles.set_chain(other)
    model = GaussianMixtureHMM(3, 1, 2, covariance_type=kind)
    model.means = other.means.detach()
    hmm_oracles.set_chain(model)
    data = sequences(other, [20, 7, 31], seed=1)
    np.testing.assert_allclose(em_steps(model, data, 4), em_steps(other, data, 4), rtol=0, atol=1e-9)
    torch.testing.assert_close(model.covariances, other.covariances, rtol=0, atol=1e-10)


def test_the_dirichlet_prior_is_on_the_mixture_weights_too() -> None:
    """Its M step adds counts, its density the logarithms, and EM climbs their sum; a weight of zero stays zero."""
    model, plain = build(2, concentration=4.0), build(2)
    data = sequences(plain, [12, 9], seed=2)
    weights = model.mixture_weights.detach().clone()
    others = [model.initial_probs.detach(), model.transition_probs.detach()]
    logs = sum(part[part > 0].log().sum() for part in [weights, *others])
    torch.testing.assert_close(model.log_prior().detach(), 3.0 * logs, rtol=1e-12, atol=0)
    statistics = call(model.e_step, data)
    counts = statistics["moments"].count.reshape(2, 2) + 3.0
    model.m_step(statistics)
    torch.testing.assert_close(model.mixture_weights.detach(), counts / counts.sum(1, keepdim=True))
    reached = em_steps(model, data, 30)
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(reached)), np.diff(reached)
    model.mixture_weights = torch.tensor([[0.0, 1.0], [0.4, 0.6]], dtype=torch.float64)
    reached = em_steps(model, data, 5)
    assert np.isfinite(reached).all()
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(reached)), np.diff(reached)
    assert model.mixture_weights[0].tolist() == [0.0, 1.0]


def test_one_state_is_a_gaussian_mixture() -> None:
    mixture = zoo.GaussianMixture(2, 2, covariance_type="full")
    model = build(1, "full")
    mixture.weights = model.mixture_weights.detach()[0]
    mixture.means, mixture.covariances = model.means.detach(), model.covariances.detach()
    data = sequences(model, [20, 30], seed=1)
    rows = torch.cat([x[:n] for x, n in zip(data["x"], data["lengths"].tolist(), strict=True)])
    for _ in range(3):
        total = float(call(model.log_marginal, data).sum().detach())
        assert total == pytest.approx(float(mixture.log_marginal(rows).sum().detach()), abs=1e-9)
        model.m_step(call(model.e_step, data))
        mixture.m_step(mixture.e_step(rows))
    torch.testing.assert_close(model.mixture_weights[0], mixture.weights, rtol=0, atol=1e-10)


def test_em_is_hmmlearns() -> None:
    """One step. hmmlearn spreads the rows about the old means, which is not the maximum; the difference is known."""
    from hmmlearn.hmm import GMMHMM as Peer

    model, lengths = build(3), [60, 27, 91]
    data = sequences(model, lengths, seed=1)
    model.means = model.means.detach() * 1.1 + 0.1
    # At this inverse-gamma prior its M step adds nothing to the rows.
    priors = {"min_covar": 0.0, "covars_prior": np.full((3, 2, 2), -1.5), "covars_weight": np.zeros((3, 2, 2))}
    peer = Peer(3, n_mix=2, n_iter=1, tol=-INF, params="stmcw", init_params="", **priors)
    peer.startprob_, peer.transmat_ = table(model)
    peer.weights_ = model.mixture_weights.detach().numpy()
    before = model.means.detach().clone()
    peer.means_ = before.reshape(3, 2, 2).numpy()
    peer.covars_ = model.covariances.diagonal(dim1=1, dim2=2).detach().reshape(3, 2, 2).numpy()
    x = np.concatenate(hmm_oracles.each(data))
    score = peer.score(x, lengths)
    peer.fit(x, lengths)
    assert em_steps(model, data, 1)[0] == pytest.approx(score, rel=1e-10)
    start, transition = table(model)
    np.testing.assert_allclose(start, peer.startprob_, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(transition, peer.transmat_, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(model.mixture_weights.detach(), peer.weights_, rtol=1e-8)
    np.testing.assert_allclose(model.means.detach(), peer.means_.reshape(6, 2), rtol=1e-8)
    moved = (model.means - before).square() + model.covariances.diagonal(dim1=1, dim2=2)
    np.testing.assert_allclose(moved.detach(), peer.covars_.reshape(6, 2), rtol=1e-8)


def test_a_start_from_data_uses_every_component() -> None:
    data = sequences(build(2), [200, 150], seed=3)
    fit = zoo.fit(GaussianMixtureHMM(2, 2, 2), data, estimator="em", restarts=3)
    assert fit.status == "converged"
    assert fit.log_likelihood is not None
    assert fit.log_likelihood > float(call(build(2).log_marginal, data).sum().detach()) - 1e-6
    assert (fit.model.mixture_weights > 0.05).all()


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_bad_sizes(size: Any) -> None:
    with pytest.raises(zoo.ZooError, match="num_mixtures expected a whole number of at least 1"):
        GaussianMixtureHMM(2, size, 1)


def test_bad_data() -> None:
    x = torch.tensor([[1.0, 2.0], [-INF, 0.0]])
    with pytest.raises(zoo.ZooError, match=r"x expected finite values, got infinite entries in row 1\. Remove"):
        zoo.fit(GaussianMixtureHMM(2, 2, 2), x)
