"""Layers of sigmoid units, as drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Bias", "SigmoidLayer"]


class SigmoidLayer(nn.Linear):
    """A fully connected layer whose sum a sigmoid follows.

    Weights as drawn are uniform up to 4 √(6 / (in + out)), biases zero: Glorot & Bengio (2010), four times as large as
    for tanh, as a sigmoid is a quarter as steep.
    """

    def reset_parameters(self) -> None:
        reach = 4 * math.sqrt(6 / (self.in_features + self.out_features))
        nn.init.uniform_(self.weight, -reach, reach)
        nn.init.zeros_(self.bias)


class Bias(nn.Module):
    """The biases of a layer whose weights are another's, (num_features,)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_features))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias
