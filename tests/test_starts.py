"""Which estimator and how many starts a fit takes where nobody says."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import zoo
from zoo.estimators.em import EM
from zoo.runs.prepare import usual_estimators
from zoo.runs.starts import ITERATIONS, MOST, scout, usual_number

COUNTS = torch.tensor([1.0, 2, 0, 1, 18, 22, 3, 2, 17, 25, 1, 19])


def groups(rows: int = 60, seed: int = 1) -> torch.Tensor:
    """Three groups of unequal spread in three dimensions."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(3, 3, dtype=torch.float64, generator=generator)
    x = torch.randn(rows, 3, dtype=torch.float64, generator=generator)
    return x * torch.tensor([0.5, 1.0, 1.5]).double()[torch.arange(rows) % 3, None] + centres[torch.arange(rows) % 3]


def coins(x: torch.Tensor) -> None:
    rate = pyro.param("rate", torch.tensor([1.0, 20.0]), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


def drawn_start(x: torch.Tensor) -> None:
    rate = pyro.param("rate", lambda: 30 * torch.rand(2), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


def network(x: torch.Tensor) -> None:
    net = pyro.module("net", torch.nn.Sequential(torch.nn.Linear(1, 50), torch.nn.Tanh(), torch.nn.Linear(50, 2)))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Normal(net(x[:, None])[torch.arange(len(x)), z], 1.0), obs=x)


# --- which estimator --------------------------------------------------------------------------------------------------


def test_a_program_of_closed_forms_takes_auto_em() -> None:
    fit = zoo.fit(coins, COUNTS)
    assert (fit.estimator, fit.status) == ("auto_em", "converged")
    assert fit.log_likelihood == pytest.approx(zoo.fit(coins, COUNTS, estimator="auto_em").log_likelihood, abs=0)
    assert usual_estimators(coins, COUNTS)[:2] == ["auto_em", "eg"]


def test_a_program_of_networks_does_not() -> None:
    assert usual_estimators(network, COUNTS)[0] == "eg"


def test_a_model_with_its_own_m_step_takes_em() -> None:
    assert usual_estimators(zoo.GaussianMixture(2, 3), groups()) == ["em", "eg", "svi", "gumbel"]


def test_a_class_without_an_m_step_takes_auto_em() -> None:
    class Flipped(zoo.PoissonMixture):
        def model(self, x: Any) -> None:
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("z", dist.Categorical(self.weights.flip(0)))
                pyro.sample("x", dist.Poisson(self.rates[z]).to_event(1), obs=x)

    assert usual_estimators(Flipped(2, 1), COUNTS[:, None])[0] == "auto_em"


def test_a_guide_that_is_given_is_used() -> None:
    def guide(x: torch.Tensor) -> None:
        probs = pyro.param("q", torch.full((len(x), 2), 0.5), constraint=constraints.simplex)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(probs))

    assert usual_estimators(coins, COUNTS, guide, for_fit=True)[0] != "auto_em"
    assert usual_estimators(coins, COUNTS, guide)[0] == "auto_em"


def test_compare_takes_the_usual_ones() -> None:
    made = zoo.compare(coins, COUNTS, gradients=False, options={"eg": {"max_epochs": 5}}, track=0, max_epochs=5)
    assert made.estimators[:2] == ["auto_em", "eg"]


# --- how many starts --------------------------------------------------------------------------------------------------


def test_more_components_do_not_lose_for_want_of_starts() -> None:
    x = groups(150)
    one = [zoo.fit(zoo.GaussianMixture(k, 3, covariance_type="diag"), x, restarts=1) for k in range(2, 7)]
    usual = [zoo.fit(zoo.GaussianMixture(k, 3, covariance_type="diag"), x) for k in range(2, 7)]
    reached = [fit.log_likelihood for fit in usual]
    assert sorted(reached) == reached, "a larger model holds every smaller one"
    single = [fit.log_likelihood for fit in one]
    assert all(b >= a - 1e-9 for a, b in zip(single, reached, strict=True)), "the first start is always run"
    assert any(b > a + 0.1 for a, b in zip(single, reached, strict=True)), "these data tell starts apart"
    fit = usual[-1]
    assert len(fit.restarts) == MOST
    assert [entry["chosen"] for entry in fit.restarts].count(True) == 1
    assert len({entry["seed"] for entry in fit.restarts}) == MOST
    chosen = next(entry for entry in fit.restarts if entry["chosen"])
    assert chosen["log_likelihood"] == fit.log_likelihood


def test_the_same_seed_gives_the_same_starts() -> None:
    fits = [zoo.fit(zoo.GaussianMixture(4, 3), groups(), seed=5) for _ in range(2)]
    assert fits[0].restarts == fits[1].restarts
    assert fits[0].log_likelihood == fits[1].log_likelihood


def test_a_first_start_that_is_best_gives_what_it_gives_alone() -> None:
    alone, usual = (zoo.fit(zoo.PoissonMixture(2, 1), COUNTS[:, None], restarts=r) for r in (1, None))
    assert (alone.log_likelihood, alone.iterations) == (usual.log_likelihood, usual.iterations)
    assert usual.restarts[0]["chosen"]


def test_programs_get_several_starts_where_they_draw_one() -> None:
    assert len(zoo.fit(drawn_start, COUNTS).restarts) == MOST
    assert len(zoo.fit(coins, COUNTS).restarts) == 1, "all of its starts are one"


@pytest.mark.parametrize(
    "options",
    [{"init": "current"}, {"max_seconds": 60}, {"estimator": "eg", "max_epochs": 3}, {"max_iter": ITERATIONS},
     {"validation": 0.2}, {"restarts": 1}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_some_fits_take_one_start(options: dict[str, Any]) -> None:
    assert len(zoo.fit(zoo.PoissonMixture(2, 1), COUNTS[:, None], **options).restarts) == 1


def test_the_number_follows_from_the_cost() -> None:
    trial = scout(EM())
    assert usual_number(trial, zoo.GaussianMixture(3, 4), torch.zeros(150, 4)) == MOST
    counts = [usual_number(trial, zoo.GaussianMixture(3, 4), torch.zeros(n, 4)) for n in (10**4, 10**5, 10**6, 10**7)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1
    assert usual_number(None, zoo.GaussianMixture(3, 4), torch.zeros(150, 4)) == 1


def test_a_wrong_m_step_is_named_whatever_the_start() -> None:
    class Wrong(zoo.PoissonMixture):
        def m_step(self, statistics: Any) -> Any:
            notes = super().m_step(statistics)
            self.rates = self.rates.detach() * 1.5
            return notes

    with pytest.raises(zoo.LikelihoodDecreased) as caught:
        zoo.fit(Wrong(2, 1), COUNTS[:, None])
    assert caught.value.fit.status == "diverged"
    assert math.isfinite(caught.value.fit.log_likelihood)
