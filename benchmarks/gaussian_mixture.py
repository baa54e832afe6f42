"""One EM iteration of a Gaussian mixture: ours beside scikit-learn and pomegranate.

All start from the same parameters on the same data (a seeded mixture of 16 Gaussians in 16 dimensions with random
full covariances, float64), without regularisation. The systems take turns, so that a busy machine slows them alike.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import _mixture_types
from benchmarks._parts import kept
from zoo.estimators.steps import ModelSteps
from zoo.models.gaussian_mixture import GaussianMixture

COMPONENTS, FEATURES = 16, 16
ROWS, QUICK_ROWS = 500_000, 20_000

Parameters = tuple[Tensor, Tensor, Tensor]
"""Weights (K,), means (K, D), covariances (K, D, D)."""


def make_data(rows: int, seed: int = 0) -> tuple[Tensor, Parameters]:
    """The data (N, D) and the start: random data as means, the covariance of all data, equal weights."""
    rng = np.random.default_rng(seed)
    means = 3 * rng.normal(size=(COMPONENTS, FEATURES))
    factors = rng.normal(size=(COMPONENTS, FEATURES, FEATURES)) / FEATURES**0.5
    labels = rng.choice(COMPONENTS, size=rows, p=rng.dirichlet(np.full(COMPONENTS, 5.0)))
    data = np.empty((rows, FEATURES))
    for k in range(COMPONENTS):
        mine = labels == k
        noise = rng.normal(size=(int(mine.sum()), FEATURES))
        data[mine] = means[k] + noise @ factors[k].T + 0.3 * rng.normal(size=noise.shape)
    x = torch.from_numpy(data)
    start = x[torch.from_numpy(rng.choice(rows, COMPONENTS, replace=False))].clone()
    weights = torch.full((COMPONENTS,), 1 / COMPONENTS, dtype=x.dtype)
    return x, (weights, start, torch.cov(x.T).repeat(COMPONENTS, 1, 1))


class Ours:
    """The zoo's model, whose ``fit`` by "em" is this loop."""

    def __init__(self, x: Tensor, start: Parameters) -> None:
        self.x, self.model = x, GaussianMixture(COMPONENTS, FEATURES)
        self.model.weights, self.model.means, self.model.covariances = start
        self.steps = ModelSteps(self.model, x)

    def iterate(self) -> float:
        """One EM iteration; ln p(x) in nats a datum at the parameters before it."""
        with torch.no_grad():
            statistics = self.steps.e_step()
            self.steps.m_step(statistics)
        return float(statistics["log_likelihood"]) / self.x.shape[0]


class Pomegranate:
    """pomegranate 1's GeneralMixtureModel, whose ``fit`` is this loop."""

    def __init__(self, x: Tensor, start: Parameters) -> None:
        from pomegranate.distributions import Normal
        from pomegranate.gmm import GeneralMixtureModel

        weights, means, covariances = start
        normals = [Normal(mean.clone(), cov.clone(), "full") for mean, cov in zip(means, covariances, strict=True)]
        self.x, self.model = x, GeneralMixtureModel(normals, priors=weights.clone())

    def iterate(self) -> float:
        """One EM iteration; ln p(x) in nats a datum, as it reports it, at the parameters before it."""
        total = float(self.model.summarize(self.x))
        self.model.from_summaries()
        return total / self.x.shape[0]


