"""The logarithm of a product of matrices that are given by logarithms: one product of scaled exponentials."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_product"]

#: A sum of products of exponentials, scaled to at most one each, is trusted down to here in float32.
SAFE = 1e-30


def log_product(left: Tensor, right: Tensor) -> Tensor:
    """ln sum_v exp(left[m, v] + right[k, v]), (M, K), of left (M, V) and right (K, V); differentiable.

    No (M, K, V) numbers are made; sums that the product of exponentials would lose are done one by one.
    """
    top_left, top_right = left.detach().amax(-1, keepdim=True), right.detach().amax(-1, keepdim=True)
    product = (left - top_left).exp() @ (right - top_right).exp().mT
    lost = product.detach() < SAFE
    found = torch.where(lost, 1.0, product).log() + top_left + top_right.mT
    if not bool(lost.any()):
        return found
    rows, columns = lost.nonzero(as_tuple=True)
    return found.index_put((rows, columns), (left[rows] + right[columns]).logsumexp(-1))
