"""The particle bound, on a linear-Gaussian chain whose evidence is a multivariate normal's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy.stats import multivariate_normal
from torch import Tensor, nn

import zoo
from zoo.core import weighing
from zoo.core.data import Fields
from zoo.core.particles import PROPOSALS, ParticleBound, follow, particle_bound
from zoo.core.problem import Problem
from zoo.core.program import look
from zoo.core.rows import Rows
from zoo.core.sequences import lengths_of
from zoo.estimators.fivo import FIVO
from zoo.scores.filtering import SCORER
from zoo.scores.scoring import Scoring

VARIANCE, NOISE = 0.6, 0.3  # of a step of z, and of x given z


class LinearGaussian(zoo.LatentVariableModel):
    """z_t ~ N(a z_{t-1}, 0.6), z_0 = 0; x_t ~ N(z_t, 0.3); q(z_t | z_{t-1}, x_t) = N(m + gain (x_t - m), spread^2)."""

    fields = Fields(("x", "lengths"))

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.gain = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.spread = nn.Parameter(torch.tensor(0.6, dtype=torch.float64))

    def prior(self, z: Tensor) -> Any:
        return dist.Normal(self.a * z, VARIANCE**0.5).to_event(1)

    def proposal(self, z: Tensor, x: Tensor) -> Any:
        mean = self.a * z
        return dist.Normal(mean + self.gain * (x - mean), self.spread).to_event(1)

    def emission(self, z: Tensor) -> Any:
        return dist.Normal(z, NOISE**0.5).to_event(1)

    def model(self, x: Tensor, lengths: Tensor) -> None:
        z = torch.zeros_like(x[:, 0])
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", self.prior(z))
                    pyro.sample(f"x_{t}", self.emission(z), obs=x[:, t])

    def guide(self, x: Tensor, lengths: Tensor) -> None:
        z = torch.zeros_like(x[:, 0])
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", self.proposal(z, x[:, t]))

    def particles(self, x: Tensor, lengths: Tensor, num_particles: int, proposal: str = "guide") -> Particles:
        return Particles(self, x, lengths, num_particles, proposal)


class Particles:
    def __init__(self, model: LinearGaussian, x: Tensor, lengths: Tensor, size: int, proposal: str) -> None:
        self.model, self.x, self.lengths, self.from_prior = model, x, lengths_of(x, lengths), proposal == "prior"
        self.latents = x.new_zeros(size, len(x), 1)

    def step(self, t: int) -> Tensor:
        n = int((self.lengths > t).sum())
        p, x = self.model.prior(self.latents[:, :n]), self.x[:n, t]
        q = p if self.from_prior else self.model.proposal(self.latents[:, :n], x)
        self.latents = z = q.rsample()
        weight: Tensor = p.log_prob(z) + self.model.emission(z).log_prob(x) - q.log_prob(z)
        return weight

    def resample(self, ancestors: Tensor) -> None:
        self.latents = self.latents.gather(0, ancestors.unsqueeze(-1))


def chain(num_steps: int = 6, seed: int = 0) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    z, values = 0.0, []
    for _ in range(num_steps):
        z = 0.8 * z + rng.normal() * VARIANCE**0.5
        values.append(z + rng.normal() * NOISE**0.5)
    return np.array(values)


def evidence(x: np.ndarray[Any, Any], a: float = 0.8) -> float:
    """ln N(x; 0, Σ): Cov(z_s, z_t) = a^|s - t| times the variance of the earlier one."""
    steps = len(x)
    variances = np.cumsum([VARIANCE * a ** (2 * t) for t in range(steps)])
    covariance = np.array(
        [[a ** abs(s - t) * variances[min(s, t)] + NOISE * (s == t) for t in range(steps)] for s in range(steps)]
    )
    return float(multivariate_normal.logpdf(x, np.zeros(steps), covariance))


def repeated(x: np.ndarray[Any, Any], times: int) -> dict[str, Tensor]:
    return {
        "x": torch.from_numpy(x).reshape(1, -1, 1).repeat(times, 1, 1),
        "lengths": torch.full((times,), len(x)),
    }


def ragged() -> dict[str, Tensor]:
    x = torch.zeros(3, 5, 1, dtype=torch.float64)
    lengths = torch.tensor([5, 4, 2])
    for n, length in enumerate(lengths.tolist()):
        x[n, :length, 0] = torch.from_numpy(chain(length, n))
    return {"x": x, "lengths": lengths}


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_the_estimate_is_unbiased(proposal: str, threshold: float) -> None:
    x = chain()
    torch.manual_seed(1)
    with torch.no_grad():
        bound = particle_bound(LinearGaussian(), repeated(x, 40_000), 4, threshold, proposal).bound
    ratio = (bound - evidence(x)).exp()
    error = float(ratio.std()) / len(ratio) ** 0.5
    assert error < 0.02
    assert abs(float(ratio.mean()) - 1) < 4 * error
    assert float(bound.mean()) < evidence(x) - 0.02


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_the_bound_comes_to_the_evidence_as_particles_grow(proposal: str) -> None:
    x = chain(12, seed=3)
    gaps = []
    for size in (1, 4, 32, 4096):
        torch.manual_seed(2)
        with torch.no_grad():
            bound = particle_bound(LinearGaussian(), repeated(x, 100), size, 0.5, proposal).bound
        gaps.append(evidence(x) - float(bound.mean()))
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3]
    assert abs(gaps[3]) < (0.02 if proposal == "prior" else 2e-3)


def test_sequences_of_unequal_length_have_each_its_own_evidence_in_any_order() -> None:
    data = ragged()
    wanted = [evidence(x[:n, 0].numpy()) for x, n in zip(data["x"], data["lengths"].tolist(), strict=True)]
    padded = {"x": data["x"].clone(), "lengths": data["lengths"]}
    padded["x"][2, 2:] = 1e6
    for order in ([0, 1, 2], [2, 0, 1]):
        with torch.no_grad():
            found = particle_bound(LinearGaussian(), {k: v[order] for k, v in padded.items()}, 20_000)
        assert found.bound.tolist() == pytest.approx([wanted[i] for i in order], abs=0.02)


def test_one_particle_gives_the_elbo_of_the_same_draws() -> None:
    model, data = LinearGaussian(), ragged()
    torch.manual_seed(3)
    bound = particle_bound(model, data, 1, threshold=1.0).bound
    # The programs draw for padding too: each sequence has its noise where the particles have theirs.
    torch.manual_seed(3)
    noise = [torch.randn(1, int((data["lengths"] > t).sum()), 1, dtype=torch.float64) for t in range(5)]
    z, total = torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for t, eps in enumerate(noise):
        n = eps.shape[1]
        x = data["x"][:n, t]
        p, q = model.prior(z[:n]), model.proposal(z[:n], x)
        z = q.base_dist.loc + model.spread * eps[0]
        total = total.index_add(0, torch.arange(n), p.log_prob(z) + model.emission(z).log_prob(x) - q.log_prob(z))
    assert torch.equal(bound, total)


def test_without_resampling_it_is_the_importance_weighted_bound() -> None:
    model, data = LinearGaussian(), {k: v[:1] for k, v in ragged().items()}
    nesting = look(model, data).nesting
    with torch.no_grad():
        torch.manual_seed(4)
        ours = particle_bound(model, data, 7, threshold=0.0).bound
        torch.manual_seed(4)
        weights = weighing.drawn(model, data, 7, nesting).log_weights
    assert torch.allclose(ours, weights.logsumexp(0) - np.log(7), atol=1e-12, rtol=0)


def test_weights_as_they_are_decide_who_is_resampled() -> None:
    """With a threshold of 1 and uneven weights every sequence is, at every step but its last."""
    asked = []

    class Watched(Particles):
        def resample(self, ancestors: Tensor) -> None:
            asked.append(ancestors)
            super().resample(ancestors)

    data = ragged()
    follow(Watched(LinearGaussian(), **data, size=6, proposal="prior"), 1.0)
    assert [a.shape for a in asked] == [(6, 3), (6, 3), (6, 2), (6, 2)]
    assert torch.equal(asked[1][:, 2], torch.arange(6))  # its last step
    assert not torch.equal(asked[1][:, 1], torch.arange(6))
    asked.clear()
    follow(Watched(LinearGaussian(), **data, size=6, proposal="prior"), 0.0)
    assert not asked


def test_with_the_score_terms_the_gradient_is_that_of_the_mean_bound() -> None:
    """In a parameter of the guide, against a difference quotient; without the terms it has another sign here."""
    data, step, model = repeated(np.array([1.0, -0.5, 1.0]), 300_000), 0.1, LinearGaussian()

    def bound(gain: float, score_terms: bool = False) -> ParticleBound:
        with torch.no_grad():
            model.gain.fill_(gain)
        torch.manual_seed(5)
        return particle_bound(model, data, 2, 1.0, score_terms=score_terms)

    with torch.no_grad():
        above, below = bound(0.5 + step).bound, bound(0.5 - step).bound
    quotient, error = float((above - below).mean()) / (2 * step), float(above.std()) / len(above) ** 0.5 / step
    with_terms, without = (
        float(torch.autograd.grad(bound(0.5, terms).surrogate.mean(), model.gain)[0]) for terms in (True, False)
    )
    assert error < 0.02
    assert abs(with_terms - quotient) < 4 * error
    assert without < -0.3 < 0.3 < with_terms


def test_a_model_without_particles_is_refused_in_one_line() -> None:
    x = torch.randn(8, 2)
    with pytest.raises(
        zoo.ZooError, match=r"fivo cannot fit this model: it has no particles\(.*\)\. Use .*eg.*"
    ) as error:
        zoo.fit(zoo.GaussianMixture(2, 2), x, estimator="fivo")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"threshold": 1.5}, "threshold expected a share from 0 to 1, got 1.5"),
        ({"proposal": "posterior"}, "proposal"),
        ({"num_particles": 0}, "num_particles expected a whole number of at least 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        zoo.fit(LinearGaussian(), ragged(), estimator="fivo", **options)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_a_fit_climbs(proposal: str) -> None:
    """The chain's only parameter is found by every proposal, and one particle is the ELBO by name too."""
    data = {"x": torch.from_numpy(np.stack([chain(15, seed) for seed in range(100)])).unsqueeze(-1)}
    data["lengths"] = torch.full((100,), 15)
    model = LinearGaussian()
    with torch.no_grad():
        model.a.fill_(0.2)
    fit = zoo.fit(
        model, data, estimator="fivo", num_particles=8, proposal=proposal, max_epochs=60, warmup=0, init="current"
    )
    assert fit.parameters["a"] == pytest.approx(0.8, abs=0.1)
    assert fit.history["objective"][-1] > fit.history["objective"][0] + 1
    assert "bound" in fit.history


