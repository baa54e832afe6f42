"""VonMisesMixture: scipy's density and fit, the turtles, the seam of the circle, hard sizes, bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracles
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from torch import Tensor

import zoo
from zoo.densities.von_mises import VonMises, circular, most_likely, wrapped
from zoo.models.von_mises_mixture import VonMisesMixture, tiny


def make(weights: Any, loc: Any, concentration: Any) -> VonMisesMixture:
    model = VonMisesMixture(*np.shape(loc))
    model.weights, model.loc, model.concentration = weights, loc, concentration
    return model


def scipys(weights: Any, loc: Any, concentration: Any, x: Any) -> Any:
    """ln p(x_n), by scipy alone."""
    each = scipy.stats.vonmises.logpdf(np.asarray(x)[:, None, :], np.asarray(concentration), np.asarray(loc)).sum(-1)
    return scipy.special.logsumexp(each + np.log(weights), axis=1)


def turtles() -> Tensor:
    x = zoo.load_data("turtles")
    assert isinstance(x, Tensor)
    return x


def test_the_turtles_are_those_of_the_books() -> None:
    """Mean direction 64.2 degrees and mean resultant length 0.497, as they are quoted for the 76 directions."""
    mean = torch.exp(1j * turtles()).mean()
    assert (len(turtles()), f"{math.degrees(mean.angle()):.1f}", f"{float(mean.abs()):.3f}") == (76, "64.2", "0.497")


def test_log_marginal_is_scipys_and_that_of_all_latents() -> None:
    weights, loc, concentration = (
        [0.2, 0.5, 0.3],
        [[0.1, 3.0], [-3.1, 0.0], [2.0, -1.0]],
        [[1e-3, 4], [9e3, 1], [2, 30]],
    )
    x = np.array([[0.1, 3.1], [-3.1, 0.4], [3.14, -1.0], [-6.2, 6.0]])
    model = make(weights, loc, concentration)
    ours = model.log_marginal(torch.tensor(x)).detach()
    np.testing.assert_allclose(ours, scipys(weights, loc, concentration, x), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        oracles.log_evidence(model.model, torch.tensor(x)).detach(), ours, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("kappa", [1e-8, 0.01, 0.9, 3.75, 40.0, 1e4, 1e6])
def test_the_density_adds_up_to_one_and_its_gradients_are_right(kappa: float) -> None:
    fn = VonMises(torch.tensor(0.7, dtype=torch.float64), torch.tensor(kappa, dtype=torch.float64))
    x = 0.7 + torch.linspace(-1, 1, 20001, dtype=torch.float64)[:-1] * min(math.pi, 12 / math.sqrt(kappa))
    assert float(fn.log_prob(x).exp().mean()) * 2 * min(math.pi, 12 / math.sqrt(kappa)) == pytest.approx(1, abs=1e-10)
    arguments = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, kappa)]
    if 0.001 < kappa < 100:
        assert torch.autograd.gradcheck(lambda m, k: VonMises(m, k).log_prob(x[::4000]), arguments)
        assert torch.autograd.gradgradcheck(lambda m, k: VonMises(m, k).log_prob(x[::4000]), arguments)


def test_one_component_is_scipys_fit() -> None:
    x = scipy.stats.vonmises.rvs(2.5, loc=3.0, size=(200, 1), random_state=np.random.default_rng(3))
    kappa, loc, _ = scipy.stats.vonmises.fit(x, fscale=1)
    for estimator in ("em", "auto_em"):
        fit = zoo.fit(VonMisesMixture(1, 1), x, estimator=estimator)
        assert float(fit.model.loc) == pytest.approx(loc, abs=1e-7)
        assert float(fit.model.concentration) == pytest.approx(kappa, rel=1e-6)
        assert fit.log_likelihood == pytest.approx(scipy.stats.vonmises.logpdf(x, kappa, loc).sum(), abs=1e-9)
    assert fit.num_parameters == 2


@pytest.mark.parametrize("resultant", [0.0, 1e-9, 0.1, 0.5, 0.9, 0.999, 0.999995])
def test_the_concentration_solves_its_equation(resultant: float) -> None:
    one = torch.ones((), dtype=torch.float64)
    _, kappa = most_likely(resultant * one, 0 * one, one, 1e6 * one)
    found = float(kappa)
    assert scipy.special.i1e(found) / scipy.special.i0e(found) == pytest.approx(resultant, abs=1e-8)


def test_two_kinds_of_turtles_by_every_estimator() -> None:
    """The maximum by a general optimiser on scipy's density; svi's linear guide holds the exact posterior."""
    x = turtles()

    def loss(theta: Any) -> float:
        weights = [scipy.special.expit(theta[0]), scipy.special.expit(-theta[0])]
        return -float(scipys(weights, theta[1:3, None], np.exp(theta[3:, None]), x).sum())

    best = scipy.optimize.minimize(loss, [1.0, 1.0, -2.0, 1.0, 1.0], method="BFGS")
    model = VonMisesMixture(2, 1)
    em = zoo.fit(model, x, estimator="em")
    assert em.status == "converged"
    assert em.log_likelihood == pytest.approx(-best.fun, abs=1e-5)
    order = em.model.weights.argsort(descending=True)
    np.testing.assert_allclose(em.model.loc[order, 0], best.x[1:3], atol=1e-3)
    np.testing.assert_allclose(em.model.concentration[order, 0], np.exp(best.x[3:]), rtol=1e-2)
    for estimator, tolerance in {"eg": 1e-5, "svi": 1e-4, "auto_em": 1e-6}.items():
        fit = zoo.fit(model, x, estimator=estimator)
        assert fit.log_likelihood == pytest.approx(em.log_likelihood, abs=tolerance), estimator
        assert fit.elbo == pytest.approx(fit.log_likelihood, abs=1e-4), estimator


def test_a_cluster_that_lies_on_the_seam() -> None:
    """Turning all angles turns the fit: nothing happens at π."""
    x = turtles()
    plain = zoo.fit(VonMisesMixture(2, 1), x, estimator="em")
    for turn in (2.0, 4.2):
        fit = zoo.fit(VonMisesMixture(2, 1), wrapped(x + turn), estimator="em")
        assert fit.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-6)
        apart = wrapped(fit.model.loc.sort(0).values - wrapped(plain.model.loc + turn).sort(0).values)
        assert float(apart.abs().max()) < 1e-3
    model, _ = tiny()
    with torch.no_grad():
        model.loc_unconstrained += 2 * math.pi  # a gradient may carry it round
    assert circular.check(model.loc.detach()).all()
    torch.testing.assert_close(model.loc.detach(), tiny()[0].loc.detach(), rtol=0, atol=1e-14)


def test_angles_that_are_all_alike_stop_at_the_largest_concentration() -> None:
    fit = zoo.fit(VonMisesMixture(1, 2, max_concentration=500.0), torch.tensor([[0.1, 1.0]] * 5 + [[0.1, 2.0]]))
    assert fit.model.concentration[0, 0] == pytest.approx(500.0)
    assert 1 < fit.model.concentration[0, 1] < 10
    assert any("max_concentration acts" in note for note in fit.notes)
    start = make([1.0], [[0.0]], [[2e4]])  # above the limit: let be
    assert start.m_step(start.e_step(torch.zeros(3, 1, dtype=torch.float64))) != []
    assert float(start.concentration.detach()) == pytest.approx(2e4)


def test_a_component_without_data_keeps_its_parameters() -> None:
    model = make([1.0, 0.0], [[0.0], [1.0]], [[2.0], [7.0]])
    model.m_step(model.e_step(turtles()))
    assert (float(model.loc[1].detach()), float(model.concentration[1].detach())) == (1.0, pytest.approx(7.0))


def test_parameters_are_recovered() -> None:
    truth = make([0.3, 0.7], [[3.0, 0.5], [-1.5, 2.0]], [[5.0, 3.0], [4.0, 8.0]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        x = truth.sample_like(torch.empty(0, 2), 4000)
    fit = zoo.fit(VonMisesMixture(2, 2), x, estimator="em")
    order = fit.model.weights.argsort()
    assert wrapped(fit.model.loc[order] - truth.loc.detach()).abs().max() < 0.06
    torch.testing.assert_close(fit.model.concentration[order], truth.concentration.detach(), rtol=0.12, atol=0)


def test_bad_data() -> None:
    with pytest.raises(zoo.ZooError, match=r"expected radians, up to 2π, got 350 in row"):
        zoo.fit(VonMisesMixture(1, 1), torch.tensor([[1.0], [350.0]]))
    with pytest.raises(zoo.ZooError, match=r"loc expected values in the support"):
        tiny()[0].loc = torch.full((2, 2), 4.0)
