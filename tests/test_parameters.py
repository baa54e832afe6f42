"""What a fit tells of its parameters: by name, constrained, along axes that have names."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

import zoo
from zoo.core.contract import LatentVariableModel
from zoo.core.schema import Schema
from zoo.models import model_classes
from zoo.reporting.parameter_tables import cut, numbers, parameter_tables, parameter_text
from zoo.reporting.parameters import networks_of, parameters_of

SYMBOLS = ("a", "b", "c", "d")


def as_fitted(model: LatentVariableModel, x: Any = None, **more: Any) -> zoo.Fit:
    """A fit of a model as it stands."""
    return zoo.Fit(model.eval(), "eg", {}, 0, "converged", None, None, None, {}, 0, 0.0, 1, 1, template=x, **more)


@pytest.mark.parametrize("name", model_classes())
def test_every_model_tells_all_its_parameters_and_what_their_axes_run_over(name: str) -> None:
    cls = model_classes()[name]
    model, x = importlib.import_module(cls.__module__).tiny()
    size = next(iter(x.values())).shape[-1] if isinstance(x, dict) else 3
    model.schema = Schema({"": tuple(f"column {i}" for i in range(size))}, SYMBOLS[:3])
    fit = as_fitted(model, x)
    told, raw = parameters_of(fit), dict(fit.model.named_parameters())
    by_site = {raw_name.removesuffix("_unconstrained") for raw_name in raw}
    numbers = sum(p.values.size for p in told) + sum(network.size for network in networks_of(fit))
    assert numbers == sum(value.size for value in fit.parameters.values())
    for p in told:
        assert not p.name.endswith("unconstrained"), "expected the name that users know; declare it by reads_as"
        np.testing.assert_array_equal(p.values, getattr(fit.model, p.name).detach().numpy())
        assert tuple(map(len, p.entries)) == p.values.shape, "entries() expected a name for each place along an axis"
        if p.name in by_site and (constraint := fit.model.constraint_of(p.name)) is not None:
            assert constraint.check(torch.as_tensor(p.values)).all()
    for parameter, axes in fit.model.named_axes().items():
        value = fit.parameters.get(parameter)
        assert value is None or value.ndim == len(axes), f"axes of {parameter}: expected {value.ndim} words"
        assert value is not None or parameter not in by_site, f"axes of {parameter}: not among the parameters"
    table = fit.parameters_frame()
    for p in told:  # the numbers of the table, put together again
        rows = table[table["parameter"] == p.name]
        index = tuple(rows[word].map(list(e).index).to_numpy() for word, e in zip(p.axes, p.entries, strict=True))
        again = np.full_like(p.values, np.nan)
        again[index] = rows["value"].to_numpy().reshape(()) if not index else rows["value"]
        np.testing.assert_array_equal(again, p.values)


def test_rows_of_a_table_go_by_the_names_of_columns() -> None:
    x = pd.DataFrame({"height_cm": [1.0, 2, 3, 8, 9, 10], "weight_kg": [2.0, 1, 2, 9, 8, 7]})
    model = zoo.GaussianMixture(2, 2)
    model.means = torch.tensor([[2.0, 1.5], [9.0, 8.0]])
    model.weights = torch.tensor([0.25, 0.75])
    fit = zoo.fit(model, x, init="current", max_iter=0)
    table = fit.parameters_frame()
    assert list(table.columns) == ["parameter", "component", "feature", "other feature", "value"]
    means = table[table["parameter"] == "means"].pivot(index="component", columns="feature", values="value")
    assert means.loc[1, "weight_kg"] == 8
    assert means.loc[0, "height_cm"] == 2
    weights = table[table["parameter"] == "weights"]
    assert weights["component"].tolist() == [0, 1]
    assert weights["value"].tolist() == pytest.approx([0.25, 0.75])
    assert weights["feature"].isna().all()


def test_symbols_and_labels_name_axes() -> None:
    fit = zoo.fit(zoo.CategoricalHMM(2, 2), [list("abba"), list("bbab")], max_iter=1)
    emission = {p.name: p for p in parameters_of(fit)}["emission_probs"]
    assert (emission.axes, emission.entries) == (("state", "symbol"), ((0, 1), ("a", "b")))
    grammar = as_fitted(zoo.PCFG(1, 2, 2, labels=("S", "N", "V")))
    rules = {p.name: p for p in parameters_of(grammar)}["rule_probs"]
    assert rules.entries == (("S",), ("S", "N", "V"), ("S", "N", "V"))
    spins = zoo.BoltzmannMachine(2, 1)
    spins.schema = Schema({"": ("up", "down")})
    assert parameters_of(as_fitted(spins))[1].entries == (("up", "down", "hidden 0"),)


def program(x: torch.Tensor) -> None:
    net = pyro.module("net", NET)
    share = pyro.param("share", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("x", dist.Normal(net(z.double().unsqueeze(-1)).squeeze(-1), 1.0), obs=x)


NET = nn.Linear(1, 1).double()


def test_a_program_that_declares_nothing_has_numbered_axes_and_its_networks_are_counted() -> None:
    fit = zoo.fit(program, torch.linspace(-1, 1, 6).double(), estimator="eg", max_epochs=1)
    assert [(p.name, p.axes, p.entries) for p in parameters_of(fit)] == [("share", ("index",), ((0, 1),))]
    assert [(network.name, network.size) for network in networks_of(fit)] == [("net", 2)]
    table = fit.parameters_frame()
    assert table["value"].sum() == pytest.approx(1)
    assert table["index"].tolist() == [0, 1]


def test_numbers_are_rounded_to_what_a_reader_needs() -> None:
    assert numbers(np.array([0.5, 0.25, 0.0, 3e-9])) == ["0.5000", "0.2500", "0", "3e-09"]
    assert numbers(np.array([746.893, -0.2])) == ["746.9", "-0.2"]
    assert numbers(np.array([746.893, -0.2]), each=True) == ["746.9", "-0.2000"]
    assert numbers(np.array([1.5e9, 0.0])) == ["1.500e+09", "0"]
    assert numbers(np.array([3, 12])) == ["3", "12"]
    assert numbers(np.array([4.29131, 79.96]), np.array([0.0541, 0.7])) == ["4.291 ± 0.054", "79.96 ± 0.70"]


def test_long_tables_are_cut_and_simple_ones_told_once() -> None:
    wide = parameters_of(as_fitted(zoo.BernoulliMixture(20, 50)))
    text = parameter_text(wide, width=60)
    assert cut(wide, width=60)
    assert max(map(len, text.splitlines())) <= 60
    heads = next(line for line in text.splitlines() if line.split()[:2] == ["component", "0"])
    assert heads.split()[-1] == "…"
    assert [line.split()[0] for line in text.split("probs (component, feature)\n")[1].splitlines()[-2:]] == ["13", "…"]
    assert not cut(parameters_of(as_fitted(zoo.PoissonMixture(2, 3))))
    simple = parameter_tables(parameters_of(as_fitted(zoo.GaussianMixture(2, 2, covariance_type="diag"))))
    assert [table.title for table in simple[2:]] == ["covariances, diagonals (component, feature)"]
    tied = zoo.GaussianMixture(2, 2, covariance_type="tied")
    tied.covariances = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    table = parameter_tables(parameters_of(as_fitted(tied)))[-1]
    assert table.title == "covariances, of every component (feature, other feature)"
    assert table.rows == [["0", "2.000", "0.5000"], ["1", "0.5000", "1.000"]]


def test_draws_of_parameters_give_standard_errors() -> None:
    from zoo.bayes.draws import Draws

    draws = torch.tensor([[[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]])
    model = zoo.PoissonMixture(1, 2)
    fit = as_fitted(model, draws=Draws({"rates": draws.unsqueeze(2), "other": draws}))
    table = fit.parameters_frame()
    rates = table[table["parameter"] == "rates"]
    assert rates["standard_error"].tolist() == [1.0, 0.0]
    assert table[table["parameter"] == "weights"]["standard_error"].isna().all()
