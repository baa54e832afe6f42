"""A problem looks its program up once: what a fit runs beside its steps, and that what is looked up is so."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

import zoo
from zoo.core.functions import as_model
from zoo.core.problem import Problem
from zoo.core.program import latent_sites, plate_nesting, reached_by_marginal
from zoo.estimators.loop.adam_loop import AdamLoop
from zoo.models.factor_analysis import FactorAnalysis

X = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def model(x: torch.Tensor) -> None:
    loc = pyro.param("loc", torch.tensor(0.0, dtype=torch.float64))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def guide(x: torch.Tensor) -> None:
    slope = pyro.param("slope", torch.tensor(0.1, dtype=torch.float64))
    scale = pyro.param("scale", torch.tensor(1.0, dtype=torch.float64), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, scale))


class Runs(collections.Counter[str]):
    """Counts runs of programs, those of a loop's objective apart."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.stepping = False

        def apart(method: Callable[..., Any]) -> Callable[..., Any]:
            def inside(loop: Any, *args: Any) -> Any:
                self.stepping = True
                try:
                    return method(loop, *args)
                finally:
                    self.stepping = False

            return inside

        for name in ("_step", "_gradient"):
            monkeypatch.setattr(AdamLoop, name, apart(getattr(AdamLoop, name)))

    def counted(self, name: str, program: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self[f"{name}, step" if self.stepping else name] += 1
            return program(*args, **kwargs)

        return run


@pytest.mark.parametrize("warmup", [0, 1])
def test_a_fit_runs_a_users_programs_four_times_beside_its_steps(warmup: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run makes the parameters, one looks the program up, one scores, one of the model checks that draws that are
    made together are what each is alone."""
    runs = Runs(monkeypatch)
    programs = runs.counted("model", model), runs.counted("guide", guide)
    fit = zoo.fit(programs[0], X, guide=programs[1], estimator="svi", max_epochs=1, warmup=warmup)
    assert fit.elbo is not None
    assert (runs["model"], runs["guide"]) == (4, 3)
    assert runs["model, step"] == runs["guide, step"] == 2 + warmup  # and once where it ends, to see if it converged


def test_a_fit_runs_a_zoo_models_programs_four_times_beside_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch)
    for name in ("model", "guide"):
        monkeypatch.setattr(FactorAnalysis, name, runs.counted(name, getattr(FactorAnalysis, name)))
    x = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    fit = zoo.fit(FactorAnalysis(1, 3), x, estimator="svi", max_epochs=1, warmup=1)
    assert fit.elbo is not None
    assert 0 < runs["model"] <= 4
    assert 0 < runs["guide"] <= 4


def test_spending_takes_what_running_takes() -> None:
    """Random numbers after a look at a program are those of a run of it, so that seeds keep their meaning."""
    built = as_model(model, guide)
    built.create(X)
    known = Problem(built, X).program
    states = []
    for how in (lambda: plate_nesting(built, X), lambda: known.spend("model", "guide")):
        torch.manual_seed(5)
        how()
        states.append(torch.randn(7))
    assert torch.equal(*states)
    torch.manual_seed(5)
    assert not torch.equal(torch.randn(7), states[0])


def test_what_is_looked_up_is_what_running_shows() -> None:
    built = as_model(model, guide)
    built.create(X)
    before = torch.get_rng_state()
    known = Problem(built, X).program
    assert torch.equal(torch.get_rng_state(), before)
    assert known.latents == latent_sites(built, X)
    assert known.nesting == plate_nesting(built, X) == 1
    assert [name.removeprefix("param/") for name in known.theta] == ["loc"]
    assert sorted(name.removeprefix("param/") for name in known.psi) == ["scale", "slope"]
    assert (known.observes, known.kl_is_whole, known.closed_form_kl) == (True, True, True)
    assert (known.scored, known.left_out) == ([], set())


def test_copies_of_a_model_share_what_is_looked_up() -> None:
    built = as_model(model, guide)
    built.create(X)
    problem = Problem(built, X)
    other = problem.of(as_model(model, guide))
    known = other.program  # the copy is asked first
    assert problem.program is known
    assert problem.of(as_model(model, guide)).program is known
    assert problem.on(X[:4]).program is not known


def test_parameters_of_a_marginal_are_those_that_have_derivatives() -> None:
    class Half(torch.autograd.Function):
        """Of two arguments; only the first has a derivative."""

        @staticmethod
        def forward(context: Any, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return first * second

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
            return gradient, None

    class OwnMarginal(FactorAnalysis):
        own = False

        def log_marginal(self, x: torch.Tensor, known: Any = None) -> torch.Tensor:
            away = x - self.mean
            return Half.apply(away, self.noise_variance).sum(-1) if self.own else away.square().sum(-1)

    x = X[:20].reshape(-1, 2)
    names = ("loadings_unconstrained", "mean_unconstrained", "noise_variance_unconstrained")
    assert set(Problem(FactorAnalysis(1, 2), x).theta) == set(names)
    one = OwnMarginal(1, 2)
    for one.own in (False, True):
        assert reached_by_marginal(one, x) == ("mean_unconstrained",)
