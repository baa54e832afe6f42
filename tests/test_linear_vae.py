"""The linear VAE: exact bound and evidence, and the place where both meet PPCA's closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from neural_oracles import finite_differences, pyro_bound
from torch import Tensor
from torch.distributions import MultivariateNormal

import zoo
from zoo.errors import ZooError
from zoo.models.linear_vae import LinearVAE, tiny


def moved() -> tuple[LinearVAE, Tensor]:
    model, x = tiny()
    model = LinearVAE(3, 2)
    generator = torch.Generator().manual_seed(1)
    model.encoder.set_from(x)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return model, x


def test_evidence_is_that_of_the_gaussian() -> None:
    model, x = moved()
    covariance = model.loadings @ model.loadings.mT + model.noise_variance * torch.eye(3).double()
    torch.testing.assert_close(model.log_marginal(x), MultivariateNormal(model.mean, covariance).log_prob(x))


def test_bound_is_pyros_without_its_noise() -> None:
    model, x = moved()
    exact = model.elbo(x).sum()
    draws = torch.tensor([pyro_bound(model, x, True, 100).item() for _ in range(100)], dtype=torch.float64)
    assert abs(draws.mean() - exact.item()) < 4.5 * draws.std() / 10
    assert draws.std() / 10 < 0.01 * abs(exact.item())
    assert (model.elbo(x) < model.log_marginal(x) - 1e-3).all()


def test_the_gap_is_the_kl_to_the_exact_posterior() -> None:
    model, x = moved()
    gap = torch.distributions.kl_divergence(model.encoder(x), model.posterior(x))
    torch.testing.assert_close(model.log_marginal(x) - model.elbo(x), gap)


def test_gradient_of_the_bound() -> None:
    model, x = moved()
    grads = torch.autograd.grad(model.elbo(x).sum(), list(model.parameters()))
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        for index, slope in finite_differences(lambda: model.elbo(x).sum(), parameter, entries=6):
            assert float(grad.reshape(-1)[index]) == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_digits_bound_and_evidence_reach_the_closed_form() -> None:
    x = zoo.load_data("digits")
    assert isinstance(x, Tensor)
    x = x / 16
    exact = zoo.PPCA(2, 64)
    exact.closed_form(x)
    best = exact.log_marginal(x).mean().item()
    # The defaults come as close; at three times the rate a fifth of their steps are enough.
    fit = zoo.fit(LinearVAE(64, 2), x, estimator="svi", max_epochs=600, warmup=100, learning_rate=0.06)
    assert fit.log_likelihood is not None
    assert fit.elbo is not None
    assert best - 1e-3 < fit.elbo / len(x) <= fit.log_likelihood / len(x) <= best + 1e-9
    assert fit.elbo_se == 0
    columns = fit.model.loadings.detach() / fit.model.loadings.detach().norm(dim=0)
    assert abs(float(columns[:, 0] @ columns[:, 1])) < 0.02, "the bound alone makes the loadings orthogonal"


def test_the_closed_form_sets_decoder_and_encoder(tmp_path: Path) -> None:
    """The maximum of PPCA, where the encoder is the exact posterior: no bound can be higher."""
    x = zoo.load_data("wine")
    best = zoo.PPCA(3, 13)
    best.closed_form(x)
    fit = zoo.fit(LinearVAE(13, 3), x, estimator="closed_form")
    assert (fit.status, fit.iterations) == ("converged", 1)
    assert fit.log_likelihood == pytest.approx(best.log_marginal(x).sum().item(), rel=1e-13)
    torch.testing.assert_close(fit.model.elbo(x), best.log_marginal(x).detach(), rtol=1e-9, atol=1e-9)
    q, p = fit.model.encoder(x), fit.model.posterior(x)
    torch.testing.assert_close(q.mean, p.mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(q.covariance_matrix, p.covariance_matrix, rtol=1e-9, atol=1e-12)
    again = zoo.load(fit.save(tmp_path / "fit"))  # its parameters are its own, not those of the other model
    assert torch.equal(again.model.mean, fit.model.mean)
    again.model.mean = best.mean
    assert again.model.state_dict().keys() == LinearVAE(13, 3).state_dict().keys()
    assert again.model.get_parameter("mean_unconstrained").data_ptr() != best.mean.data_ptr()


def test_other_estimators_and_starts() -> None:
    x = zoo.load_data("iris")
    best = zoo.PPCA(2, 4)
    best.closed_form(x)
    top = best.log_marginal(x).sum().item()
    pca = zoo.fit(LinearVAE(4, 2), x, estimator="svi", init="pca", max_epochs=400)
    assert pca.log_likelihood == pytest.approx(top, abs=0.2)
    assert pca.elbo == pytest.approx(top, abs=0.3)
    weighted = zoo.fit(LinearVAE(4, 2), x, estimator="iwae", num_particles=4, max_epochs=50, warmup=5)
    assert weighted.log_likelihood is not None
    assert weighted.log_likelihood < top


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LinearVAE(3, 4), r"num_factors expected at most num_features = 3, got 4"),
        (lambda: zoo.fit(LinearVAE(3, 1), torch.zeros(4, 2), estimator="svi"), r"expected shape \(N, 3\), got \(4, 2"),
    ],
)
def test_mistakes_are_one_line(make: Any, match: str) -> None:
    with pytest.raises(ZooError, match=match):
        make()
