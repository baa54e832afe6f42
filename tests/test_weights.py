"""A row of weight w is a row that is there w times: every estimator that takes weights is held to repeated rows."""

from __future__ import annotations

import functools
import operator
import sys
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from torch.distributions import constraints

import zoo
from zoo.core.contract import lacks, prepared
from zoo.core.data import call, mass, num_data, take
from zoo.core.functions import as_model
from zoo.core.isolation import forked_rng
from zoo.core.problem import Problem
from zoo.core.rows import Rows
from zoo.estimators import estimator_classes, find_estimator
from zoo.models import model_classes

EXACT = ("auto_em", "closed_form", "eg", "em", "hard_em", "online_em")
SAMPLED = ("gumbel", "iwae", "reinforce", "rws", "st_gumbel", "svi")
#: The estimators that say no, with what they say.
PLAIN = ("advi", "nuts")
FEW = {"max_iter": 2, "max_epochs": 2, "batch_size": 1000, "warmup": 0, "tol": 0, "num_warmup": 2, "num_samples": 4}


def tiny(name: str) -> tuple[Any, Any]:
    """A model's ``tiny()``, and more data like it than a few: EM of a state with two rows has no digits to compare."""
    model, x = sys.modules[model_classes()[name].__module__].tiny()
    x = prepared(model, x)
    if lacks(model, "sample_like", "e_step") is None:
        with forked_rng(5):
            more = model.sample_like(x, 24)
        if isinstance(x, dict) and isinstance(more, Tensor):
            more = {"x": more, "lengths": torch.arange(24) % more.shape[1] + 1}
        x = more
    return model, prepared(model, x)


def options(estimator: str) -> dict[str, Any]:
    return {f.name: FEW[f.name] for f in fields(find_estimator(estimator)) if f.name in FEW}


def weighted(x: Any) -> tuple[Tensor, Any]:
    """Weights 0 to 3, and the data with each row as often as that."""
    weights = torch.tensor([2.0, 0.0, 3.0, 1.0], dtype=torch.float64).repeat(num_data(x))[: num_data(x)]
    return weights, take(x, torch.arange(num_data(x)).repeat_interleave(weights.long()))


def served(model: Any, x: Any, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if find_estimator(name)().refuses(Problem(model, x)) is None]


def same(ours: zoo.Fit, theirs: zoo.Fit, tolerance: float = 1e-12) -> None:
    for name in ("objective", "log_likelihood"):
        pairs = zip(ours.history[name], theirs.history[name], strict=True)
        assert all(a == b or abs(a - b) <= tolerance * abs(b) for a, b in pairs), name
    for (name, a), b in zip(ours.model.named_parameters(), theirs.model.parameters(), strict=True):
        if not name.startswith("encoder"):
            assert torch.allclose(a, b, rtol=tolerance, atol=tolerance), name
    for name in ("log_likelihood", "bic", "aic"):
        expected = getattr(theirs, name)
        assert getattr(ours, name) == (expected if expected is None else pytest.approx(expected, rel=tolerance)), name
    assert (ours.num_data, ours.num_units) == (theirs.num_data, theirs.num_units)


@pytest.mark.parametrize("name", sorted(model_classes()))
def test_a_weight_is_as_many_rows(name: str) -> None:
    model, x = tiny(name)
    if lacks(model, "pretraining") is None:
        pytest.skip("its first stages draw noise a row")
    weights, repeated, tolerance = *weighted(x), 1e-10
    if model.dtype == torch.float32:  # networks measure their inputs by the rows, each once
        weights, tolerance = torch.full((num_data(x),), 2.0), 1e-4
        repeated = take(x, torch.arange(num_data(x)).repeat(2))
    for estimator in served(model, x, EXACT):
        arguments = {"estimator": estimator, "init": "current", **options(estimator)}
        ours, theirs = zoo.fit(model, x, weights=weights, **arguments), zoo.fit(model, repeated, **arguments)
        if estimator == "auto_em" and model.dtype == torch.float32:  # L-BFGS up a network: only its start is comparable
            assert ours.history["objective"][0] == pytest.approx(theirs.history["objective"][0], rel=1e-6)
        else:
            same(ours, theirs, tolerance)


