"""Priors and the joint over parameters: against scipy, against numerical integrals, and NumPyro's against Pyro's."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import scipy.special
import scipy.stats as ss
import torch
from torch import Tensor
from torch.distributions import biject_to

import zoo
from zoo.bayes import joint as bayes
from zoo.bayes import priors
from zoo.bayes.draws import Draws
from zoo.core.contract import lacks, prepared
from zoo.core.data import call, map_tensors
from zoo.models import model_classes
from zoo.models.gaussian_hmm import tiny as gaussian_hmm
from zoo.runs.modes import told

TINY = {name: sys.modules[cls.__module__].tiny()[0] for name, cls in model_classes().items()}
BAYESIAN = sorted(name for name, model in TINY.items() if lacks(model, "prior", "numpyro_model") is None)

CASES: list[tuple[str, dict[str, Any]]] = [
    *(
        ("gaussian_mixture", {"num_components": 3, "num_features": 2, "covariance_type": c})
        for c in ("full", "tied", "diag", "spherical")
    ),
    ("gaussian_mixture", {"num_components": 1, "num_features": 2}),
    ("gaussian_mixture", {"num_components": 2, "num_features": 1}),
    *(
        ("gaussian_hmm", {"num_states": 2, "num_features": 2, "covariance_type": c, "initial": i})
        for c, i in (("diag", "free"), ("full", "stationary"), ("tied", "uniform"), ("spherical", "free"))
    ),
    ("gaussian_hmm", {"num_states": 1, "num_features": 2}),
    ("poisson_hmm", {"num_states": 3, "num_features": 1, "concentration": 1.5}),
    ("factor_analysis", {"num_factors": 2, "num_features": 3}),
]


def data(name: str, features: int) -> Any:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 6, features, generator=generator, dtype=torch.float64) * 2 + 5
    if name == "poisson_hmm":
        x = x.round().clamp_min(0)
    return {"x": x, "lengths": torch.tensor([6, 3, 1])} if name.endswith("hmm") else x.reshape(-1, features)


def case(name: str, arguments: dict[str, Any]) -> tuple[Any, Any]:
    model = model_classes()[name](**arguments)
    return model, prepared(model, data(name, arguments["num_features"]))


def point(model: Any, x: Any, seed: int) -> dict[str, Tensor]:
    """A point of the prior's space that is nobody's default."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, fn in call(model.prior, x).items():
        like = biject_to(fn.support).inv(fn.sample())
        noise = torch.randn(like.shape, generator=generator, dtype=torch.float64)
        values[name] = biject_to(fn.support)(0.5 * like + 0.5 * noise)
    return values


@pytest.mark.parametrize(
    ("name", "arguments"), CASES, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values()))
)
def test_numpyros_log_joint_is_pyros(name: str, arguments: dict[str, Any]) -> None:
    import jax
    from numpyro.infer.util import log_density

    from zoo.bayes.numpyro import double_precision

    model, x = case(name, arguments)
    arrays = map_tensors(lambda t: t.numpy(), x)
    args, kwargs = ((), arrays) if isinstance(arrays, dict) else ((arrays,), {})
    before = jax.numpy.ones(1).dtype
    density = jax.jit(lambda values: log_density(model.numpyro_model, args, kwargs, values)[0])
    for seed in range(3):
        values = point(model, x, seed)
        ours = float(bayes.log_joint(model, values, x).detach())
        with double_precision():
            theirs = float(density({n: v.numpy() for n, v in values.items()}))
        assert math.isfinite(ours)
        assert theirs == pytest.approx(ours, abs=1e-9, rel=1e-12)
    assert jax.numpy.ones(1).dtype == before, "the caller's precision was changed"


def test_every_model_with_a_program_is_among_the_cases() -> None:
    assert set(BAYESIAN) == {name for name, _ in CASES}


@pytest.mark.parametrize("name", BAYESIAN)
def test_pyros_program_has_the_log_joint(name: str) -> None:
    module = importlib.import_module(model_classes()[name].__module__)
    model, x = module.tiny()
    x = prepared(model, x)
    values = point(model, x, 1)
    conditioned = pyro.condition(bayes.joint(model, x), data=values)
    trace = pyro.poutine.trace(lambda: call(conditioned, x)).get_trace()
    assert float(trace.log_prob_sum()) == pytest.approx(float(bayes.log_joint(model, values, x)), abs=1e-10)
    assert {n for n, s in trace.nodes.items() if s["type"] == "sample"} == {*call(model.prior, x), "log_likelihood"}


