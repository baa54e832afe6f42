"""Objectives without noise are climbed by a quasi-Newton method: its steps, how a climb ends, who gets it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import config_enumerate
from scipy.optimize import minimize, rosen, rosen_der
from sklearn.datasets import load_iris

import zoo
from zoo.core.hooks import choose
from zoo.core.problem import Problem
from zoo.core.rows import Rows
from zoo.errors import ZooError
from zoo.estimators.loop.line_search import ENOUGH, FLAT, Point, search
from zoo.estimators.loop.metric import LEAST, MOST, Metric, measured
from zoo.estimators.loop.pairs import Pairs
from zoo.estimators.loop.quasi_newton import QuasiNewton
from zoo.estimators.loop.units import Units
from zoo.estimators.svi import SVI

IRIS = torch.tensor(load_iris().data)
COUNTS = torch.tensor([[1.0], [2], [0], [1], [18], [22], [3], [2], [17], [25], [16], [4]])


def rosenbrock(u: torch.Tensor) -> tuple[float, torch.Tensor, None]:
    return float(rosen(u.numpy())), torch.from_numpy(rosen_der(u.numpy())), None


# --- steps ------------------------------------------------------------------------------------------------------------


def test_a_curved_valley_takes_no_more_iterations_than_scipys() -> None:
    start = torch.linspace(-1.5, 1.5, 30, dtype=torch.float64)
    theirs = minimize(rosen, start.numpy(), jac=rosen_der, method="L-BFGS-B", options={"maxiter": 500, "gtol": 1e-8})
    ours = QuasiNewton(rosenbrock, start)
    ours.begin()
    iterations, values = 0, [ours.value]
    while ours.gradient.abs().max() > 1e-8 and iterations < 500:
        assert ours.iterate()
        values.append(ours.value)
        iterations += 1
    assert iterations <= theirs.nit
    assert np.allclose(ours.variables, theirs.x, atol=1e-6)
    assert sorted(values, reverse=True) == values


def test_the_direction_is_that_of_the_written_out_bfgs_matrix() -> None:
    """Against the product formula of the inverse (Nocedal & Wright 2006, equation 6.17), pairs one by one."""
    ours = QuasiNewton(rosenbrock, torch.linspace(-1, 1, 6, dtype=torch.float64))
    ours.begin()
    for _ in range(9):
        ours.iterate()
    assert len(ours.pairs) > 5
    assert torch.allclose(ours.direction, -written_out(ours.pairs) @ ours.gradient, rtol=1e-8)


def written_out(pairs: Pairs) -> torch.Tensor:
    steps, changes = pairs.steps, pairs.changes
    one = torch.eye(steps.shape[1], dtype=torch.float64)
    metric = torch.stack([pairs.metric.times(column) for column in one], 1)
    inverse = metric * (steps[-1] @ changes[-1]) / (changes[-1] @ metric @ changes[-1])
    for s, y in zip(steps, changes, strict=True):
        turn = one - torch.outer(s, y) / (s @ y)
        inverse = turn @ inverse @ turn.mT + torch.outer(s, s) / (s @ y)
    return inverse


@pytest.mark.parametrize("measured", [False, True])
def test_a_memory_grows_forgets_its_oldest_and_goes_on_from_what_was_saved(measured: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    root, gradient, last, *steps = torch.randn(62, 12, generator=generator, dtype=torch.float64)
    hessian = torch.diag(torch.linspace(0.5, 2, 12, dtype=torch.float64)) + torch.outer(root, root)
    places = torch.tensor([[1, 2, 9], [4, 5, 10]])
    metric = Metric([places], [torch.tensor([[2.0, 1, 0], [1, 3, 1], [0, 1, 1]]).double()]) if measured else None
    pairs, again, earlier = Pairs(12, 24, metric), Pairs(12, 24), Pairs(12, 24)
    for step in steps:
        assert pairs.add(step, hessian @ step)
    assert not pairs.add(-gradient, gradient)  # a function that bends the other way
    assert 24 - 24 // 8 < len(pairs) <= 24
    assert torch.equal(pairs.steps[-1], steps[-1])
    assert torch.allclose(pairs.times(gradient), written_out(pairs) @ gradient, rtol=1e-9)
    again.load({name: value.clone() for name, value in pairs.state().items()})
    products = (pairs.steps @ pairs.changes.mT).triu()
    earlier.load({"steps": pairs.steps, "changes": pairs.changes, "products": products})
    for _ in range(5):  # past where the oldest make room
        assert torch.equal(again.times(gradient), pairs.times(gradient))
        assert measured or torch.allclose(earlier.times(gradient), pairs.times(gradient), rtol=1e-9)
        for each in (pairs, again, earlier):
            each.add(last, hessian @ last)


@pytest.mark.parametrize("components", [3, MOST + 4])
def test_the_metric_is_the_information_of_q_in_the_weights_of_a_layer(components: int) -> None:
    """Summed datum by datum and outcome by outcome, from derivatives in the weights themselves."""
    torch.manual_seed(0)
    model, x = zoo.GaussianMixture(components, 4, hidden_dims=(5,)), IRIS[::10]
    model.encoder.set_from(x)
    weights = torch.rand(len(x), generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    problem = Problem(model, Rows(x, weights, mean_weight=float(weights.mean())))
    objective = SVI().objective(problem)
    units = Units([p for p in model.parameters() if p.requires_grad], {})
    found = measured(model, objective, problem.data, units, set())
    ours = dict(zip([place.shape for place in found.places], found.inverses, strict=True))
    log_q = choose(model, x).outcomes()
    assert log_q is not None
    assert len(ours) == 2
    for layer in (model.encoder[1], model.encoder[3]):
        information: Any = 0.0
        for n, k in itertools.product(range(len(x)), range(components)):
            weight, bias = torch.autograd.grad(log_q[n, k], (layer.weight, layer.bias), retain_graph=True)
            both = torch.cat([weight, bias.unsqueeze(-1)], -1)
            information = information + weights[n] * log_q[n, k].exp().detach() * both.mT @ both / weights.sum()
        greatest = torch.linalg.eigvalsh(information)[-1]
        expected = torch.linalg.inv(information + LEAST * greatest * torch.eye(len(information), dtype=torch.float64))
        mine = ours[layer.weight.shape[0], layer.weight.shape[1] + 1]
        if components <= MOST:
            assert torch.allclose(mine, expected, rtol=1e-8)
        else:
            assert 0.7 < float(torch.linalg.matrix_norm(mine, 2) / torch.linalg.matrix_norm(expected, 2)) < 1.4


def test_a_guide_whose_layers_are_measured_takes_few_iterations() -> None:
    """Without the metric some 410, to a lower bound."""
    fit = zoo.fit(zoo.GaussianMixture(3, 4), IRIS, estimator="svi", restarts=1)
    assert fit.iterations + fit.warmup["steps"] < 350
    assert fit.log_likelihood >= fit.elbo > -180.1862


def test_a_search_ends_where_both_conditions_hold_and_turns_back_from_the_edge() -> None:
    """ln t + 1 / t has no value below zero, and its minimum is at 1: from 3 a step of one is far over the edge."""

    def at(t: float) -> Point:
        place = 3 - 4 * t
        if place <= 0:
            return Point(t, math.inf, 0.0, torch.zeros(1))
        return Point(t, math.log(place) + 1 / place, -4 * (1 / place - 1 / place**2), torch.zeros(1))

    start = at(0.0)
    found = search(at, start, 1.0)
    assert found is not None
    assert found.value <= start.value + ENOUGH * found.t * start.slope
    assert abs(found.slope) <= FLAT * abs(start.slope)
    upward = Point(0.0, start.value, -1.0, start.gradient)  # a slope that is none: nothing lower is there
    assert search(lambda t: Point(t, start.value + t, 1.0, start.gradient), upward, 1.0) is None


# --- climbs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_eg_comes_to_the_likelihood_of_em_in_few_iterations(dtype: torch.dtype) -> None:
    model, x = zoo.GaussianMixture(3, 4).to(dtype), IRIS.to(dtype)
    fit = zoo.fit(model, x, estimator="eg")
    assert fit.status == "converged"
    assert fit.log_likelihood == pytest.approx(-180.18548, abs=2e-5 if dtype == torch.float64 else 2e-3)
    assert fit.iterations < 150
    rows = fit.history["objective"]
    slack = 1e-9 if dtype == torch.float64 else 1e-3
    assert all(later >= earlier - slack for earlier, later in itertools.pairwise(rows))
    gradients = fit.history["gradient"]
    assert gradients[-1] < 1e-2 * gradients[0]
    start = zoo.fit(model, x, estimator="em", restarts=1, max_iter=1)
    assert rows[0] == pytest.approx(start.history["objective"][0], abs=1e-9 if dtype == torch.float64 else 1e-3)


def test_svi_climbs_a_bound_that_is_summed_and_says_what_ended_it() -> None:
    fit = zoo.fit(zoo.PoissonMixture(2, 1), COUNTS, estimator="svi")
    exact = zoo.fit(zoo.PoissonMixture(2, 1), COUNTS, estimator="em", restarts=1, tol=1e-12)
    assert exact.log_likelihood - 1e-3 < fit.elbo <= fit.log_likelihood <= exact.log_likelihood + 1e-9
    assert fit.iterations + fit.warmup["steps"] < 700
    assert fit.status == "converged"
    assert not fit.notes or "gain less than" in fit.notes[0]


def test_a_gain_that_is_nothing_ends_a_climb_whose_gradient_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """ln σ(w) has no maximum: w grows for ever, and the gradient falls as slowly as the gain."""

    def coin(x: torch.Tensor) -> None:
        w = pyro.param("w", torch.tensor(0.0, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Bernoulli(logits=w + 0 * z), obs=x)

    fit = zoo.fit(config_enumerate(coin), torch.ones(5, dtype=torch.float64), estimator="eg", tol=0)
    assert fit.status == "converged"
    assert any("gain less than 1e-09 nats a datum; the gradient there is" in note for note in fit.notes)
    assert -5e-7 < fit.log_likelihood < 0


def test_the_start_that_is_the_maximum_is_left_alone() -> None:
    model = zoo.fit(zoo.GaussianMixture(2, 4), IRIS, tol=1e-14, max_iter=5000).model
    fit = zoo.fit(model, IRIS, estimator="eg", init="current")
    assert (fit.status, fit.iterations) == ("converged", 1)
    assert torch.equal(fit.model.means, model.means)


def test_an_interrupted_climb_stands_at_a_point_it_took() -> None:
    """Not where the search happened to look."""
    calls = 0
    marginal = zoo.GaussianMixture.log_marginal

    def counted(self: Any, x: Any, known: Any = None) -> Any:
        nonlocal calls
        calls += torch.is_grad_enabled()
        if calls == 20:
            calls += 1
            raise KeyboardInterrupt
        return marginal(self, x, known)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo.GaussianMixture, "log_marginal", counted)
        fit = zoo.fit(zoo.GaussianMixture(3, 4), IRIS, estimator="eg")
    assert fit.status == "interrupted"
    assert fit.log_likelihood >= max(fit.history["objective"]) - 1e-9


# --- floors -----------------------------------------------------------------------------------------------------------


def on_its_floor(fit: Any, x: torch.Tensor) -> torch.Tensor:
    """The least eigenvalue of each component's covariance, in units of the floor, (K,)."""
    variance = x.var(0, correction=0)
    variance = variance.mean().expand_as(variance) if fit.model.covariance_type == "spherical" else variance
    scale = (fit.model.covariance_floor * variance).sqrt()
    return torch.linalg.eigvalsh(fit.model.covariances.detach() / (scale.unsqueeze(-1) * scale)).amin(-1)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_a_component_that_runs_into_a_point_stops_at_the_floor_of_em(kind: str) -> None:
    x = torch.cat([IRIS[:, :2], torch.tensor([[9.0, 9.0]], dtype=torch.float64).expand(4, 2)])
    model = zoo.GaussianMixture(2, 2, covariance_type=kind)
    by_em = zoo.fit(model, x, estimator="em", restarts=1)
    fit = zoo.fit(model, x, estimator="eg")
    assert by_em.degenerate
    assert fit.degenerate
    assert by_em.notes[-1] in fit.notes
    assert 0.999 < on_its_floor(fit, x).min() < 1.001
    assert fit.log_likelihood == pytest.approx(by_em.log_likelihood, abs=1e-3)
    assert fit.status == "converged" if kind != "full" else fit.status in ("converged", "stalled")


