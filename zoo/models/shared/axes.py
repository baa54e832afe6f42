"""Signs of eigenvectors: libraries and machines differ in them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["upright"]


def upright(vectors: Tensor) -> Tensor:
    """Vectors side by side, (D, q), each turned so that its largest entry is above zero."""
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0)