def test_the_mixtures_joint_is_scipys() -> None:
    """Priors and likelihood written out again with scipy; the LKJ density by Lewandowski et al.'s formula, D = 2."""
    model, x = case("gaussian_mixture", {"num_components": 3, "num_features": 2})
    values = {name: v.numpy() for name, v in point(model, x, 0).items()}
    array = x.numpy()
    mean, sd = array.mean(0), array.std(0)
    total = ss.dirichlet.logpdf(values["weights"], [2.0] * 3)
    total += ss.norm.logpdf(values["means"], mean, 2 * sd).sum()
    total += ss.lognorm.logpdf(values["scales"], s=1, scale=sd / 2).sum()
    densities = []
    for k in range(3):
        r = values["correlations"][k, 1, 0]
        # LKJ(2) of a 2 x 2 correlation r is (1 - r^2) * 3 / 4; the factor's one free entry is r itself.
        total += math.log(0.75 * (1 - r**2))
        cov = np.array([[1, r], [r, 1]]) * np.outer(values["scales"][k], values["scales"][k])
        densities.append(np.log(values["weights"][k]) + ss.multivariate_normal.logpdf(array, values["means"][k], cov))
    total += scipy.special.logsumexp(densities, 0).sum()
    tensors = {name: torch.as_tensor(v) for name, v in values.items()}
    assert float(bayes.log_joint(model, tensors, x)) == pytest.approx(total, abs=1e-9)


def test_the_poisson_hmms_joint_is_a_sum_over_paths() -> None:
    import itertools

    model, x = case("poisson_hmm", {"num_states": 2, "num_features": 1, "concentration": 1.5})
    values = {name: v.numpy() for name, v in point(model, x, 0).items()}
    rows = np.concatenate([s[:n, 0] for s, n in zip(x["x"].numpy(), x["lengths"].tolist(), strict=True)])
    mean = (rows.sum() + 0.5) / (len(rows) + 0.5)
    total = ss.gamma.logpdf(values["rates"], 2, scale=mean / 2).sum()
    for row in [values["start_probs"], *values["transition_probs"]]:
        total += ss.dirichlet.logpdf(row, [1.5, 1.5])
    for sequence, length in zip(x["x"].numpy(), x["lengths"].tolist(), strict=True):
        paths = []
        for path in itertools.product(range(2), repeat=length):
            p = math.log(values["start_probs"][path[0]])
            p += sum(math.log(values["transition_probs"][a, b]) for a, b in itertools.pairwise(path))
            p += sum(ss.poisson.logpmf(sequence[t, 0], values["rates"][k, 0]) for t, k in enumerate(path))
            paths.append(p)
        total += scipy.special.logsumexp(paths)
    tensors = {name: torch.as_tensor(v) for name, v in values.items()}
    assert float(bayes.log_joint(model, tensors, x).detach()) == pytest.approx(total, abs=1e-9)


def test_factor_analysis_joint_is_scipys() -> None:
    model, x = case("factor_analysis", {"num_factors": 2, "num_features": 3})
    values = {name: v.numpy() for name, v in point(model, x, 0).items()}
    array = x.numpy()
    mean, sd = array.mean(0), array.std(0)
    total = ss.norm.logpdf(values["mean"], mean, sd).sum()
    total += ss.norm.logpdf(values["loadings"], 0, sd[:, None]).sum()
    total += ss.lognorm.logpdf(values["noise_variance"], s=1, scale=sd**2 / 2).sum()
    cov = values["loadings"] @ values["loadings"].T + np.diag(values["noise_variance"])
    total += ss.multivariate_normal.logpdf(array, values["mean"], cov).sum()
    tensors = {name: torch.as_tensor(v) for name, v in values.items()}
    assert float(bayes.log_joint(model, tensors, x).detach()) == pytest.approx(total, abs=1e-9)


def test_missing_entries_are_summed_out_in_numpyro_too() -> None:
    from numpyro.infer.util import log_density

    from zoo.bayes.numpyro import double_precision

    model, x = case("gaussian_hmm", {"num_states": 2, "num_features": 2})
    x["x"][0, 2, 1] = torch.nan
    values = point(model, x, 0)
    arrays = {n: v.numpy() for n, v in values.items()}
    with double_precision():
        theirs = log_density(model.numpyro_model, (), {n: v.numpy() for n, v in x.items()}, arrays)[0]
    assert float(theirs) == pytest.approx(float(bayes.log_joint(model, values, x)), abs=1e-9)
    full, _ = case("gaussian_hmm", {"num_states": 2, "num_features": 2, "covariance_type": "full"})
    with pytest.raises(zoo.ZooError, match="nuts: data expected no missing entries under full covariances, got NaN"):
        zoo.fit(full, x, estimator="nuts", num_warmup=1, num_samples=4)


