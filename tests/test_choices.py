"""Tables of discrete latents give the numbers of the Pyro programs: bounds, draws, relaxations, and their gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.core import weighing
from zoo.core.choices import Choices
from zoo.core.contract import lacks, prepared
from zoo.core.data import Data, num_data
from zoo.core.hooks import choose
from zoo.core.objective import Step
from zoo.core.problem import Problem
from zoo.core.rows import Rows
from zoo.estimators.gumbel import Gumbel, GumbelObjective, StraightThroughGumbel
from zoo.estimators.iwae import iwae_surrogate, vimco_surrogate
from zoo.estimators.reinforce import reinforce_surrogate, scored
from zoo.estimators.rws import rws_surrogate, wake_surrogate
from zoo.estimators.svi import SVI
from zoo.models import model_classes
from zoo.models.shared.choices import OneOfMany
from zoo.models.shared.mixture import Mixture
from zoo.scores.bounds import summed_exactly


def tiny(name: str) -> tuple[Any, Any]:
    model, x = sys.modules[model_classes()[name].__module__].tiny()
    model = model.double()
    x = prepared(model, x)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # equal numbers everywhere would hide a table that is read the wrong way round
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype, generator=generator) * p.isfinite())
    return model, x


OFFERING = [
    n for n in sorted(model_classes()) if lacks(sys.modules[model_classes()[n].__module__].tiny()[0], "choices") is None
]
every_offering = pytest.mark.parametrize("name", OFFERING)


def weighted(x: Data) -> Rows:
    weights = torch.linspace(0.5, 2.0, num_data(x), dtype=torch.float64)
    return Rows(x, weights, mean_weight=float(weights.mean()))


class WithoutTables(Problem):
    """A problem whose model keeps its programs alone."""

    def lacks(self, *offers: str) -> str | None:
        return "it is asked for its programs" if {"choices", "elbo"} & {*offers} else super().lacks(*offers)


def after(model: Any, step: Callable[[], Step]) -> tuple[Tensor, ...]:
    """Value, surrogate and every parameter's gradient, at one seed."""
    torch.manual_seed(5)
    surrogate, value, _ = step()
    assert value is not None
    grads = torch.autograd.grad(surrogate, list(model.parameters()), allow_unused=True)
    return value, surrogate.detach(), *(torch.zeros(()) if g is None else g for g in grads)


def agree(ours: tuple[Tensor, ...], programs: tuple[Tensor, ...]) -> None:
    assert sum(float(g.abs().sum()) > 0 for g in programs[2:]) > 2
    for own, expected in zip(ours, programs, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12)


@every_offering
@pytest.mark.parametrize("beside", [lambda x: x, weighted], ids=["rows", "weighted rows"])
def test_the_bound_is_what_pyro_sums(name: str, beside: Callable[[Data], Data]) -> None:
    model, x = tiny(name)
    x = beside(x)
    tables, programs = (SVI().objective(kind(model, x)) for kind in (Problem, WithoutTables))
    agree(after(model, lambda: tables(x)), after(model, lambda: programs(x)))


@every_offering
@pytest.mark.parametrize("size", [64, 1 << 20])
def test_weights_without_the_programs_are_theirs_draw_for_draw(name: str, size: int, monkeypatch: Any) -> None:
    """And torch's generator goes on from where they would leave it."""
    model, x = tiny(name)

    def found() -> tuple[Tensor, bool, Tensor]:
        torch.manual_seed(5)
        log_weight = weighing.log_weights(model, x, 9, max_elements=size)
        return log_weight, summed_exactly(Problem(model, x)), torch.rand(3)

    tables = found()
    monkeypatch.setattr(weighing, "tabled", lambda problem: False)
    for ours, programs in zip(tables, found(), strict=True):
        torch.testing.assert_close(ours, programs, rtol=1e-12, atol=1e-12)


@every_offering
@pytest.mark.parametrize("beside", [lambda x: x, weighted], ids=["rows", "weighted rows"])
@pytest.mark.parametrize(
    ("from_tables", "from_programs"),
    [(scored, reinforce_surrogate), (vimco_surrogate, iwae_surrogate), (wake_surrogate, rws_surrogate)],
    ids=["reinforce", "iwae", "rws"],
)
def test_draws_are_those_of_the_programs(name: str, beside: Any, from_tables: Any, from_programs: Any) -> None:
    model, x = tiny(name)
    x = beside(x)
    nesting = Problem(model, x).program.nesting
    agree(
        after(model, lambda: from_tables(*choose(model, x).draw(3), x)),
        after(model, lambda: from_programs(model, x, 3, nesting)),
    )


@every_offering
@pytest.mark.parametrize("kind", [Gumbel, StraightThroughGumbel])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_relaxed_draws_are_those_of_the_programs(name: str, kind: Any, num_particles: int) -> None:
    model, x = tiny(name)
    x = weighted(x)
    options = kind(temperature=0.7, num_particles=num_particles)
    tables, programs = (GumbelObjective(p(model, x), num_particles, options) for p in (Problem, WithoutTables))
    assert (tables.tables, programs.tables) == (True, False)
    agree(after(model, lambda: tables(x)), after(model, lambda: programs(x)))


@pytest.mark.parametrize("estimator", ["svi", "gumbel", "st_gumbel", "reinforce", "iwae", "rws"])
def test_fits_by_tables_run_no_program(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the programs have been looked at, and the same numbers come out as of a subclass with the same program."""

    class Again(zoo.BernoulliMixture):
        def model(self, x: Tensor) -> None:
            super().model(x)

    x = (torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    calls = []
    original = Mixture.guide
    monkeypatch.setattr(Mixture, "guide", lambda self, x: (calls.append(len(x)), original(self, x))[1])
    options: dict[str, Any] = {"estimator": estimator, "max_epochs": 12, "warmup": 3}
    if estimator == "svi":
        options["optimizer"] = "adam"  # a quasi-Newton climb takes its metric from the tables
    fits = [zoo.fit(c(2, 3), x, **options) for c in (zoo.BernoulliMixture, Again)]
    assert lacks(fits[1].model, "choices") is not None
    assert fits[0].history["objective"] == pytest.approx(fits[1].history["objective"], rel=1e-9)
    calls.clear()
    zoo.fit(zoo.BernoulliMixture(2, 3), x, **options)
    assert len(calls) < 12


def test_another_encoder_leaves_the_tables_unused() -> None:
    model = zoo.BernoulliMixture(2, 3)
    assert lacks(model, "choices") is None
    model.encoder = torch.nn.Linear(3, 2)
    assert lacks(model, "choices") == "its encoder is a network of another kind than its own"


def test_what_is_impossible_makes_no_nan() -> None:
    """A value that q rules out counts nothing; one that p alone rules out makes the bound -inf."""
    inf = torch.inf
    prior, likelihood = torch.tensor([0.0, -inf]), torch.tensor([[-1.0, -2.0], [-1.0, -2.0]])
    logits = torch.tensor([[0.0, -inf], [0.3, -0.2]], requires_grad=True)
    tables: Choices = OneOfMany(prior, likelihood, logits.log_softmax(-1))
    bound = tables.bound()
    assert bound.tolist() == [-1.0, -inf]
    (grad,) = torch.autograd.grad(bound[0], logits)
    assert torch.equal(grad[0], torch.zeros(2))
    assert tables.draw(50)[0][:, 0].eq(-1.0).all()
