"""GaussianHMM: what every chain promises for each covariance type, hmmlearn, missing entries, priors, bad input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hmm_oracles
import numpy as np
import pytest
import scipy.stats
import torch
from hmm_oracles import CHECKS, Array, Case, em_steps, sequences, table
from torch import Tensor

import zoo
from zoo.core.data import call
from zoo.models.gaussian_hmm import GaussianHMM
from zoo.structures.chain import gaussian_totals

INF = float("inf")
SPREAD = [[[0.8, 0.3], [0.3, 0.5]], [[1.5, -0.6], [-0.6, 1.0]], [[0.6, 0.1], [0.1, 1.2]]]


def build(k: int, covariance_type: str = "full", **options: Any) -> GaussianHMM:
    model = GaussianHMM(k, 2, covariance_type=covariance_type, **options)
    model.means = torch.tensor([[-1.0, 0.5], [1.5, -0.5], [0.5, 2.0]])[:k]
    model.covariances = torch.tensor(SPREAD, dtype=torch.float64)[:k]
    hmm_oracles.set_chain(model)
    return model


def emission(model: GaussianHMM, row: Array) -> Array:
    there = ~np.isnan(row)
    means, covariances = model.means.detach().numpy(), model.covariances.detach().numpy()
    if not there.any():
        return np.zeros(len(means))
    return np.array(
        [
            scipy.stats.multivariate_normal.logpdf(row[there], m[there], c[there][:, there])
            for m, c in zip(means, covariances, strict=True)
        ]
    )


CASES = {kind: Case(partial(build, covariance_type=kind), emission) for kind in ("full", "diag", "tied", "spherical")}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", ["full", "diag"])
def test_chain(kind: str, check: Callable[[Case], None]) -> None:
    check(CASES[kind])


@pytest.mark.parametrize("check", ["check_evidence", "check_identity", "check_climbing"])
@pytest.mark.parametrize("kind", ["tied", "spherical"])
def test_simpler_covariances(kind: str, check: str) -> None:
    getattr(hmm_oracles, check)(CASES[kind])


@pytest.mark.parametrize("kind", sorted(CASES))
def test_fit_methods(kind: str, tmp_path: Path) -> None:
    hmm_oracles.check_fit_methods(CASES[kind], tmp_path)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("kind", ["diag", "full", "tied"])
def test_em_is_hmmlearns(kind: str, steps: int) -> None:
    from hmmlearn.hmm import GaussianHMM as Peer

    model, lengths = build(3, kind), [20, 7, 31]
    data = sequences(model, lengths, seed=1)
    model.means = model.means.detach() * 1.2 + 0.1
    # With these priors hmmlearn's M step is maximum likelihood.
    priors = {"min_covar": 0.0, "covars_prior": 0.0, "covars_weight": 1.0, "means_weight": 0.0}
    if kind == "tied":
        priors["covars_weight"] = 0.0
    peer = Peer(3, covariance_type=kind, n_iter=steps, tol=-INF, params="stmc", init_params="", **priors)
    peer.startprob_, peer.transmat_ = table(model)
    peer.means_, spread = model.means.detach().numpy(), model.covariances.detach().numpy()
    diagonal = spread.diagonal(axis1=1, axis2=2)
    peer.covars_ = {"full": spread, "tied": spread[0], "diag": diagonal}[kind]
    x = np.concatenate(hmm_oracles.each(data))
    peer.fit(x, lengths)
    em_steps(model, data, steps)
    start, transition = table(model)
    np.testing.assert_allclose(start, peer.startprob_, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(transition, peer.transmat_, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(model.means.detach(), peer.means_, rtol=1e-8)
    theirs = np.broadcast_to(peer.covars_, (3, 2, 2))  # hmmlearn hands out matrices for every type
    np.testing.assert_allclose(model.covariances.detach(), theirs, rtol=1e-8, atol=1e-10)
    assert float(call(model.log_marginal, data).sum().detach()) == pytest.approx(peer.score(x, lengths), rel=1e-8)


def test_missing_entries_by_integration() -> None:
    """A missing entry is integrated over the line, through a full covariance and through the chain."""
    model = build(2)
    x = torch.tensor([[[0.3, -0.2], [np.nan, 1.1], [0.5, 0.9]]], dtype=torch.float64)
    grid = torch.linspace(-14, 14, 4001, dtype=torch.float64)
    filled = x.expand(len(grid), -1, -1).clone()
    filled[:, 1, 0] = grid
    area = torch.trapezoid(model.log_marginal(filled).exp(), grid).log()
    assert float(model.log_marginal(x).detach()) == pytest.approx(float(area.detach()), abs=1e-9)


@pytest.mark.parametrize("kind", ["diag", "spherical"])
def test_one_pass_over_all_sequences_is_the_sum_of_each_alone(kind: str) -> None:
    """Alone, a sequence takes the plain way; together only those with missing entries do."""
    model = build(3, kind)
    x = sequences(model, [6] * 12, seed=2)["x"]
    x[3, 2, 0], x[7, 0] = np.nan, np.nan
    lengths = torch.tensor([6, 1, 3, 6, 6, 2, 5, 4, 6, 6, 1, 6])
    whole = model.e_step(x, lengths)
    start = model.log_initial, model.log_transition
    totals = gaussian_totals(*start, x, *model.diagonal(), lengths) or pytest.fail("plain")
    assert totals.left.tolist() == [3, 7]
    parts = [model.e_step(x[n : n + 1], lengths[n : n + 1]) for n in range(12)]
    assert gaussian_totals(*start, x[:1], *model.diagonal(), lengths[:1]) is None
    added = sum(parts[1:], parts[0])
    assert whole.keys() == added.keys()
    assert whole["num_data"] == 12
    for name in set(whole) - {"num_data", "moments"}:
        torch.testing.assert_close(whole[name], added[name], rtol=1e-12, atol=1e-12)
    for name in ("count", "mean", "scatter"):
        torch.testing.assert_close(
            getattr(whole["moments"], name), getattr(added["moments"], name), rtol=1e-11, atol=1e-12
        )


def test_means_far_from_the_data_lose_no_digits() -> None:
    """The one pass takes its sums about the present means: not where the data are a million deviations away."""
    generator = torch.Generator().manual_seed(0)
    x = 1e6 + torch.randn(10, 50, 2, dtype=torch.float64, generator=generator)
    model = build(2, "diag")
    model.covariances = torch.eye(2, dtype=torch.float64).expand(2, 2, 2) * 1e12
    moments = model.e_step(x)["moments"]
    far = (x.reshape(-1, 2) - 1e6).numpy()
    whole = moments.merged()
    np.testing.assert_allclose(whole.mean[0] - 1e6, far.mean(0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(whole.scatter[0], ((far - far.mean(0)) ** 2).sum(0), rtol=1e-8)


def test_prior_counts() -> None:
    """The normal-inverse-Wishart prior is ``prior_strength`` rows with the data's mean and covariance."""
    hmm_oracles.check_prior_counts(CASES["full"])
    model, strength = build(2, prior_strength=3.0), 3.0
    data = sequences(model, [12, 9], seed=2)
    inside = torch.arange(12) < data["lengths"].unsqueeze(-1)
    x = data["x"][inside]
    model.overall.copy_(model.overall_statistic(x))
    weight = call(model.posterior, data).probs[inside]
    model.m_step(call(model.e_step, data))
    centre, spread = x.mean(0), (x - x.mean(0)).mT @ (x - x.mean(0)) / len(x)
    for k in range(2):
        w = weight[:, k : k + 1]
        mean = ((w * x).sum(0) + strength * centre) / (w.sum() + strength)
        second = (w * (x - mean)).mT @ (x - mean) + strength * (spread + torch.outer(centre - mean, centre - mean))
        torch.testing.assert_close(model.means[k].detach(), mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(model.covariances[k].detach(), second / (w.sum() + strength), rtol=1e-9, atol=1e-10)


def test_a_prior_keeps_a_lone_state_off_the_floor() -> None:
    x = torch.cat([torch.randn(30, 1, dtype=torch.float64), torch.tensor([[40.0]], dtype=torch.float64)])
    bare = zoo.fit(GaussianHMM(2, 1), x, estimator="em")
    prior = zoo.fit(GaussianHMM(2, 1, prior_strength=1.0), x, estimator="em")
    assert bare.degenerate
    assert not prior.degenerate
    objective = prior.history["objective"]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(objective))