@pytest.mark.parametrize("seed", [0, 1])
def test_from_random_rows_no_component_comes_below_the_floor(seed: int) -> None:
    """EM runs into such a maximum from there, too; without a floor a climb has no end."""
    fit = zoo.fit(zoo.GaussianMixture(5, 4), IRIS, estimator="eg", init="random", seed=seed)
    assert fit.degenerate
    assert "covariance floor acts on component" in fit.notes[-1]
    assert 0.999 < on_its_floor(fit, IRIS).min() < 1.001
    assert fit.log_likelihood < -40


def test_a_heywood_case_ends_on_the_floor_of_its_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(60, 1, generator=generator, dtype=torch.float64)
    x = torch.cat([z, z + torch.randn(60, 3, generator=generator, dtype=torch.float64)], 1)
    x[:, 3] *= 100  # each feature has a floor of its own
    by_em, fit = (zoo.fit(zoo.FactorAnalysis(1, 4), x, estimator=name) for name in ("em", "eg"))
    assert (fit.status, fit.degenerate, fit.notes) == ("converged", True, by_em.notes)
    assert fit.notes[-1] == "noise floor acts on feature 0 (Heywood case)"
    assert fit.log_likelihood == pytest.approx(by_em.log_likelihood, abs=1e-6)
    floor = fit.model.noise_floor * x[:, 0].var(correction=0)
    for model in (fit.model, by_em.model):
        assert float(model.noise_variance[0]) == pytest.approx(float(floor), rel=1e-6)


