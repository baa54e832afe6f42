"""Latents that are known: supervised where they are, held to counts, class means and sums over every other value."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import bernoulli, multivariate_normal, norm, poisson
from test_weights import EXACT, PLAIN, SAMPLED, options, served, tiny
from torch import Tensor
from torch.distributions import constraints

import zoo
from zoo.core.contract import prepared
from zoo.core.data import call, num_data
from zoo.core.isolation import forked_rng
from zoo.core.problem import Problem
from zoo.core.program import look
from zoo.core.rows import Rows
from zoo.estimators import estimator_classes, find_estimator
from zoo.models import model_classes
from zoo.runs.beside import settled

MIXTURES = [n for n, c in sorted(model_classes().items()) if n.endswith("_mixture")]
CHAINS = [n for n in sorted(model_classes()) if n.endswith("_hmm")]


def labels(model: Any, x: Any, unknown: float) -> Tensor:
    """Labels of every row, or of every step, some of them -1."""
    shape = x["x"].shape[:2] if isinstance(x, dict) else (num_data(x),)
    generator = torch.Generator().manual_seed(2)
    z = torch.randint(0, model.num_components, shape, generator=generator)
    return z.masked_fill(torch.rand(shape, generator=generator) < unknown, -1)


def densities(model: Any, rows: Tensor) -> np.ndarray:
    """ln p(row | component), (N, K), by scipy where the family is in it."""
    kind, k = type(model).__name__, range(model.num_components)
    if kind.startswith("Gaussian") and not kind.startswith("GaussianMixtureHMM"):
        pairs = zip(model.means.detach().numpy(), model.covariances.detach().numpy(), strict=True)
        return np.stack([multivariate_normal(m, c).logpdf(rows.numpy()).reshape(len(rows)) for m, c in pairs], 1)
    if kind.startswith("Poisson"):
        return np.stack([poisson(model.rates.detach().numpy()[i]).logpmf(rows.numpy()).sum(1) for i in k], 1)
    if kind.startswith("Bernoulli"):
        return np.stack([bernoulli(model.probs.detach().numpy()[i]).logpmf(rows.numpy()).sum(1) for i in k], 1)
    if kind.startswith("Categorical"):
        return model.emission_probs.detach().log().numpy()[:, rows[:, 0].long().numpy()].T
    return model.component_log_prob(rows).detach().numpy()


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_sums_over_what_is_not_known(name: str) -> None:
    model, x = tiny(name)
    z, weights = labels(model, x, 0.5), torch.linspace(0.5, 2, len(x), dtype=torch.float64)
    joint = densities(model, x) + np.log(model.weights.detach().numpy())
    z_known = z.numpy()[:, None]
    joint[(z_known >= 0) & (z_known != np.arange(model.num_components))] = -np.inf
    expected = logsumexp(joint, axis=1)
    known = {"z": z}
    assert model.log_marginal(x, known=known).detach().numpy() == pytest.approx(expected, rel=1e-12)
    statistics = call(model.e_step, Rows(x, weights, known))
    assert float(statistics["log_likelihood"]) == pytest.approx(weights.numpy() @ expected, rel=1e-12)
    shares = np.exp(joint - expected[:, None])
    assert statistics["counts"].numpy() == pytest.approx(weights.numpy() @ shares, rel=1e-12)
    best = model.e_step(x, hard=True, weights=weights, known=known)
    assert float(best["objective"]) == pytest.approx(weights.numpy() @ joint.max(1), rel=1e-12)


def agrees(path: tuple[int, ...], known: list[int]) -> bool:
    return all(label in (-1, state) for label, state in zip(known, path, strict=False))


def path_score(path: tuple[int, ...], start: np.ndarray, step: np.ndarray, emission: np.ndarray) -> float:
    steps = sum(step[a, b] for a, b in itertools.pairwise(path))
    return float(start[path[0]] + steps + sum(emission[t, state] for t, state in enumerate(path)))


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_sums_over_the_paths_that_agree(name: str) -> None:
    model, x = tiny(name)
    x = {"x": x["x"][:6, :4], "lengths": x["lengths"][:6].clamp_max(4)}
    z, weights = labels(model, x, 0.5), torch.tensor([1.0, 2, 0.5, 1, 3, 1], dtype=torch.float64)
    k, start = model.num_components, np.log(model.initial_probs.detach().numpy())
    step = np.log(model.transition_probs.detach().numpy())
    totals, starts, steps = np.zeros(6), np.zeros(k), np.zeros((k, k))
    for n in range(6):
        length = int(x["lengths"][n])
        emission = densities(model, x["x"][n, :length])
        paths = [p for p in itertools.product(range(k), repeat=length) if agrees(p, z[n].tolist())]
        scores = np.array([path_score(p, start, step, emission) for p in paths])
        totals[n] = logsumexp(scores)
        for path, share in zip(paths, np.exp(scores - totals[n]), strict=True):
            starts[path[0]] += float(weights[n]) * share
            for a, b in itertools.pairwise(path):
                steps[a, b] += float(weights[n]) * share
    assert model.log_marginal(**x, known={"z": z}).detach().numpy() == pytest.approx(totals, rel=1e-12)
    statistics = call(model.e_step, Rows(x, weights, {"z": z}))
    assert float(statistics["log_likelihood"]) == pytest.approx(weights.numpy() @ totals, rel=1e-12)
    assert statistics["starts"].numpy() == pytest.approx(starts, abs=1e-12)
    assert statistics["steps"].numpy() == pytest.approx(steps, abs=1e-12)


def test_known_classes_make_em_supervised() -> None:
    """One iteration is class shares, class means, class covariances, whatever the start."""
    generator = np.random.default_rng(0)
    z = generator.integers(0, 3, 60)
    x = generator.normal(size=(60, 2)) + z[:, None] * 2.0
    for kind in ("full", "tied", "diag", "spherical"):
        fit = zoo.fit(zoo.GaussianMixture(3, 2, covariance_type=kind), x, known={"z": z})
        assert fit.status == "converged"
        assert fit.iterations <= 3
        within = [np.cov(x[z == k].T, ddof=0) for k in range(3)]
        shares = np.bincount(z) / 60
        tied = sum(s * c for s, c in zip(shares, within, strict=True))
        for k in range(3):
            expected = {
                "full": within[k],
                "tied": tied,
                "diag": np.diag(np.diag(within[k])),
                "spherical": np.eye(2) * np.trace(within[k]) / 2,
            }[kind]
            assert fit.model.weights[k].item() == pytest.approx(shares[k], rel=1e-12)
            assert fit.model.means[k].numpy() == pytest.approx(x[z == k].mean(0), rel=1e-12)
            assert fit.model.covariances[k].numpy() == pytest.approx(expected, rel=1e-10, abs=1e-12)
        density = [multivariate_normal(m, c) for m, c in zip(fit.model.means, fit.model.covariances, strict=True)]
        joint = sum(np.log(shares[k]) + density[k].logpdf(row) for k, row in zip(z, x, strict=True))
        assert fit.log_likelihood == pytest.approx(joint, rel=1e-10)


def test_known_states_give_the_counts_of_a_chain() -> None:
    model, x = tiny("categorical_hmm")
    z = labels(model, x, 0.0)
    fit = zoo.fit(model, x, known={"z": z.double()}, max_iter=1, tol=0)
    k = model.num_components
    steps, emitted, starts = np.zeros((k, k)), np.zeros((k, model.num_symbols)), np.zeros(k)
    for n, length in enumerate(x["lengths"].tolist()):
        starts[z[n, 0]] += 1
        for t in range(length):
            emitted[z[n, t], int(x["x"][n, t, 0])] += 1
            if t:
                steps[z[n, t - 1], z[n, t]] += 1
    found = fit.parameters
    assert found["initial_probs"] == pytest.approx(starts / starts.sum(), rel=1e-12)
    assert found["transition_probs"] == pytest.approx(steps / steps.sum(1, keepdims=True), rel=1e-12)
    assert found["emission_probs"] == pytest.approx(emitted / emitted.sum(1, keepdims=True), rel=1e-12)


@pytest.mark.parametrize("name", [*MIXTURES, *CHAINS])
def test_exact_estimators_agree_on_what_is_known(name: str) -> None:
    model, x = tiny(name)
    known = {"z": labels(model, x, 0.5)}
    with torch.no_grad():
        expected = float(call(model.log_marginal, Rows(x, None, known)).sum())
    for estimator in served(model, x, EXACT):
        arguments = {"estimator": estimator, "init": "current", **options(estimator)}
        fit = zoo.fit(model, x, known=known, **arguments)
        assert fit.num_data == num_data(x)
        if estimator in ("em", "auto_em"):
            assert fit.history["log_likelihood"][0] == pytest.approx(expected, rel=1e-10)
            assert all(b >= a - 1e-8 for a, b in itertools.pairwise(fit.history["objective"]))
        elif estimator == "eg":
            assert fit.history["objective"][0] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", sorted(model_classes()))
def test_a_guide_is_sure_of_what_is_known(name: str) -> None:
    """Every sampled estimator serves known latents: with all of them known, q has nothing left to say, and the bound is
    ln p(x, z) whatever the draws."""
    model, x = tiny(name)
    model.train()
    sites = look(model, x).latents
    if not sites:
        pytest.skip("it has no latent that could be known")
    with forked_rng(0), torch.no_grad():
        trace = pyro.poutine.trace(lambda: call(model.model, x)).get_trace()
    known: dict[str, Tensor] = {}
    for site in sites:
        value = trace.nodes[site.name]["value"]
        known[site.name] = value.argmax(-1) if site.family == "OneHotCategorical" else value
    if any(site.name == "z_0" for site in sites):
        steps = max(int(s.removeprefix("z_")) for s in trace.nodes if s.startswith("z_") and s[2:].isdigit()) + 1
        known = {"z": torch.stack([trace.nodes[f"z_{t}"]["value"] for t in range(steps)], 1)}
    trace.compute_log_prob()
    expected = float(trace.log_prob_sum().detach())
    if name == "ctc":  # its latent is a path as a whole
        with pytest.raises(zoo.ZooError, match="expected a family whose values can be listed, got Frames"):
            settled(Problem(model, x), Rows(x, None, known), ())
        return
    problem, _ = settled(Problem(model, x), Rows(x, None, known), ())
    close = 1e-9 if model.dtype == torch.float64 else 1e-4
    for estimator in served(model, x, SAMPLED):
        reason = find_estimator(estimator)().refuses(problem)
        if problem.program.left_out:  # the guide sums over what is known
            assert reason is not None, estimator
            assert reason.startswith("its guide leaves out"), estimator
            continue
        assert reason is None, estimator
        objective = find_estimator(estimator)().objective(problem)
        for seed in (1, 2):
            with forked_rng(seed):
                step = objective(problem.data)
            assert float(step.value) * num_data(x) == pytest.approx(expected, rel=close), estimator


def test_factors_that_are_known_make_a_regression() -> None:
    model, x = tiny("factor_analysis")
    z = torch.randn(len(x), 1, dtype=torch.float64)
    z[::3] = torch.nan
    loadings, mean = model.loadings.detach().numpy(), model.mean.detach().numpy()
    noise = model.noise_variance.detach().numpy()
    got = model.log_marginal(x, known={"z": z}).detach().numpy()
    for n in range(len(x)):
        if n % 3:
            expected = norm(mean + loadings @ z[n].numpy(), np.sqrt(noise)).logpdf(x[n]).sum() + norm.logpdf(z[n]).sum()
        else:
            expected = multivariate_normal(mean, loadings @ loadings.T + np.diag(noise)).logpdf(x[n])
        assert got[n] == pytest.approx(expected, rel=1e-12)
    with pytest.raises(zoo.ZooError, match=r"em cannot fit this model: its e_step takes no known latents.*Use .*eg"):
        zoo.fit(model, x, estimator="em", known={"z": z})
    fit = zoo.fit(model, x, known={"z": z}, max_epochs=5)
    assert fit.estimator == "eg"


def two_lines(x: Tensor) -> None:
    share = pyro.param("share", torch.tensor([0.4, 0.6], dtype=torch.float64), constraint=constraints.simplex)
    slope = pyro.param("slope", torch.tensor([1.0, -1.0], dtype=torch.float64))
    with pyro.plate("rows", len(x)):
        line = pyro.sample("line", dist.Categorical(share))
        pyro.sample("y", dist.Normal(slope[line] * x[:, 0], 0.5), obs=x[:, 1])


@pytest.mark.parametrize("estimator", ["auto_em", "eg"])
def test_a_program_is_supervised_by_its_own_site(estimator: str) -> None:
    generator = torch.Generator().manual_seed(0)
    line = torch.randint(0, 2, (40,), generator=generator)
    x = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    x[:, 1] = torch.tensor([2.0, -0.5], dtype=torch.float64)[line] * x[:, 0] + 0.1 * x[:, 1]
    fit = zoo.fit(two_lines, x, estimator=estimator, known={"line": line})
    for k in (0, 1):
        u, v = x[line == k].T
        assert fit.parameters["slope"][k] == pytest.approx(float(u @ v / (u @ u)), rel=1e-4)
        assert fit.parameters["share"][k] == pytest.approx(float((line == k).double().mean()), rel=1e-4)
    steps = {"max_epochs": 200} if estimator == "eg" else {}
    unknown = {"line": torch.full((40,), -1)}
    assert zoo.fit(two_lines, x, estimator=estimator, known=unknown, **steps).log_likelihood == (
        pytest.approx(zoo.fit(two_lines, x, estimator=estimator, **steps).log_likelihood, rel=1e-12)
    )


def test_a_recognised_chain_and_the_program_that_is_run_agree() -> None:
    from zoo.automatic.plan import make_plan
    from zoo.core.functions import as_model

    def chain(x: Tensor) -> None:
        table = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
        rows = pyro.param("rows", table, constraint=constraints.simplex)
        loc = pyro.param("loc", torch.tensor([-1.0, 1.0], dtype=torch.float64))
        with pyro.plate("data", len(x)):
            z = None
            for t in pyro.markov(range(x.shape[1])):
                z = pyro.sample(f"z_{t}", dist.Categorical(rows[0] if z is None else rows[z]))
                pyro.sample(f"x_{t}", dist.Normal(loc[z], 1.0), obs=x[:, t])

    x = torch.randn(8, 5, dtype=torch.float64)
    data = Rows(x, torch.linspace(0.5, 3, 8, dtype=torch.float64), {"z": torch.randint(-1, 2, (8, 5))})
    ends = []
    for recognised in (True, False):
        model = as_model(chain)
        model.create(x)
        plan = make_plan(model, data, recognised=recognised)
        assert (plan.chain is not None) == recognised
        for _ in range(3):
            evidence, weights = plan.e_step(data)[:2]
            plan.m_step(data, weights)
        ends.append((evidence, *(v.detach() for v in model.named_values().values())))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(ends[0][1:], ends[1][1:], strict=True))


def test_a_start_is_numbered_as_the_labels_are() -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.arange(90) % 3
    centres = torch.tensor([[5.0, 0], [-5, 0], [0, 5]], dtype=torch.float64)
    x = torch.randn(90, 2, generator=generator, dtype=torch.float64) * 0.3 + centres[z]
    for shift in range(3):  # whatever number k-means gives them; three rows are too few for EM to set a wrong one right
        known = torch.where(torch.arange(90) < 3, (z + shift) % 3, -1)
        fit = zoo.fit(zoo.GaussianMixture(3, 2), x, known={"z": known}, restarts=1, max_iter=0)
        assert torch.equal(fit.predict(x), (z + shift) % 3)


def test_labels_help_a_deep_mixture() -> None:
    model, x = tiny("gaussian_mixture_vae")
    site = next(s.name for s in look(model, x).latents if s.discrete)
    fit = zoo.fit(model, x, estimator="svi", known={site: torch.zeros(num_data(x))}, max_epochs=2)
    assert np.isfinite(fit.elbo)


@pytest.mark.parametrize("estimator", sorted(estimator_classes()))
def test_an_estimator_takes_labels_or_says_why_not(estimator: str) -> None:
    model, x = tiny("gaussian_mixture")
    if not served(model, x, (estimator,)):
        return
    arguments = {"estimator": estimator, "known": {"z": labels(model, x, 0.5)}, **options(estimator)}
    if estimator in PLAIN:
        with pytest.raises(zoo.ZooError, match="knows nothing of any latent"):
            zoo.fit(model, x, **arguments)
        return
    assert np.isfinite(zoo.fit(model, x, **arguments).log_likelihood)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"y": [0] * 24}, r"known: latent 'y' is not known. (Did you mean 'z'|There are: z)"),
        ({"z": [0] * 5}, r"known\['z'\] expected one entry for each of 24 rows, got shape \(5,\)"),
        (
            {"z": [2] + [0] * 23},
            r"known\['z'\] expected whole numbers below 2, or -1 where .* known, got 2 in row 0",
        ),
        ({"z": [0.5] + [0] * 23}, r"known\['z'\] expected whole numbers below 2.*got 0.5 in row 0"),
        ({"z": torch.zeros(24, 2)}, r"known\['z'\] expected 24 rows of a latent of shape \(24,\)"),
        ([0] * 24, "known expected values by latent site, got list"),
    ],
)
def test_labels_that_are_none_are_told_in_one_line(known: Any, message: str) -> None:
    model, x = tiny("gaussian_mixture")
    with pytest.raises(zoo.ZooError, match=message) as error:
        zoo.fit(model, x, known=known)
    assert "\n" not in str(error.value)


def test_states_have_one_entry_a_time_step() -> None:
    model, x = tiny("gaussian_hmm")
    t = x["x"].shape[1]
    with pytest.raises(zoo.ZooError, match=rf"known\['z'\] expected shape \(24, {t}\), one entry a time step"):
        zoo.fit(model, x, known={"z": torch.zeros(24, t + 1)})
    with pytest.raises(zoo.ZooError, match=r"latent 'state' is not known\. There are: z"):
        zoo.fit(model, x, known={"state": torch.zeros(24, t)})
    first = {"z_0": torch.zeros(24)}
    assert zoo.fit(model, x, estimator="svi", known=first, max_epochs=2, warmup=0).elbo is not None


def test_factors_are_known_wholly_or_not_at_all() -> None:
    model = zoo.FactorAnalysis(2, 3)
    x = prepared(model, torch.randn(6, 3))
    z = torch.randn(6, 2)
    z[0, 0] = torch.nan
    with pytest.raises(zoo.ZooError, match=r"known\['z'\] expected rows that are known wholly or not at all"):
        zoo.fit(model, x, estimator="eg", known={"z": z})


def test_a_guide_that_leaves_out_what_is_known_is_refused() -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
            y = pyro.sample("y", dist.Normal(0.0, 1.0))
            loc = pyro.param("loc", torch.tensor([0.0, 1.0]))
            pyro.sample("x", dist.Normal(loc[z] + y, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(pyro.param("m", torch.zeros(len(x))), 1.0))

    x = torch.randn(5)
    with pytest.raises(zoo.ZooError, match="its guide leaves out 'z', which is known"):
        zoo.fit(program, x, guide=guide, estimator="svi", known={"z": [0, 1, 0, -1, -1]})
    fit = zoo.fit(program, x, guide=guide, estimator="svi", known={"y": [0.5, np.nan, 0, 0, 0]}, max_epochs=3, warmup=0)
    assert np.isfinite(fit.elbo)