WITH_E_STEP = [name for name in sorted(model_classes()) if lacks(tiny(name)[0], "e_step") is None]


@pytest.mark.parametrize("name", WITH_E_STEP)
def test_statistics_are_the_weighted_sum_of_each_row_s(name: str) -> None:
    model, x = tiny(name)
    n = num_data(x)
    weights = torch.linspace(0.1, 2.5, n, dtype=torch.float64)
    each = [call(model.e_step, take(x, torch.tensor([i]))) * float(weights[i]) for i in range(n)]
    expected = functools.reduce(operator.add, each)
    got = call(model.e_step, Rows(x, weights, {}, float(weights.mean())))
    assert got.keys() == expected.keys()
    for key in got:
        for a, b in zip(numbers(got[key]), numbers(expected[key]), strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max())), key


def numbers(statistic: Any) -> list[Tensor]:
    if not is_dataclass(statistic):
        return [torch.as_tensor(statistic, dtype=torch.float64)]
    return [getattr(statistic, f.name) for f in fields(statistic)]


@pytest.mark.parametrize("estimator", EXACT)
def test_a_weight_of_two_is_two_rows_from_any_start(estimator: str) -> None:
    for name in ("gaussian_mixture", "gaussian_hmm", "ppca"):
        model, x = tiny(name)
        if not served(model, x, (estimator,)):
            continue
        arguments = {"estimator": estimator, "init": "current", **options(estimator)}
        twice = take(x, torch.arange(num_data(x)).repeat(2))
        same(
            zoo.fit(model, x, weights=torch.full((num_data(x),), 2.0), **arguments), zoo.fit(model, twice, **arguments)
        )


@pytest.mark.parametrize("name", sorted(model_classes()))
def test_a_sampled_bound_adds_each_datum_as_often_as_it_counts(name: str) -> None:
    """At the same draws, bound and surrogate (so its gradient too) are linear in the weights, and those of equal ones
    are the unweighted."""
    model, x = tiny(name)
    model.train()
    n, weights = num_data(x), torch.linspace(0.5, 2.0, num_data(x), dtype=model.dtype)

    def step(problem: Problem, name: str, weight: Tensor | None) -> Tensor:
        batch = x if weight is None else Rows(x, weight, {}, float(weight.mean()))
        objective = find_estimator(name)().objective(problem)
        with forked_rng(3):
            surrogate, value, _ = objective(batch)
        moving = [p for p in model.parameters() if p.requires_grad]
        grads = torch.autograd.grad(surrogate, moving, allow_unused=True)
        pairs = zip(grads, moving, strict=True)
        flat = torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in pairs])
        return torch.cat([value.detach().reshape(1), flat]).double() * mass(batch)

    for estimator in served(model, x, SAMPLED):
        problem = Problem(model, x)
        plain = step(problem, estimator, None)
        each = [step(problem, estimator, 1 + torch.eye(n, dtype=model.dtype)[i]) - plain for i in range(n)]
        expected = sum(w * one for w, one in zip(weights.double(), each, strict=True))
        got = step(problem, estimator, weights)
        close = 1e-9 if model.dtype == torch.float64 else 2e-3
        assert torch.allclose(got, expected, rtol=close, atol=close * float(expected.abs().max())), estimator
        assert torch.allclose(step(problem, estimator, torch.full((n,), 2.0, dtype=model.dtype)), 2 * plain, rtol=1e-4)


@pytest.mark.parametrize("estimator", sorted(estimator_classes()))
def test_an_estimator_takes_weights_or_says_why_not(estimator: str) -> None:
    took = 0
    for name in ("gaussian_mixture", "factor_analysis", "vae", "boltzmann_machine", "vrnn", "hopfield_tsp"):
        model, x = tiny(name)
        if not served(model, x, (estimator,)):
            continue
        problem = Problem(model, Rows(x, torch.full((num_data(x),), 2.0, dtype=model.dtype), {}, 2.0))
        reason = find_estimator(estimator)().refuses(problem)
        if estimator in PLAIN:
            assert reason == "its joint density of parameters and data counts every row once"
            with pytest.raises(zoo.ZooError, match="counts every row once"):
                zoo.fit(model, x, estimator=estimator, weights=np.full(num_data(x), 2.0), **options(estimator))
        else:
            assert reason is None
        took += 1
    assert took or estimator == "closed_form"


