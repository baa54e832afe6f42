"""auto_em on pieces of the data: what it collects adds up to what the whole gives, whatever the kind of update."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import zoo
from zoo.automatic.plans import make_plans
from zoo.core.contract import parameter, prepared
from zoo.core.mapped import Mapped
from zoo.core.rows import Rows
from zoo.core.streams import Stream
from zoo.models.shared.mixture import Mixture

SIZE = 7


class Groups(zoo.LatentVariableModel):
    """Rows of known groups, whose means and chances differ, beside a latent kind: entries follow the data."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = parameter(torch.tensor([0.3, 0.7], dtype=self.dtype), constraints.simplex)
        self.means = parameter(torch.tensor([[0.0, 1.0, 2.0], [3.0, 2.0, 5.0]], dtype=self.dtype))
        self.scales = parameter(torch.tensor([0.7, 1.5, 1.0], dtype=self.dtype), constraints.positive)
        self.rates = parameter(torch.tensor([1.0, 4.0], dtype=self.dtype), constraints.positive)
        self.chances = parameter(
            torch.tensor([[0.2, 0.5, 0.9], [0.6, 0.5, 0.3]], dtype=self.dtype), constraints.unit_interval
        )
        self.table = parameter(torch.tensor([[0.2, 0.8], [0.6, 0.4]], dtype=self.dtype), constraints.simplex)
        self.level = parameter(torch.tensor(0.5, dtype=self.dtype), constraints.positive)

    def model(self, y: Tensor, n: Tensor, hit: Tensor, group: Tensor, offset: Tensor) -> None:
        group = group.long()
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Categorical(self.weights))
            kind = pyro.sample("kind", dist.Categorical(self.table[z]))
            pyro.sample("y", dist.Normal(self.means[z, group], self.scales[group]), obs=y)
            pyro.sample("offset", dist.Normal(2 * y.detach(), self.level), obs=offset)
            pyro.sample("n", dist.Poisson(self.rates[kind]), obs=n)
            pyro.sample("hit", dist.Bernoulli(self.chances[z, group]), obs=hit)


