"""Scores of a model on data: bounds and their errors against integrals and closed forms, in pieces and in one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MultivariateNormal, kl_divergence
from weight_oracles import weights_on_a_line

import zoo
from zoo.core.data import num_data
from zoo.core.problem import Problem
from zoo.runs.evaluate import evaluate
from zoo.scores.bounds import bound
from zoo.scores.weights import pieces


def one_dimensional() -> tuple[zoo.VAE, Tensor]:
    """A VAE whose guide has wide tails, so that weights are bounded and errors can be trusted; data."""
    model = zoo.VAE(5, 1, (4,)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
        model.encoder.raw_scale.bias += 1.5
    return model, torch.rand(13, 5, generator=generator).round().double()


def sizes(model: Any, x: Tensor, num_samples: int) -> list[int]:
    return [num_data(piece) for piece in pieces(model, x, num_samples)]


def test_bounds_and_their_errors_are_the_integrals_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = one_dimensional()
    monkeypatch.setattr("zoo.scores.weights.LAYER", 5 * 5 * 5_000)  # widest layer, rows a piece, draws
    assert sizes(model, x, 5_000) == [5, 5, 3]
    exact = weights_on_a_line(model, x)
    found = evaluate(model, x, num_samples=5_000)
    assert found.importance_bound is not None
    assert found.importance_bound_se is not None
    assert found.elbo is not None
    se = math.sqrt(float(exact.relative_variance.sum()) / 5_000)
    assert found.importance_bound_se == pytest.approx(se, rel=0.05)
    assert found.importance_bound == pytest.approx(float(exact.evidence.sum()), abs=4 * se)
    se = math.sqrt(float(exact.log_variance.sum()) / 5_000)
    assert found.elbo_se == pytest.approx(se, rel=0.05)
    assert found.elbo == pytest.approx(float(exact.elbo.sum()), abs=4 * se)
    assert found.nll == pytest.approx(-found.importance_bound / 13)
    assert found.nll_se == pytest.approx(found.importance_bound_se / 13)
    assert found.data_se == pytest.approx(float(exact.evidence.std()) / math.sqrt(13), rel=0.02)
    assert found.importance_bound - found.elbo > 20 * se, "a guide that is exact would make this test empty"


def test_errors_are_the_spread_over_seeds() -> None:
    """150 seeds know a spread to 6%; the estimates' own noise is less than that."""
    model, x = one_dimensional()
    found = [evaluate(model, x, num_samples=24, seed=seed) for seed in range(150)]  # 24: too few to fit a tail to
    for value, error in (("importance_bound", "importance_bound_se"), ("elbo", "elbo_se")):
        values, errors = (torch.tensor([getattr(each, name) for each in found]) for name in (value, error))
        assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.25)


@pytest.mark.parametrize("elements", [5_000_000, 5 * 4 * 1000])
def test_sampled_bound_is_the_integral(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = one_dimensional()
    monkeypatch.setattr("zoo.scores.weights.LAYER", elements)
    assert sizes(model, x, 1000) == ([13] if elements == 5_000_000 else [4, 4, 4, 1])
    exact = weights_on_a_line(model, x)
    se = math.sqrt(float(exact.log_variance.sum()) / 1000)
    total, error = bound(Problem(model, x))
    assert error == pytest.approx(se, rel=0.15)
    assert total == pytest.approx(float(exact.elbo.sum()), abs=4 * se)


def test_progress_is_told_up_to_the_end() -> None:
    told: list[float] = []
    model = zoo.VAE(6, 2, (5,))
    zoo.evaluate(model, torch.rand(40_000, 6).round(), num_samples=500, progress=told.append)
    assert len(told) > 3
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_bound_in_closed_form_is_the_evidence_less_the_divergence() -> None:
    """Of a linear VAE, whose posterior is Gaussian; enough data for three pieces."""
    model = zoo.LinearVAE(3, 2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    x = torch.randn(40_000, 3, generator=generator, dtype=torch.float64)
    assert len(sizes(model, x, 256)) == 3
    total, error = bound(Problem(model, x))
    with torch.no_grad():
        noise = model.noise_variance * torch.eye(3).double()
        covariance = model.loadings @ model.loadings.mT + noise
        evidence = MultivariateNormal(model.mean, covariance).log_prob(x)
        gain = torch.linalg.solve(covariance, model.loadings).mT  # (L, D)
        posterior = MultivariateNormal((x - model.mean) @ gain.mT, torch.eye(2).double() - gain @ model.loadings)
        expected = evidence - kl_divergence(model.encoder(x), posterior)
    assert total == pytest.approx(float(expected.sum()), rel=1e-10)
    assert error == 0


def test_bound_of_a_discrete_latent_is_summed_over_all_pieces() -> None:
    model = zoo.GaussianMixture(2, 1, hidden_dims=(3,))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40_000, 1, generator=generator, dtype=torch.float64) + 1
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    assert len(sizes(model, x, 256)) == 3
    total, error = bound(Problem(model, x))
    with torch.no_grad():
        each = torch.distributions.Normal(model.means[:, 0], model.covariances[:, 0, 0].sqrt()).log_prob(x)
        joint = each + model.weights.log()
        q = model.encoder(x)
        evidence = joint.logsumexp(-1)
        expected = evidence - kl_divergence(Categorical(logits=q.logits), Categorical(logits=joint))
    assert total == pytest.approx(float(expected.sum()), rel=1e-10)
    assert total < float(evidence.sum()) - 100
    assert error == 0
    assert evaluate(model, x[:500], num_samples=5).elbo == pytest.approx(float(expected[:500].sum()), rel=1e-10)
