"""Starts that are climbed at once come where each comes alone."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from pyro.poutine import trace, uncondition
from torch import Tensor

import zoo
from zoo.components import climbs, first_steps
from zoo.components.clusters import all_clustered, clusters_of
from zoo.core.contract import lacks, prepared
from zoo.core.data import map_tensors, num_data, take
from zoo.core.isolation import isolated
from zoo.core.problem import Problem
from zoo.estimators.base import Outcome, Run
from zoo.estimators.em import EM
from zoo.estimators.together import run_together
from zoo.models import model_classes
from zoo.runs.prepare import start
from zoo.structures import chain
from zoo.structures.chain_copies import expectations_of_copies

OFFERING = [
    name for name, cls in model_classes().items() if lacks(sys.modules[cls.__module__].tiny()[0], "copies") is None
]
STARTS = 4


def problems(model: Any, x: Any, starts: int = STARTS, init: str = "random") -> list[Problem]:
    x, made = prepared(model, x), []
    for restart in range(starts):
        with isolated(restart):
            made.append(Problem(start(model, x, init if init in model.inits else model.inits[0], restart), x))
    return made


def climbed(model: Any, x: Any, together: bool, **options: Any) -> tuple[list[Problem], list[Run], list[Outcome]]:
    made, estimator = problems(model, x), EM(**options)
    runs = [Run() for _ in made]
    if together:
        ends = run_together(estimator, made, runs)
        assert all(isinstance(end, Outcome) for end in ends)
        return made, runs, ends  # type: ignore[return-value]
    return made, runs, [estimator.run(*both) for both in zip(made, runs, strict=True)]


def assert_same(model: Any, x: Any, tolerance: float = 1e-12, **options: Any) -> list[Outcome]:
    alone, together = (climbed(model, x, batch, **options) for batch in (False, True))
    for one, run, end, other, again, reached in zip(*alone, *together, strict=True):
        assert (end.status, end.notes, end.degenerate) == (reached.status, reached.notes, reached.degenerate)
        for column in ("objective", "log_likelihood"):
            assert again.history[column] == pytest.approx(run.history[column], rel=tolerance, abs=tolerance)
        expected = one.model.state_dict()
        for name, value in other.model.state_dict().items():
            finite = expected[name].isfinite()
            assert torch.equal(value.isfinite(), finite)
            torch.testing.assert_close(value[finite], expected[name][finite], rtol=tolerance, atol=tolerance, msg=name)
    return together[2]


def drawn(model: Any, x: Any, seed: int) -> Any:
    """Data from a model, as many as its tiny ones thrice."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        many = take(x, torch.arange(num_data(x)).repeat(3))
        if lacks(model, "sample_like") is None:
            rows = model.sample_like(prepared(model, many), 3 * num_data(x))
        else:
            rows = trace(uncondition(model.model)).get_trace(many).nodes["x"]["value"]
    return {**many, "x": rows} if isinstance(x, dict) else rows


def test_mixtures_and_chains_offer_it() -> None:
    assert {"gaussian_mixture", "poisson_mixture", "bernoulli_mixture", "poisson_hmm", "gaussian_hmm"} <= set(OFFERING)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", sorted(OFFERING))
def test_a_batch_equals_runs_one_after_the_other(name: str, dtype: torch.dtype) -> None:
    model, x = sys.modules[model_classes()[name].__module__].tiny()
    for seed in range(2 if dtype == torch.float64 else 1):
        data = drawn(model, x, seed)
        model = model.to(dtype)
        data = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, data)
        options = {"max_iter": 12, "tol": 0.0} if dtype == torch.float32 else {"max_iter": (15, 100)[seed]}
        assert_same(model, data, 1e-12 if dtype == torch.float64 else 1e-3, **options)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_a_floor_that_acts_is_told_of_the_start_it_acts_on(kind: str) -> None:
    x = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[:6] = x[0]
    ends = assert_same(zoo.GaussianMixture(5, 2, covariance_type=kind), x, max_iter=40)
    assert len({end.degenerate for end in ends}) == 2, "some starts, not all"


def test_chains_of_several_lengths_with_missing_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.full((5, 9, 2), 3.0, dtype=torch.float64), generator=generator)
    x[1, 3] = float("nan")
    data = {"x": x, "lengths": torch.tensor([9, 4, 1, 7, 6])}
    for options in ({}, {"initial": "uniform"}, {"topology": "left_right"}):
        assert_same(zoo.PoissonHMM(3, 2, **options), data, max_iter=25)
    assert_same(
        zoo.GaussianHMM(2, 2, covariance_type="full"),
        {**data, "x": x.repeat(3, 1, 1), "lengths": data["lengths"].repeat(3)},
        max_iter=30,
    )


