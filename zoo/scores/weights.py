"""Importance weights of a model's guide, a bounded number at a time: what those of each datum say."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.core import weighing
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, num_data, split, tensors
from zoo.core.hooks import weigh
from zoo.core.memory import LAYER, WEIGHTS

__all__ = ["Weighed", "pareto_k", "pieces", "weighed"]


class Weighed(NamedTuple):
    """What S importance weights w = p(x, z) / q(z | x) of each datum say; (N,) each.

    Attributes:
        log_mean: ln of their mean, which estimates ln p(x) from below.
        relative_variance: of the weights, over the square of their mean; by S - 1 where all were kept, else by S.
        mean: of ln w: the bound that the same draws give.
        variance: of ln w, by S - 1. khat: Pareto k̂ of the weights, if there are enough. None where they were not kept.
    """

    log_mean: Tensor
    relative_variance: Tensor
    mean: Tensor
    variance: Tensor | None
    khat: Tensor | None


def pieces(model: LatentVariableModel, x: Data, num_samples: int) -> Iterator[Data]:
    """The data in pieces whose log-weights fit in memory; a program of a user's own gets all its data at once."""
    if not model.splits:
        return iter([x])
    rows = WEIGHTS // num_samples
    if lacks(model, "log_weights") is None:  # networks: their layers are wider than the data's weights
        rows = min(rows, LAYER // (num_samples * model.datum_size(x)))
    return split(x, max(1, rows))


def weighed(
    model: LatentVariableModel,
    x: Data,
    num_samples: int,
    *,
    keep: bool = False,
    max_elements: int = LAYER,
    progress: Callable[[float], None] | None = None,
) -> Weighed:
    """S weights of each datum, from torch's generator. Data and draws come in pieces, so that memory stays bounded.

    Args:
        keep: whether all draws of a datum are held at once, which their k̂ needs; else sums are carried along, in double
            precision.
        max_elements: without ``keep``, of a layer as wide as the model's widest, at a time.
        progress: told which fraction of the data is done.
    """
    width = model.datum_size(x)
    rows = max(1, min(num_data(x), max_elements // (width * min(num_samples, 100))))
    results, done = [], 0
    for piece in pieces(model, x, num_samples) if keep else split(x, rows):
        if keep:
            results.append(_kept(weighing.log_weights(model, piece, num_samples)))
        else:
            results.append(_summed(model, piece, num_samples, max(1, max_elements // (width * num_data(piece)))))
        done += num_data(piece)
        if progress is not None:
            progress(done / num_data(x))
    columns = (None if column[0] is None else torch.cat(column) for column in zip(*results, strict=True))
    return Weighed(*columns)  # type: ignore[arg-type]


def _kept(log_weight: Tensor) -> Weighed:
    """From all weights of some data, (S, n)."""
    log_mean = log_weight.logsumexp(0) - math.log(len(log_weight))
    relative = (log_weight - log_mean).exp()
    one = len(log_weight) == 1  # which says nothing of a spread
    variances = [torch.full_like(log_mean, math.inf) if one else v.var(0) for v in (relative, log_weight)]
    return Weighed(log_mean, variances[0], log_weight.mean(0), variances[1], pareto_k(log_weight))


def _summed(model: LatentVariableModel, piece: Data, num_samples: int, group: int) -> Weighed:
    """From ln Σ w, ln Σ w^2 and Σ ln w, carried along over draws of so many at a time."""
    device = next((t.device for t in tensors(piece)), None)
    total = square = torch.full((), -math.inf, dtype=torch.float64, device=device)
    plain = torch.zeros((), dtype=torch.float64, device=device)
    own = lacks(model, "log_weights") is None
    for start in range(0, num_samples, group):
        size = min(group, num_samples - start)
        log_weight = (weigh(model, piece, size) if own else weighing.log_weights(model, piece, size)).double()
        total = torch.logaddexp(total, log_weight.logsumexp(0))
        square = torch.logaddexp(square, (2 * log_weight).logsumexp(0))
        plain = plain + log_weight.sum(0)
    log_mean = total - math.log(num_samples)
    relative = ((square - math.log(num_samples) - 2 * log_mean).exp() - 1).clamp_min(0)
    return Weighed(log_mean, relative, plain / num_samples, None, None)


def pareto_k(log_weight: Tensor) -> Tensor | None:
    """ArviZ's PSIS k̂ of each column of (S, N) log-weights; None below 25 draws.

    Where a column holds fewer than five different weights (a discrete z with few values) there is no tail to fit:
    the weights are bounded, and k̂ is -inf.
    """
    if log_weight.shape[0] < 25:
        return None
    columns = log_weight.T.double().cpu().numpy()
    khat = np.full(len(columns), -np.inf)
    steps = np.diff(np.sort(columns, axis=-1), axis=-1) > 1e-9
    varied = steps.sum(-1) >= 4
    if varied.any():
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            khat[varied] = _shapes(columns[varied])
    return torch.as_tensor(khat)


def _shapes(log_weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """ArviZ's k̂ of each row of log-weights; -inf where it finds a tail of one value."""
    import arviz

    if hasattr(arviz, "psislw"):
        return np.asarray(arviz.psislw(log_weight)[1])
    base: Any = importlib.import_module("arviz_stats.base")  # of ArviZ 1.x; it takes what is divided by

    def shape(row: np.ndarray[Any, Any]) -> float:
        try:
            return float(base.array_stats.psislw(-row)[1])
        except ValueError:
            return -math.inf

    return np.array([shape(row) for row in log_weight])
