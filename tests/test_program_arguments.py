"""Arguments of a program that are no data reach it as they are."""

from __future__ import annotations

from argparse import Namespace
from collections import namedtuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

import zoo
from zoo.core.data import as_data, map_tensors, num_data, tensors

X = torch.tensor([-1.0, -0.5, 0.2, 3.0, 3.5, 4.1], dtype=torch.float64)
Sizes = namedtuple("Sizes", ["components", "scale"])


def mixture(x, options):
    """A mixture whose number of components and scale are read off an argument by ``options``."""
    k, scale = options
    weights = pyro.param("weights", torch.ones(k) / k, constraint=constraints.simplex)
    loc = pyro.param("loc", torch.arange(float(k)))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


def of_namespace(x, args):
    assert type(args) is Namespace
    mixture(x, (args.k, args.scale))


def of_dict(x, args):
    assert type(args["k"]) is int
    assert args["name"] == "two"
    mixture(x, (args["k"], args["scale"]))


def of_flags(x, k, verbose, nothing, name, scale):
    assert (type(k), type(verbose), nothing, name, type(scale)) == (int, bool, None, "two", float)
    mixture(x, (k, scale))


def of_functions(x, scale, net):
    assert scale.__name__ == "<lambda>"
    assert isinstance(net, nn.Module)
    mixture(x, (2, scale()))


def of_sizes(x, sizes):
    assert type(sizes) is Sizes
    mixture(x, sizes)


ARGUMENTS = {
    "namespace": (of_namespace, (X, Namespace(k=2, scale=1.0))),
    "dict": (of_dict, (X, {"k": 2, "scale": 1.0, "name": "two"})),
    "flags": (of_flags, (X, 2, True, None, "two", 1.0)),
    "functions": (of_functions, (X, lambda: 1.0, nn.Linear(1, 1))),
    "named tuple": (of_sizes, (X, Sizes(2, 1.0))),
    "keywords": (of_flags, {"x": X, "k": 2, "verbose": False, "nothing": None, "name": "two", "scale": 1.0}),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_is_no_data_reaches_the_program_as_it_is(name, tmp_path):
    program, arguments = ARGUMENTS[name]
    reference = zoo.fit(lambda x: mixture(x, (2, 1.0)), X, estimator="auto_em")
    for estimator in ("auto_em", "eg"):
        options = {"max_epochs": 3} if estimator == "eg" else {}
        fit = zoo.fit(program, arguments, estimator=estimator, **options)
        assert fit.num_data == len(X)
        if estimator == "auto_em":
            assert fit.log_likelihood == reference.log_likelihood
            assert fit.score(arguments) == pytest.approx(reference.log_likelihood, abs=1e-12)
    fit.save(tmp_path / "run")
    loaded = zoo.load(tmp_path / "run", model=program) if name in ("flags", "keywords") else fit
    assert loaded.sample(4).shape == (4,)


def test_data_among_arguments_are_tensors_and_the_rest_is_the_same_object():
    options = Namespace(k=3)
    x = as_data((np.arange(4.0), [[1, 2], [3, 4]], options, {"steps": np.arange(2), "name": "a"}, (2, 3), ["a", "b"]))
    assert [type(value) for value in x[:2]] == [torch.Tensor, torch.Tensor]
    assert x[2] is options
    assert isinstance(x[3]["steps"], torch.Tensor)
    assert x[3]["name"] == "a"
    assert x[4:] == ((2, 3), ["a", "b"])
    moved = map_tensors(lambda t: t + 1, x)
    assert moved[2] is options
    assert moved[4] is x[4]
    assert len(tensors(x)) == 3
    assert num_data((options, 3)) == 1
