"""Gradient fits of small data: exact objectives by quasi-Newton steps beside Adam's; a step beside Pyro's own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from torch import Tensor

import zoo
from benchmarks._turns import in_turns, summary
from zoo.core.isolation import isolated, threads

STEPS = 200


def climbs(rounds: int, quick: bool = False) -> dict[str, Any]:
    """Seconds and log-likelihoods of fits of iris, three full components, defaults, from one start.

    Args:
        quick: a tenth of the steps by Adam, which then end short of the optimum.
    """
    x = zoo.load_data("iris")
    short = {"max_epochs": 300} if quick else {}
    asked: dict[str, dict[str, Any]] = {
        "em": {},
        "eg": {},
        "eg by adam": {"optimizer": "adam", **short},
        "svi": {},
        "svi by adam": {"optimizer": "adam", **short},
        "gumbel": short,
    }
    reached: dict[str, float] = {}

    def fit(name: str, options: dict[str, Any]) -> Callable[[], None]:
        def call() -> None:
            model = zoo.GaussianMixture(3, x.shape[1])
            fitted = zoo.fit(model, x, estimator=name.split()[0], restarts=1, **options)
            reached[name] = float(fitted.log_likelihood)

        return call

    with threads(0):
        found = summary(in_turns({name: fit(name, options) for name, options in asked.items()}, rounds, warm=0), "em")
    for name, row in found.items():
        row["log_likelihood"] = reached[name]
    gains = {name: found[f"{name} by adam"]["median"] / found[name]["median"] for name in ("eg", "svi")}
    return {"fits": found, "times_faster_than_adam": gains}


def steps(rounds: int) -> dict[str, Any]:
    """Milliseconds of a step on Old Faithful's 272 points, two full components, on one thread.

    "zoo svi", "zoo gumbel": a fit of many steps less one of few, by the number of steps between. "pyro svi":
    ``pyro.infer.SVI`` with ``TraceEnum_ELBO``, a hand-written program and guide of the same size. "numpyro": a step of
    gradient descent on ln p(x) within a compiled scan.
    """
    x = zoo.load_data("faithful")
    with threads(0):
        systems = {name: _zoo(name, x) for name in ("svi", "gumbel")}
        pyro_steps, scanned = _pyro(x), _numpyro(x)
        times: dict[str, list[float]] = {f"zoo {name}": [] for name in systems} | {"pyro svi": [], "numpyro": []}
        for turn in range(rounds + 1):
            found = {f"zoo {name}": call() for name, call in systems.items()}
            found |= {"pyro svi": _milliseconds(pyro_steps), "numpyro": _milliseconds(scanned)}
            for name, value in found.items():
                if turn:  # the first warms up
                    times[name].append(value)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"ms_a_step": medians, "times_faster_than_pyro": medians["pyro svi"] / medians["zoo svi"]}


def _milliseconds(many: Callable[[], None]) -> float:
    begin = time.perf_counter()
    many()
    return (time.perf_counter() - begin) / STEPS * 1e3


def _zoo(name: str, x: Tensor) -> Callable[[], float]:
    options = {"optimizer": "adam"} if name == "svi" else {}

    def seconds(epochs: int) -> float:
        begin = time.perf_counter()
        zoo.fit(zoo.GaussianMixture(2, 2), x, estimator=name, restarts=1, warmup=0, max_epochs=epochs, **options)
        return time.perf_counter() - begin

    def call() -> float:
        few = seconds(10)
        return (seconds(10 + STEPS) - few) / STEPS * 1e3

    return call


def _pyro(x: Tensor) -> Callable[[], None]:
    """``STEPS`` steps of Pyro's own SVI: a mixture, and a small network that gives q(z | x)."""
    encoder = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2)).to(x.dtype)
    scaled = (x - x.mean(0)) / x.std(0)

    def model(x: Tensor) -> None:
        logits = pyro.param("logits", torch.zeros(2, dtype=x.dtype))
        loc = pyro.param("loc", x[[0, 1]].clone())
        tril = pyro.param(
            "tril", torch.eye(2, dtype=x.dtype).repeat(2, 1, 1), constraint=dist.constraints.lower_cholesky
        )
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=logits))
            pyro.sample("x", dist.MultivariateNormal(loc[z], scale_tril=tril[z]), obs=x)

    @config_enumerate
    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=encoder(scaled)))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), TraceEnum_ELBO(max_plate_nesting=1))

    def call() -> None:
        with isolated(0):
            for _ in range(STEPS):
                svi.step(x)

    return call


def _numpyro(x: Tensor) -> Callable[[], None]:
    from benchmarks.step_overhead import STEPS as SCANNED
    from benchmarks.step_overhead import numpyro_steps

    assert SCANNED == STEPS
    fitted = zoo.fit(zoo.GaussianMixture(2, 2), x, estimator="em").model
    return numpyro_steps(fitted, x.double())[0]
