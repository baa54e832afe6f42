"""Diagonal Gaussians over many rows: log-densities and weighted moments in one pass each, without temporaries.

Compiled by numba for the CPU in float64. Differences are taken first, so nothing cancels however far from zero the data
lie; an elementwise torch expression would write (N, K, D) numbers to memory, two matrix products would lose digits.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.parallel import compiled, has_numba, in_parallel, pieces

__all__ = ["coefficients", "log_densities", "serves", "weighted_sums"]


def serves(*tensors: Tensor) -> bool:
    """Whether the kernels can take these: float64 on the CPU, no gradient wanted, numba there."""
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return not graph and all(t.dtype == torch.float64 and t.device.type == "cpu" for t in tensors) and has_numba()


def coefficients(means: Tensor, scale: Tensor) -> Tensor:
    """(1 + 2 D, K), of means and scales (K, D): ln p = row 0 - sum_d (x_d - row d)^2 (row D + d)."""
    means, scale = means.detach(), scale.detach()
    top = -scale.log().sum(-1, keepdim=True) - 0.5 * means.shape[1] * math.log(2 * math.pi)
    return torch.cat([top, means, 0.5 / scale.square()], 1).mT.contiguous()


def log_densities(x: Tensor, means: Tensor, scale: Tensor) -> Tensor:
    """ln N(x_n; mu_k, diag(scale_k^2)), (N, K), nats, of rows (N, D) under means and scales (K, D)."""
    rows, out = np.ascontiguousarray(x.detach().numpy()), torch.empty(len(x), len(means), dtype=x.dtype)
    family, kernel, target = coefficients(means, scale).numpy(), _kernels()[0], out.numpy()
    in_parallel([functools.partial(kernel, rows, family, target, a, b) for a, b in pieces(len(rows))])
    return out


def weighted_sums(x: Tensor, weight: Tensor, about: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over rows of w, w (x - a_k) and w (x - a_k)^2: (K,), (K, D), (K, D).

    Args:
        x: (N, D). weight: (N, K). about: (K, D), near the weighted means where that is known.
    """
    rows, weights = np.ascontiguousarray(x.numpy()), np.ascontiguousarray(weight.numpy())
    centre = np.ascontiguousarray(about.detach().numpy().T)
    parts = pieces(len(rows))
    sums = np.zeros((len(parts), 1 + 2 * centre.shape[0], centre.shape[1]))
    kernel = _kernels()[1]
    in_parallel([functools.partial(kernel, rows, weights, centre, sums[i], *part) for i, part in enumerate(parts)])
    total = torch.from_numpy(sums.sum(0))
    d = centre.shape[0]
    return total[0], total[1 : 1 + d].mT, total[1 + d :].mT


@functools.cache
def _kernels() -> tuple[Any, Any]:
    names = globals()
    compiled(names, ["_densities", "_sums"], signed_zeros=False)
    return names["_densities"], names["_sums"]


def _densities(x: Any, family: Any, out: Any, start: int, stop: int) -> None:
    features, top = x.shape[1], family[0]
    for n in range(start, stop):
        row = out[n]
        for k in range(len(top)):
            row[k] = top[k]
        for d in range(features):
            value, c, h = x[n, d], family[1 + d], family[1 + features + d]
            for k in range(len(top)):
                t = value - c[k]
                row[k] -= t * t * h[k]


def _sums(x: Any, weights: Any, centre: Any, sums: Any, start: int, stop: int) -> None:
    features = x.shape[1]
    for n in range(start, stop):
        w, count = weights[n], sums[0]
        for k in range(len(w)):
            count[k] += w[k]
        for d in range(features):
            value, c, first, second = x[n, d], centre[d], sums[1 + d], sums[1 + features + d]
            for k in range(len(w)):
                t = value - c[k]
                s = w[k] * t
                first[k] += s
                second[k] += s * t
