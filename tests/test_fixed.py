"""Parameters that stay: at the values the model has, with all others at the maximum given these."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from test_weights import options, served, tiny
from torch import Tensor
from torch.distributions import constraints

import zoo
from zoo.core.contract import lacks
from zoo.core.data import call, mass
from zoo.core.problem import Problem
from zoo.estimators import find_estimator
from zoo.estimators.base import kept
from zoo.models import model_classes

#: Every parameter that an M step can leave as it is, by model.
KEPT = [
    (name, raw)
    for name in sorted(model_classes())
    for model, _ in [tiny(name)]
    if lacks(model, "e_step", "m_step") is None
    for raw in sorted(kept(model))
    if any(raw == n.removesuffix("_unconstrained") for n, _ in model.named_parameters())
]


def user_name(model: Any, raw: str) -> str:
    shown = {value: name for cls in type(model).__mro__ for name, value in cls.__dict__.get("reads_as", {}).items()}
    return shown.get(raw, raw)


@pytest.mark.parametrize(("name", "raw"), KEPT)
def test_em_ends_where_the_gradient_of_all_others_is_zero(name: str, raw: str) -> None:
    """From the default start: the fixed one has the model's own value to the last bit, EM never falls, and what it
    climbs has no slope in what moves (by autograd, which knows nothing of M steps)."""
    model, x = tiny(name)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    fit = zoo.fit(model, x, estimator="em", fixed=[user_name(model, raw)], tol=1e-13, max_iter=4000, restarts=1)
    full = next(n for n, _ in model.named_parameters() if n.removesuffix("_unconstrained") == raw)
    assert torch.equal(fit.model.get_parameter(full), before[full])
    assert all(p.requires_grad for p in fit.model.parameters())
    history = fit.history["objective"]
    assert all(b >= a - 1e-9 * abs(a) for a, b in itertools.pairwise(history))
    if fit.degenerate:
        return  # a floor acts: the maximum is at an edge
    fitted = fit.model.train()
    moving = {n: p for n, p in fitted.named_parameters() if n != full and not n.startswith("encoder")}
    objective = call(fitted.log_marginal, x).sum() + fitted.log_prior()
    for (other, parameter), slope in zip(
        moving.items(), torch.autograd.grad(objective, list(moving.values()), allow_unused=True), strict=True
    ):
        if slope is not None:
            inside = parameter.isfinite() & (parameter.abs() < 15)  # at an edge the slope need not vanish
            assert float(slope[inside].abs().max() if inside.any() else 0) < 2e-3, other


def test_the_parameters_that_can_be_kept_are_these() -> None:
    found = {name: {raw for n, raw in KEPT if n == name} for name, _ in KEPT}
    assert found["gaussian_mixture"] == {"weights", "means", "scale_tril"}
    assert found["poisson_mixture"] == {"weights", "rates"}
    assert found["bernoulli_mixture"] == {"weights", "logits"}
    assert found["gaussian_hmm"] == {"start_probs", "transition_probs", "means", "scale_tril"}
    assert found["gaussian_mixture_hmm"] == {*found["gaussian_hmm"], "mixture_weights"}
    assert found["categorical_hmm"] == {"start_probs", "transition_probs", "emission_probs"}
    assert found["factor_analysis"] == {"mean", "loadings", "noise_variance"}
    assert found["ppca"] == {"mean"}


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_covariances_are_scattered_about_the_means_that_stay(kind: str) -> None:
    generator = np.random.default_rng(0)
    z = generator.integers(0, 2, 50)
    x = generator.normal(size=(50, 2)) * [1.0, 2.0] + 3.0 * z[:, None]
    model = zoo.GaussianMixture(2, 2, covariance_type=kind)
    model.means = torch.tensor([[0.5, 0.0], [2.0, 4.0]])
    fit = zoo.fit(model, x, known={"z": z}, fixed="means")
    away = [(x[z == k] - model.means[k].detach().numpy()) for k in range(2)]
    scatter = [a.T @ a for a in away]
    for k in range(2):
        expected = {
            "full": scatter[k] / (z == k).sum(),
            "tied": sum(scatter) / 50,
            "diag": np.diag(np.diag(scatter[k] / (z == k).sum())),
            "spherical": np.eye(2) * np.trace(scatter[k] / (z == k).sum()) / 2,
        }[kind]
        assert fit.model.covariances[k].numpy() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_a_mixture_with_fixed_covariances_is_scipy_s_maximum() -> None:
    generator = np.random.default_rng(1)
    x = np.concatenate([generator.normal(-2, 1, (40, 1)), generator.normal(2, 0.5, (25, 1))])
    model = zoo.GaussianMixture(2, 1)
    model.means = torch.tensor([[-1.0], [1.0]])
    model.covariances = torch.tensor([[[1.0]], [[0.25]]])
    fit = zoo.fit(model, x, fixed=["covariances"], init="current", tol=1e-14)

    def negative(theta: np.ndarray) -> float:
        share = 1 / (1 + np.exp(-theta[0]))
        parts = [multivariate_normal(theta[1 + k], [1.0, 0.25][k]).pdf(x[:, 0]) for k in (0, 1)]
        return -float(np.log(share * parts[0] + (1 - share) * parts[1]).sum())

    best = minimize(negative, [0.0, -1.0, 1.0], method="BFGS", options={"gtol": 1e-9})
    assert fit.log_likelihood == pytest.approx(-best.fun, rel=1e-9)
    assert fit.model.means.flatten().numpy() == pytest.approx(best.x[1:], rel=1e-4)
    assert fit.num_parameters == 3


@pytest.mark.parametrize("fixed", [["mean"], ["loadings"], ["noise_variance"], ["mean", "loadings"]])
def test_factor_analysis_with_fixed_parts_is_scipy_s_maximum(fixed: list[str]) -> None:
    model, x = tiny("factor_analysis")
    fit = zoo.fit(model, x, fixed=fixed, init="current", tol=1e-14, max_iter=20_000)
    own = {name: getattr(model, name).detach().numpy() for name in ("mean", "loadings", "noise_variance")}

    def covariance(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = {"mean": theta[:3], "loadings": theta[3:6, None], "noise_variance": np.exp(theta[6:])}
        parts = {name: own[name] if name in fixed else value for name, value in parts.items()}
        return parts["mean"], parts["loadings"] @ parts["loadings"].T + np.diag(parts["noise_variance"])

    def negative(theta: np.ndarray) -> float:
        mean, matrix = covariance(theta)
        return -float(multivariate_normal(mean, matrix).logpdf(x).sum())

    start = np.concatenate([own["mean"], own["loadings"][:, 0], np.log(own["noise_variance"])])
    best = minimize(negative, start, method="BFGS", options={"gtol": 1e-7, "maxiter": 2000})
    assert fit.log_likelihood == pytest.approx(-best.fun, rel=1e-6)


def test_the_value_that_stays_is_the_model_s_own_whatever_the_start() -> None:
    model, x = tiny("gaussian_hmm")
    own = model.means.detach().clone()
    for init in ("kmeans++", "random", "current"):
        for estimator in ("em", "auto_em", "eg"):
            fit = zoo.fit(model, x, estimator=estimator, fixed=["means"], init=init, **options(estimator))
            assert torch.equal(fit.model.means, own), (init, estimator)
            assert not torch.equal(fit.model.scale_tril, model.scale_tril.detach())
    assert model.get_parameter("means_unconstrained").requires_grad


def test_em_and_auto_em_agree_on_what_is_left() -> None:
    for name, fixed in (
        ("gaussian_mixture", "means"),
        ("poisson_mixture", "weights"),
        ("gaussian_hmm", "transition_probs"),
    ):
        model, x = tiny(name)
        fits = [
            zoo.fit(model, x, estimator=e, fixed=fixed, init="current", max_iter=5, tol=0) for e in ("em", "auto_em")
        ]
        assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood, rel=1e-9)
        assert fits[0].num_parameters == fits[1].num_parameters


@pytest.mark.parametrize("estimator", ["hard_em", "online_em", "svi", "iwae", "rws", "reinforce", "gumbel"])
def test_every_estimator_lets_it_stay(estimator: str) -> None:
    model, x = tiny("gaussian_mixture")
    fit = zoo.fit(model, x, estimator=estimator, fixed=["weights", "covariances"], **options(estimator))
    assert torch.equal(fit.model.weights, model.weights.detach())
    assert torch.equal(fit.model.scale_tril, model.scale_tril.detach())
    assert not torch.equal(fit.model.means, model.means.detach())


def test_a_program_s_parameters_stay_by_their_own_names() -> None:
    def program(x: Tensor) -> None:
        share = pyro.param("share", torch.tensor([0.3, 0.7], dtype=torch.float64), constraint=constraints.simplex)
        loc = pyro.param("loc", torch.tensor([-1.0, 1.0], dtype=torch.float64))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(share))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    x = torch.randn(30, dtype=torch.float64)
    for estimator in ("auto_em", "eg", "svi"):
        fit = zoo.fit(program, x, estimator=estimator, fixed=["share"], **options(estimator))
        assert fit.parameters["share"] == pytest.approx([0.3, 0.7], rel=1e-15)
        assert abs(fit.parameters["loc"] - [-1, 1]).max() > 1e-3
        assert fit.num_parameters == 2
    with pytest.raises(zoo.ZooError, match=r"fixed: parameter 'shares' is not known\. Did you mean 'share'\?"):
        zoo.fit(program, x, fixed=["shares"])


def test_what_no_m_step_can_keep_is_refused_by_name() -> None:
    model, x = tiny("ppca")
    with pytest.raises(zoo.ZooError, match=r"em cannot fit this model: 'loadings' is to stay.*Use eg"):
        zoo.fit(model, x, estimator="em", fixed=["loadings"])
    assert zoo.fit(model, x, fixed=["loadings"], max_epochs=3).estimator == "eg"
    with pytest.raises(zoo.ZooError, match=r"fixed: parameter 'wights' is not known\. Did you mean 'weights'"):
        zoo.fit(zoo.GaussianMixture(2, 2), torch.randn(9, 2), fixed=["wights"])
    with pytest.raises(zoo.ZooError, match="parameter 'scale_tril' is not known"):
        zoo.fit(zoo.GaussianMixture(2, 2), torch.randn(9, 2), fixed="scale_tril")


def test_a_comparison_fixes_for_all(tmp_path: Any) -> None:
    model, x = tiny("poisson_mixture")
    made = zoo.compare(
        model, x, estimators=["em", "eg"], fixed=["rates"], gradients=False, options={"eg": {"max_epochs": 3}}
    )
    for fit in made.fits:
        assert torch.equal(fit.model.rates, model.rates.detach())
        assert all(p.requires_grad for p in fit.model.parameters())
    fit = zoo.fit(model, x, fixed=["rates"], out=tmp_path / "run")
    assert zoo.load(tmp_path / "run").options["fixed"] == "rates"
    assert fit.num_parameters == 1


def test_the_command_line_fixes_too(run: Any) -> None:
    mixture = ("gaussian_mixture", "--data", "iris", "--set", "num_components=2")
    stays = run("fit", *mixture, "--fixed", "weights, covariances", "--out", "run")
    assert stays.code == 0, stays.err
    found = zoo.load("run")
    assert found.parameters["weights"] == pytest.approx([0.5, 0.5], rel=1e-15)
    assert found.parameters["covariances"][0] == pytest.approx(np.eye(4), abs=1e-15)
    assert found.num_parameters == 8
    wrong = run("fit", *mixture, "--fixed", "meanz")
    assert wrong.code != 0
    assert "fixed: parameter 'meanz' is not known. Did you mean 'means'?" in wrong.err
    assert "--fixed expected names with commas, got ','" in run("fit", *mixture, "--fixed", ",").err
    both = run("compare", *mixture, "--estimators", "em,eg", "--fixed", "weights", "--set", "eg.max_epochs=3", "--json")
    assert both.code == 0, both.err


def test_a_gradient_step_moves_nothing_that_stays() -> None:
    model, x = tiny("gaussian_mixture")
    model.get_parameter("means_unconstrained").requires_grad_(False)
    assert "em" in served(model, x, ("em", "eg"))
    step = find_estimator("eg")().objective(Problem(model.train(), x))(x)
    step.surrogate.backward()
    assert model.get_parameter("means_unconstrained").grad is None
    assert mass(x) == len(x)
