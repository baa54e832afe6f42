"""Annealed importance sampling of a partition function, from below and from above.

Chains start from exact draws of independent units and are moved through densities that grow into the model's (Neal
2001, "Annealed importance sampling"): the mean of their weights is Z without bias, so that its logarithm lies below ln
Z on average. Chains that start from the model and are moved the other way give 1 / Z, and so lie above (Burda, Grosse &
Salakhutdinov 2015, "Accurate and conservative estimates of MRF log-likelihood using reverse annealing").
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.core.annealing import AnnealingPath
from zoo.core.isolation import isolated

__all__ = ["Estimate", "annealed", "reverse_annealed"]


class Estimate(NamedTuple):
    """An estimate of ln Z, nats, and its standard error by the spread of the chains' weights (delta method)."""

    value: float
    standard_error: float


def annealed(path: AnnealingPath, num_chains: int = 100, num_temperatures: int = 1000, seed: int = 0) -> Estimate:
    """ln Z of a path's end, by chains from its start; too low on average.

    Args:
        num_chains: S, independent chains. num_temperatures: steps from one end to the other, equally wide.
    """
    with isolated(seed), torch.no_grad():
        state = path.start(num_chains)
        log_weight = _through(path, state, [k / num_temperatures for k in range(num_temperatures + 1)])
    return Estimate(float(path.log_base) + _log_mean(log_weight), _error(log_weight))


def reverse_annealed(path: AnnealingPath, state: Tensor, num_temperatures: int = 1000, seed: int = 0) -> Estimate:
    """ln Z of a path's end, by chains from there; too high on average where ``state`` is drawn from f_1 exactly.

    Args:
        state: (S, ...) draws from f_1.
    """
    with isolated(seed), torch.no_grad():
        log_weight = _through(path, state, [1 - k / num_temperatures for k in range(num_temperatures + 1)])
    return Estimate(float(path.log_base) - _log_mean(log_weight), _error(log_weight))


def _through(path: AnnealingPath, state: Tensor, temperatures: list[float]) -> Tensor:
    log_weight = torch.zeros(len(state), dtype=torch.float64, device=state.device)
    for old, new in itertools.pairwise(temperatures):
        log_weight += path.log_ratio(state, new, old)
        if new != temperatures[-1]:
            state = path.move(state, new)
    return log_weight


def _log_mean(log_weight: Tensor) -> float:
    return float(log_weight.logsumexp(0)) - math.log(len(log_weight))


def _error(log_weight: Tensor) -> float:
    share = len(log_weight) * log_weight.softmax(0)
    return float(share.std()) / math.sqrt(len(share)) if len(share) > 1 else math.nan
