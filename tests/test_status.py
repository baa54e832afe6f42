"""What a fit says of itself is so: converged, stalled, cut short; and who may answer for an overridden program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_iris

import zoo
from zoo.core.contract import lacks
from zoo.estimators.loop.adam import ScaledAdam
from zoo.runs.gradients import gradient_quality, sampled_gradients

IRIS = torch.tensor(load_iris().data)
X = torch.tensor([[1.0], [2], [0], [1], [18], [22], [3], [2], [17], [25], [16], [4]])


# --- converged --------------------------------------------------------------------------------------------------------


def test_a_schedule_that_ends_too_early_is_not_convergence() -> None:
    """The rate falls to a hundredth, so that the objective hardly moves; the gradient still does."""
    model = zoo.GaussianMixture(3, 4)
    short = zoo.fit(model, IRIS, estimator="eg", max_epochs=100, optimizer="adam")
    rows = short.history["objective"]
    assert abs(sum(rows[-5:]) - sum(rows[-10:-5])) / 5 < 1e-4 * 150
    assert short.status == "max_iter"
    whole = zoo.fit(model, IRIS, estimator="eg", max_epochs=600, optimizer="adam")
    assert whole.status == "converged"
    further = zoo.fit(whole.model, IRIS, estimator="em", init="current")
    assert further.log_likelihood - whole.log_likelihood < 1e-6


def test_a_budget_of_seconds_is_not_convergence() -> None:
    fit = zoo.fit(zoo.PoissonMixture(2, 1), X, estimator="eg", max_seconds=0.0)
    assert (fit.status, fit.iterations) == ("max_iter", 1)


def test_held_out_data_stall_a_run() -> None:
    fit = zoo.fit(
        zoo.PoissonMixture(2, 1), X, estimator="eg", validation=0.3, patience=2, max_epochs=3000, learning_rate=0.5,
        decay="constant",
    )  # fmt: skip
    assert fit.status == "stalled"


@pytest.mark.parametrize(("drift", "lost"), [(0.0, True), (0.5, False)])
def test_a_gradient_is_held_against_its_noise(drift: float, lost: bool) -> None:
    p = torch.nn.Parameter(torch.zeros(200))
    adam = ScaledAdam([p], {id(p): torch.tensor(3.0)}, 1e-9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        p.grad = torch.randn(200, generator=generator) + drift
        adam.step()
    assert adam.lost_in_noise() is lost


# --- warm-up ----------------------------------------------------------------------------------------------------------


def test_a_warm_up_keeps_to_the_budget_and_is_recorded() -> None:
    stages = []

    class Watch:
        def __call__(self, row: dict[str, Any], fraction: float | None) -> None: ...

        def stage(self, name: str, fraction: float) -> None:
            stages.append((name, fraction))

    model = zoo.PoissonMixture(2, 1)
    cut = zoo.fit(model, X, estimator="svi", warmup=1_000_000, max_seconds=0.2, optimizer="adam")
    assert 0 < cut.warmup["steps"] < 1_000_000
    assert any("warm-up" in note for note in cut.notes)
    whole = zoo.fit(model, X, estimator="svi", warmup=40, max_epochs=3, optimizer="adam", progress=Watch())
    assert whole.warmup["steps"] == 40
    assert stages == [("warm-up", 16 / 40), ("warm-up", 32 / 40)]
    assert zoo.fit(model, X, estimator="em").warmup is None


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradients_are_measured_of_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.estimators.svi import SVI

    warmed = []
    monkeypatch.setattr(SVI, "warm_up", lambda *_: warmed.append(1))
    model = zoo.PoissonMixture(2, 1)
    made = zoo.compare(model, X, estimators=["em", "eg"], max_epochs=3, track=0)
    assert made.gradients == []
    assert "Gradients" not in str(made)
    assert not warmed
    assert not sampled_gradients(["em", "eg", "auto_em"])
    told: list[float] = []
    gradient_quality(model, X.double(), {"eg": {}, "svi": {}}, point="here", num_draws=3, told=told.append)
    assert warmed
    assert told == sorted(told)
    assert told[-1] == 1.0


# --- files and overridden programs ------------------------------------------------------------------------------------


def test_another_format_is_refused(tmp_path: Path) -> None:
    zoo.fit(zoo.PoissonMixture(2, 1), X, max_iter=2, data_name="counts").save(tmp_path / "a")
    record = json.loads((tmp_path / "a" / "fit.json").read_text())
    assert record["data"]["name"] == "counts"
    assert zoo.load(tmp_path / "a").data == record["data"]
    (tmp_path / "a" / "fit.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(zoo.ZooError, match="written by another version"):
        zoo.load(tmp_path / "a")


def test_a_subclass_with_another_model_answers_for_itself() -> None:
    class Flipped(zoo.GaussianMixture):
        def model(self, x: Any) -> None:
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("z", dist.Categorical(self.weights.flip(0)))
                scale = torch.linalg.cholesky(self.covariances)[z]
                pyro.sample("x", dist.MultivariateNormal(self.means.flip(0)[z], scale_tril=scale), obs=x)

    shortcuts = ("predict", "posterior", "log_marginal", "e_step", "prior", "numpyro_model")
    assert all(lacks(Flipped(2, 4), name) for name in shortcuts)
    assert lacks(zoo.GaussianMixture(2, 4), *shortcuts) is None
    fit = zoo.fit(Flipped(2, 4), IRIS, estimator="auto_em", max_iter=5)
    mode = fit.discrete_posterior(IRIS).mode()["z"]
    assert torch.equal(fit.predict(IRIS), mode)


def test_a_subclass_with_another_guide_keeps_what_is_exact() -> None:
    class Guided(zoo.GaussianMixture):
        def guide(self, x: Any) -> None:
            with pyro.plate("data", x.shape[0]):
                pyro.sample("z", dist.Categorical(torch.ones(self.num_components)))

    assert lacks(Guided(2, 4), "predict", "posterior", "log_marginal") is None
    assert lacks(Guided(2, 4), "elbo") is not None

    class Coded(zoo.CategoricalVAE):
        def guide(self, x: Any) -> None:
            raise NotImplementedError

    assert lacks(Coded(num_features=4), "predict") is not None
