"""A fall of EM's objective within rounding ends no fit; a wrong M step still does, at its first wrong iteration."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import hostile_sets
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import zoo
from zoo.automatic import gaussians
from zoo.core.contract import LatentVariableModel, parameter
from zoo.core.state import snapshot
from zoo.densities.covariance import floored_factor
from zoo.estimators.steps import ModelSteps, allowance, measured_rounding, objective_of
from zoo.models import model_classes

BOTH = pytest.mark.parametrize("dtype", hostile_sets.DTYPES, ids=str)


# --- many small sets --------------------------------------------------------------------------------------------------


def hold(case: hostile_sets.Case, **options: Any) -> str:
    """Fit a case and check what every fit promises; its status, or "refused"."""
    try:
        fit = case.fit(**options)
    except zoo.ZooError:
        return "refused"
    assert fit.log_likelihood is not None, case.name
    assert math.isfinite(fit.log_likelihood), case.name
    assert fit.status in ("converged", "stalled", "max_iter"), (case.name, fit.notes)
    climbed = fit.history["objective"]
    assert all(map(math.isfinite, climbed)), case.name
    for a, b in itertools.pairwise(climbed):  # what rounding takes beyond this is taken back, and no row of the history
        assert a - b <= max(allowance(b, fit.num_data), 1e-9 * fit.num_units), (case.name, a - b)
    return fit.status


@pytest.mark.parametrize("first", range(0, 80, 40))
def test_no_small_set_makes_em_fall(first: int) -> None:
    cases = [case for case in map(hostile_sets.draw, range(first, first + 40)) if case.cheap]
    ends = [hold(case, max_iter=40) for case in cases]
    assert ends.count("refused") < len(ends) / 2


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 2000, 100))
def test_none_of_2000_small_sets_makes_em_fall(first: int) -> None:
    for seed in range(first, first + 100):
        hold(hostile_sets.draw(seed))


# --- wrong M steps ----------------------------------------------------------------------------------------------------


def wrong_from(model: LatentVariableModel, first: int, factor: float) -> LatentVariableModel:
    """A copy whose ``first``-th M step, and every one after it, leaves one parameter a little off."""
    sound = copy.deepcopy(model)
    name = [n for n, p in sound.named_parameters() if not n.startswith("encoder") and p.abs().max() > 0][-1]

    class Wrong(type(sound)):  # type: ignore[misc]
        def m_step(self, statistics: zoo.Statistics) -> Any:
            notes = super().m_step(statistics)
            self.steps_done = getattr(self, "steps_done", 0) + 1
            if self.steps_done >= first:
                with torch.no_grad():
                    self.get_parameter(name).mul_(factor)
            return notes

    sound.__class__ = Wrong
    return sound


@pytest.fixture(scope="module")
def fitted() -> dict[str, tuple[Any, Any]]:
    """By name, a model at its optimum for data of its own, and the data."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in hostile_sets.served():
        module = __import__(model_classes()[name].__module__, fromlist=["tiny"])
        model, x = module.tiny()
        x = zoo.fit(model, x, estimator="em", init="current", tol=0.0, max_iter=0)
        x = x.sample(60 if isinstance(x.template, dict) else 200, seed=1)
        found[name] = (
            zoo.fit(model, x, estimator="em", init="current", accelerate="squarem", max_iter=1500).model,
            model.validate(x),
        )
    return found


@BOTH
@pytest.mark.parametrize("name", hostile_sets.served())
def test_an_m_step_that_is_off_by_a_thousandth_raises_at_once(
    name: str, dtype: torch.dtype, fitted: dict[str, tuple[Any, Any]]
) -> None:
    model, x = fitted[name]
    # The first wrong M step is the third; the fourth E step sees what it lost. In float32 it is the first: M steps are
    # repeated where rounding is measured, which a mutant that counts them would take for steps of its own.
    first = 3 if dtype == torch.float64 else 1
    wrong = wrong_from(model.to(torch.float64), first, 1.001 if dtype == torch.float64 else 1.01).to(dtype)
    with pytest.raises(zoo.LikelihoodDecreased, match="m_step does not maximise") as caught:
        zoo.fit(wrong, x, estimator="em", init="current", tol=0.0, max_iter=6)
    assert caught.value.iteration == first + 1
    assert caught.value.decrease > 10 * caught.value.rounding
    assert caught.value.fit.iterations == first
    model.to(torch.float64)


