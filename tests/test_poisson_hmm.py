"""PoissonHMM: what every chain promises, the earthquakes' published figures, hmmlearn, rates of zero, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
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
from zoo.models.poisson_hmm import PoissonHMM

INF = float("inf")


def build(k: int, d: int = 2, **options: Any) -> PoissonHMM:
    model = PoissonHMM(k, d, **options)
    model.rates = torch.tensor([[1.0, 5.0], [6.0, 2.0], [3.0, 9.0]])[:k, :d]
    hmm_oracles.set_chain(model)
    return model


def emission(model: PoissonHMM, row: Array) -> Array:
    there = ~np.isnan(row)
    return scipy.stats.poisson.logpmf(row[there], model.rates.detach().numpy()[:, there]).sum(-1)


CASE = Case(build, emission)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_chain(check: Callable[[Case], None]) -> None:
    check(CASE)


def test_fit_methods(tmp_path: Path) -> None:
    hmm_oracles.check_fit_methods(CASE, tmp_path)


@pytest.mark.parametrize(
    ("initial", "states", "published"),
    [("stationary", 2, 342.3183), ("stationary", 3, 329.4603), ("free", 2, 341.8787), ("free", 3, 328.5275)],
)
def test_earthquakes(zoo_data: Callable[..., Any], initial: str, states: int, published: float) -> None:
    """Zucchini, MacDonald & Langrock (2016), tables 3.1 and 4.2: -ln L."""
    fit = zoo.fit(PoissonHMM(states, 1, initial=initial), zoo_data("earthquakes"), estimator="em", restarts=5)
    assert fit.log_likelihood == pytest.approx(-published, abs=1e-3)
    model = fit.model
    start, transition = table(model)
    if initial == "stationary":
        np.testing.assert_allclose(start @ transition, start, atol=1e-12)
    if (initial, states) == ("stationary", 2):
        rates = model.rates.detach().flatten().sort().values
        torch.testing.assert_close(rates, torch.tensor([15.472, 26.125], dtype=torch.float64), rtol=0, atol=2e-2)


@pytest.mark.parametrize("steps", [1, 5])
def test_em_is_hmmlearns(steps: int) -> None:
    from hmmlearn.hmm import PoissonHMM as Peer

    model, lengths = build(3), [20, 7, 31]
    data = sequences(model, lengths, seed=1)
    model.rates = model.rates.detach() * 1.3 + 0.2
    peer = Peer(3, n_iter=steps, tol=-INF, params="stl", init_params="", lambdas_prior=0.0, lambdas_weight=0.0)
    peer.startprob_, peer.transmat_ = table(model)
    peer.lambdas_ = model.rates.detach().numpy()
    x = np.concatenate(hmm_oracles.each(data)).astype(int)
    peer.fit(x, lengths)
    em_steps(model, data, steps)
    start, transition = table(model)
    np.testing.assert_allclose(start, peer.startprob_, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(transition, peer.transmat_, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(model.rates.detach(), peer.lambdas_, rtol=1e-8)
    assert float(call(model.log_marginal, data).sum().detach()) == pytest.approx(peer.score(x, lengths), rel=1e-8)


def test_prior_counts() -> None:
    """The gamma prior is ``prior_strength`` years that look like the data's mean."""
    hmm_oracles.check_prior_counts(CASE)
    model = build(2, prior_strength=3.0)
    data = sequences(model, [12, 9], seed=2)
    x = data["x"][torch.arange(12) < data["lengths"].unsqueeze(-1)]
    model.overall.copy_(model.overall_statistic(x))
    weight = call(model.posterior, data).probs[torch.arange(12) < data["lengths"].unsqueeze(-1)]
    expected = (weight.mT @ x + 3 * x.mean(0)) / (weight.sum(0).unsqueeze(-1) + 3)
    model.m_step(call(model.e_step, data))
    torch.testing.assert_close(model.rates.detach(), expected, rtol=1e-12, atol=0)


