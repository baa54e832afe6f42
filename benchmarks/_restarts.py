"""Twenty starts on small data, ours beside a peer's: the same number of starts, run to the same tolerance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import zoo
from benchmarks._turns import in_turns, summary
from zoo.core.isolation import threads

STARTS = 20
#: Rounds in the place of one where a fit takes milliseconds.
TIMES = 20
#: Gain of an iteration below which a start ends, nats a datum.
TOLERANCE = 1e-6

Fit = Callable[[], float]
"""A call that fits and returns the best log-likelihood, total, nats."""


def measure(rounds: int, starts: int = STARTS) -> dict[str, Any]:
    """Seconds of ``starts`` restarts of three models by system, and the best log-likelihood that each reached."""
    problems = {"iris": (_iris(starts), rounds), "earthquakes": (_earthquakes(starts), rounds)}
    problems["wine"] = _wine(), TIMES * rounds
    found = {}
    with threads(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (problem, number) in problems.items():
            reached: dict[str, float] = {}
            systems = {system: _noting(fit, reached, system) for system, fit in problem.items()}
            found[name] = summary(in_turns(systems, number), "zoo")
            for system, value in reached.items():
                found[name][system]["log_likelihood"] = value
    return found


def _noting(fit: Fit, reached: dict[str, float], system: str) -> Callable[[], None]:
    def call() -> None:
        reached[system] = fit()

    return call


def _zoo(model: Any, x: Any, starts: int) -> Fit:
    def fit() -> float:
        fitted = zoo.fit(model, x, estimator="em", restarts=starts, tol=TOLERANCE)
        return float(fitted.log_likelihood)

    return fit


def _iris(starts: int) -> dict[str, Fit]:
    """A mixture of three Gaussians with full covariances; both choose their starts by k-means."""
    from sklearn.mixture import GaussianMixture

    x = zoo.load_data("iris").double()

    def peer() -> float:
        model = GaussianMixture(3, n_init=starts, tol=TOLERANCE, max_iter=100_000, reg_covar=1e-6, random_state=0)
        return float(model.fit(x.numpy()).score(x.numpy()) * len(x))

    return {"zoo": _zoo(zoo.GaussianMixture(3, x.shape[1]), x, starts), "scikit-learn": peer}


def _earthquakes(starts: int) -> dict[str, Fit]:
    """A Poisson HMM of three states; hmmlearn has no restarts: as many fits, each from its own random start."""
    x = zoo.load_data("earthquakes")
    model: Any = zoo.fit("poisson_hmm", x, num_states=3, max_iter=1).model
    systems = {"zoo": _zoo(model, x, starts)}
    try:
        from hmmlearn.hmm import PoissonHMM
    except ImportError:
        return systems
    counts = np.asarray(x, dtype=np.int64).reshape(-1, 1)

    def peer() -> float:
        best = -math.inf
        for seed in range(starts):
            # It has priors of its own; these values leave the likelihood alone. Its tolerance is of the total.
            fitted = PoissonHMM(
                3, n_iter=100_000, tol=TOLERANCE * len(counts), random_state=seed, lambdas_prior=1.0, lambdas_weight=0.0
            )
            best = max(best, float(fitted.fit(counts).score(counts)))
        return best

    return {**systems, "hmmlearn": peer}


def _wine() -> dict[str, Fit]:
    """Two factors, from the one start that each has."""
    from sklearn.decomposition import FactorAnalysis

    x = zoo.load_data("wine").double()
    x = (x - x.mean(0)) / x.std(0)

    def peer() -> float:
        model = FactorAnalysis(2, tol=TOLERANCE * len(x), max_iter=100_000, svd_method="lapack")
        return float(model.fit(x.numpy()).score(x.numpy()) * len(x))

    return {"zoo": _zoo(zoo.FactorAnalysis(2, x.shape[1]), x, 1), "scikit-learn": peer}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, systems in measure(3).items():
        for system, row in systems.items():
            print(name, system, f"{row['median']:.3f} s", f"x{row['ratio']:.2f}", f"{row['log_likelihood']:.4f}")