def test_evaluate_tells_the_filters_bound_with_its_error() -> None:
    """Beside the exact evidence, and the spread of the same over seeds."""
    data, model = ragged(), LinearGaussian()
    exact = sum(evidence(x[:n, 0].numpy()) for x, n in zip(data["x"], data["lengths"].tolist(), strict=True))
    found = zoo.evaluate(model, data, num_samples=50, seed=1)
    assert found.num_particles == 50
    assert found.filtering_bound == pytest.approx(exact, abs=4 * found.filtering_bound_se + 0.05)
    assert f"filtering bound   {found.filtering_bound:.4f}" in str(found)
    runs: list[Any] = [SCORER.score(Scoring(model, data, 50, trained=True)) for _ in range(60)]
    error = np.mean([run["filtering_bound_se"] ** 2 for run in runs]) ** 0.5
    assert error == pytest.approx(np.std([run["filtering_bound"] for run in runs]), rel=0.3)
    mixture, plain = zoo.GaussianMixture(1, 1), torch.randn(5, 1)
    assert zoo.evaluate(mixture, plain).filtering_bound is None
    assert (
        SCORER.score(Scoring(mixture, plain, 50, trained=True)) == "it has no particles(x, num_particles=S, proposal)"
    )


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_over_many_steps_a_filter_is_tighter_than_weights_of_whole_paths(proposal: str) -> None:
    """And these than the plain bound, for as many particles each."""
    x = chain(60, seed=5)
    for size in (4, 8, 16):
        torch.manual_seed(7)
        with torch.no_grad():
            plain, weighed, filtered = (
                float(particle_bound(LinearGaussian(), repeated(x, 200), k, threshold, proposal).bound.mean())
                for k, threshold in ((1, 0.0), (size, 0.0), (size, 0.5))
            )
        assert plain < weighed - 0.5 < filtered - 1 < evidence(x) - 1


def test_a_sequence_counts_as_often_as_its_weight() -> None:
    model, data, weights = LinearGaussian(), ragged(), torch.tensor([3.0, 0.5, 2.0], dtype=torch.float64)
    torch.manual_seed(8)
    bound = particle_bound(model, data, 4).bound
    torch.manual_seed(8)
    step = FIVO().objective(Problem(model, data))(Rows(data, weights))
    assert float(step.value) == pytest.approx(float((weights * bound).sum().detach()) / 3, abs=1e-12)
    assert torch.allclose(step.surrogate, -step.value, atol=1e-12, rtol=0)
