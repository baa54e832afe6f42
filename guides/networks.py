"""The small networks that encoders are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["MLP", "Standardize"]


class Standardize(nn.Module):
    """(x - loc) / scale with the data's own location and scale, so that a network sees unit-sized inputs.

    Shapes:
        x: (..., num_features), and so is the result.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))

    def set_from(self, x: Tensor) -> None:
        """Take mean and standard deviation of ``x`` (N, num_features); constant columns keep scale 1."""
        loc, scale = x.mean(0), x.std(0, correction=0)
        rounding = 4 * torch.finfo(x.dtype).eps * loc.abs()  # all that is left of a constant column
        self.loc.copy_(loc)
        self.scale.copy_(scale.where(scale > rounding, torch.ones_like(scale)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.loc) / self.scale


class MLP(nn.Sequential):
    """Standardised inputs, then fully connected layers with ``tanh`` between them.

    Args:
        sizes: widths from input to output; two entries make it linear.

    Shapes:
        x: (..., sizes[0]) to (..., sizes[-1]).
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        layers: list[nn.Module] = [Standardize(sizes[0])]
        for i, (wide, narrow) in enumerate(pairwise(sizes)):
            layers += [nn.Linear(wide, narrow), *([nn.Tanh()] if i < len(sizes) - 2 else [])]
        super().__init__(*layers)

    def set_from(self, x: Tensor) -> None:
        """Standardise by the mean and scale of ``x`` (N, sizes[0])."""
        first = self[0]
        assert isinstance(first, Standardize)
        first.set_from(x)