def two_normals(x: Tensor) -> None:
    w = pyro.param("w", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


def bimodal(seed: int, dtype: torch.dtype, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.tensor([0.0, 3.0])[(torch.arange(200) >= 120).long()] + torch.randn(200, generator=generator)
    return x.to(dtype) + offset


@BOTH
def test_auto_em_with_a_wrong_update_raises_and_blames_no_m_step_of_the_users(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = gaussians.Gaussians._locations

    def wrong(self: Any, parts: Any, vector: Tensor) -> None:
        sound(self, parts, vector)
        vector[self.space.offsets["param/loc"] :][:2] *= 1.01

    start = zoo.fit(two_normals, bimodal(0, dtype), estimator="auto_em").model
    monkeypatch.setattr(gaussians.Gaussians, "_locations", wrong)
    with pytest.raises(zoo.LikelihoodDecreased, match="derived from the program is wrong") as caught:
        zoo.fit(start, bimodal(0, dtype), estimator="auto_em", init="current")
    assert caught.value.iteration == 2


@pytest.mark.parametrize("seed", range(12))
def test_auto_em_in_float32_ends_well(seed: int) -> None:
    fit = zoo.fit(two_normals, bimodal(seed, torch.float32), estimator="auto_em")
    assert fit.status in ("converged", "stalled")
    exact = zoo.fit(two_normals, bimodal(seed, torch.float64), estimator="auto_em")
    assert fit.log_likelihood == pytest.approx(exact.log_likelihood, abs=2e-3)


# --- how much rounding is ---------------------------------------------------------------------------------------------


class Plain(LatentVariableModel):
    """One Gaussian as a user may write it in float32: its E step sums N terms as they are."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.loc = parameter(torch.zeros(()))
        self.scale = parameter(torch.ones(()), constraints.positive)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc, self.scale), obs=x)

    def e_step(self, x: Tensor) -> zoo.Statistics:
        log_likelihood = dist.Normal(self.loc, self.scale).log_prob(x).cumsum(0)[-1]
        return zoo.Statistics(len(x), log_likelihood, first=x.sum(), second=x.square().sum())

    def m_step(self, statistics: zoo.Statistics) -> None:
        n, first, second = (statistics[k] for k in ("num_data", "first", "second"))
        self.loc, self.scale = first / n, (second / n - (first / n).square()).sqrt() * self.error

    error = 1.0


class Off(Plain):
    error = 1.05


@pytest.mark.parametrize("rows", [10, 1000, 100_000])
def test_a_users_float32_sums_are_told_from_a_users_wrong_step(rows: int) -> None:
    x = 3 + torch.randn(rows, generator=torch.Generator().manual_seed(rows))
    fit = zoo.fit(Plain(), x, estimator="em")
    assert fit.status in ("converged", "stalled")
    off = Off()
    off.load_state_dict(fit.model.state_dict())
    with pytest.raises(zoo.LikelihoodDecreased) as caught:
        zoo.fit(off, x, estimator="em", init="current")
    assert caught.value.iteration == 2


@BOTH
def test_measured_rounding_is_rounding(dtype: torch.dtype) -> None:
    """Between a tenth and ten thousand times that of the total; nothing is changed, no random number is drawn."""
    model = zoo.GaussianMixture(2, 3).to(dtype)
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    steps, start = ModelSteps(model, x), snapshot(model)
    state = torch.get_rng_state()
    rounding = measured_rounding(steps, start)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, start[name]) for name, value in snapshot(model).items())
    unit = torch.finfo(dtype).eps * abs(objective_of(steps, steps.e_step()))
    assert 0.1 * unit < rounding < 1e4 * unit


def test_a_noisy_m_step_is_no_rounding() -> None:
    """Random numbers in the steps are the same in every repeat: their noise is not taken for rounding."""

    class Noisy(zoo.GaussianMixture):
        def m_step(self, statistics: zoo.Statistics) -> list[str]:
            notes = super().m_step(statistics)
            self.means = self.means.detach() + 0.05 * torch.randn_like(self.means)
            return notes

    x = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(zoo.LikelihoodDecreased):
        zoo.fit(Noisy(1, 2), x, estimator="em")


def test_a_fall_within_rounding_is_taken_back_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("zoo.estimators.climb.judged", lambda steps, start, fall: (fall, 5.0))
    sound = zoo.fit(zoo.GaussianMixture(2, 2), x, tol=0.0, max_iter=3)
    fit = zoo.fit(wrong_from(zoo.GaussianMixture(2, 2), 4, 1.2), x, restarts=1)
    assert fit.status == "stalled"
    assert fit.history["objective"] == sound.history["objective"]
    assert fit.log_likelihood == pytest.approx(fit.history["objective"][-1], rel=1e-12)
    assert "iteration 4 lost" in fit.notes[-1]
    assert "is rounding (up to 5, measured), and was taken back" in fit.notes[-1]
    # Exactly so many iterations where that was asked for; the best of them is kept.
    fit = zoo.fit(wrong_from(zoo.GaussianMixture(2, 2), 4, 1.2), x, tol=0.0, max_iter=4)
    assert (fit.status, fit.iterations) == ("max_iter", 4)
    assert fit.log_likelihood == pytest.approx(max(fit.history["objective"]), rel=1e-12)


def test_the_last_m_step_is_looked_at_too() -> None:
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = zoo.fit(zoo.GaussianMixture(1, 2), x).model
    with pytest.raises(zoo.LikelihoodDecreased) as caught:
        zoo.fit(wrong_from(start, 2, 1.1), x, estimator="em", init="current", tol=0.0, max_iter=2)
    assert caught.value.iteration == 3


def test_steps_without_numbers_end_a_run_not_the_program() -> None:
    class Broken(zoo.GaussianMixture):
        def m_step(self, statistics: zoo.Statistics) -> list[str]:
            self.done = getattr(self, "done", 0) + 1
            if self.done == 4:
                torch.linalg.cholesky(-torch.eye(2))
            return super().m_step(statistics)

    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fit = zoo.fit(Broken(2, 2), x, estimator="em")
    assert fit.status == "diverged"
    assert "no numbers" in fit.notes[-1]
    assert math.isfinite(fit.log_likelihood or math.nan)


# --- the covariance floor ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 5, 8])
def test_the_floored_factor_is_exact_to_rounding(dim: int) -> None:
    generator = torch.Generator().manual_seed(dim)
    for _ in range(20):
        thin = torch.randn(1, dim, dtype=torch.float64, generator=generator)
        floor = 1e-6 * 10.0 ** torch.randint(-8, 9, (dim,), generator=generator).double()
        scale = (floor * 1e6).sqrt()
        factor, acted = floored_factor(scale.unsqueeze(-1) * (thin.mT @ thin) * scale, floor)
        assert acted
        lowest = torch.linalg.svdvals(factor / floor.sqrt().unsqueeze(-1)).square()[1:]
        assert (lowest - 1).abs().max() < 1e-11  # by the product and its Cholesky factor: 1e-9


@BOTH
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_a_start_below_the_floor_is_lifted_before_the_climb(covariance_type: str, dtype: torch.dtype) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    model = zoo.GaussianMixture(2, 3, covariance_type).to(dtype)
    model.means = x[:2]
    x = torch.cat([x[:1].expand(20, 3), x])
    model.covariances = 1e-9 * torch.eye(3).expand(2, 3, 3)
    fit = zoo.fit(model, x, estimator="em", init="current")
    assert fit.status in ("converged", "stalled")


def test_a_programs_scale_that_begins_below_the_floor_is_let_be() -> None:
    def tight(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor([0.0, 3.0]))
        scale = pyro.param("scale", torch.tensor(1e-6), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("x", dist.Normal(loc[z], scale), obs=x)

    fit = zoo.fit(tight, torch.tensor([0.0, 0.0, 3.0, 3.0], dtype=torch.float64), estimator="auto_em")
    assert fit.status in ("converged", "stalled")
    each = 6 * math.log(10) - 0.5 * math.log(2 * math.pi) - math.log(2)
    assert fit.log_likelihood == pytest.approx(4 * each, abs=1e-6)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_missing_entries_move_no_floor(covariance_type: str) -> None:
    """The floor is a fraction of the data's variance, not of what the E step fills in for missing ones."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 8, 3, dtype=torch.float64, generator=generator)
    x[..., 2] = x[..., 0] - x[..., 1]
    x[torch.rand(x.shape, generator=generator) < 0.25] = math.nan
    fit = zoo.fit(zoo.GaussianHMM(3, 3, covariance_type), x, tol=0.0, max_iter=60)
    climbed = fit.history["objective"]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(climbed))


# --- online EM --------------------------------------------------------------------------------------------------------


def test_online_em_climbs_its_prior_too_and_knows_when_it_is_done() -> None:
    model = zoo.PoissonHMM(2, 1, prior_strength=5.0)
    x = torch.poisson(torch.tensor([1.0, 9.0]).repeat(20, 10), generator=torch.Generator().manual_seed(0)).unsqueeze(-1)
    fit = zoo.fit(model, x.double(), estimator="online_em", max_epochs=2000)
    assert fit.status == "converged"
    assert fit.log_likelihood is not None
    prior = float(fit.model.log_prior().detach())
    assert fit.history["objective"][-1] == pytest.approx(fit.log_likelihood + prior, abs=1e-5)
    waiting = zoo.fit(model, x.double(), estimator="online_em", burn_in=6, max_epochs=6)
    assert waiting.status == "max_iter"  # no M step was made: nothing has converged