def test_a_minibatch_s_gradient_is_that_of_all_data_on_average() -> None:
    model, x = tiny("gaussian_mixture")
    model.train()
    weights = torch.linspace(0.2, 3.0, len(x), dtype=torch.float64)
    rows = Rows(x, weights, {}, float(weights.mean()))
    objective = find_estimator("eg")().objective(Problem(model, rows))

    def gradient(batch: Any) -> Tensor:
        return torch.autograd.grad(
            objective(batch).surrogate, [model.means_unconstrained, model.weights_unconstrained]
        )[0]

    batches = [take(rows, index) for index in torch.randperm(len(x)).split(3)]
    mean = sum(len(b.weights) * gradient(b) for b in batches) / len(x)
    assert torch.allclose(mean, gradient(rows), rtol=1e-12)


def test_online_em_of_one_batch_is_em() -> None:
    model, x = tiny("poisson_mixture")
    weights, _ = weighted(x)
    once = zoo.fit(model, x, estimator="em", init="current", weights=weights, max_iter=1, tol=0)
    online = zoo.fit(
        model, x, estimator="online_em", init="current", weights=weights, max_epochs=1, batch_size=99, burn_in=0
    )
    assert torch.allclose(once.model.rates, online.model.rates, rtol=1e-12)


def mixture_of_lines(x: Tensor) -> None:
    """A program of a user's own: two regressions through the origin."""
    share = pyro.param("share", torch.tensor([0.4, 0.6], dtype=torch.float64), constraint=constraints.simplex)
    slope = pyro.param("slope", torch.tensor([1.0, -1.0], dtype=torch.float64))
    scale = pyro.param("scale", torch.tensor([0.5, 0.8], dtype=torch.float64), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("y", dist.Normal(slope[z] * x[:, 0], scale[z]), obs=x[:, 1])


@pytest.mark.parametrize("estimator", ["auto_em", "eg", "svi"])
def test_a_program_s_rows_count_as_often(estimator: str) -> None:
    x = torch.randn(15, 2, dtype=torch.float64)
    weights, repeated = weighted(x)
    arguments = {"estimator": estimator, "init": "current", **options(estimator)}
    if estimator != "svi":
        same(
            zoo.fit(mixture_of_lines, x, weights=weights, **arguments), zoo.fit(mixture_of_lines, repeated, **arguments)
        )
        return
    # The tables of the guide have a row a datum: those of one that is there twice stay equal, and move alike.
    ours = zoo.fit(mixture_of_lines, x, weights=torch.ones(15) * 2, **arguments)
    theirs = zoo.fit(mixture_of_lines, x, **arguments)
    assert ours.elbo == pytest.approx(2 * theirs.elbo, rel=1e-12)


def test_a_program_whose_rows_are_in_no_plate_cannot_weigh_them() -> None:
    def one_event(x: Tensor) -> None:
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
        loc = pyro.param("loc", torch.tensor([0.0, 1.0]))
        pyro.sample("x", dist.Normal(loc[z].unsqueeze(-1).expand(*z.shape, len(x)), 1.0).to_event(1), obs=x)

    with pytest.raises(zoo.ZooError, match="expected a plate of the 4 rows around it"):
        zoo.fit(one_event, torch.randn(4), weights=[1.0, 2, 1, 1], estimator="eg")


def test_a_global_latent_has_the_weights_inside() -> None:
    """The evidence of K draws of a latent that all rows share: weights count rows, not draws."""

    def program(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.3)), 0.5))

    x = torch.tensor([0.5, -0.2, 1.0])
    weights = torch.tensor([2.0, 1.0, 3.0])
    model = as_model(program, guide)
    model.create(x)
    repeated = x.repeat_interleave(weights.long())
    for name in ("iwae", "rws", "reinforce", "svi"):
        values = []
        for data in (Rows(x, weights, {}, 2.0), repeated):
            objective = find_estimator(name)().objective(Problem(model, data))
            with forked_rng(1):
                values.append(float(objective(data).value) * mass(data))
        assert values[0] == pytest.approx(values[1], rel=1e-5), name


