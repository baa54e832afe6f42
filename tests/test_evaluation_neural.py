"""Many-sample likelihood, parts of the bound, active units: each against a number known some other way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from neural_oracles import grid_evidence
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode
from weight_oracles import weights_on_a_line

import zoo
from zoo.errors import ZooError
from zoo.models import conditional_vae, vae
from zoo.scores.bounds import bound_parts
from zoo.scores.codes import active_units
from zoo.scores.importance import importance_nll


def linear() -> tuple[zoo.LinearVAE, Tensor]:
    """A linear VAE, whose evidence is exact, and data."""
    model = zoo.LinearVAE(4, 2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return model, torch.randn(30, 4, generator=generator, dtype=torch.float64)


def nonlinear() -> tuple[zoo.VAE, Tensor]:
    model = zoo.VAE(5, 1, (4,)).double()
    with torch.no_grad():
        for p in model.parameters():
            p *= 2
        model.encoder.raw_scale.bias += 1.5
    return model, torch.rand(12, 5, generator=torch.Generator().manual_seed(3)).round().double()


def test_likelihood_is_the_exact_one_within_its_error() -> None:
    model, x = linear()
    exact = -model.log_marginal(x).detach()
    score = importance_nll(model, x, 20_000)
    assert abs(score.nll - float(exact.mean())) < 5 * score.se + 1e-9
    assert 1e-5 < score.se < 0.05
    assert score.data_se == pytest.approx(float(exact.std()) / math.sqrt(30), rel=0.05)
    assert score.nll < score.elbo
    assert -score.elbo == pytest.approx(float(model.elbo(x).detach().mean()), abs=0.05)


def test_fast_and_traced_weights_agree_and_pieces_do_not_matter() -> None:
    model, x = nonlinear()
    exact = -grid_evidence(lambda z: model.likelihood.log_prob(model.decoder(z).unsqueeze(1), x).detach(), 1)
    whole, pieces = (importance_nll(model, x, 3000, max_elements=size) for size in (10_000_000, 500))
    for score in (whole, pieces):
        assert abs(score.nll - float(exact.mean())) < 5 * score.se
        torch.testing.assert_close(score.per_datum, exact, rtol=0, atol=0.2)
    spread = torch.tensor([importance_nll(model, x, 200, seed=s).nll for s in range(40)]).std()
    assert importance_nll(model, x, 200).se == pytest.approx(float(spread), rel=0.5)
    assert importance_nll(model, x, 200, seed=1).nll == importance_nll(model, x, 200, seed=1).nll
    assert importance_nll(model, x[:1], 50).data_se != importance_nll(model, x[:1], 50).data_se  # NaN: one datum


@pytest.mark.parametrize("max_elements", [20_000_000, 5 * 5 * 100])
def test_all_groups_of_draws_and_pieces_of_data_count(max_elements: int) -> None:
    """Likelihood, its error and the bound against integrals; the small allowance makes pieces of 5, groups of 100."""
    model, x = nonlinear()
    exact = weights_on_a_line(model, x)
    score = importance_nll(model, x, 20_000, max_elements=max_elements)
    se = math.sqrt(float(exact.relative_variance.sum()) / 20_000) / 12
    assert score.se == pytest.approx(se, rel=0.05)
    assert score.nll == pytest.approx(-float(exact.evidence.mean()), abs=4 * se)
    se = math.sqrt(float(exact.log_variance.sum()) / 20_000) / 12
    assert -score.elbo == pytest.approx(float(exact.elbo.mean()), abs=4 * se)


def test_error_is_the_spread_over_seeds() -> None:
    """150 seeds know a spread to 6%."""
    model, x = nonlinear()
    found = [importance_nll(model, x, 100, seed=seed) for seed in range(150)]
    spread = float(torch.tensor([score.nll for score in found]).std())
    assert math.sqrt(sum(score.se**2 for score in found) / 150) == pytest.approx(spread, rel=0.25)


def test_no_tensor_outgrows_the_allowance() -> None:
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for value in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(value, Tensor):
                    largest = max(largest, value.numel())
            return out

    model, x = zoo.VAE(64, 3, (50,)), torch.zeros(200, 64)
    with Watch():
        importance_nll(model, x, 500, max_elements=100_000)
    assert largest <= 110_000


def test_parts_add_up_to_the_bound() -> None:
    model, x = nonlinear()
    parts = bound_parts(model, x, 100)
    assert parts["bound"] == pytest.approx(parts["reconstruction"] - parts["kl"], rel=1e-9)
    loc, scale = model.encoder.moments(x)  # type: ignore[union-attr]
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(loc, scale), torch.distributions.Normal(torch.zeros(1), torch.ones(1))
    )
    assert parts["kl"] == pytest.approx(float(kl.sum(-1).mean().detach()), rel=1e-6)


def test_parts_are_means_over_all_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 12 data in pieces of 5, 5 and 2: each counts by its rows."""
    model, x = nonlinear()
    x = torch.cat([x[:10], torch.ones(2, 5).double()])
    exact = weights_on_a_line(model, x)
    monkeypatch.setattr("zoo.scores.bounds.LAYER", 5 * 5 * 2000)
    parts = bound_parts(model, x, 2000)
    with torch.no_grad():
        kl = kl_divergence(Normal(*model.encoder.moments(x)), Normal(0.0, 1.0)).sum(-1)
    assert parts["kl"] == pytest.approx(float(kl.mean()), rel=1e-9)
    assert parts["bound"] == pytest.approx(parts["reconstruction"] - parts["kl"], rel=1e-9)
    se = math.sqrt(float(exact.log_variance.sum()) / 2000) / 12
    assert parts["bound"] == pytest.approx(float(exact.elbo.mean()), abs=4 * se)