@pytest.mark.parametrize("compiled", [True, False])
def test_chains_of_copies_are_those_of_each(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    initial, transition, emission = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 2), (3, 2, 2), (3, 5, 6, 2))
    )
    transition[1, 0, 1] = -torch.inf
    lengths = torch.tensor([6, 1, 4, 6, 2])
    if not compiled:
        monkeypatch.setattr("zoo.structures.chain_copies.has_numba", lambda: False)
    found = expectations_of_copies(initial, transition, emission, lengths)
    for s in range(3):
        for backend in ("numba", "torch"):
            one = chain.expectations(initial[s], transition[s], emission[s], lengths, _backend=backend)
            torch.testing.assert_close(found.log_likelihood[s], one.log_likelihood.sum(), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found.initial[s], one.initial, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found.transition[s], one.transition, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found.marginals[s], one.marginals, rtol=1e-12, atol=1e-12)
    emission[2, 1, 0] = -torch.inf
    if compiled:
        with pytest.raises(ValueError, match="impossible"):
            expectations_of_copies(initial, transition, emission, lengths)


def test_factors_of_which_some_numbers_stay() -> None:
    generator = torch.Generator().manual_seed(2)
    factors, noise = (torch.randn(200, k, dtype=torch.float64, generator=generator) for k in (1, 5))
    x = 2 * factors @ torch.tensor([[1.0, -1.0, 2.0, 0.5, 1.5]], dtype=torch.float64) + noise + 3
    for names in (("mean",), ("noise_variance",), ("loadings", "mean"), ()):
        model = zoo.FactorAnalysis(1, 5)
        model.noise_variance, model.mean = torch.tensor([0.5, 1.0, 1.5, 2.0, 0.7]), torch.full((5,), 2.5)
        for name in names:
            getattr(model, f"{name}_unconstrained").requires_grad_(False)
        assert_same(model, x, max_iter=40)
    one_noise = zoo.PPCA(1, 5)
    one_noise.mean = torch.full((5,), 2.5)
    one_noise.mean_unconstrained.requires_grad_(False)
    assert_same(one_noise, x, max_iter=40)
    line = assert_same(zoo.PPCA(1, 5), x[:2].repeat(3, 1), max_iter=40)
    assert all("floor" in end.notes[0] for end in line)


def test_what_stays_stays() -> None:
    model = zoo.GaussianMixture(3, 2)
    model.means_unconstrained.requires_grad_(False)
    model.means = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, 1.0]])
    x = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_same(model, x)
    model.weights_unconstrained.requires_grad_(False)
    assert_same(model, x)


def alone(*_: Any) -> bool:
    return False


def groups() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(80, 2, dtype=torch.float64, generator=generator) + 3 * (torch.arange(80) % 3).unsqueeze(-1)


def test_a_fit_is_the_same_in_a_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    model, x = zoo.GaussianMixture(3, 2), groups()
    batch = zoo.fit(model, x, restarts=4, estimator="em")
    saved = zoo.fit(model, x, restarts=4, estimator="em", out=tmp_path / "run")
    monkeypatch.setattr(EM, "takes_copies", alone)
    single = zoo.fit(model, x, restarts=4, estimator="em")
    for fit in (batch, saved):
        assert fit.iterations == single.iterations
        assert [e["status"] for e in fit.restarts] == [e["status"] for e in single.restarts]
        for name in ("log_likelihood", "objective"):
            expected = [e[name] for e in single.restarts]
            assert [e[name] for e in fit.restarts] == pytest.approx(expected, rel=1e-12)
        assert torch.allclose(fit.model.means, single.model.means, rtol=1e-12)


def test_trials_are_the_same_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.poisson(torch.full((40, 1), 5.0).double(), generator=torch.Generator().manual_seed(2))
    fits = []
    for batch in (True, False):
        if not batch:
            monkeypatch.setattr(EM, "takes_copies", alone)
            monkeypatch.setattr("zoo.components.climbs.SMALL", 0)
        fits.append(zoo.fit(zoo.PoissonHMM(2, 1), x, estimator="em"))
    one, other = ([(e["status"], e["chosen"], e["notes"]) for e in fit.restarts] for fit in fits)
    assert one == other
    assert len(one) > 4
    for name, expected in fits[1].model.named_values().items():
        assert torch.allclose(fits[0].model.named_values()[name], expected, rtol=1e-11), name


