"""A gradient step on a small problem: Pyro's interpreter beside NumPyro's compiled loop, for docs/bayes.md.

    zoo bench step_overhead [--quick] [--out FILE]

Old Faithful, 272 points, a mixture of two Gaussians: small, and real. Timed in turns, medians of several rounds, on one
thread of torch: one step of EG by Adam through Pyro's handlers (enumeration), the same through the zoo's own exact sum,
and a step of gradient descent on the log posterior inside NumPyro's scanned loop; and how long jax compiles before its
first step.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate

import zoo
from zoo.core.as_module import AsModule
from zoo.core.isolation import threads

STEPS, ROUNDS = 200, 5


def pyro_step(model: Any, x: torch.Tensor) -> Callable[[], None]:
    """A step of Adam on minus the evidence that Pyro sums by enumeration."""
    handler = functools.partial(config_enumerate, default="parallel")
    loss = TraceEnum_ELBO(max_plate_nesting=1)(AsModule(model, "model", handler), _nothing)
    return _adam(model, lambda: loss(x))


def exact_step(model: Any, x: torch.Tensor) -> Callable[[], None]:
    """The same step on the model's own ``log_marginal``."""
    return _adam(model, lambda: -model.log_marginal(x).sum())


def _adam(model: Any, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    adam = torch.optim.Adam([p for n, p in model.named_parameters() if not n.startswith("encoder")], lr=1e-3)

    def step() -> None:
        adam.zero_grad()
        loss().backward()
        adam.step()

    return step


def _nothing(x: torch.Tensor) -> None:
    """The guide of a program without latents left."""


def numpyro_steps(model: Any, x: torch.Tensor) -> tuple[Callable[[], None], float]:
    """``STEPS`` steps in one compiled scan, and the seconds that compiling took."""
    import jax
    from numpyro.infer.util import potential_energy

    from zoo.bayes import joint as bayes
    from zoo.bayes.numpyro import double_precision
    from zoo.estimators.nuts import _start

    present = {n: v.numpy() for n, v in bayes.site_values(model, model.prior(x)).items()}
    program = functools.partial(model.numpyro_model, x.numpy())
    potential = functools.partial(potential_energy, program, (), {})

    def descend(params: Any) -> Any:
        def step(p: Any, _: None) -> tuple[Any, None]:
            return jax.tree.map(lambda a, g: a - 1e-6 * g, p, jax.grad(potential)(p)), None

        return jax.lax.scan(step, params, None, length=STEPS)[0]

    with double_precision():
        params = _start(program, present, jax.random.PRNGKey(0))
        began = time.perf_counter()
        compiled = jax.jit(descend).lower(params).compile()
        compiling = time.perf_counter() - began

    def run() -> None:
        with double_precision():
            jax.block_until_ready(compiled(params))

    return run, compiling


def run(quick: bool = False) -> dict[str, Any]:
    """Measures, prints and returns milliseconds a step by system: medians over rounds taken in turns.

    Args:
        quick: one round.
    """
    with threads(0):
        found = _measure(1 if quick else ROUNDS)
    print(json.dumps(found, indent=1))
    return found


def _measure(rounds: int) -> dict[str, Any]:
    x = zoo.load_data("faithful")
    fitted = zoo.fit(zoo.GaussianMixture(2, 2), x, estimator="em").model
    first, second = (zoo.fit(fitted, x, estimator="em", init="current", max_iter=1).model for _ in range(2))
    scanned, compiling = numpyro_steps(fitted, x.double())
    single = {"pyro": pyro_step(first, x.double()), "log_marginal": exact_step(second, x.double())}
    times: dict[str, list[float]] = {"pyro": [], "log_marginal": [], "numpyro": []}
    for _ in range(rounds + 1):
        for name, step in single.items():
            began = time.perf_counter()
            for _ in range(STEPS):
                step()
            times[name].append((time.perf_counter() - began) / STEPS * 1e3)
        began = time.perf_counter()
        scanned()
        times["numpyro"].append((time.perf_counter() - began) / STEPS * 1e3)
    found = {
        name: round(statistics.median(values[1:]), 4) for name, values in times.items()
    }  # the first round warms up
    return {
        "data": len(x),
        "ms_per_step": found,
        "compile_seconds": round(compiling, 2),
        "steps_to_repay_compiling": round(compiling * 1e3 / (found["pyro"] - found["numpyro"])),
    }
