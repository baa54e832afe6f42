"""A model said by its name or class, with open sizes, and data said by a path: made as a person would mean it."""

from __future__ import annotations

import copy
import importlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

import zoo
from zoo.core.unsized import SIZES, Unsized

TABLE = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(zoo.model_classes()))
def test_sizes_that_are_left_out_are_read_off_the_data(name: str) -> None:
    cls = zoo.model_classes()[name]
    model, x = importlib.import_module(cls.__module__).tiny()
    needed = [p.name for p in inspect.signature(cls).parameters.values() if p.default is p.empty]
    sizes = [size for size in needed if size in SIZES]
    others = {key: value for key, value in model.config.items() if key not in sizes}
    if not sizes or not others:
        pytest.skip("no size is needed, or no argument tells a call from a copy")
    open_model: Any = cls(**others)
    assert isinstance(open_model, Unsized)
    made = copy.deepcopy(open_model).from_data(x)
    assert type(made) is cls
    read = {size: made.config[size] for size in sizes if size != "num_symbols"}  # the data may not have the last one
    assert read == {size: model.config[size] for size in read}


def test_names_classes_and_open_sizes_are_one_model(tmp_path: Path) -> None:
    pandas.DataFrame(TABLE.numpy(), columns=["height", "weight"]).to_csv(tmp_path / "plain.csv", index=False)
    direct = zoo.fit(zoo.GaussianMixture(2, 2), TABLE)
    fits = [
        zoo.fit("gaussian_mixture", str(tmp_path / "plain.csv"), num_components=2),
        zoo.fit(zoo.GaussianMixture, tmp_path / "plain.csv", num_components=2),
        zoo.fit(zoo.GaussianMixture(2), TABLE),
        zoo.fit(zoo.GaussianMixture(num_components=2), TABLE.numpy()),
    ]
    for fit in fits:
        torch.testing.assert_close(fit.model.means, direct.model.means, rtol=1e-9, atol=1e-9)
    by_name, by_instance = (
        zoo.compare(model, TABLE, estimators=["em"], gradients=False, **arguments).fits[0]
        for model, arguments in (("gaussian_mixture", {"num_components": 2}), (zoo.GaussianMixture(2, 2), {}))
    )
    assert by_name.log_likelihood == by_instance.log_likelihood
    assert fits[0].model.schema is not None
    assert fits[0].model.schema.columns[""] == ("height", "weight")
    assert fits[0].data is not None
    assert fits[0].data["name"] == "plain.csv"


def test_a_column_of_a_file_is_a_vector_to_a_program(tmp_path: Path) -> None:
    import pyro
    import pyro.distributions as dist

    def model(x: torch.Tensor) -> None:
        rate = pyro.param("rate", torch.tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    (tmp_path / "n.csv").write_text("n\n1\n2\n6\n")
    fit = zoo.fit(model, tmp_path / "n.csv")
    assert float(fit.parameters["rate"]) == pytest.approx(3, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: zoo.fit("gausian_mixture", TABLE), "Did you mean 'gaussian_mixture'"),
        (lambda: zoo.fit("gaussian_mixture", TABLE), "expected num_components, got nothing"),
        (lambda: zoo.fit("gaussian_mixture", TABLE, n_components=2), "Did you mean 'num_components'"),
        (lambda: zoo.fit(zoo.GaussianMixture(2, 2), TABLE, n_components=2), "where the model is made"),
        (lambda: zoo.fit(zoo.GaussianMixture(2, 2), TABLE, num_components=2), "where the model is made"),
        (lambda: zoo.fit("gaussian_mixture", "no.csv", num_components=2), "no file 'no.csv'"),
        (lambda: zoo.evaluate(zoo.GaussianMixture(2), TABLE), "with num_features by the data"),
        (lambda: zoo.GaussianMixture(2).means, "expected num_features before its means"),
    ],
)
def test_each_mistake_has_its_line(call: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(zoo.ZooError, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_python_still_says_what_is_wrong_with_a_call() -> None:
    with pytest.raises(TypeError, match="covariance_typ"):
        zoo.GaussianMixture(2, covariance_typ="full")
    with pytest.raises(TypeError, match="num_components"):
        zoo.GaussianMixture()
    assert list(inspect.signature(zoo.GaussianMixture).parameters)[:2] == ["num_components", "num_features"]
    assert np.array_equal(copy.deepcopy(zoo.GaussianMixture(2, 2)).weights.detach(), [0.5, 0.5])


def test_words_and_numbers_where_others_were_meant() -> None:
    x = torch.tensor([[1.0], [2], [8], [9]])
    found = zoo.compare("poisson_mixture", x, num_components=2, estimators="em, eg", gradients=False)
    assert [fit.estimator for fit in found.fits] == ["em", "eg"]
    fit = found.fits[0]
    assert fit.sample(np.int64(3)).shape == (3, 1)
    for number in (-1, 0, "3", 2.0):
        with pytest.raises(zoo.ZooError, match="sample: n expected a whole number of at least 1"):
            fit.sample(number)  # type: ignore[arg-type]
    with pytest.raises(zoo.ZooError, match=r"got Fit\. Pass a fit's \.model"):
        zoo.fit(fit, x)