def scikit_learn(x: Tensor, start: Parameters, iterations: int) -> tuple[float, list[float]]:
    """Seconds of a ``fit`` of so many iterations, and ln p(x) in nats a datum at each."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    weights, means, covariances = start
    model = GaussianMixture(
        COMPONENTS,
        tol=0.0,
        reg_covar=0.0,
        max_iter=iterations,
        init_params="random",  # unused, but k-means would be run first
        weights_init=weights.numpy(),
        means_init=means.numpy(),
        precisions_init=torch.linalg.inv(covariances).numpy(),
    )
    data = x.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        begin = time.perf_counter()
        model.fit(data)
        seconds = time.perf_counter() - begin
    bounds = getattr(model, "lower_bounds_", None)  # scikit-learn 1.6 and later
    return seconds, [float(bound) for bound in bounds] if bounds is not None else []


def _seconds(iterate: Callable[[], float]) -> tuple[float, float]:
    begin = time.perf_counter()
    value = iterate()
    return time.perf_counter() - begin, value


def _has_pomegranate() -> bool:
    try:
        import pomegranate  # noqa: F401
    except ImportError:
        return False
    return True


def _measure_memory(system: str, rows: int) -> float:
    """Peak memory beyond the data in MB over two iterations; for a process of its own."""
    warm, start = make_data(2000)

    def work(x: Tensor) -> None:
        if system == "scikit-learn":
            scikit_learn(x, start, 2)
            return
        model = Ours(x, start) if system == "ours" else Pomegranate(x, start)
        model.iterate()
        model.iterate()

    work(warm)  # what is loaded once
    # Written in place: generating it in one go would set a peak of its own.
    x = torch.empty(rows, FEATURES, dtype=torch.float64)
    for piece in x.split(10_000):
        piece.copy_(warm.repeat(5, 1)[: len(piece)]).add_(torch.randn_like(piece), alpha=0.1)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: importing sets one
    before = _peak()
    work(x)
    return (_peak() - before) / 1e6


def _peak() -> int:
    """Peak resident memory of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _memory(system: str, rows: int) -> float | None:
    if not sys.platform.startswith("linux"):
        return None
    command = [sys.executable, "-m", "benchmarks.gaussian_mixture", "--memory", system, str(rows)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parent.parent
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def run(quick: bool = False) -> dict[str, Any]:
    """Measures, prints a table and returns its numbers.

    Args:
        quick: 20 000 data rather than 500 000.

    Returns:
        The sizes; for each system the seconds per EM iteration (all, median, quartiles), their ratio to ours, the
        peak memory beyond the data in MB, and the largest difference of its likelihoods from ours in nats a datum.
        "types": the seconds by type of covariance, and of float32 data.
    """
    rows = QUICK_ROWS if quick else ROWS
    rounds, span = 3, 2  # turns of each system; scikit-learn's iterations are the difference of two fits
    x, start = make_data(rows)
    length = rounds * span
    models: dict[str, Ours | Pomegranate] = {"ours": Ours(x, start)}
    if _has_pomegranate():
        models["pomegranate"] = Pomegranate(x, start)
    Ours(x[:10_000], start).iterate()
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", "scikit-learn", *models)}
    paths: dict[str, list[float]] = {name: [] for name in seconds}
    for turn in range(rounds):
        for name, model in models.items():
            for _ in range(span):
                took, value = _seconds(model.iterate)
                seconds[name].append(took)
                paths[name].append(value)
        short, _ = scikit_learn(x, start, 1)
        long, bounds = scikit_learn(x, start, 1 + span if turn else length)
        seconds["scikit-learn"].append((long - short) / (span if turn else length - 1))
        paths["scikit-learn"] = paths["scikit-learn"] or bounds

    ours = statistics.median(seconds["ours"])
    systems: dict[str, dict[str, Any]] = {}
    for name, times in seconds.items():
        quartiles = statistics.quantiles(times, n=4, method="inclusive")
        common = list(zip(paths[name], paths["ours"], strict=False))
        systems[name] = {
            "seconds": times,
            "median": statistics.median(times),
            "quartiles": [quartiles[0], quartiles[2]],
            "ratio": statistics.median(times) / ours,
            "memory_mb": _memory(name, rows),
            "likelihood_difference": max((abs(a - b) for a, b in common), default=None),
        }
    result = {
        "rows": rows,
        "features": FEATURES,
        "components": COMPONENTS,
        "threads": torch.get_num_threads(),
        "data_mb": x.numel() * 8 / 1e6,
        "systems": kept("systems", systems),
        "log_likelihood": paths["ours"],
        "types": _mixture_types.measure(x, start[1], rounds),
    }
    _print(result)
    return result


def _print(result: dict[str, Any]) -> None:
    title = (
        f"One EM iteration, N = {result['rows']:,}, D = {result['features']}, K = {result['components']}, "
        f"full covariances, {result['threads']} threads"
    )
    table = Table(title=title)
    table.add_column("")
    for column in ("seconds", "quartiles", "x ours", "MB beyond the data", "nats a datum from ours"):
        table.add_column(column, justify="right")
    for name, system in result["systems"].items():
        low, high = system["quartiles"]
        memory, difference = system["memory_mb"], system["likelihood_difference"]
        table.add_row(
            name,
            f"{system['median']:.4f}",
            f"{low:.4f}-{high:.4f}",
            f"{system['ratio']:.1f}",
            "-" if memory is None else f"{memory:.0f}",
            "-" if difference is None else f"{difference:.1e}",
        )
    Console().print(table)
    table = Table("", "zoo", "zoo float32", "scikit-learn", "x ours", title="Seconds by type of covariance")
    for kind, systems in result["types"].items():
        medians = [f"{row['median']:.4f}" for row in systems.values()]
        table.add_row(kind, *medians, f"{systems['scikit-learn']['ratio']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    if "--memory" in sys.argv:
        print(json.dumps(_measure_memory(sys.argv[-2], int(sys.argv[-1]))))
    else:
        run("--quick" in sys.argv)
