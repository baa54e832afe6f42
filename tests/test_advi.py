"""ADVI: exact where the posterior is Gaussian, a bound everywhere; beside em and nuts in one table."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import Tensor

import zoo
from zoo.bayes import priors
from zoo.estimators.advi import ADVI


class KnownVariance(zoo.GaussianMixture):
    """One Gaussian in two dimensions whose mean has prior N(1, 3^2): posterior and evidence are known."""

    def __init__(self) -> None:
        super().__init__(1, 2, "full")
        self.covariances = torch.tensor([[[1.0, 0.6], [0.6, 0.8]]])

    def initialize(self, x: Tensor, init: str, restart: int = 0) -> None:
        """The means alone are unknown."""

    def prior(self, x: Tensor) -> priors.Prior:
        return {"means": dist.Normal(x.new_ones(1, 2), x.new_full((1, 2), 3.0)).to_event(2)}


def data() -> Tensor:
    return torch.randn(15, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2


def exact(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Posterior mean and covariance, and ln p(x) by the big Gaussian of all data."""
    noise = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
    precision = torch.eye(2, dtype=torch.float64) / 9 + len(x) * noise.inverse()
    mean = precision.inverse() @ (torch.ones(2, dtype=torch.float64) / 9 + noise.inverse() @ x.sum(0))
    whole = torch.kron(torch.eye(len(x), dtype=torch.float64), noise) + 9 * torch.kron(
        torch.ones(len(x), len(x), dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    )
    evidence = scipy.stats.multivariate_normal.logpdf(x.flatten().numpy(), [1.0] * 2 * len(x), whole.numpy())
    return mean, precision.inverse(), float(evidence)


def test_a_gaussian_posterior_is_met_exactly() -> None:
    x = data()
    mean, covariance, evidence = exact(x)
    fit = zoo.fit(KnownVariance(), x, estimator="advi", num_samples=1000, max_epochs=1000)
    assert fit.draws is not None
    assert fit.elbo is not None
    assert fit.elbo_se is not None
    # With q the posterior itself every draw's weight is ln p(x).
    assert fit.elbo == pytest.approx(evidence, abs=0.02)
    assert fit.elbo_se < 0.01
    drawn = fit.draws.values["means"].reshape(-1, 2)
    sd = covariance.diagonal().sqrt()
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=float(6 * sd.max() / 1000**0.5))
    torch.testing.assert_close(torch.cov(drawn.T), covariance, rtol=0.15, atol=0.01)
    torch.testing.assert_close(fit.model.means.detach()[0], drawn.mean(0))
    assert fit.evidence_gap is None, "bound and log-likelihood are of different quantities"


def test_a_diagonal_family_loses_what_it_must() -> None:
    """The best diagonal Gaussian's bound is ln p(x) - KL, with KL = (sum_i ln P_ii - ln det P) / 2, P the precision."""
    x = data()
    _, covariance, evidence = exact(x)
    precision = covariance.inverse()
    loss = 0.5 * float(precision.diagonal().log().sum() - precision.logdet())
    fit = zoo.fit(KnownVariance(), x, estimator="advi", family="normal", num_samples=2000, max_epochs=1000)
    assert loss > 0.2
    assert fit.elbo == pytest.approx(evidence - loss, abs=5 * (fit.elbo_se or 0.0) + 0.01)
    assert (fit.elbo_se or 0.0) < 0.03


def test_the_low_rank_family_lies_between() -> None:
    x = data()
    _, _, evidence = exact(x)
    fit = zoo.fit(KnownVariance(), x, estimator="advi", family="low_rank", max_epochs=1000, num_samples=500)
    assert fit.elbo == pytest.approx(evidence, abs=0.05)