def test_scores_count_weights_and_say_so() -> None:
    x = torch.tensor([[-1.0], [0.5], [2.0], [4.0]], dtype=torch.float64)
    weights = np.array([0.5, 2.0, 1.0, 0.0])
    fit = zoo.fit(zoo.GaussianMixture(1, 1), x, weights=weights)
    mean = np.average(x[:3, 0], weights=weights[:3])
    sd = np.sqrt(np.average((x[:3, 0].numpy() - mean) ** 2, weights=weights[:3]))
    assert float(fit.model.means) == pytest.approx(mean, rel=1e-12)
    assert float(fit.model.scale_tril) == pytest.approx(sd, rel=1e-12)
    assert fit.log_likelihood == pytest.approx(weights[:3] @ norm(mean, sd).logpdf(x[:3, 0]), rel=1e-12)
    assert fit.num_data == fit.num_units == 3.5
    assert fit.bic == pytest.approx(2 * np.log(3.5) - 2 * fit.log_likelihood, rel=1e-12)
    assert zoo.fit(zoo.GaussianMixture(1, 1), x, weights=[1, 1, 1, 1]).num_data == 4


def test_a_comparison_hands_weights_on() -> None:
    model, x = tiny("bernoulli_mixture")
    weights, repeated = weighted(x)
    arguments: dict[str, Any] = {"estimators": ["em", "eg"], "init": "current", "options": {"eg": {"max_epochs": 3}}}
    ours = zoo.compare(model, x, weights=weights, gradients=False, **arguments)
    theirs = zoo.compare(model, repeated, gradients=False, **arguments)
    assert ours.num_data == theirs.num_data
    for a, b in zip(ours.fits, theirs.fits, strict=True):
        assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-9)
    assert "em" in str(ours)


def test_a_run_with_other_weights_is_another_run(tmp_path: Any) -> None:
    model, x = tiny("gaussian_mixture")
    weights, _ = weighted(x)
    kept = {"estimator": "eg", "max_epochs": 3, "out": tmp_path / "run"}
    fit = zoo.fit(model, x, weights=weights, **kept)
    again = zoo.fit(model, x, weights=weights, resume=True, **kept)
    assert again.log_likelihood == fit.log_likelihood
    assert zoo.load(tmp_path / "run").num_data == fit.num_data
    with pytest.raises(zoo.ZooError, match="data"):
        zoo.fit(model, x, weights=weights + 1, resume=True, **kept)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], r"weights expected shape \(24,\), one a row, got \(2,\)"),
        ([1.0] * 23 + [-1.0], "weights expected finite numbers of at least 0, got -1 in row 23"),
        ([1.0] * 23 + [float("nan")], "weights expected finite numbers of at least 0, got nan in row 23"),
        ([0.0] * 24, "weights expected a number above 0 for some row"),
        ("heavy", "weights expected"),
    ],
)
def test_weights_that_are_none_are_told_in_one_line(weights: Any, message: str) -> None:
    model, x = tiny("gaussian_mixture")
    with pytest.raises(zoo.ZooError, match=message) as error:
        zoo.fit(model, x, weights=weights)
    assert "\n" not in str(error.value)


def test_a_model_whose_e_step_takes_no_weights_is_refused_by_name() -> None:
    class Own(zoo.GaussianMixture):
        def e_step(self, x: Tensor, hard: bool = False) -> Any:
            return super().e_step(x, hard)

    x = torch.randn(20, 2, dtype=torch.float64)
    with pytest.raises(zoo.ZooError, match="its e_step takes no weights"):
        zoo.fit(Own(2, 2), x, estimator="em", weights=torch.arange(20.0))
    assert call(zoo.GaussianMixture(2, 2).e_step, Rows(x, torch.full((20,), 3.0)))["num_data"] == 60