class Lines(zoo.LatentVariableModel):
    """A mixture of regressions through a curve, which no rule knows, with a spread, which one does."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes = parameter(torch.tensor([1.0, -1.0], dtype=self.dtype))
        self.spread = parameter(torch.tensor([1.0, 0.6], dtype=self.dtype), constraints.positive)

    def model(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2, dtype=x.dtype) / 2))
            pyro.sample("y", dist.Normal((self.slopes[z] * x).tanh(), self.spread[z]), obs=y)


def rows(generator: torch.Generator, n: int, d: int = 1) -> Tensor:
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def groups(g: torch.Generator) -> tuple[Any, Any]:
    y, n = 2 + rows(g, 40)[:, 0], torch.poisson(torch.full((40,), 2.5, dtype=torch.float64), generator=g)
    # The last group is in the last pieces alone: their entries are not those of the first.
    group = torch.cat([torch.randint(0, 2, (30,), generator=g), torch.full((10,), 2)]).double()
    return Groups(), (y, n, (rows(g, 40)[:, 0] > 0).double(), group, 2 * y + rows(g, 40)[:, 0])


def lines(g: torch.Generator) -> tuple[Any, Any]:
    x = rows(g, 40)[:, 0]
    return Lines(), (x, (2 * x).tanh() + 0.3 * rows(g, 40)[:, 0])


def gaussian(kind: str) -> Callable[[torch.Generator], tuple[Any, Any]]:
    return lambda g: (zoo.GaussianMixture(2, 3, covariance_type=kind), 1e3 + rows(g, 40, 3))


def chain(g: torch.Generator) -> tuple[Any, Any]:
    x = torch.poisson(torch.full((18, 5, 2), 3.0, dtype=torch.float64), generator=g)
    return zoo.PoissonHMM(2, 2), {"x": x, "lengths": torch.arange(18) % 5 + 1}


def angles(g: torch.Generator) -> tuple[Any, Any]:
    return zoo.VonMisesMixture(2, 2), rows(g, 40, 2).clamp(-3, 3)


def weighted(g: torch.Generator) -> tuple[Any, Any]:
    model, x = groups(g)
    return model, Rows(x, weights=0.5 + torch.rand(40, generator=g, dtype=torch.float64))


CASES = {
    "weighted": weighted,
    "groups": groups,
    "lines": lines,
    "chain": chain,
    "angles": angles,
    **{kind: gaussian(kind) for kind in ("full", "tied", "diag", "spherical")},
}


def in_files(x: Any, folder: Path) -> Any:
    """Data that stay in files: a tensor, or a tuple or dict of them."""
    if isinstance(x, Rows):
        return replace(x, data=in_files(x.data, folder))

    def put(name: str, values: Tensor) -> Mapped:
        np.save(folder / f"{name}.npy", values.numpy())
        files: Mapped = zoo.open_data(folder / f"{name}.npy").files
        return files

    if isinstance(x, dict):
        return Stream({name: put(name, values) for name, values in x.items()}, "x")
    return Stream(tuple(put(str(i), v) for i, v in enumerate(x)) if isinstance(x, tuple) else put("x", x), "x")


def climbed(case: str, steps: int = 3, folder: Path | None = None) -> tuple[list[float], dict[str, Tensor], int]:
    """Objectives of a few iterations, the parameters after them, and how many pieces there were; data in files that
    are written to a folder, where one is given."""
    generator = torch.Generator().manual_seed(1)
    model, x = CASES[case](generator)
    x = replace(x, data=prepared(model, x.data)) if isinstance(x, Rows) else prepared(model, x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if isinstance(model, Mixture) or case == "chain":
            model.initialize(x, "random", 0)
    plans = make_plans(model, x if folder is None else in_files(x, folder))
    objectives = []
    for _ in range(steps):
        statistics = plans.e_step()
        objectives.append(float(statistics["objective"]))
        if case != "weighted":
            assert statistics["num_data"] == (18 if case == "chain" else 40)
        plans.m_step(statistics)
    return (
        objectives,
        {name: value.detach().clone() for name, value in model.named_parameters()},
        len(list(plans.pieces)),
    )


@pytest.mark.parametrize("case", CASES)
def test_pieces_of_seven_give_what_the_whole_gives(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, expected, one = climbed(case)
    monkeypatch.setattr("zoo.core.pieces.rows_at_once", lambda numbers, times=1: SIZE)
    pieces, found, several = climbed(case)
    assert (one, several) == (1, math.ceil((18 if case == "chain" else 40) / SIZE))
    assert whole[-1] > whole[0] + 1e-3
    assert pieces == pytest.approx(whole, rel=1e-12)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("case", ["weighted", "groups", "chain", "full", "diag"])
def test_pieces_of_files_give_what_the_whole_gives(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole, expected, _ = climbed(case)
    monkeypatch.setattr("zoo.core.pieces.rows_at_once", lambda numbers, times=1: SIZE)
    pieces, found, several = climbed(case, folder=tmp_path)
    assert several > 2
    assert pieces == pytest.approx(whole, rel=1e-12)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)


def test_a_program_of_ones_own_is_fitted_and_scored_in_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("zoo.core.memory.PIECE_NUMBERS", 512)
    model, x = groups(torch.Generator().manual_seed(1))
    there, steps = in_files(prepared(model, x), tmp_path), {"max_iter": 4, "tol": 0, "restarts": 1}
    ours, theirs = zoo.fit(model, there, **steps), zoo.fit(model, x, estimator="auto_em", **steps)
    assert ours.estimator == "auto_em"
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-12)
    assert zoo.evaluate(ours, there).log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-12)
    torch.testing.assert_close(ours.score_samples(there), ours.score_samples(x), rtol=1e-12, atol=1e-12)
    model, x = angles(torch.Generator().manual_seed(1))
    there = in_files(prepared(model, x), tmp_path)
    with pytest.raises(
        zoo.ZooError, match=r"its 'loc.*' climbs by numeric steps, .* the 40 rows of x are read in .*Use "
    ):
        zoo.fit(model, there, estimator="auto_em")
    with pytest.raises(zoo.ZooError, match=r"program expected its data in memory, .* write it as a zoo.LatentVariable"):
        zoo.fit(program, in_files(torch.ones(40).double(), tmp_path))


def program(x: Tensor) -> None:
    rates = pyro.param("rates", torch.tensor([1.0, 4.0]), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Poisson(rates[z]), obs=x)


def test_a_program_sees_no_more_than_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by the piece: parameters that climb run the program on one after the other, too."""
    monkeypatch.setattr("zoo.core.pieces.rows_at_once", lambda numbers, times=1: SIZE)
    seen = []
    model, x = angles(torch.Generator().manual_seed(1))
    components = zoo.VonMisesMixture.model

    def spied(self: Any, x: Tensor) -> None:
        seen.append(len(x))
        components(self, x)

    monkeypatch.setattr(zoo.VonMisesMixture, "model", spied)
    plans = make_plans(model, x)
    plans.m_step(plans.e_step())
    assert max(seen) == SIZE
    assert len(seen) > 2 * math.ceil(40 / SIZE)


def test_a_users_program_and_one_with_a_site_for_all_rows_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shared(zoo.LatentVariableModel):
        """One latent for all the data: their pieces do not add up."""

        def __init__(self) -> None:
            super().__init__()
            self.rates = parameter(torch.tensor([1.0, 4.0], dtype=self.dtype), constraints.positive)

        def model(self, x: Tensor) -> None:
            z = pyro.sample("z", dist.Categorical(torch.ones(2, dtype=x.dtype) / 2))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Poisson(self.rates[z]), obs=x)

    monkeypatch.setattr("zoo.core.pieces.rows_at_once", lambda numbers, times=1: SIZE)
    x = torch.poisson(torch.full((20,), 3.0, dtype=torch.float64), generator=torch.Generator().manual_seed(0))
    assert len(make_plans(Shared(), x).pieces) == 1
    assert zoo.fit(Shared(), x, estimator="auto_em").status == "converged"
    assert zoo.fit(program, x, estimator="auto_em").status == "converged"
    fit = zoo.fit(zoo.PoissonMixture(2, 1), x, estimator="auto_em")
    again = zoo.fit(zoo.PoissonMixture(2, 1), x, estimator="em")
    assert fit.log_likelihood == pytest.approx(again.log_likelihood, rel=1e-9)
