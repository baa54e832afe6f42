"""Log-densities of Gaussians at points, and their means under a Gaussian about each point: cross-entropies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["expected_log_densities"]


def expected_log_densities(loc: Tensor, means: Tensor, scale_tril: Tensor, factor: Tensor | None = None) -> Tensor:
    """E ln N(c; means[k], S_k) over c ~ N(loc, F F^T), differentiable in all tensors.

    It is ln N(loc; means[k], S_k) - tr(S_k^-1 F F^T) / 2. All states are whitened by one matrix product.

    Args:
        loc: (..., L). means: (K, L). scale_tril: (K, L, L), lower Cholesky factors of S_k.
        factor: F, standard deviations of the shape of ``loc``, or (..., L, L) with one dimension more; None: a point.

    Returns:
        (..., K), nats.
    """
    size = means.shape[-1]
    unit = torch.eye(size, dtype=scale_tril.dtype, device=scale_tril.device)
    white = torch.linalg.solve_triangular(scale_tril, unit.expand_as(scale_tril), upper=False)
    shift = (white @ means.unsqueeze(-1)).squeeze(-1)  # (K, L)
    squares = (torch.tensordot(loc, white, dims=([-1], [-1])) - shift).square().sum(-1)
    if factor is not None:
        precision = white.mT @ white
        if factor.dim() == loc.dim():
            squares = squares + factor.square() @ precision.diagonal(dim1=-2, dim2=-1).mT
        else:
            squares = squares + (factor @ factor.mT).flatten(-2) @ precision.flatten(-2).mT
    peak = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * size * math.log(2 * math.pi)
    return -0.5 * squares - peak
