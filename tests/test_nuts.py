"""NUTS: against posteriordb's reference draws and a conjugate posterior; labels; saving; what is refused."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arviz_versions import group_names
from torch import Tensor

import zoo
from zoo.estimators.nuts import relabelled

SPEC = importlib.util.spec_from_file_location("posteriordb", Path(__file__).parents[1] / "examples" / "posteriordb.py")
assert SPEC is not None
assert SPEC.loader is not None
posteriordb: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(posteriordb)


@pytest.mark.parametrize(
    "name",
    [n if n == "hmm_drive_0" else pytest.param(n, marks=pytest.mark.slow) for n in sorted(posteriordb.POSTERIORS)],
)
def test_means_are_posteriordbs(name: str, zoo_data: Any) -> None:
    model, data, _ = posteriordb.POSTERIORS[name]
    x, known = zoo_data(data), posteriordb.reference(name)
    if known is None:
        pytest.skip("posteriordb's reference means are not at hand (ZOO_DATA)")
    fit = zoo.fit(model(), x, estimator="nuts")
    assert fit.status == "converged"
    assert fit.diagnostics["max_rhat"] < 1.01
    assert fit.diagnostics["divergences"] == 0
    assert "Error" not in " ".join(fit.notes)
    ours = posteriordb.estimates(fit)
    assert known.keys() <= ours.keys()
    for parameter, (mean, error) in known.items():
        own_mean, own_error = ours[parameter]
        assert own_error < 0.02 * max(1.0, abs(mean)), "an error so wide that anything would pass"
        assert abs(own_mean - mean) < 4 * math.hypot(error, own_error), parameter


class KnownVariance(zoo.GaussianMixture):
    """One component of variance 1 whose mean has prior N(0, 2^2): the posterior is normal, and known."""

    def __init__(self) -> None:
        super().__init__(1, 1, "diag")

    def numpyro_model(self, x: Any) -> None:
        import numpyro
        from numpyro.distributions import Normal

        means = numpyro.sample("means", Normal(0.0, 2.0).expand((1, 1)).to_event(2))
        numpyro.factor("likelihood", Normal(means[0], 1.0).log_prob(x).sum())


@pytest.fixture(scope="module")
def conjugate() -> tuple[zoo.Fit, Tensor]:
    x = torch.randn(20, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1.5
    return zoo.fit(KnownVariance(), x, estimator="nuts", seed=1), x


def test_a_conjugate_posterior(conjugate: tuple[zoo.Fit, Tensor]) -> None:
    fit, x = conjugate
    assert fit.draws is not None
    precision = 1 / 4 + len(x)
    mean, sd = float(x.sum()) / precision, precision**-0.5
    drawn = fit.draws.values["means"].flatten()
    size = float(fit.draws.ess()["means"].min())
    assert fit.status == "converged"
    assert float(drawn.mean()) == pytest.approx(mean, abs=4 * sd / size**0.5)
    assert float(drawn.std()) == pytest.approx(sd, rel=4 / (size / 4) ** 0.5)
    assert float(fit.model.means.detach()) == pytest.approx(float(drawn.mean()), abs=1e-12)
    normal = torch.distributions.Normal
    density = normal(0.0, 2.0).log_prob(drawn) + normal(drawn, 1.0).log_prob(x).sum(0)
    torch.testing.assert_close(fit.draws.stats["lp"].flatten(), density, rtol=1e-9, atol=1e-9)
    assert fit.log_likelihood == pytest.approx(float(fit.model.log_marginal(x).sum().detach()))
    assert fit.elbo == fit.log_likelihood
    assert len(fit.history["objective"]) == fit.draws.num_draws == 1000


def test_arviz_groups(conjugate: tuple[zoo.Fit, Tensor]) -> None:
    fit, x = conjugate
    found = fit.to_inference_data()
    groups = {"posterior", "sample_stats", "log_likelihood", "posterior_predictive", "observed_data"}
    assert group_names(found) == groups
    assert found.posterior_predictive["x"].shape == (4, 100, 20, 1)
    assert found.posterior["means"].shape == (4, 1000, 1, 1)
    assert {"diverging", "energy", "lp", "n_steps", "acceptance_rate", "step_size"} <= set(found.sample_stats)
    assert found.log_likelihood["x"].shape == (4, 1000, 20)
    # the kept scale is the model's own: what is not sampled stays where it was
    assert float(fit.model.scale_tril.detach()) == 1.0 or fit.model.scale_tril.numel() == 1
    mean = float(found.posterior["means"][2, 5, 0, 0])
    scale = float(fit.model.scale_tril.detach())
    each = -0.5 * ((x[:, 0] - mean) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(found.log_likelihood["x"][2, 5], each, rtol=1e-10)
    assert float(found.sample_stats["acceptance_rate"].mean()) == pytest.approx(0.85, abs=0.12)


def test_draws_outlive_an_arviz_that_does_not_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise TypeError("rhat() got an unexpected keyword argument")

    monkeypatch.setattr("arviz.rhat", broken)
    fit = zoo.fit(KnownVariance(), torch.ones(3, 1), estimator="nuts", num_samples=10, num_warmup=10)
    assert fit.draws is not None
    assert fit.draws.num_draws == 10
    assert any("draws not diagnosed: TypeError: rhat() got" in note for note in fit.notes)


def test_saving_keeps_the_draws(conjugate: tuple[zoo.Fit, Tensor], tmp_path: Path) -> None:
    fit, x = conjugate
    fit.save(tmp_path / "a")
    again = zoo.load(tmp_path / "a", model=KnownVariance())
    assert again.draws is not None
    assert fit.draws is not None
    assert again.diagnostics == fit.diagnostics
    for name, value in fit.draws.values.items():
        assert torch.equal(again.draws.values[name], value)
    assert torch.equal(again.draws.stats["diverging"], fit.draws.stats["diverging"])
    assert group_names(again.to_inference_data()) == {"posterior", "sample_stats"}
    assert "log_likelihood" in group_names(again.to_inference_data(x))
    (tmp_path / "a" / "draws.json").write_text("{")
    with pytest.raises(zoo.ZooError, match=r"draws in .* are damaged"):
        zoo.load(tmp_path / "a", model=KnownVariance())


def test_a_seed_reproduces_and_jax_is_left_alone(conjugate: tuple[zoo.Fit, Tensor]) -> None:
    import jax

    fit, x = conjugate
    before = jax.config.jax_enable_x64
    again = zoo.fit(KnownVariance(), x, estimator="nuts", seed=1)
    other = zoo.fit(KnownVariance(), x, estimator="nuts", seed=2, num_samples=60)
    assert fit.draws is not None
    assert again.draws is not None
    assert other.draws is not None
    assert torch.equal(again.draws.values["means"], fit.draws.values["means"])
    assert not torch.equal(other.draws.values["means"], fit.draws.values["means"][:, :60])
    assert other.draws.num_draws == 60
    assert jax.config.jax_enable_x64 == before
    assert jax.numpy.ones(1).dtype == jax.numpy.float32


def test_draws_are_relabelled() -> None:
    """Draws with shuffled labels come back as if nobody had touched them, every site in step."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(2, 30, *shape, generator=generator, dtype=torch.float64)

    steps = (noise(3, 3) * 0.1).softmax(-1)
    whole = {
        "means": torch.tensor([[0.0], [5.0], [9.0]], dtype=torch.float64) + 0.3 * noise(3, 1),
        "scale_tril": noise(3, 1).exp(),
        "start_probs": noise(3).softmax(-1),
        "transition_probs": steps,
    }
    stats = {"lp": noise().flatten(1)}
    pivot = divmod(int(stats["lp"].argmax()), 30)
    shuffled = {name: value.clone() for name, value in whole.items()}
    for c in range(2):
        for s in range(30):
            if (c, s) == pivot:
                continue
            order = torch.randperm(3, generator=generator)
            for name, value in whole.items():
                shuffled[name][c, s] = value[c, s][order]
            shuffled["transition_probs"][c, s] = steps[c, s][order][:, order]
    model = zoo.GaussianHMM(3, 1)
    found = relabelled(model, shuffled, stats)
    for name, value in whole.items():
        torch.testing.assert_close(found.values[name], value, rtol=0, atol=0)


