"""Hidden Markov models: an EM iteration beside hmmlearn and dynamax, value and gradient beside Pyro's own ways.

EM is that of Gaussians with diagonal covariances in four dimensions, float64, the same start and data, no prior. The
systems take turns, so that a busy machine slows them alike; what they compile is compiled before.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks._parts import kept
from zoo.core.isolation import threads
from zoo.models.gaussian_hmm import GaussianHMM
from zoo.structures import chain

FEATURES = 4
#: Sequences longer than this are no program to run step by step.
LONGEST_PROGRAM = 100
SHAPES = ((1, 100_000, 5), (1000, 100, 5), (64, 1000, 32))
QUICK_SHAPES = ((1, 5000, 5), (50, 100, 5), (8, 100, 32))
GRADIENT_SHAPE, QUICK_GRADIENT_SHAPE = (1000, 100, 5), (50, 20, 5)


class Start(NamedTuple):
    """Parameters: probabilities (K,) and (K, K), means and variances (K, D)."""

    initial: Tensor
    transition: Tensor
    means: Tensor
    variances: Tensor


def make_data(sequences: int, steps: int, states: int, seed: int = 0) -> tuple[Tensor, Start]:
    """x (N, T, D) drawn from an HMM whose states last ten steps, and a start near it."""
    rng = np.random.default_rng(seed)
    means = 2 * rng.normal(size=(states, FEATURES))
    z = np.empty((sequences, steps), dtype=np.int64)
    z[:, 0] = rng.integers(states, size=sequences)
    for t in range(1, steps):
        moves = rng.random(sequences) < 0.1
        z[:, t] = np.where(moves, rng.integers(states, size=sequences), z[:, t - 1])
    x = means[z] + rng.normal(size=(sequences, steps, FEATURES))
    start = Start(
        torch.full((states,), 1 / states, dtype=torch.float64),
        torch.tensor(0.5 * np.eye(states) + 0.5 * rng.dirichlet(np.full(states, 5.0), size=states)),
        torch.tensor(means + 0.5 * rng.normal(size=means.shape)),
        torch.full((states, FEATURES), 2.0, dtype=torch.float64),
    )
    return torch.tensor(x), start


class Ours:
    """The zoo's model, whose ``fit`` by "em" is this loop."""

    def __init__(self, x: Tensor, start: Start) -> None:
        self.x, self.start = x, start
        self.model = GaussianHMM(len(start.initial), FEATURES)
        self.reset()

    def reset(self) -> None:
        self.model.initial_probs, self.model.transition_probs = self.start.initial, self.start.transition
        self.model.means, self.model.covariances = self.start.means, self.start.variances.diag_embed()

    def iterate(self) -> float:
        """One EM iteration; ln p(x) in nats at the parameters before it."""
        found = self.model.e_step(self.x)
        self.model.m_step(found)
        return float(found["log_likelihood"])


class Automatic:
    """``auto_em`` on the same model as a plain Pyro program: what it does in each of its iterations.

    Args:
        recognised: False makes it run the program at every iteration, as for a program that is no chain.
    """

    def __init__(self, x: Tensor, start: Start, recognised: bool = True) -> None:
        import pyro
        import pyro.distributions as dist
        from torch.distributions import constraints

        from zoo.automatic.plan import make_plan
        from zoo.core.functions import as_model
        from zoo.core.isolation import isolated

        def program(x: Tensor) -> None:
            initial = pyro.param("initial", start.initial, constraint=constraints.simplex)
            steps = pyro.param("steps", start.transition, constraint=constraints.simplex)
            means = pyro.param("means", start.means)
            scale = pyro.param("scale", start.variances.sqrt(), constraint=constraints.positive)
            with pyro.plate("data", len(x)):
                z: Any = None
                for t in pyro.markov(range(x.shape[1])):
                    z = pyro.sample(f"z_{t}", dist.Categorical(initial if z is None else steps[z]))
                    pyro.sample(f"x_{t}", dist.Normal(means[z], scale[z]).to_event(1), obs=x[:, t])

        self.x, self.model = x, as_model(program)
        with isolated(0):
            self.model.initialize(x, "current")
            begin = time.perf_counter()
            self.plan = make_plan(self.model, x)
            self.seconds_to_plan = time.perf_counter() - begin
        assert self.plan.chain is not None
        if not recognised:
            with isolated(0):
                self.plan = make_plan(self.model, x, recognised=False)
        self.began = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def reset(self) -> None:
        self.model.load_state_dict(self.began)

    def iterate(self) -> float:
        """One EM iteration; ln p(x) in nats at the parameters before it."""
        evidence, weights = self.plan.e_step(self.x)
        self.plan.m_step(self.x, weights)
        return evidence