def test_priors_follow_the_units_of_the_data() -> None:
    """In millimetres instead of metres the log-joint moves by the Jacobian alone."""
    x = torch.randn(20, 2, dtype=torch.float64)
    prior, scaled = (priors.gaussians(x * unit, 2, "full") for unit in (1.0, 1000.0))
    means, scales = torch.randn(2, 2, dtype=torch.float64), torch.rand(2, 2, dtype=torch.float64) + 0.1
    for name, value in (("means", means), ("scales", scales)):
        shift = value.numel() * math.log(1000.0)
        after = float(scaled[name].log_prob(1000 * value)) + shift
        assert after == pytest.approx(float(prior[name].log_prob(value)), abs=1e-9)


def test_site_values_and_parameters_are_inverse() -> None:
    for name, arguments in CASES:
        model, x = case(name, arguments)
        model.initialize(x, model.inits[0])
        sites = call(model.prior, x)
        values = bayes.site_values(model, sites)
        assert values.keys() == sites.keys()
        for site, value in values.items():
            assert sites[site].support.check(value).all(), site
        for parameter, value in bayes.parameters(values).items():
            torch.testing.assert_close(value, getattr(model, parameter).detach(), rtol=1e-12, atol=1e-14)
        here = call(model.log_marginal, x).detach()
        torch.testing.assert_close(bayes.log_likelihood(model, bayes.parameters(values), x).detach(), here)


def test_posterior_means_of_parameters() -> None:
    model = zoo.GaussianMixture(2, 2)
    factors = torch.tensor([[[2.0, 0.0], [1.0, 1.0]], [[2.0, 0.0], [-1.0, 1.0]]], dtype=torch.float64)
    weights = torch.tensor([[0.2, 0.8], [0.4, 0.6]], dtype=torch.float64)
    bayes.set_means(
        model, {"weights": weights, "scale_tril": factors.unsqueeze(1).expand(2, 2, 2, 2), "other": weights}
    )
    torch.testing.assert_close(model.weights.detach(), torch.tensor([0.3, 0.7], dtype=torch.float64))
    expected = torch.tensor([[4.0, 0.0], [0.0, 2.0]], dtype=torch.float64)  # the mean of the two covariances
    torch.testing.assert_close(model.covariances.detach()[0], expected)


def test_a_prior_on_what_is_no_parameter_is_refused() -> None:
    model = zoo.GaussianMixture(2, 1)
    with pytest.raises(zoo.ZooError, match=r"prior expected the names of parameters, got 'mus'. Use some of means"):
        bayes.log_likelihood(model, {"mus": torch.zeros(2, 1)}, torch.zeros(3, 1))


def made_draws() -> Draws:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 200, 2, generator=generator, dtype=torch.float64)
    diverging = torch.zeros(4, 200, dtype=torch.bool)
    diverging[1, 7] = True
    return Draws({"a": values, "b": torch.ones(4, 200, dtype=torch.float64)}, {"diverging": diverging})


def test_diagnostics_of_good_and_of_stuck_chains() -> None:
    good = made_draws()
    found = good.diagnosed().diagnostics
    assert found["max_rhat"] < 1.02
    assert 500 < found["min_ess"] < 1200
    assert found["divergences"] == 1
    assert np.isnan(good.ess()["b"])
    stuck = Draws({"a": good.values["a"] + 3 * torch.arange(4.0).reshape(4, 1, 1)})
    assert stuck.diagnosed().diagnostics["max_rhat"] > 1.5
    assert float(good.summary().loc["a[1]", "mean"]) == pytest.approx(float(good.values["a"][..., 1].mean()))


@pytest.mark.parametrize("kind", ["trace", "pair"])
def test_pictures_of_draws(kind: str, tmp_path: Path) -> None:
    path = made_draws().plot(tmp_path / "p.png", kind=kind)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert path.stat().st_size > 5000
    with pytest.raises(zoo.ZooError, match="plot: kind"):
        made_draws().plot(tmp_path / "q.png", kind="trase")
    with pytest.raises(zoo.ZooError, match="plot: site"):
        made_draws().plot(tmp_path / "q.png", sites=["c"])
    with pytest.raises(zoo.ZooError, match="expected draws that vary"):
        made_draws().plot(tmp_path / "q.png", sites=["b"])


def test_the_priors_of_sequences_are_told() -> None:
    model, x = gaussian_hmm()
    notes, _ = told(model, x, sampled=True)
    assert "transition_probs Dirichlet" in notes[0]
