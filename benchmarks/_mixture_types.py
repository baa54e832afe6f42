"""An EM iteration of a Gaussian mixture by type of covariance and by dtype, beside scikit-learn."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._parts import kept
from benchmarks._turns import in_turns, summary
from zoo.core.isolation import threads
from zoo.models.gaussian_mixture import GaussianMixture

ITERATIONS = 3


def measure(x: Tensor, means: Tensor, rounds: int) -> dict[str, Any]:
    """For each type of covariance the seconds of an iteration of "zoo", "zoo float32" and "scikit-learn", and ln p(x)
    in nats a datum at the start that they share."""
    return {
        kind: kept(f"types, {kind}", _one(x, means, kind, rounds)) for kind in ("full", "tied", "diag", "spherical")
    }


def _one(x: Tensor, means: Tensor, kind: str, rounds: int) -> dict[str, Any]:
    covariance = torch.cov(x.T)
    seconds: dict[str, list[float]] = {"zoo": [], "zoo float32": [], "scikit-learn": []}
    ours = {"zoo": _Ours(x, means, covariance, kind), "zoo float32": _Ours(x.float(), means, covariance, kind)}
    with threads(x.numel()):
        for model in ours.values():
            model.iterate()
        for _ in range(rounds):
            for name, model in ours.items():
                seconds[name] += in_turns({name: model.iterate}, ITERATIONS, warm=0)[name]
            short, value = _scikit_learn(x, means, covariance, kind, 1)
            long, _ = _scikit_learn(x, means, covariance, kind, 1 + ITERATIONS)
            seconds["scikit-learn"].append((long - short) / ITERATIONS)
    found = summary(seconds, "zoo")
    for name, model in ours.items():
        found[name]["log_likelihood"] = model.begun
    found["scikit-learn"]["log_likelihood"] = value
    return found


class _Ours:
    def __init__(self, x: Tensor, means: Tensor, covariance: Tensor, kind: str) -> None:
        model = GaussianMixture(len(means), x.shape[1], covariance_type=kind)
        self.model, self.x = model.double() if x.dtype == torch.float64 else model, x
        self.model.means = means.to(x.dtype)
        self.model.covariances = _covariances(covariance, kind, len(means)).to(x.dtype)
        self.begun = self.iterate()

    def iterate(self) -> float:
        """One EM iteration; ln p(x) in nats a datum at the parameters before it."""
        with torch.no_grad():
            statistics = self.model.e_step(self.x)
            self.model.m_step(statistics)
        return float(statistics["log_likelihood"]) / len(self.x)


def _covariances(covariance: Tensor, kind: str, components: int) -> Tensor:
    """The covariance of all data in a type's matrices, (K, D, D)."""
    if kind == "diag":
        covariance = covariance.diagonal().diag()
    if kind == "spherical":
        covariance = covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    return covariance.repeat(components, 1, 1)


def _scikit_learn(x: Tensor, means: Tensor, covariance: Tensor, kind: str, iterations: int) -> tuple[float, float]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as Peer

    precision = np.linalg.inv(_covariances(covariance, kind, 1)[0].numpy())
    start = {
        "full": np.repeat(precision[None], len(means), axis=0),
        "tied": precision,
        "diag": np.repeat(precision.diagonal()[None], len(means), axis=0),
        "spherical": np.repeat(precision[0, 0], len(means)),
    }
    model = Peer(
        len(means),
        covariance_type=kind,
        tol=0.0,
        reg_covar=0.0,
        max_iter=iterations,
        init_params="random",  # unused, but k-means would be run first
        weights_init=np.full(len(means), 1 / len(means)),
        means_init=means.numpy(),
        precisions_init=start[kind],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        begin = time.perf_counter()
        model.fit(x.numpy())
        return time.perf_counter() - begin, float(model.lower_bounds_[0])