def test_factors_are_turned_into_line() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    turns = torch.linalg.qr(torch.randn(2, 40, 2, 2, generator=generator, dtype=torch.float64)).Q
    values = {
        "loadings": one @ turns,
        "mean": torch.zeros(2, 40, 5, dtype=torch.float64),
        "noise_variance": torch.ones(2, 40, 5, dtype=torch.float64),
    }
    found = relabelled(zoo.FactorAnalysis(2, 5), values, {"lp": torch.zeros(2, 40, dtype=torch.float64)})
    first = found.values["loadings"][0, 0]
    torch.testing.assert_close(found.values["loadings"], first.expand(2, 40, 5, 2), rtol=0, atol=1e-12)
    torch.testing.assert_close(first @ first.mT, one @ one.mT)


X = torch.randn(12, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"num_chains": 0}, "nuts: num_chains expected a whole number of at least 1, got 0"),
    ({"num_samples": 0}, "nuts: num_samples expected a whole number of at least 4, got 0"),
    ({"num_warmup": 0}, "nuts: num_warmup expected a whole number of at least 1, got 0"),
    ({"target_accept": 1.0}, "nuts: target_accept expected a number between 0 and 1, got 1.0"),
    ({"chains": 2}, "option of nuts"),
]


@pytest.mark.parametrize(("options", "match"), BAD, ids=[next(iter(o)) for o, _ in BAD])
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        zoo.fit(KnownVariance(), X, estimator="nuts", **options)


