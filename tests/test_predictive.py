"""Posterior predictive draws against closed forms, and draws of sequences and of conditional models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_versions import group_names, loo_estimate, plot_predictive_check
from scipy import stats

import zoo
from zoo.models import conditional_vae, gaussian_mixture, pcfg, restricted_boltzmann_machine, vae

DRAWS = 1500


def within(drawn: Any, mean: Any, variance: Any) -> None:
    """The first two moments over the first axis, each within 5 of its standard errors under a normal-like law."""
    drawn = np.asarray(drawn)
    np.testing.assert_array_less(np.abs(drawn.mean(0) - mean), 5 * np.sqrt(variance / len(drawn)) + 1e-12)
    np.testing.assert_array_less(np.abs(drawn.var(0) / variance - 1), 5 * np.sqrt(4 / len(drawn)))


def test_a_mixture_gives_the_moments_of_its_responsibilities() -> None:
    model = zoo.PoissonMixture(2, 1)
    model.weights, model.rates = torch.tensor([0.3, 0.7]), torch.tensor([[2.0], [9.0]])
    x = np.array([[1.0], [5.0], [12.0]])
    fit = zoo.fit(model, x, init="current", max_iter=0)
    joint = np.array([0.3, 0.7]) * stats.poisson.pmf(x, [2.0, 9.0])
    share = joint / joint.sum(1, keepdims=True)
    mean = share @ [2.0, 9.0]
    second = share @ [2.0 + 4.0, 9.0 + 81.0]
    drawn = fit.posterior_predictive(num_draws=DRAWS)
    assert drawn.shape == (DRAWS, 3, 1)
    within(drawn[..., 0], mean, second - mean**2)
    assert torch.equal(drawn, fit.posterior_predictive(x, DRAWS))
    assert not torch.equal(drawn, fit.posterior_predictive(x, DRAWS, seed=1))


def test_factor_analysis_gives_its_closed_form() -> None:
    x = np.random.default_rng(0).normal(size=(6, 3)) @ np.diag([1.0, 2.0, 3.0])
    fit = zoo.fit(zoo.PPCA(1, 3), x)
    w, mean, noise = (fit.parameters[n] for n in ("loadings", "mean", "noise_variance"))
    precision = np.eye(1) + w.T @ w / noise
    centre = np.linalg.solve(precision, w.T @ (x - mean).T / noise).T
    spread = np.diag(w @ np.linalg.inv(precision) @ w.T) + noise
    within(fit.posterior_predictive(num_draws=DRAWS), mean + centre @ w.T, np.broadcast_to(spread, (6, 3)))


def test_a_chain_gives_the_frequencies_of_all_paths_and_fills_gaps() -> None:
    model = zoo.CategoricalHMM(2, 3)
    start, a = np.array([0.6, 0.4]), np.array([[0.9, 0.1], [0.3, 0.7]])
    b = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    model.start_probs, model.transition_probs, model.emission_probs = map(torch.tensor, (start, a, b))
    x = {"x": torch.tensor([[0.0, torch.nan, 2.0], [2.0, 2.0, 0.0]]).unsqueeze(-1), "lengths": torch.tensor([3, 2])}
    fit = zoo.fit(model, x, init="current", max_iter=0)
    paths = {}
    for path in np.ndindex(2, 2, 2):
        weight = start[path[0]] * a[path[0], path[1]] * a[path[1], path[2]]
        paths[path] = weight * b[path[0], 0] * b[path[2], 2]  # the second symbol is not known
    chances = sum(np.array([b[k] for k in path]) * weight for path, weight in paths.items()) / sum(paths.values())
    drawn = fit.posterior_predictive(num_draws=DRAWS)[..., 0].numpy()
    seen = np.stack([(drawn[:, 0] == symbol).mean(0) for symbol in range(3)], -1)
    np.testing.assert_allclose(seen, chances, atol=5 * (0.25 / DRAWS) ** 0.5)
    assert np.isnan(drawn[:, 1, 2]).all()
    assert not np.isnan(drawn[:, 0]).any()


def test_programs_with_priors_and_two_observed_sites() -> None:
    def program(x: Any, y: Any) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.deterministic("double", 2 * z)
            pyro.sample("x", dist.Normal(4 * z + shift, 1.0), obs=x)
            pyro.sample("y", dist.Poisson(1.0 + 6 * z), obs=y)

    x, y = torch.tensor([0.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 9.0])
    fit = zoo.fit(program, (x, y), estimator="eg", max_epochs=60)
    shift = float(fit.parameters["shift"])
    on = 0.3 * stats.norm.pdf(x, 4 + shift) * stats.poisson.pmf(y, 7)
    on = on / (on + 0.7 * stats.norm.pdf(x, shift) * stats.poisson.pmf(y, 1))
    drawn = fit.posterior_predictive(num_draws=DRAWS)
    assert set(drawn) == {"x", "y"}
    within(drawn["x"], shift + 4 * on, 1 + 16 * on * (1 - on))
    within(drawn["y"], 1 + 6 * on, 1 + 6 * on + 36 * on * (1 - on))
    free_x, _ = fit.sample(DRAWS)  # the prior's mode stays where it was fitted
    within(free_x.unsqueeze(-1), shift + 4 * 0.3, 1 + 16 * 0.21)


def test_a_trained_guide_stands_where_nothing_is_exact() -> None:
    def program(x: Any) -> None:
        noise = pyro.param("noise", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z + 5 * k, noise), obs=x)

    def guide(x: Any) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor([0.0, 0.5, -0.5])), 0.1))

    fit = zoo.fit(program, torch.tensor([0.0, 5.5, -0.5]), guide=guide, estimator="svi", max_epochs=2)
    drawn = fit.posterior_predictive(num_draws=100)
    centre = fit.parameters["loc"] + [0.0, 5.0, 0.0]  # k is summed given each draw of z
    within(drawn, centre, np.full(3, 0.01 + fit.parameters["noise"] ** 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # ArviZ's use of matplotlib
def test_draws_of_parameters_widen_and_arviz_checks_them(tmp_path: Path) -> None:
    x = torch.randn(12, 1, generator=torch.Generator().manual_seed(0)).double() + 1
    fit = zoo.fit(zoo.GaussianMixture(1, 1), x, estimator="advi", max_epochs=60, num_samples=300)
    assert fit.draws is not None
    flat = fit.draws.flat()
    loc, variance = flat["means"][:, 0, 0].numpy(), (flat["scale_tril"][:, 0, 0, 0] ** 2).numpy()
    drawn = fit.posterior_predictive(num_draws=300)
    within(drawn.reshape(-1), loc.mean(), variance.mean() + loc.var())
    torch.testing.assert_close(
        drawn.mean((1, 2)).numpy().std(), (loc.var() + variance.mean() / 12) ** 0.5, rtol=0.2, atol=0
    )
    found = fit.to_inference_data(num_draws=50)
    assert found.posterior_predictive["x"].shape == (1, 50, 12, 1)
    plot_predictive_check(found)
    plt.close("all")
    assert np.isfinite(loo_estimate(found))
    fit.save(tmp_path / "a")
    again = zoo.load(tmp_path / "a")
    assert again.x is None
    assert "posterior_predictive" not in group_names(again.to_inference_data())
    with pytest.raises(zoo.ZooError, match=r"posterior_predictive: expected the data, .* Pass x="):
        again.posterior_predictive()
    assert torch.equal(again.posterior_predictive(x, 300), drawn)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_arviz_takes_sequences_and_conditional_models() -> None:
    fit = zoo.fit(zoo.PoissonHMM(2, 1), [np.arange(4.0), np.arange(7.0)], max_iter=2)
    found = fit.to_inference_data(num_draws=20)
    assert set(found.observed_data) == {"x"}
    assert found.constant_data["lengths"].values.tolist() == [4, 7]
    assert np.isnan(found.observed_data["x"][0, 4:]).all()
    plot_predictive_check(found)
    plt.close("all")
    model, x = conditional_vae.tiny()
    found = zoo.fit(model, x, estimator="svi", max_epochs=1).to_inference_data(num_draws=3)
    assert found.posterior_predictive["y"].shape[2:] == found.observed_data["y"].shape
    assert set(found.observed_data) == {"y"}


def test_sequences_come_with_the_lengths_of_the_data_and_conditional_draws_at_inputs() -> None:
    fit = zoo.fit(zoo.PoissonHMM(2, 1), [np.arange(4.0), np.arange(7.0), np.arange(7.0)], max_iter=2)
    drawn = fit.sample(600, lengths="data", seed=1)
    assert drawn["x"].shape == (600, 7, 1)
    short = float((drawn["lengths"] == 4).double().mean())
    assert short == pytest.approx(1 / 3, abs=5 * (2 / 9 / 600) ** 0.5)
    assert (drawn["x"][drawn["lengths"] == 4, 4:] == 0).all()
    whole = fit.sample(600, seed=1)
    assert torch.equal(drawn["x"][drawn["lengths"] == 7], whole[drawn["lengths"] == 7])
    longer = fit.sample(lengths=[2, 9], seed=1)
    assert longer["x"].shape == (2, 9, 1)
    with pytest.raises(zoo.ZooError, match="lengths expected 3 whole numbers from 1"):
        fit.sample(3, lengths=[2, 9])
    mixture = zoo.fit(*gaussian_mixture.tiny(), max_iter=1)
    with pytest.raises(zoo.ZooError, match="lengths expected a model of sequences"):
        mixture.sample(3, lengths="data")
    model, x = conditional_vae.tiny()
    conditional = zoo.fit(model, x, estimator="svi", max_epochs=1)
    with pytest.raises(zoo.ZooError, match=r"sample: expected given= of x, one row a draw"):
        conditional.sample(4)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (pcfg, {"max_iter": 1}, "sums over them in one site"),
        (restricted_boltzmann_machine, {"max_epochs": 1}, "observes data at a site"),
        (vae, {"estimator": "svi", "max_epochs": 1}, "no trained guide"),
    ],
)
def test_what_has_no_predictive_draws_says_so(module: Any, options: dict[str, Any], message: str) -> None:
    fit = zoo.fit(*module.tiny(), **options)
    fit.guide_trained = False
    with pytest.raises(zoo.ZooError, match=message):
        fit.posterior_predictive(num_draws=2)
    if module is not vae:
        assert "posterior_predictive" not in group_names(fit.to_inference_data(num_draws=2))