def test_what_only_touched_its_floor_is_let_go() -> None:
    """A start far below the floor is lifted at once; the maximum is well above."""
    model = zoo.GaussianMixture(1, 4, covariance_type="diag")
    model.means = IRIS.mean(0, keepdim=True)
    model.scale_tril = IRIS.std(0).unsqueeze(0) * 1e-3
    with torch.no_grad():
        model.scale_tril_unconstrained[0, 2] = -20.0
    fit = zoo.fit(model, IRIS, estimator="eg", init="current")
    assert torch.allclose(fit.model.scale_tril[0], IRIS.std(0, correction=0), rtol=1e-4)
    assert (fit.status, fit.degenerate) == ("converged", False)


# --- who gets it ------------------------------------------------------------------------------------------------------


class Noisy(zoo.PoissonMixture):
    """Its likelihood has noise that no site shows, as of a network with dropout."""

    def log_marginal(self, x: torch.Tensor, known: Any = None) -> torch.Tensor:
        return super().log_marginal(x, known) + 0.1 * torch.randn(())


@pytest.mark.parametrize(
    ("options", "climbed"),
    [
        ({}, True),
        ({"optimizer": "lbfgs"}, True),
        ({"optimizer": "adam"}, False),
        ({"learning_rate": 0.1}, False),
        ({"decay": "constant"}, False),
        ({"clip_norm": 1.0}, False),
        ({"batch_size": 5}, False),
        ({"estimator": "svi", "warmup": 0}, True),
        ({"estimator": "svi", "warmup": 0, "schedule": "alternating"}, False),
        ({"estimator": "gumbel", "warmup": 0}, False),
        ({"model": Noisy(2, 1)}, False),
    ],
)
def test_exact_objectives_get_it_unless_steps_are_asked_for(options: dict[str, Any], climbed: bool) -> None:
    options = {"estimator": "eg", "model": zoo.PoissonMixture(2, 1), "max_epochs": 3, **options}
    fit = zoo.fit(options.pop("model"), COUNTS, **options)
    assert ("gradient" in fit.history) is climbed


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"estimator": "gumbel"}, "at once, got one with noise. Take optimizer='adam'"),
        ({"batch_size": 5}, "got batches of the data"),
        ({"estimator": "svi", "schedule": "alternating"}, "got parameters that move in turns"),
        ({"clip_norm": 1.0}, "expected no clip_norm, which is Adam's"),
        ({"optimizer": "sgd"}, "optimizer 'sgd' is not known"),
    ],
)
def test_what_cannot_be_had_is_one_line(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ZooError, match=match) as caught:
        zoo.fit(zoo.PoissonMixture(2, 1), COUNTS, **{"estimator": "eg", "optimizer": "lbfgs", **options})
    assert "\n" not in str(caught.value)