def test_models_without_a_program_are_refused() -> None:
    with pytest.raises(zoo.ZooError, match=r"nuts cannot fit this model: it has no numpyro_model\(x\)"):
        zoo.fit(zoo.PPCA(1, 2), X.repeat(1, 2), estimator="nuts")


class Discrete(KnownVariance):
    def numpyro_model(self, x: Any) -> None:
        import numpyro
        from numpyro.distributions import Bernoulli

        numpyro.sample("z", Bernoulli(0.5))


class Impossible(KnownVariance):
    def numpyro_model(self, x: Any) -> None:
        import numpyro
        from numpyro.distributions import Normal

        numpyro.sample("means", Normal(0.0, 2.0).expand((1, 1)).to_event(2))
        numpyro.factor("likelihood", -np.inf)


def test_programs_that_cannot_be_sampled() -> None:
    with pytest.raises(zoo.ZooError, match=r"site 'z' expected to be continuous, got a discrete one. Sum it out"):
        zoo.fit(Discrete(), X, estimator="nuts")
    fit = zoo.fit(Impossible(), X, estimator="nuts")
    assert fit.status == "diverged"
    assert "posterior density zero" in fit.notes[0]
    with pytest.raises(zoo.ZooError, match="topology expected 'full'"):
        zoo.fit(zoo.GaussianHMM(2, 1, topology="left_right"), X, estimator="nuts")


def test_too_few_draws_are_not_called_converged() -> None:
    fit = zoo.fit(KnownVariance(), X, estimator="nuts", num_warmup=5, num_samples=6, num_chains=2)
    assert fit.status == "max_iter"
    assert "R-hat" in fit.notes[1]


def test_a_budget_stops_the_draws() -> None:
    fit = zoo.fit(KnownVariance(), X, estimator="nuts", num_samples=10_000, max_seconds=0.01)
    assert fit.draws is not None
    assert 0 < fit.draws.num_draws <= 50


def test_importing_the_zoo_does_not_import_jax() -> None:
    code = "import sys, zoo, zoo.estimators as e; e.estimator_classes(); zoo.PPCA(1, 2); print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