@pytest.mark.parametrize("categorical", [False, True])
def test_starts_ask_for_their_climbs_at_once(monkeypatch: pytest.MonkeyPatch, categorical: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.poisson(torch.full((2, 20, 1), 4.0).double(), generator=generator)
    model: Any = zoo.PoissonHMM(2, 1)
    if categorical:
        model, x = zoo.CategoricalHMM(2, 3), x[..., 0].long() % 3
    sizes: list[int] = []
    climb = climbs._climbed_together

    def climbed(model: Any, x: Any, states: Any, iterations: int) -> Any:
        sizes.append(len(states))
        return climb(model, x, states, iterations)

    monkeypatch.setattr(climbs, "_climbed_together", climbed)
    together = zoo.fit(model, x, estimator="em", restarts=9, max_iter=3)
    assert max(sizes) >= 12, "more than one start's"
    monkeypatch.setattr("zoo.components.climbs.all_climbed", lambda several: list(map(climbs._climbed, several)))
    alone = zoo.fit(model, x, estimator="em", restarts=9, max_iter=3)
    for one, other in zip(together.restarts, alone.restarts, strict=True):
        assert one["seed"] == other["seed"]
        assert one["objective"] == pytest.approx(other["objective"], rel=1e-12)
    assert len({round(entry["objective"], 6) for entry in alone.restarts}) > 3


def test_clusters_that_several_ask_for_are_those_of_each() -> None:
    x = groups()
    asked = []
    for seed in range(4):
        torch.manual_seed(seed)
        asked += [clusters_of(x, 4, init, lloyd=lloyd) for init in ("kmeans++", "random") for lloyd in (False, True)]
    asked.append(clusters_of(x[:40], 4, "kmeans++", lloyd=False))
    found = all_clustered(asked)
    assert len({tuple(labels.tolist()) for labels in found}) > 6
    for question, labels in zip(asked, found, strict=True):
        assert torch.equal(labels, all_clustered([question])[0])


@pytest.mark.parametrize("name", ["gaussian_mixture", "poisson_mixture", "poisson_hmm", "bernoulli_hmm"])
def test_first_steps_of_several_are_those_of_each(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model, x = sys.modules[model_classes()[name].__module__].tiny()
    made, step = [], first_steps._together
    taken: list[int] = []

    def together(several: Any) -> Any:
        taken.append(sum(len(asked.steps) for asked in several))
        return step(several)

    monkeypatch.setattr("zoo.components.first_steps._together", together)
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr("zoo.components.first_steps.SMALL", 0)
        fit = zoo.fit(model, x, estimator="em", restarts=5, max_iter=1)
        made.append([(entry["status"], entry["objective"]) for entry in fit.restarts])
    assert max(taken) >= 3
    for one, other in zip(*made, strict=True):
        assert one[0] == other[0]
        assert one[1] == pytest.approx(other[1], rel=1e-12)


def test_an_interrupt_keeps_what_had_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, record = zoo.GaussianMixture(3, 2), groups(), Run.record
    lengths = [run.iterations for run in climbed(model, x, True)[1]]
    middle = (min(lengths) + max(lengths)) // 2

    def stop(run: Run, *args: Any, **kwargs: Any) -> None:
        record(run, *args, **kwargs)
        if run.iterations == middle:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "record", stop)
    _, runs, ends = climbed(model, x, True)
    expected = ["converged" if length < middle else "interrupted" for length in lengths]
    assert [end.status for end in ends] == expected
    assert set(expected) == {"converged", "interrupted"}
    for run, end in zip(runs, ends, strict=True):
        assert end.objective == run.history["objective"][-1]
    fit = zoo.fit(model, x, restarts=4, estimator="em")
    assert (fit.status, len(fit.restarts)) == ("interrupted", 4)
    assert fit.log_likelihood == pytest.approx(max(entry["log_likelihood"] for entry in fit.restarts), abs=1e-3)


def test_a_budget_of_seconds_is_of_each_start() -> None:
    fit = zoo.fit(zoo.GaussianMixture(3, 2), groups(), restarts=4, estimator="em", max_seconds=0.0)
    assert [entry["status"] for entry in fit.restarts] == ["max_iter"] * 4
    assert fit.iterations == 1


def test_a_subclass_with_arithmetic_of_its_own_is_climbed_alone() -> None:
    class OwnStep(zoo.PoissonMixture):
        def m_step(self, statistics: Any) -> list[str]:
            return super().m_step(statistics)

    class OwnComponents(zoo.PoissonMixture):
        def update_components(self, statistics: Any) -> list[str]:
            return super().update_components(statistics)

    class OwnPrior(zoo.PoissonMixture):
        def log_prior(self) -> Tensor:
            return -self.rates.sum()

    class FactorPrior(zoo.FactorAnalysis):
        def log_prior(self) -> Tensor:
            return -self.loadings.square().sum()

    rows = torch.eye(4, dtype=torch.float64)
    for cls, taken in ((FactorPrior, False), (zoo.FactorAnalysis, True)):
        assert (cls(1, 4).copies(rows, models=[cls(1, 4)]) is not None) == taken
    x = torch.tensor([[1.0], [2.0], [9.0]])
    assert lacks(OwnStep(2, 1), "copies") is not None
    for cls in (OwnComponents, OwnPrior):
        assert lacks(cls(2, 1), "copies") is not None or cls(2, 1).copies(x, models=[cls(2, 1)] * 2) is None
    assert zoo.PoissonMixture(2, 1).copies(x, models=[zoo.PoissonMixture(2, 1)] * 2) is not None
    for options in ({"initial": "stationary"}, {"concentration": 2.0}, {"prior_strength": 1.0}):
        model = zoo.PoissonHMM(2, 1, **options)
        assert model.copies(x[None], models=[model] * 2) is None