def test_scores_are_of_the_data_as_they_are() -> None:
    """Noise drawn anew for every batch is for training."""

    class Restless(zoo.VAE):
        def resample(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    model, x = nonlinear()
    restless = Restless(5, 1, (4,)).double()
    restless.load_state_dict(model.state_dict())
    assert bound_parts(restless, x, 3) == bound_parts(model, x, 3)
    assert importance_nll(restless, x, 30).nll == importance_nll(model, x, 30).nll


def test_a_dimension_without_news_is_not_active() -> None:
    model = zoo.VAE(6, 3, ()).double()
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)).double().round().clamp(0, 1)
    with torch.no_grad():
        model.encoder.loc.weight[1] = 0  # type: ignore[union-attr]
        model.encoder.loc.weight[2] = 0  # type: ignore[union-attr]
        model.encoder.loc.weight[2, 0] = 0.5  # type: ignore[union-attr]
        model.encoder.loc.bias[1] = 7  # type: ignore[union-attr]
    found = active_units(model, x)
    assert found.active.tolist() == [True, False, True]
    assert found.num_active == 2
    assert float(found.variance[2]) == pytest.approx(0.25 * float(x[:, 0].var()), rel=1e-9)
    assert active_units(model, x, threshold=10.0).num_active == 0
    two = active_units(zoo.VAE(6, 3, (4,), num_layers=2), x)
    assert two.variance.shape == (9,)
    assert active_units(zoo.VAE(6, 3, (4,), flow="planar"), x).variance.shape == (3,)


def test_mistakes_are_one_line() -> None:
    model, x = nonlinear()
    with pytest.raises(ZooError, match="GaussianMixture has no continuous code"):
        active_units(zoo.GaussianMixture(2, 5), x)
    with pytest.raises(ZooError, match="PPCA offers no parts"):
        bound_parts(zoo.PPCA(1, 5), x)
    with pytest.raises(ZooError, match="at least two data"):
        active_units(model, x[:1])
    with pytest.raises(ZooError, match="expected a model with a guide, got NoGuide"):
        importance_nll(NoGuide(), x)


class NoGuide(zoo.LatentVariableModel):
    """A model without q."""


def test_the_density_that_is_scored_is_named() -> None:
    model, x = conditional_vae.tiny()
    said = str(zoo.evaluate(zoo.fit(model, x, max_epochs=1), x, num_samples=5))
    assert "-ln p(y | x), a datum " in said
    model, x = vae.tiny()
    assert "-ln p(x), a datum " in str(zoo.evaluate(zoo.fit(model, x, max_epochs=1), x, num_samples=5))
