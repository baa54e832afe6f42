"""Principal axes of data that may come in pieces: their mean and a triangle for their scatter, which merge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.core.statistics import weighted, wide

__all__ = ["Triangle", "principal_axes", "upright"]


@dataclass(frozen=True)
class Triangle:
    """Summed weight, mean and a triangle R of data: R^T R is their scatter about that mean, sum of w (x - mean)(...)^T.

    The scatter itself holds the squares of singular values, and with them half the digits of the small ones. Two sets
    are merged by the update of Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", equation
    2.1, of which the triangle is the square root: one QR of both triangles and of the difference of the means.

    Shapes:
        count: (). mean: (D,), zero where the count is. root: (at most D, D).
    """

    count: Tensor
    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, x: Tensor, weights: Tensor | None = None) -> Triangle:
        """That of rows x (N, D) which count ``weights`` (N,) times, in float64."""
        rows = wide(x)
        share = None if weights is None else wide(weights)
        count = rows.new_tensor(len(rows)) if share is None else share.sum()
        mean = weighted(rows, share).sum(0) / count.clamp_min(torch.finfo(rows.dtype).tiny)
        return cls(count, mean, _triangle(weighted(rows - mean, None if share is None else share.sqrt())))

    def __add__(self, other: Triangle) -> Triangle:
        count = self.count + other.count
        share = other.count / count.clamp_min(torch.finfo(count.dtype).tiny)
        apart = other.mean - self.mean
        gap = (self.count * share).sqrt() * apart
        return Triangle(count, self.mean + share * apart, _triangle(torch.cat([self.root, other.root, gap[None]])))

    @property
    def variance(self) -> Tensor:
        """The variance of each feature, (D,), dividing by the summed weight."""
        return self.root.square().sum(0) / self.count

    def axes(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """As :func:`principal_axes`."""
        return _axes(self.root, self.count, number)


def principal_axes(centred: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading eigenvectors of a covariance (dividing by N), without forming it.

    Args:
        centred: (N, D), of mean zero. number: q of them, at most D.

    Returns:
        The q largest eigenvalues, descending; their vectors (D, q), zero beyond the rank of the data; and the mean
        of the D - q discarded eigenvalues (zero if there are none).
    """
    return _axes(_triangle(centred), len(centred), number)


def _triangle(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows, mode="r").R


def _axes(root: Tensor, count: Tensor | int, number: int) -> tuple[Tensor, Tensor, Tensor]:
    d = root.shape[1]
    _, singular, rows = torch.linalg.svd(root, full_matrices=False)
    values, vectors = singular.square() / count, upright(rows.mT)
    if (missing := d - len(singular)) > 0:
        values = torch.cat([values, values.new_zeros(missing)])
        vectors = torch.cat([vectors, vectors.new_zeros(d, max(0, number - len(singular)))], -1)
    discarded = values[number:].sum() / max(1, d - number)
    return values[:number], vectors[:, :number], discarded


def upright(vectors: Tensor) -> Tensor:
    """Vectors side by side, (D, q), each turned so that its largest entry is above zero: libraries and machines differ
    in their signs."""
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0)
