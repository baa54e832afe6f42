"""Covariances that keep off singular ones."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import ZooError

__all__ = ["above_floor", "cholesky", "floored_factor"]


#: How exactly the eigenvalues of a stored covariance are known, as a fraction of the largest: float32 may store it.
_ROUNDING = 2.0**-23
#: An eigenvalue that is above this for a factor is above 1, whatever rounding has done.
_ABOVE = 1.001


def cholesky(covariance: Tensor, who: str) -> Tensor:
    """The lower Cholesky factor of symmetric matrices (..., D, D) that are assigned to ``who``.

    Raises:
        ZooError: one that is not positive definite.
    """
    factor, info = torch.linalg.cholesky_ex(covariance)
    if bool(info.any()) or not bool(factor.isfinite().all()):
        raise ZooError(f"{who} expected positive definite matrices, got one that is none. Add to its diagonal.")
    return factor


def above_floor(covariance: Tensor, floor: Tensor) -> Tensor | None:
    """The factor where no :func:`floored_factor` of them acts, by far; None where one may.

    Args:
        covariance: (K, D, D), symmetric. floor: (D,), positive.
    """
    both = torch.stack((covariance, covariance - torch.diag(_ABOVE * floor)))
    factors, failed = torch.linalg.cholesky_ex(both)
    return None if bool(failed.any()) else factors[0]


def floored_factor(covariance: Tensor, floor: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The factor of the likeliest covariance among those with Sigma - diag(floor) positive semi-definite.

    In units where the floor is the identity, the maximiser keeps the eigenvectors and lifts eigenvalues below 1 to 1.

    Args:
        covariance: (..., D, D), symmetric.
        floor: (D,), positive.
        present: (..., D, D), a lower factor of the covariance before. Where that lies below the floor by more than
            rounding, the floor is lowered (as a whole) to meet it: lifting it would lower the likelihood.

    Returns:
        The lower Cholesky factor of the clipped covariance, and whether the floor acted, (...).
    """
    scale = floor.sqrt()
    units = covariance / (scale.unsqueeze(-1) * scale)
    # Where a factor says that all eigenvalues are well above 1, which takes a fraction of their time, none is needed.
    _, failed = torch.linalg.cholesky_ex(units - _ABOVE * torch.eye(len(floor), dtype=units.dtype, device=units.device))
    if not failed.any():
        return torch.linalg.cholesky(covariance), failed.bool()
    values, vectors = torch.linalg.eigh(units)
    acted = values[..., 0] < 1
    if not acted.any():
        return torch.linalg.cholesky(covariance), acted
    least = torch.ones_like(values[..., :1])
    if present is not None:
        before = torch.linalg.svdvals(present / scale.unsqueeze(-1)).square()
        low = before[..., -1:]
        below = low < 1 - before.shape[-1] * _ROUNDING * before[..., :1]
        least = low.where(below & (low > 0), least)
    # The factor from the eigenvectors, by QR: the product and its Cholesky factor would know the lifted eigenvalues to
    # a few roundings of the largest one only.
    root = torch.maximum(values, least).sqrt().unsqueeze(-1) * vectors.mT  # root^T root is the clipped one
    triangle = torch.linalg.qr(root, mode="r").R
    upright = triangle * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)
    factor = scale.unsqueeze(-1) * upright.mT.tril()
    if acted.all():
        return factor, acted
    sound = torch.where(acted[..., None, None], torch.diag(floor).expand_as(covariance), covariance)
    return torch.where(acted[..., None, None], factor, torch.linalg.cholesky(sound)), acted