def test_a_rate_of_zero() -> None:
    """A state that emits nothing is ruled out by any count; a sequence that no path can emit scores -inf."""
    model = PoissonHMM(2, 1)
    model.rates = torch.tensor([[0.0], [4.0]])
    model.transition_probs = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
    x = torch.tensor([[[0.0], [3.0], [0.0]]], dtype=torch.float64)
    silent, p0, p3 = 1.0, math.exp(-4), 4**3 * math.exp(-4) / 6
    expected = math.log(0.5 * (silent * 0.3 + p0 * 0.8) * p3 * (0.2 * silent + 0.8 * p0))
    assert float(model.log_marginal(x).detach()) == pytest.approx(expected, abs=1e-13)
    grads = torch.autograd.grad(model.log_marginal(x).sum(), [model.rates_unconstrained])
    assert grads[0].isfinite().all()
    model.rates = torch.zeros(2, 1)
    value = model.log_marginal(x)
    assert value.item() == -INF
    statistics = model.e_step(x)
    assert statistics["log_likelihood"] == -INF
    assert not any(statistics[name].isnan().any() for name in ("starts", "steps", "counts", "sums"))
    assert (model.viterbi(x)[0] == -1).all()


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.tensor([[1.0, 2.0], [-2.0, 1.0]]), r"expected counts 0, 1, 2, \.\.\., got -2 in row 1"),
        (torch.tensor([[1.0, 2.0], [1.0, 1.5]]), r"got 1\.5 in row 1\. Round"),
        (torch.tensor([[[1.0, 2.0], [1.0, 1.0]], [[1.0, 2.0], [0.5, 1.0]]]), r"sequence 1 of x .* got 0\.5 in row 1\."),
    ],
)
def test_bad_data(x: Tensor, match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        zoo.fit(PoissonHMM(2, 2), x)


@pytest.mark.parametrize("length", [2, 100])
def test_the_m_step_of_a_stationary_start_is_where_no_row_gains(length: int) -> None:
    """Against the stationary distribution as a limit of powers, and its slope by torch."""
    from zoo.models.shared.markov import stationary_m_step

    generator = torch.Generator().manual_seed(length)
    for k in (2, 3, 7):
        steps = 100 * length * torch.rand(k, k, dtype=torch.float64, generator=generator)
        steps[0, 2:] = 0.0
        starts = 200 * torch.rand(k, dtype=torch.float64, generator=generator)

        def score(matrix: Tensor, steps: Tensor = steps, starts: Tensor = starts) -> Tensor:
            kept = torch.linalg.matrix_power(matrix, 2**14).mean(0)
            return torch.special.xlogy(steps, matrix).sum() + (starts * kept.log()).sum()

        closed = steps / steps.sum(-1, keepdim=True)
        found = stationary_m_step(torch.full_like(closed, 1 / k), closed, steps, starts)
        assert not found[0, 2:].any()
        assert score(found) > score(closed)
        torch.testing.assert_close(found.sum(-1), torch.ones(k, dtype=torch.float64), rtol=0, atol=1e-14)
        logits = found.log().requires_grad_(True)
        (slope,) = torch.autograd.grad(score(logits.softmax(-1)), logits)
        assert slope.nan_to_num(0.0).abs().max() < 1e-5 * starts.sum()
    gone = torch.tensor([[30.0, 10.0], [0.0, 0.0]], dtype=torch.float64)  # nothing is known of the second row
    closed = torch.tensor([[0.75, 0.25], [0.4, 0.6]], dtype=torch.float64)
    assert torch.equal(stationary_m_step(closed, closed, gone, gone[0])[1], closed[1])


def test_a_stationary_start_of_a_chain_that_nearly_falls_apart():
    from zoo.models.shared.markov import _by_elimination, stationary

    generator = torch.Generator().manual_seed(0)
    for k in (2, 3, 6):
        matrix = torch.rand(k, k, dtype=torch.float64, generator=generator).softmax(-1).requires_grad_(True)
        probs = _by_elimination(matrix)
        torch.testing.assert_close(probs @ matrix, probs, rtol=1e-13, atol=0)
        torch.testing.assert_close(probs, stationary(matrix), rtol=1e-13, atol=0)
        assert torch.autograd.grad(probs[0], matrix)[0].isfinite().all()
    apart = torch.eye(3, dtype=torch.float64)
    for matrix in (apart, torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)):
        probs = stationary(matrix)
        assert probs.isfinite().all()
        torch.testing.assert_close(probs @ matrix, probs)
    leaky = torch.tensor([[1 - 1e-20, 1e-20], [3e-20, 1 - 3e-20]], dtype=torch.float64)
    torch.testing.assert_close(_by_elimination(leaky), torch.tensor([0.75, 0.25], dtype=torch.float64))


def test_one_sequence_is_taken_wherever_a_batch_is():
    model = zoo.PoissonHMM(2, 1)
    x = torch.tensor([[3.0], [0.0], [9.0]], dtype=torch.float64)
    whole = model.log_marginal(x[None])
    for alone in (x, x[:, 0], x.float()):
        assert torch.equal(model.log_marginal(alone), whole)
        assert torch.equal(model.posterior(alone).probs, model.posterior(x[None]).probs)
    assert model.log_marginal(x).requires_grad
    with pytest.raises(zoo.ZooError, match="x expected counts"):
        model.log_marginal(-x)
    with pytest.raises(zoo.ZooError, match=r"x expected shape \(N, T, 1\) or one sequence \(T, 1\), got \(1, 3, 2\)"):
        model.log_marginal(torch.ones(1, 3, 2).double())
    with pytest.raises(zoo.ZooError, match=r"GaussianMixture: x expected shape \(N, 3\), got \(4, 2\)"):
        zoo.GaussianMixture(2, 3).log_marginal(torch.ones(4, 2).double())