class Dynamax:
    """dynamax's DiagonalGaussianHMM: one jitted call with its own E and M step, as in its ``fit_em``."""

    def __init__(self, x: Tensor, start: Start) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        import jax.numpy as jnp
        from dynamax.hidden_markov_model import DiagonalGaussianHMM

        # Its default priors move the answer; a flat one costs the same.
        model = DiagonalGaussianHMM(
            len(start.initial), FEATURES, initial_probs_concentration=1.0, transition_matrix_concentration=1.0
        )
        initial, transition, means, variances = (jnp.asarray(part.numpy()) for part in start)
        self.start, properties = model.initialize(
            jax.random.PRNGKey(0),
            initial_probs=initial,
            transition_matrix=transition,
            emission_means=means,
            emission_scale_diags=variances**0.5,
        )
        data = jnp.asarray(x.numpy())
        state = model.initialize_m_step_state(self.start, properties)

        def step(parameters: Any, data: Any) -> Any:
            found, values = jax.vmap(lambda y: model.e_step(parameters, y))(data)
            new, _ = model.m_step(parameters, properties, found, state)
            return new, values.sum()

        self.step, self.data, self.parameters = jax.jit(step), data, self.start
        self.iterate()
        self.reset()

    def reset(self) -> None:
        self.parameters = self.start

    def iterate(self) -> float:
        """One EM iteration; ln p(x) in nats at the parameters before it."""
        self.parameters, value = self.step(self.parameters, self.data)
        return float(value.block_until_ready())