def test_units_do_not_matter() -> None:
    """In other units ln p(x) moves by the Jacobian and the steps are the same: the prior's scale is the unit."""
    x = torch.randn(30, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fits = [
        zoo.fit(zoo.GaussianMixture(1, 1, "diag"), x * unit, estimator="advi", max_epochs=300, num_samples=50)
        for unit in (1.0, 1000.0)
    ]
    assert fits[0].elbo is not None
    assert fits[1].elbo == pytest.approx(fits[0].elbo - 30 * math.log(1000.0), abs=1e-4)


def test_the_bound_is_below_the_evidence_of_a_mixture() -> None:
    """ln p(x) of one Gaussian with unknown scale, by quadrature over its two parameters."""
    x = torch.randn(10, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = zoo.GaussianMixture(1, 1, "diag")
    prior = model.prior(x)
    means, log_scales = torch.linspace(-4, 4, 400, dtype=torch.float64), torch.linspace(-4, 3, 400, dtype=torch.float64)
    values = []
    for s in log_scales:
        at = prior["scale_tril"].log_prob(s.exp().reshape(1, 1)) + s  # with the Jacobian of exp
        each = dist.Normal(means, s.exp()).log_prob(x).sum(0) + prior["means"].base_dist.log_prob(means).reshape(-1)
        values.append(each + at)
    cell = (means[1] - means[0]) * (log_scales[1] - log_scales[0])
    evidence = float(torch.stack(values).logsumexp((0, 1)) + cell.log())
    fit = zoo.fit(model, x, estimator="advi", max_epochs=2000)
    assert fit.elbo is not None
    assert fit.elbo < evidence + 4 * (fit.elbo_se or 0.0)
    assert fit.elbo == pytest.approx(evidence, abs=0.1)
    assert fit.diagnostics["khat"] < 0.7


@pytest.mark.slow
def test_beside_em_and_nuts() -> None:
    module = __import__("zoo.models.gaussian_mixture", fromlist=["tiny"])
    model, x = module.tiny()
    comparison = zoo.compare(
        model, x, estimators=["em", "nuts", "advi"], options={
            "nuts": {"num_warmup": 20, "num_samples": 30, "num_chains": 2},
            "advi": {"max_epochs": 30, "num_samples": 30},
        }, gradients=False, max_seconds=60,
    )  # fmt: skip
    table = str(comparison)
    rows = {row["estimator"]: row for row in comparison.rows}
    assert list(rows) == ["em", "nuts", "advi"]
    assert rows["advi"]["evidence_gap"] is None
    assert rows["advi"]["elbo"] is not None
    assert rows["nuts"]["log_likelihood"] == rows["nuts"]["elbo"]
    assert "parameters integrated out" in " ".join(table.split())
    assert comparison.to_inference_data(5).posterior["z"].shape == (3, 5, 12)


def test_saving_keeps_bound_and_draws(tmp_path: Any) -> None:
    fit = zoo.fit(KnownVariance(), data(), estimator="advi", max_epochs=20, num_samples=30)
    fit.save(tmp_path / "a")
    again = zoo.load(tmp_path / "a", model=KnownVariance())
    assert again.draws is not None
    assert fit.draws is not None
    assert torch.equal(again.draws.values["means"], fit.draws.values["means"])
    assert (again.elbo, again.elbo_se, again.evidence_gap) == (fit.elbo, fit.elbo_se, None)


def test_what_is_not_sampled_does_not_move() -> None:
    model = KnownVariance()
    fit = zoo.fit(model, data(), estimator="advi", max_epochs=20, num_samples=30)
    assert torch.equal(fit.model.scale_tril.detach(), model.scale_tril.detach())
    assert not torch.equal(fit.model.means.detach(), model.means.detach())
    assert all(p.requires_grad for p in fit.model.parameters())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"family": "gaussian"}, "advi: family"),
    ({"num_samples": 0}, "advi: num_samples expected a whole number of at least 2, got 0"),
    ({"num_particles": 0}, "advi: num_particles expected a whole number of at least 1, got 0"),
]


@pytest.mark.parametrize(("options", "match"), BAD, ids=[next(iter(o)) for o, _ in BAD])
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        zoo.fit(KnownVariance(), data(), estimator="advi", **options)


def test_models_without_a_prior_are_refused() -> None:
    with pytest.raises(zoo.ZooError, match=r"advi cannot fit this model: it has no prior\(x\)"):
        zoo.fit(zoo.PPCA(1, 2), data(), estimator="advi")


def test_the_start_is_the_models() -> None:
    """At the first step q sits on the model's present parameters."""
    x = data()
    model = KnownVariance()
    model.means = torch.tensor([[1.5, 2.5]])
    posterior = ADVI().posterior(model, x)
    guide: Any = posterior._program(1)
    median = guide.median(x)
    standard = (model.means.detach() - 1) / 3
    torch.testing.assert_close(median["means_decentered"], standard)