def test_parameters_are_recovered() -> None:
    """One long series: means within their standard error, and eg reaches what em reaches."""
    truth = build(2, "diag")
    truth.means = torch.tensor([[-2.0, 1.0], [2.0, -1.0]])
    data = sequences(truth, [3000], seed=8)
    em = zoo.align(zoo.fit(GaussianHMM(2, 2), data, estimator="em"), zoo.fit(truth, data, init="current", max_iter=1))
    assert em.log_likelihood is not None
    assert em.log_likelihood > float(call(truth.log_marginal, data).sum().detach())
    counts = call(truth.e_step, data)["counts"]
    error = (truth.covariances.diagonal(dim1=1, dim2=2) / counts.unsqueeze(-1)).sqrt()
    assert ((em.model.means - truth.means).abs() < 4.5 * error).all()
    rows = call(truth.e_step, data)["steps"].sum(-1, keepdim=True)
    error = (truth.transition_probs * (1 - truth.transition_probs) / rows).sqrt()
    assert ((em.model.transition_probs - truth.transition_probs).abs() < 5 * error).all()


def test_eg_reaches_what_em_reaches() -> None:
    data = sequences(build(2, "diag"), [40, 60, 25], seed=9)
    em, eg = (zoo.fit(GaussianHMM(2, 2), data, estimator=name) for name in ("em", "eg"))
    assert eg.log_likelihood == pytest.approx(em.log_likelihood, abs=1e-2)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(2, 3), r"x expected shape \(N, T, 2\) or one sequence \(T, 2\), got \(2, 3\)\. Reshape"),
        (torch.tensor([[1.0, 2.0], [INF, 0.0]]), r"x expected finite values, got infinite entries in row 1\. Remove"),
        ([["a", "b"]], r"expected numbers"),
    ],
)
def test_bad_data(x: Tensor, match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        zoo.fit(GaussianHMM(2, 2), x)


def test_bad_covariance_options() -> None:
    with pytest.raises(zoo.ZooError, match=r"covariance_type.*'round'"):
        GaussianHMM(2, 2, covariance_type="round")
    with pytest.raises(zoo.ZooError, match=r"covariance_floor expected a fraction in \(0, 1\), got 0"):
        GaussianHMM(2, 2, covariance_floor=0.0)


def test_a_left_right_chain_must_reach_its_end() -> None:
    model = zoo.GaussianHMM(3, 1, topology="left_right")
    model.transition_probs = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(zoo.ZooError, match="state 1 cannot"):
        zoo.fit(model, torch.randn(9, 1, generator=torch.Generator().manual_seed(0)), init="current")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_dynamax_agrees_on_evidence_and_smoothed_probabilities() -> None:
    inference = pytest.importorskip("dynamax.hidden_markov_model", reason="dynamax comes with the bench extra")
    import jax

    jax.config.update("jax_enable_x64", True)
    try:
        torch.manual_seed(0)
        model = zoo.GaussianHMM(3, 2)
        model.transition_probs = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]])
        x = model.sample(1, 200)
        log_likelihoods = model.component_log_prob(x[0]).detach().numpy()
        theirs = inference.hmm_smoother(
            model.initial_probs.detach().numpy(), model.transition_probs.detach().numpy(), log_likelihoods
        )
        assert float(model.log_marginal(x)) == pytest.approx(float(theirs.marginal_loglik), abs=1e-9)
        np.testing.assert_allclose(model.posterior(x).probs[0], np.asarray(theirs.smoothed_probs), atol=1e-9)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_the_guide_s_bound_does_not_read_padding() -> None:
    model = zoo.GaussianHMM(2, 1)
    x = torch.randn(2, 6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([6, 3])
    alone = model.elbo(x[1:, :3])
    torch.testing.assert_close(model.elbo(x, lengths)[1:], alone)


@pytest.mark.parametrize("seed", [7, 8, 14, 15])
def test_the_floor_stays_where_entries_are_missing(seed: int) -> None:
    """Measured by what is there, not by what the parameters make of the holes: else EM falls when it moves."""
    draw = np.random.default_rng(seed)
    x = np.where(draw.random((3, 5, 2)) < 0.4, np.nan, draw.integers(0, 2, (3, 5, 1)))
    for model in (
        GaussianHMM(3, 2, covariance_type="full", concentration=1.5),
        GaussianHMM(2, 2),
        zoo.GaussianMixtureHMM(2, 2, 2),
    ):
        fit = zoo.fit(model, x, estimator="em", max_iter=25, restarts=1)
        rises = np.diff(fit.history["objective"])
        assert (rises > -1e-9).all(), fit.history["objective"]
    seen = np.nanvar(x.reshape(-1, 2), axis=0)
    np.testing.assert_allclose(fit.model.seen_variance, seen, rtol=1e-12)


@pytest.mark.parametrize("shape", [(20, 50, 3), (1, 5000, 4), (9, 30, 20), (200, 1, 3)])
@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_posteriors_in_one_pass_are_those_of_the_densities(shape, covariance_type):
    n, t, k = shape
    generator = torch.Generator().manual_seed(n)
    x = 3 * torch.randn(n, t, 2, dtype=torch.float64, generator=generator)
    x[0, t // 2, 1] = torch.nan
    lengths = torch.randint(1, t + 1, (n,), generator=generator)
    lengths[0] = t
    model = zoo.GaussianHMM(k, 2, covariance_type=covariance_type)
    model.means = torch.randn(k, 2, generator=generator)
    if n > 8:
        x[1, 0] = 1e6  # no path is worth more than exp(-1e11): left to logarithms
        model.transition_probs = (torch.rand(k, k, generator=generator) + torch.eye(k)).softmax(-1)
    with torch.no_grad():
        chain = zoo.structures.Chain(model.log_initial, model.log_transition, model.emission(x, lengths), lengths)
        expected, probs = chain.marginals().emission, model.posterior(x, lengths).probs
    inside = torch.arange(t) < lengths[:, None]
    torch.testing.assert_close(probs[inside], expected[inside], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(probs[~inside], torch.full_like(probs[~inside], 1 / k))