def hmmlearn(x: Tensor, start: Start, implementation: str, iterations: int) -> tuple[float, list[float]]:
    """Seconds of a ``fit`` of so many iterations, and ln p(x) in nats at each."""
    from hmmlearn.hmm import GaussianHMM

    model = GaussianHMM(
        len(start.initial),
        "diag",
        n_iter=iterations,
        tol=-math.inf,  # never stop
        min_covar=0.0,
        covars_prior=0.0,
        covars_weight=1.0,  # no prior: its default adds to the variances
        implementation=implementation,
        init_params="",
    )
    model.startprob_, model.transmat_ = start.initial.numpy().copy(), start.transition.numpy().copy()
    model.means_, model.covars_ = start.means.numpy().copy(), start.variances.numpy().copy()
    rows, lengths = x.reshape(-1, FEATURES).numpy(), [x.shape[1]] * len(x)
    begin = time.perf_counter()
    model.fit(rows, lengths)
    return time.perf_counter() - begin, [float(value) for value in model.monitor_.history]


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _em(shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """Seconds per EM iteration of each system, in turns."""
    x, start = make_data(*shape)
    span = 10  # a fit takes many; the first of a turn wake a sleeping core
    models: dict[str, Ours | Automatic | Dynamax] = {"ours": Ours(x, start)}
    if shape[1] <= LONGEST_PROGRAM:
        models["auto_em"] = Automatic(x, start)
    if _has("dynamax"):
        models["dynamax"] = Dynamax(x, start)
    modes = [f"hmmlearn {mode}" for mode in ("scaling", "log")] if _has("hmmlearn") else []
    seconds: dict[str, list[float]] = {name: [] for name in [*models, *modes]}
    values: dict[str, list[float]] = {}
    with torch.no_grad():
        for model in models.values():
            model.iterate()
    for _ in range(rounds):
        for name, model in models.items():
            model.reset()
            path = []
            with threads(x.numel()), torch.no_grad():  # as ``fit`` does, once for all iterations
                for _ in range(span):
                    begin = time.perf_counter()
                    path.append(model.iterate())
                    seconds[name].append(time.perf_counter() - begin)
            values[name] = path
        for name in modes:
            short, _ = hmmlearn(x, start, name.split()[1], 1)
            long, values[name] = hmmlearn(x, start, name.split()[1], 1 + span)
            seconds[name].append((long - short) / span)
    return kept(f"em, {shape}", _summary(seconds, values, shape))


def _automatic(shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """What ``auto_em`` costs besides: seconds to look at the program, and an iteration that runs it."""
    x, start = make_data(*shape)
    slow = Automatic(x, start, recognised=False)
    times = []
    with threads(x.numel()), torch.no_grad():
        for _ in range(rounds):
            begin = time.perf_counter()
            slow.iterate()
            times.append(time.perf_counter() - begin)
    taken = {"shape": shape, "seconds_to_plan": slow.seconds_to_plan, "generic_seconds": statistics.median(times)}
    return kept("auto_em", taken)


def _gradients(shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """Seconds per value and gradient of scalar Gaussian emissions, for all four parameters, in turns."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import TraceEnum_ELBO, config_enumerate

    sequences, steps, states = shape
    x, start = make_data(*shape)
    x = x[..., 0].contiguous()
    leaves = [start.initial.log(), start.transition.log(), start.means[:, 0].clone(), torch.ones(states).double()]
    for leaf in leaves:
        leaf.requires_grad_()
    initial, transition, means, scale = leaves

    def ours() -> Tensor:
        emission = dist.Normal(means, scale).log_prob(x.unsqueeze(-1))
        return chain.log_partition(initial.log_softmax(-1), transition.log_softmax(-1), emission).sum()

    def discrete_hmm() -> Tensor:
        # It makes a transition before the first emission: the same work, another value.
        return dist.DiscreteHMM(initial, transition, dist.Normal(means, scale), duration=steps).log_prob(x).sum()

    @config_enumerate
    def model() -> None:
        with pyro.plate("data", sequences, dim=-1):
            z: Any = None
            for t in pyro.markov(range(steps)):
                z = pyro.sample(f"z_{t}", dist.Categorical(logits=initial if z is None else transition[z]))
                pyro.sample(f"x_{t}", dist.Normal(means[z], scale[z]), obs=x[:, t])

    elbo = TraceEnum_ELBO(max_plate_nesting=1)

    def trace_enum() -> Tensor:
        return -elbo.differentiable_loss(model, lambda: None)

    functions: dict[str, Callable[[], Tensor]] = {
        "ours": ours,
        "DiscreteHMM": discrete_hmm,
        "TraceEnum_ELBO": trace_enum,
    }
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    values: dict[str, list[float]] = {}
    with pyro.validation_enabled(False):
        for turn in range(rounds + 1):
            for name, function in functions.items():
                begin = time.perf_counter()
                value = function()
                torch.autograd.grad(value, leaves)
                if turn:
                    seconds[name].append(time.perf_counter() - begin)
                values[name] = [float(value.detach())]
    del values["DiscreteHMM"]
    return kept("gradient", _summary(seconds, values, shape))


def _summary(
    seconds: dict[str, list[float]], values: dict[str, list[float]], shape: tuple[int, int, int]
) -> dict[str, Any]:
    ours = statistics.median(seconds["ours"])
    systems = {}
    for name, times in seconds.items():
        quartiles = statistics.quantiles(times, n=4, method="inclusive")
        common = zip(values.get(name, []), values["ours"], strict=False)
        systems[name] = {
            "seconds": times,
            "median": statistics.median(times),
            "quartiles": [quartiles[0], quartiles[2]],
            "ratio": statistics.median(times) / ours,
            "value_difference": max((abs(a - b) / (shape[0] * shape[1]) for a, b in common), default=None),
        }
    return {"shape": shape, "systems": systems}


def _scaling(rounds: int, quick: bool) -> dict[str, Any]:
    """Slopes of log seconds over log size for the E step of five states: 1 is linear.

    "sequences": over N, of 100 steps each; "length": over T, of a single sequence.
    """
    sizes = [500, 5000] if quick else [500, 5000, 50_000]
    generator = torch.Generator().manual_seed(0)
    transition = torch.randn(5, 5, dtype=torch.float64, generator=generator).log_softmax(-1)
    result: dict[str, Any] = {"sizes": [100 * size for size in sizes]}
    for name in ("sequences", "length"):
        seconds = []
        for size in sizes:
            shape = (size, 100, 5) if name == "sequences" else (1, 100 * size, 5)
            emission = torch.randn(shape, dtype=torch.float64, generator=generator)
            out = torch.empty_like(emission)
            times = []
            for _ in range(2 * rounds):
                begin = time.perf_counter()
                chain.expectations(transition[0], transition, emission, out=out)
                times.append(time.perf_counter() - begin)
            seconds.append(min(times))
        slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        result[name] = {"seconds": seconds, "slope": slope}
    return result


def run(quick: bool = False) -> dict[str, Any]:
    """Measures, prints tables and returns their numbers.

    Args:
        quick: small shapes, and fewer turns.

    Returns:
        "em": for each shape (N, T, K) the seconds per EM iteration of each system (all, median, quartiles), their
        ratio to ours, and the largest difference of ln p(x) from ours in nats a step over eleven iterations.
        "auto_em": seconds to look at the program, and of an iteration by the generic path, which runs it.
        "gradient": the same as "em" for value and gradient. "scaling": slopes of time over the number and the length of
        sequences.
    """
    rounds = 2 if quick else 5
    result = {
        "threads": torch.get_num_threads(),
        "em": [_em(shape, rounds) for shape in (QUICK_SHAPES if quick else SHAPES)],
        "auto_em": _automatic(QUICK_GRADIENT_SHAPE if quick else GRADIENT_SHAPE, rounds),
        "gradient": _gradients(QUICK_GRADIENT_SHAPE if quick else GRADIENT_SHAPE, rounds),
        "scaling": _scaling(rounds, quick),
    }
    _print(result)
    return result


def _print(result: dict[str, Any]) -> None:
    threads = result["threads"]
    titles = [("One EM iteration", part) for part in result["em"]] + [("Value and gradient", result["gradient"])]
    for title, part in titles:
        n, t, k = part["shape"]
        table = Table(title=f"{title}, N = {n:,}, T = {t:,}, K = {k}, {threads} threads")
        table.add_column("")
        for column in ("ms", "quartiles", "x ours", "nats a step from ours"):
            table.add_column(column, justify="right")
        for name, system in part["systems"].items():
            low, high = system["quartiles"]
            difference = system["value_difference"]
            table.add_row(
                name,
                f"{1e3 * system['median']:.2f}",
                f"{1e3 * low:.2f}-{1e3 * high:.2f}",
                f"{system['ratio']:.1f}",
                "-" if difference is None else f"{difference:.1e}",
            )
        Console().print(table)
    automatic = result["auto_em"]
    Console().print(
        f"auto_em: {automatic['seconds_to_plan']:.2f} s to look at the program, "
        f"{1e3 * automatic['generic_seconds']:.0f} ms an iteration where it is not recognised as a chain"
    )
    scaling = result["scaling"]
    for name in ("sequences", "length"):
        part = scaling[name]
        times = ", ".join(f"{1e3 * value:.2f}" for value in part["seconds"])
        Console().print(f"Time over {name}, N T = {scaling['sizes']}: {times} ms, slope {part['slope']:.2f}")


if __name__ == "__main__":
    run("--quick" in sys.argv)
