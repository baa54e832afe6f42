"""Gaussian mixtures: log-densities, and the exact E step in pieces small enough for the cache.

Three ways to the same numbers:

- *tiles*: differences ``x - mu_k`` first, then whitened, and the sums for the M step, in one compiled pass over the
  data (``gaussian_tiles.py``): for much data on the CPU.
- *differences*: the same by torch, for little data and where something overflows.
- *features*: all densities are linear in ``[1, x, x x^T]``, so that one matrix product gives the
  densities and a second one, of the same features with the responsibilities, all moments. About twice
  as fast as differences, on other devices, but the expanded square cancels where a cluster is far from the centre and
  narrow: each piece of the data takes the features only where a bound on their rounding error allows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.core.isolation import threads
from zoo.core.statistics import Moments
from zoo.densities import diagonal, gaussian_sums
from zoo.densities.gaussian_sums import TOLERANCE, GaussianSums
from zoo.errors import unknown_name

__all__ = [
    "COVARIANCE_TYPES",
    "by_differences",
    "e_step",
    "log_densities",
    "log_joints",
    "moments_from",
    "weighted_moments",
]

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def log_densities(x: Tensor, means: Tensor, scale_tril: Tensor, covariance_type: str) -> Tensor:
    """ln N(x_n; mu_k, Sigma_k) of every datum in every component; differentiable in all tensors.

    Bishop (2006), "Pattern Recognition and Machine Learning", equation 2.43, by the Cholesky factor.

    Args:
        x: (N, D), the data.
        means: (K, D).
        scale_tril: lower Cholesky factor of the covariances: (K, D, D) for "full", (D, D) for "tied";
            standard deviations: (K, D) for "diag", (K,) for "spherical".
        covariance_type: one of ``COVARIANCE_TYPES``.

    Returns:
        (N, K), in nats.
    """
    _check(covariance_type)
    features = x.shape[1]
    if covariance_type in ("full", "tied"):
        difference = x.mT - means.unsqueeze(-1)  # (K, D, N)
        factor = scale_tril.expand(means.shape[0], features, features)
        white = torch.linalg.solve_triangular(factor, difference, upper=False)
        log_scale = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # (K,) or ()
    else:
        scale = scale_tril if covariance_type == "diag" else scale_tril.unsqueeze(-1).expand(-1, features)
        log_scale = scale.log().sum(-1)
        if x.shape[0] * means.numel() > gaussian_sums.SMALL:
            if diagonal.serves(x, means, scale):
                return diagonal.log_densities(x, means, scale)
            squares = _diagonal_squares(x, means, scale)
            if squares is not None:
                return -0.5 * squares - (log_scale + 0.5 * features * math.log(2 * math.pi))
        white = (x.mT - means.unsqueeze(-1)) / scale.unsqueeze(-1)
    return (-0.5 * white.square().sum(1)).mT - (log_scale + 0.5 * features * math.log(2 * math.pi))


@torch.no_grad()
def e_step(
    x: Tensor,
    log_weights: Tensor,
    means: Tensor,
    scale_tril: Tensor,
    covariance_type: str,
    *,
    hard: bool = False,
    chunk_size: int | None = None,
    weights: Tensor | None = None,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor, Moments]:
    """The E step of a Gaussian mixture: its likelihood and the moments under its responsibilities.

    On the CPU the arithmetic and the results are float64, but for the products of tiles, which have the dtype of the
    data; elsewhere all have the dtype of the data and parameters. No more than about 20 MB is held beyond the data
    (CPU), unless ``chunk_size``, K or D is large.

    Args:
        x: (N, D), the data.
        log_weights: (K,), ln of the mixture weights; -inf for a weight of zero.
        means: (K, D).
        scale_tril: as in :func:`log_densities`.
        covariance_type: one of ``COVARIANCE_TYPES``.
        hard: each datum counts wholly for its most probable component, the lowest of equals.
        chunk_size: rows in one piece; by default what fits the cache. It changes results by rounding only.
        weights: (N,), how often each row counts; None once.
        labels: (N,), the component of each row where it is known, -1 where not; None where none is.

    Returns:
        log_likelihood: sum over n of ln sum_k w_k N(x_n; mu_k, Sigma_k), in nats.
        objective: the same; with ``hard`` the sum over n of max_k ln(w_k N(x_n; mu_k, Sigma_k)), in nats.
        moments: count (K,), mean (K, D) and scatter: (K, D, D) for "full" and "tied", (K, D) otherwise.
            A datum whose density underflows to zero in every component counts for none of them.
    """
    _check(covariance_type)
    with threads(0):  # a few small matrices
        sums = GaussianSums(x, log_weights, means, scale_tril, covariance_type, hard, chunk_size)
    return sums.totals(x, (None if weights is None else weights.to(sums.dtype), labels))


def by_differences(x: Tensor, means: Tensor, covariance_type: str) -> bool:
    """Whether the data (N, D) are so few that the :func:`e_step` of K means (K, D) takes differences throughout."""
    d = x.shape[1]
    products = d if covariance_type in ("diag", "spherical") else d * (d + 1) // 2
    return len(x) * len(means) * (1 + d + products) <= gaussian_sums.SMALL


@torch.no_grad()
def log_joints(
    x: Tensor, log_weights: Tensor, means: Tensor, scale_tril: Tensor, covariance_type: str
) -> Iterator[tuple[Tensor, float]]:
    """ln w_k N(x_n; mu_k, Sigma_k) piece by piece, by the same arithmetic and as fast as :func:`e_step`.

    Args:
        x: as for :func:`e_step`, like the others.

    Yields:
        (K, B) of the next B rows, in nats, float64 on the CPU; the next piece overwrites it. And how far two of a row's
        entries may lie apart and still be equal but for rounding.
    """
    _check(covariance_type)
    yield from GaussianSums(x, log_weights, means, scale_tril, covariance_type, False, None).joints(x)


def _diagonal_squares(x: Tensor, means: Tensor, scale: Tensor) -> Tensor | None:
    """Squared scaled distances (N, K) as two matrix products, without an (N, K, D) array; None where digits would go.

    The bound on rounding is that of the features path: half of eps times the largest sum of squares that cancels.
    """
    centre = x.detach().mean(0)
    centred, shift, precision = x - centre, means - centre, scale.square().reciprocal()
    reach = centred.detach().abs().amax(0) + shift.detach().abs()  # (K, D)
    worst = 0.5 * torch.finfo(x.dtype).eps * (reach.square() * precision.detach()).sum(-1).max()
    if not bool(worst <= TOLERANCE):
        return None
    weighted = shift * precision
    constant = (weighted * shift).sum(-1)
    return torch.addmm(constant, centred.square(), precision.mT).addmm(centred, weighted.mT, alpha=-2)


def weighted_moments(x: Tensor, weight: Tensor, only_diagonal: bool, about: Tensor | None = None) -> Moments:
    """Count, mean and scatter about that mean under each of K weightings of the data.

    Args:
        x: (N, D).
        weight: (N, K), not negative.
        only_diagonal: whether the scatter's diagonal is enough.
        about: (K, D), points near the weighted means, such as the means before; spares passes over large data.
    """
    if (
        only_diagonal
        and about is not None
        and weight.numel() * x.shape[1] > gaussian_sums.SMALL
        and diagonal.serves(x, weight)
    ):
        moments = moments_from(*diagonal.weighted_sums(x, weight, about), about)
        if moments is not None:
            return moments
    count = weight.sum(0)
    safe = count.where(count > 0, torch.ones_like(count)).unsqueeze(-1)
    centre = x.mean(0)
    centred = x - centre
    shift = weight.mT @ centred / safe  # (K, D), from the centre to the means
    if only_diagonal:
        raw = weight.mT @ centred.square()
        scatter = raw - count.unsqueeze(-1) * shift.square()
        if bool((scatter * TOLERANCE >= torch.finfo(x.dtype).eps * raw).all()):
            return Moments(count, centre + shift, scatter)
    pieces = []  # about each mean in turn: nothing cancels
    for k in range(weight.shape[1]):
        delta = centred - shift[k]
        weighted = delta * weight[:, k : k + 1]
        pieces.append((weighted * delta).sum(0) if only_diagonal else weighted.mT @ delta)
    return Moments(count, centre + shift, torch.stack(pieces))


def moments_from(count: Tensor, first: Tensor, second: Tensor, about: Tensor) -> Moments | None:
    """Moments (diagonal) of the sums of w, w (x - about) and w (x - about)^2; None where digits would go."""
    shift = first / count.where(count > 0, torch.ones_like(count)).unsqueeze(-1)
    scatter = second - first * shift
    enough = scatter * TOLERANCE >= torch.finfo(second.dtype).eps * second
    return Moments(count, about + shift, scatter) if bool(enough.all()) else None


def _check(covariance_type: str) -> None:
    if covariance_type not in COVARIANCE_TYPES:
        raise unknown_name("Covariance type", covariance_type, COVARIANCE_TYPES)
